"""The data of GPEN and of its tasks: kernels, degradations, data sets."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

import data
from data.blur import bessel_j1, gaussian_kernel, kernel_form, plateau_kernel, sinc_kernel
from data.colorization_degradation import ColorizationDegradation
from data.gpen_dataset import GPENDataset
from data.gpen_degradation import GPENDegradation
from data.inpainting_degradation import InpaintingDegradation, paint, zigzag
from data.labels import color_map
from utils.images.io import write_image
from utils.images.resize import flip

IMAGE = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
MILD = {"blur_sigma": (0.01, 0.01), "shrink": (1, 1), "noise_sigma": (0, 0),
        "jpeg_quality": (100, 100)}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def gpen(**settings: object) -> GPENDegradation:
    return GPENDegradation(GPENDegradation.Settings(**settings))


def inpainting(**settings: object) -> InpaintingDegradation:
    return InpaintingDegradation(InpaintingDegradation.Settings(**settings))


# ---- kernels -------------------------------------------------------------------------------------

@pytest.mark.parametrize("x, value", [(0.0, 0.0), (1.0, 0.4400505857449335),
                                      (3.8317059702075125, 0.0), (50.0, -0.09751182812517514)])
def test_the_bessel_function_has_its_tabled_values(x: float, value: float) -> None:
    assert bessel_j1(np.array(x)) == pytest.approx(value, abs=1e-14)


@pytest.mark.parametrize("kernel", [gaussian_kernel(21, (2, 5), 0.4), gaussian_kernel(
    21, (2, 5), 0.4, 0.6), plateau_kernel(21, (2, 5), 0.4, 1.5), sinc_kernel(21, 1.2)])
def test_kernels_have_sum_one_and_no_direction(kernel: np.ndarray) -> None:
    assert kernel.sum() == pytest.approx(1) and kernel.dtype == np.float64
    assert np.allclose(kernel, kernel[::-1, ::-1], atol=1e-15)


def test_the_ellipse_lies_along_x_and_turns_towards_y() -> None:
    flat, turned = (kernel_form(9, (4, 1), theta) for theta in (0.0, np.pi / 2))
    assert flat[4, 8] < flat[8, 4] and np.allclose(turned, flat.T)
    tilted = kernel_form(9, (4, 1), 0.5)
    assert tilted[6, 8] < tilted[2, 8]      # rows count downwards, as y does


def test_a_sinc_kernel_can_be_padded() -> None:
    padded = sinc_kernel(7, 2.0, padded=21)
    assert padded.shape == (21, 21) and np.array_equal(padded[7:14, 7:14], sinc_kernel(7, 2.0))


# ---- GPEN's degradation --------------------------------------------------------------------------

def test_at_its_mildest_the_degradation_leaves_a_jpeg() -> None:
    smooth = cv2.GaussianBlur(IMAGE, (0, 0), 3)
    lq = gpen(**MILD)(smooth, rng())
    assert lq.dtype == np.uint8 and lq.shape == smooth.shape
    assert np.abs(lq.astype(int) - smooth).mean() < 2


@pytest.mark.parametrize("change", [
    {"blur_sigma": (3, 3)}, {"shrink": (4, 4)}, {"noise_sigma": (20, 20)},
    {"jpeg_quality": (5, 5)}], ids=lambda change: next(iter(change)))
def test_every_piece_makes_images_worse(change: dict) -> None:
    smooth = cv2.GaussianBlur(IMAGE, (0, 0), 1.5)
    errors = [np.abs(gpen(**settings)(smooth, rng()).astype(int) - smooth).mean()
              for settings in (MILD, {**MILD, **change})]
    assert errors[1] > 2 * errors[0]


def test_the_noise_has_the_deviation_asked_for() -> None:
    gray = np.full((64, 64, 3), 128, np.uint8)
    lq = gpen(**{**MILD, "noise_sigma": (10, 10)})(gray, rng())
    luma = cv2.cvtColor(lq, cv2.COLOR_RGB2GRAY)     # JPEG halves the size of colors, not its
    expected = 10 * np.linalg.norm((0.299, 0.587, 0.114))   # channels are independent
    assert luma.std() == pytest.approx(expected, rel=0.1)


def test_blurs_are_round_half_of_the_time() -> None:
    degrade, chance = GPENDegradation(), rng()
    kernels = [degrade.kernel(chance) for _ in range(300)]
    assert all(kernel.shape == (41, 41) for kernel in kernels)
    assert 110 < sum(np.allclose(kernel, kernel.T) for kernel in kernels) < 190


def test_the_same_chance_gives_the_same_image() -> None:
    degrade = GPENDegradation()
    assert np.array_equal(degrade(IMAGE, rng(1)), degrade(IMAGE, rng(1)))
    assert not np.array_equal(degrade(IMAGE, rng(1)), degrade(IMAGE, rng(2)))


@pytest.mark.parametrize("change", [{"blur_sigma": (5, 1)}, {"shrink": (0, 2)},
                                    {"noise_sigma": (0, 300)}, {"jpeg_quality": (0, 5)}])
def test_ranges_that_make_no_sense_are_refused(change: dict) -> None:
    with pytest.raises(ValueError, match=f"--{next(iter(change))} must be two numbers"):
        gpen(**change)


# ---- tasks ---------------------------------------------------------------------------------------

def test_colourisation_takes_the_colors_only() -> None:
    lq = ColorizationDegradation()(IMAGE, rng())
    assert (lq == lq[..., :1]).all()
    assert np.array_equal(lq[..., 0], cv2.cvtColor(IMAGE, cv2.COLOR_RGB2GRAY))


def test_strokes_are_white_and_leave_the_rest_and_the_target() -> None:
    before = IMAGE.copy()
    lq = inpainting(stroke_width=(60, 60))(IMAGE, rng())
    painted = (lq != IMAGE).any(axis=2)
    assert 0.02 < painted.mean() < 0.9 and (lq[painted] == 255).all()
    assert np.array_equal(IMAGE, before)


def test_no_strokes_leave_the_image() -> None:
    assert np.array_equal(inpainting(num_strokes=(0, 0))(IMAGE, rng()), IMAGE)


def test_a_stroke_is_as_wide_as_asked_for() -> None:
    image = np.zeros((50, 50, 3), np.uint8)
    paint(image, [(0, 25), (49, 25)], 9)
    assert abs((image[:, 20, 0] > 0).sum() - 9) <= 2        # OpenCV rounds outwards


@pytest.mark.parametrize("size, width", [(1024, 40), (256, 10), (2048, 80)])
def test_widths_are_those_of_an_image_of_1024(size: int, width: int,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    widths = []
    monkeypatch.setattr("data.inpainting_degradation.paint",
                        lambda image, points, width: widths.append(width))
    inpainting(num_strokes=(2, 2), stroke_width=(40, 40))(
        np.zeros((size, size, 3), np.uint8), rng())
    assert widths == [width] * 2


def test_zigzags_stay_inside_and_change_direction() -> None:
    for seed in range(20):
        points = np.array(zigzag((100, 60), rng(seed)))
        assert 9 <= len(points) <= 28
        assert points.min() >= 0 and (points < (60, 100)).all()
        steps = np.diff(points[:, 1])
        assert (steps[::2] <= 0).all() and (steps[1::2] >= 0).all()


@pytest.mark.parametrize("change", [{"num_strokes": (2, 1)}, {"stroke_width": (0, 3)}])
def test_strokes_that_make_no_sense_are_refused(change: dict) -> None:
    with pytest.raises(ValueError, match=f"--{next(iter(change))}"):
        inpainting(**change)


# ---- data sets -----------------------------------------------------------------------------------

@pytest.fixture
def faces(tmp_path: Path) -> Path:
    write_image(tmp_path / "faces" / "one.png", IMAGE)
    return tmp_path / "faces"


@pytest.mark.parametrize("fractions, make", [
    ({"flip_prob": 0.0, "gray_prob": 0.0}, lambda gt: gt),
    ({"flip_prob": 1.0, "gray_prob": 0.0}, flip),
    ({"flip_prob": 0.0, "gray_prob": 1.0}, lambda gt: ColorizationDegradation()(gt, rng()))],
    ids=["plain", "flipped", "gray"])
def test_training_images_are_shrunk_by_area_and_varied(fractions: dict, make: Callable,
                                                         faces: Path) -> None:
    dataset = GPENDataset(GPENDataset.Settings(dataroot=str(faces), load_size=12,
                                               num_val_images=0, **fractions))
    expected = make(cv2.resize(IMAGE, (12, 12), interpolation=cv2.INTER_AREA))
    assert np.array_equal(dataset[0]["gt"], expected)


def test_other_splits_are_not_varied(faces: Path) -> None:
    dataset = GPENDataset(GPENDataset.Settings(dataroot=str(faces), load_size=64, flip_prob=1.0,
                                               gray_prob=1.0), split="test")
    assert np.array_equal(dataset[0]["gt"], IMAGE)


@pytest.mark.parametrize("flag", ["flip_prob", "gray_prob"])
def test_a_fraction_above_one_is_refused(flag: str, faces: Path) -> None:
    with pytest.raises(ValueError, match=f"--{flag} must be from 0 to 1, got 1.5"):
        GPENDataset.Settings(dataroot=str(faces), **{flag: 1.5})


def test_seg2face_gives_the_coloured_map_as_input(tmp_path: Path) -> None:
    labels = np.arange(64 * 64).reshape(64, 64) % 19
    write_image(tmp_path / "CelebA-HQ-img" / "0.png", IMAGE)
    write_image(tmp_path / "CelebAMask-HQ-mask" / "0.png",
                labels[..., None].repeat(3, 2).astype(np.uint8))
    dataset = data.create_dataset("seg2face", "test", "none", {"dataroot": str(tmp_path),
                                                               "load_size": 64})
    assert np.array_equal(dataset[0]["lq"], color_map(labels))
    assert np.array_equal(dataset[0]["gt"], IMAGE)

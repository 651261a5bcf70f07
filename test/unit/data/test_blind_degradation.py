"""Blind degradation and FFHQ: ranges, flags, determinism, gray images, the preview."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_arguments

import data
from data import blind_degradation
from data.blind_degradation import (
    RANGES,
    SHARES,
    BlindDegradation,
    _compression_of,
    add_noise,
    compress,
    quality_of,
)
from data.blur import box_blur, gaussian_blur, median_blur, motion_blur, motion_kernel
from data.ffhq_dataset import FFHQDataset
from data.loader import create_train_loader
from data.sampler import StepBatchSampler
from utils.images.io import read_image, write_image

DRAWS = 1500
ALWAYS = {"blur_prob": 1.0, "noise_prob": 1.0, "jpeg_prob": 1.0}
BLURS = ("gaussian_blur", "box_blur", "median_blur", "motion_blur")


def blind(**settings: Any) -> BlindDegradation:
    return BlindDegradation(BlindDegradation.Settings(**settings))


@pytest.fixture
def sample() -> np.ndarray:
    """Coarse colors and some texture, 64 x 64."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(30, 220, (8, 8, 3)).repeat(8, 0).repeat(8, 1)
    return (coarse + generator.integers(-30, 31, (64, 64, 3))).astype(np.uint8)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, list]]:
    """What is handed to each piece, by piece, over many images; nothing is computed."""
    def draw(**settings: Any) -> dict[str, list]:
        found: dict[str, list] = {name: [] for name in (*BLURS, "noise", "jpeg", "side", "how")}

        def note(name: str) -> Callable:
            def piece(image: np.ndarray, *values: float) -> np.ndarray:
                found[name].append(values)
                return image
            return piece
        for name in BLURS:
            monkeypatch.setattr(blind_degradation, name, note(name))
        monkeypatch.setattr(blind_degradation, "compress", note("jpeg"))
        monkeypatch.setattr(blind_degradation, "add_noise",
                            lambda image, sigma, colored, rng: note("noise")(image, sigma,
                                                                              colored))

        def resize(image: np.ndarray, size: tuple[int, int], interpolation: int) -> np.ndarray:
            found["side"].append(size[0])
            found["how"].append(interpolation)
            return image
        monkeypatch.setattr(blind_degradation.cv2, "resize", resize)
        degrade, rng = blind(**settings), np.random.default_rng(0)
        for _ in range(DRAWS):
            degrade(np.zeros((8, 8, 3), np.uint8), rng)
        # Each image is resized twice; the first is the shrinking.
        found["side"], found["how"] = found["side"][::2], found["how"][::2]
        return found
    return draw


# ---- ranges --------------------------------------------------------------------------------------

PIECES = [("gaussian_blur", 0, "gaussian_sigma"), ("box_blur", 0, "blur_size"),
          ("median_blur", 0, "blur_size"), ("motion_blur", 0, "motion_size"),
          ("noise", 0, "noise_sigma"), ("jpeg", 0, "jpeg_quality")]


@pytest.mark.parametrize("piece, place, name", PIECES, ids=[piece for piece, *_ in PIECES])
def test_draws_fill_the_published_range(piece: str, place: int, name: str, drawn: Callable) -> None:
    low, high = {"gaussian_sigma": (3, 15), "blur_size": (3, 15), "motion_size": (5, 25),
                 "noise_sigma": (0, 25.5), "jpeg_quality": (37, 90)}[name]
    values = [each[place] for each in drawn(**ALWAYS)[piece]]
    assert low <= min(values) and max(values) <= high
    if RANGES[name][2] is int:      # both ends belong to the range
        assert (min(values), max(values)) == (low, high)
    else:
        assert min(values) - low < 0.05 * (high - low) and high - max(values) < 0.05 * (high - low)


def test_images_shrink_to_32_to_127_pixels_in_four_ways(drawn: Callable) -> None:
    found = drawn()
    assert (min(found["side"]), max(found["side"])) == (32, 127)
    counts = np.unique(found["how"], return_counts=True)[1]
    assert len(counts) == 4 and counts.min() > DRAWS / 4 * 0.85


def test_motion_has_every_angle_and_direction(drawn: Callable) -> None:
    _, angles, directions = np.array(drawn(**ALWAYS)["motion_blur"]).T
    assert 0 <= angles.min() < 10 and 350 < angles.max() < 360
    assert -1 <= directions.min() < -0.9 and 0.9 < directions.max() <= 1


def test_the_four_blurs_are_equally_likely(drawn: Callable) -> None:
    found = drawn(**ALWAYS)
    counts = [len(found[name]) for name in BLURS]
    assert sum(counts) == DRAWS and min(counts) > DRAWS / 4 * 0.85


def test_pieces_are_used_as_often_as_published(drawn: Callable) -> None:
    """Within four standard deviations of a count."""
    found = drawn()
    counts = {"blur": sum(len(found[name]) for name in BLURS), "noise": len(found["noise"]),
              "jpeg": len(found["jpeg"])}
    for name, fraction in (("blur", 0.5), ("noise", 0.2), ("jpeg", 0.7)):
        slack = 4 * (DRAWS * fraction * (1 - fraction)) ** 0.5
        assert abs(counts[name] - DRAWS * fraction) < slack, name
    assert 0.3 < np.mean([colored for _, colored in found["noise"]]) < 0.7


# ---- flags ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, values, pieces", [
    ("gaussian_sigma", (1.0, 2.0), ["gaussian_blur"]), ("blur_size", (4, 5), ["box_blur",
                                                                             "median_blur"]),
    ("motion_size", (9, 10), ["motion_blur"]), ("noise_sigma", (3.0, 4.0), ["noise"]),
    ("jpeg_quality", (91, 95), ["jpeg"])])
def test_each_range_flag_moves_its_own_piece(name: str, values: tuple, pieces: list[str],
                                             drawn: Callable) -> None:
    found = drawn(**ALWAYS, **{name: values})
    for piece, place, owner in PIECES:
        inside = [values[0] <= each[place] <= values[1] for each in found[piece]]
        assert all(inside) == (piece in pieces), (piece, owner)


def test_the_size_flag_sets_the_side(drawn: Callable) -> None:
    assert set(drawn(lq_size=(40, 42))["side"]) == {40, 41, 42}


@pytest.mark.parametrize("fraction", [0.0, 1.0])
@pytest.mark.parametrize("name, pieces", [("blur_prob", BLURS), ("noise_prob", ["noise"]),
                                          ("jpeg_prob", ["jpeg"])])
def test_each_fraction_flag_switches_its_own_piece(name: str, pieces: list[str], fraction: float,
                                                drawn: Callable) -> None:
    found = drawn(**{name: fraction})
    assert sum(len(found[piece]) for piece in pieces) == fraction * DRAWS


@pytest.mark.parametrize("quality", range(1, 101, 9))
def test_a_range_of_one_quality_gives_that_quality(quality: int) -> None:
    assert quality_of(_compression_of(quality)) == quality


def test_every_flag_reaches_the_degradation(tiny_options: Callable) -> None:
    arguments = [word for name, (_, _, kind) in RANGES.items()
                 for word in (f"--{name}", str(kind(7)), str(kind(9)))]
    arguments += [word for name in SHARES for word in (f"--{name}", "0.25")]
    opt = tiny_options("sparnethd", "--degradation", "blind", *arguments)
    degrade = data.create_degradation("blind", vars(opt))
    assert all(list(getattr(degrade.settings, name)) == [7, 9] for name in RANGES)
    assert all(getattr(degrade.settings, name) == 0.25 for name in SHARES)


@pytest.mark.parametrize("name, values", [
    ("gaussian_sigma", (5.0, 3.0)), ("gaussian_sigma", (0.0, 3.0)), ("blur_size", (0, 3)),
    ("blur_size", (3, 101)), ("motion_size", (2, 5)), ("lq_size", (1, 20)), ("lq_size", (30, 20)),
    ("noise_sigma", (-1.0, 3.0)), ("noise_sigma", (0.0, 300.0)), ("jpeg_quality", (0, 50)),
    ("jpeg_quality", (50, 101)), ("jpeg_quality", (50,))])
def test_a_bad_range_is_refused_by_its_flag(name: str, values: tuple) -> None:
    with pytest.raises(ValueError, match=f"--{name} must be two numbers"):
        blind(**{name: values})


@pytest.mark.parametrize("fraction", [-0.1, 1.1])
@pytest.mark.parametrize("name", SHARES)
def test_a_bad_fraction_is_refused_by_its_flag(name: str, fraction: float) -> None:
    with pytest.raises(ValueError, match=f"--{name} must be from 0 to 1"):
        blind(**{name: fraction})


def test_shrinking_to_more_than_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--lq_size .*--load_size \(100\)"):
        BlindDegradation().check(100)
    BlindDegradation().check(127)


# ---- pieces --------------------------------------------------------------------------------------

def test_gray_noise_is_the_same_in_all_channels_and_coloured_is_not() -> None:
    flat = np.full((64, 64, 3), 128, np.uint8)
    gray, colored = (add_noise(flat, 10.0, each, np.random.default_rng(0)).astype(int)
                      for each in (False, True))
    assert np.ptp(gray, axis=2).max() == 0 and np.ptp(colored, axis=2).max() > 10


@pytest.mark.parametrize("colored", [False, True])
def test_noise_has_the_deviation_asked_for(colored: bool) -> None:
    flat = np.full((128, 128, 3), 128, np.uint8)
    noisy = add_noise(flat, 12.0, colored, np.random.default_rng(0))
    assert noisy.dtype == np.uint8
    assert noisy.std() == pytest.approx(12.0, rel=0.03) and abs(noisy.mean() - 128) < 0.3


def test_noise_is_clipped_not_wrapped() -> None:
    white = add_noise(np.full((32, 32, 3), 250, np.uint8), 20.0, True, np.random.default_rng(0))
    assert white.max() == 255 and white.min() > 150


def test_lower_quality_loses_more(sample: np.ndarray) -> None:
    errors = [np.abs(compress(sample, quality).astype(int) - sample).mean()
              for quality in (95, 60, 20)]
    assert 0 < errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize("blur", [
    lambda image: gaussian_blur(image, 5.0), lambda image: box_blur(image, 4),
    lambda image: median_blur(image, 4), lambda image: motion_blur(image, 9, 30.0, 0.5)],
    ids=BLURS)
def test_blurs_smooth_and_keep_shape_and_brightness(blur: Callable, sample: np.ndarray) -> None:
    blurred = blur(sample)
    assert blurred.shape == sample.shape and blurred.dtype == np.uint8
    assert np.abs(np.diff(blurred.astype(int), axis=1)).mean() < 0.6 * np.abs(
        np.diff(sample.astype(int), axis=1)).mean()
    assert abs(blurred.mean() - sample.mean()) < 3


@pytest.mark.parametrize("direction", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("angle", [0.0, 45.0, 200.0])
def test_motion_kernels_sum_to_one(angle: float, direction: float) -> None:
    kernel = motion_kernel(8, angle, direction)
    assert kernel.shape == (9, 9) and kernel.min() >= 0
    assert kernel.sum() == pytest.approx(1, abs=1e-6)


def test_results_have_the_targets_size(sample: np.ndarray) -> None:
    degrade, rng = blind(lq_size=(8, 60)), np.random.default_rng(0)
    for _ in range(20):
        lq = degrade(sample, rng)
        assert lq.shape == sample.shape and lq.dtype == np.uint8


def test_the_target_is_not_touched(sample: np.ndarray) -> None:
    before = sample.copy()
    blind(lq_size=(8, 60), **ALWAYS)(sample, np.random.default_rng(0))
    assert np.array_equal(sample, before)


# ---- FFHQ ----------------------------------------------------------------------------------------

@pytest.fixture
def faces(tmp_path: Path, sample: np.ndarray) -> Path:
    folder = tmp_path / "faces"
    for index in range(6):
        write_image(folder / f"{index}.png", np.roll(sample, 7 * index, axis=(0, 2)))
    return folder


SMALL = blind(lq_size=(16, 48))


def dataset(folder: Path, *, split: str = "train", degrade: BlindDegradation | None = SMALL,
            **settings: Any) -> FFHQDataset:
    return FFHQDataset(FFHQDataset.Settings(**{
        "dataroot": str(folder), "load_size": 64, "num_val_images": 0, **settings}), split=split,
        degrade=degrade)


def test_a_sample_depends_on_seed_epoch_and_index_only(faces: Path) -> None:
    first, second = dataset(faces, seed=1), dataset(faces, seed=1)
    second[(0, 1)]      # another history
    assert np.array_equal(first[(3, 2)]["lq"], second[(3, 2)]["lq"])


@pytest.mark.parametrize("seed, key", [(2, (3, 2)), (1, (4, 2)), (1, (3, 1))],
                         ids=["seed", "epoch", "index"])
def test_another_seed_epoch_or_index_degrades_differently(seed: int, key: tuple, faces: Path
                                                          ) -> None:
    one, two = dataset(faces, seed=1)[(3, 2)], dataset(faces, seed=seed)[key]
    assert not np.array_equal(one["lq"], two["lq"])


def test_the_number_of_workers_changes_nothing(faces: Path) -> None:
    found = []
    for workers in (0, 2):
        loader = create_train_loader(dataset(faces), StepBatchSampler(6, 2, 0, total_steps=4),
                                     num_threads=workers, seed=0, pin_memory=False)
        found.append([batch["lq"] for batch in loader])
    assert len(found[0]) == 4
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def is_gray(image: np.ndarray) -> bool:
    return not np.ptp(image.astype(int), axis=2).any()


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_target_and_input_turn_gray_together(fraction: float, faces: Path) -> None:
    """Noise may be colored even where the image is gray, so there is none here."""
    degrade = blind(lq_size=(16, 48), noise_prob=0.0)
    data_set = dataset(faces, gray_prob=fraction, degrade=degrade)
    for index in range(6):
        sample = data_set[index]
        assert is_gray(sample["gt"]) == is_gray(sample["lq"]) == bool(fraction)


def test_about_three_in_ten_training_images_are_gray(faces: Path) -> None:
    data_set = dataset(faces, degrade=None)
    count = sum(is_gray(data_set[(epoch, index)]["gt"]) for epoch in range(50)
                for index in range(6))
    assert abs(count - 90) < 4 * (300 * 0.3 * 0.7) ** 0.5


@pytest.mark.parametrize("split", ["val", "test"])
def test_only_training_images_turn_gray(split: str, faces: Path) -> None:
    data_set = dataset(faces, split=split, val_dataroot=str(faces), gray_prob=1.0)
    assert len(data_set) == 6 and not any(is_gray(data_set[i]["gt"]) for i in range(6))


def test_images_are_resized_not_cropped_or_flipped(tmp_path: Path) -> None:
    wide = np.zeros((40, 100, 3), np.uint8)
    wide[:, 50:] = 255
    write_image(tmp_path / "wide.png", wide)
    gt = dataset(tmp_path, gray_prob=0.0)[0]["gt"]
    assert gt.shape == (64, 64, 3) and gt[:, :28].max() == 0 and gt[:, 36:].min() == 255


@pytest.mark.parametrize("fraction", [-0.5, 2.0])
def test_a_bad_fraction_of_gray_is_refused(fraction: float, faces: Path) -> None:
    with pytest.raises(ValueError, match="--gray_prob must be from 0 to 1"):
        dataset(faces, gray_prob=fraction)


# ---- the preview ---------------------------------------------------------------------------------

def test_the_preview_is_an_image_of_targets_and_inputs_and_nothing_else(
        faces: Path, run_script: Callable, tmp_path: Path) -> None:
    path = tmp_path / "preview.png"
    done = run_script("newtrain.py", *tiny_arguments("sparnethd"), "--dataroot", faces,
                      "--load_size", 64, "--checkpoints_dir", tmp_path / "runs",
                      "--preview_degradation", path)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "runs").exists()
    assert "preview.png" in done.stdout
    height, width, _ = read_image(path).shape
    assert width == 6 * 64 + 5 * 4 and height == 20 + 5 * 64 + 4 * 4    # a sixth is held out


def test_the_preview_shows_what_training_draws(faces: Path) -> None:
    from data.degradation_preview import EPOCHS, degradation_grid
    data_set = dataset(faces)
    grid = degradation_grid(data_set)
    for column in range(2 * EPOCHS):
        expected = data_set[(column // 2, 0)][("gt", "lq")[column % 2]]
        assert np.array_equal(grid[20:84, column * 68:column * 68 + 64], expected)


def test_a_preview_without_pairs_is_refused(faces: Path) -> None:
    from data.degradation_preview import degradation_grid
    with pytest.raises(ValueError, match="--preview_degradation"):
        degradation_grid(dataset(faces, degrade=None))


def test_a_preview_that_cannot_be_made_is_one_line_and_status_2(run_script: Callable,
                                                               tmp_path: Path) -> None:
    done = run_script("newtrain.py", *tiny_arguments("sparnethd"), "--dataroot",
                      tmp_path / "nowhere", "--preview_degradation", tmp_path / "preview.png")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1

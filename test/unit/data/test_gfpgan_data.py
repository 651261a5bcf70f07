"""What GFP-GAN is trained on: degradation, colors, eye and mouth positions."""
from __future__ import annotations

import json
import os
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

import preparation
from data.color_jitter import FUNCTIONS, color_jitter, hue
from data.components import read_components, write_components
from data.components_dataset import ComponentsDataset
from data.gfpgan_degradation import GFPGANDegradation, compressed
from utils.face_parts import boxes_of_parts, mirrored_parts, parts_of_landmarks, template_parts
from utils.images.io import write_image

OFF = {"noise_range": (0, 0), "jpeg_range": (0, 0), "downsample_range": (1, 1), "shift_prob": 0.0,
       "jitter_prob": 0.0, "lq_gray_prob": 0.0}


def face(size: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def gfpgan(**settings: object) -> GFPGANDegradation:
    return GFPGANDegradation(GFPGANDegradation.Settings(**settings))


def is_gray(image: np.ndarray) -> bool:
    return bool((image == image[..., :1]).all())


# ---- degradation --------------------------------------------------------------------------------

def test_the_same_draw_gives_the_same_image_and_another_one_another() -> None:
    degrade = GFPGANDegradation()
    one, two, three = (degrade(face(), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one.shape == (64, 64, 3) and one.dtype == np.uint8
    assert np.array_equal(one, two) and not np.array_equal(one, three)


def test_with_everything_off_only_the_narrowest_blur_is_left() -> None:
    lq = gfpgan(**OFF, kernel_sigma=(0.01, 0.01))(face(), np.random.default_rng(0))
    assert np.array_equal(lq, face())


@pytest.mark.parametrize("change", [
    {"kernel_sigma": (2, 2)}, {"noise_range": (20, 20)}, {"jpeg_range": (60, 60)},
    {"downsample_range": (4, 4)}, {"shift_prob": 1.0}, {"jitter_prob": 1.0},
    {"lq_gray_prob": 1.0}], ids=lambda change: next(iter(change)))
def test_every_step_changes_the_image(change: dict) -> None:
    settings = {**OFF, "kernel_sigma": (0.01, 0.01), **change}
    lq = gfpgan(**settings)(face(), np.random.default_rng(0))
    assert np.abs(lq.astype(int) - face()).mean() > 1


def test_noise_has_its_deviation_in_gray_levels() -> None:
    gray = np.full((128, 128, 3), 128, np.uint8)
    settings = {**OFF, "noise_range": (15, 15)}
    lq = gfpgan(**settings)(gray, np.random.default_rng(0))
    assert (lq.astype(float) - 128).std() == pytest.approx(15, rel=0.02)


def test_a_shift_is_one_number_per_channel_within_its_range() -> None:
    gray = np.full((16, 16, 3), 128, np.uint8)
    for seed in range(20):
        settings = {**OFF, "shift_prob": 1.0}
        lq = gfpgan(**settings)(gray, np.random.default_rng(seed))
        assert len(np.unique(lq.reshape(-1, 3), axis=0)) == 1
        assert np.abs(lq.astype(int) - 128).max() <= 20


def test_jpeg_keeps_the_channels_in_order() -> None:
    red = np.zeros((16, 16, 3), np.float32)
    red[..., 0] = 0.8
    assert np.allclose(compressed(red, 95), red, atol=0.02)


@pytest.mark.parametrize("settings, words", [
    ({"noise_range": (5, 1)}, "--noise_range"), ({"jpeg_range": (0, 101)}, "--jpeg_range"),
    ({"kernel_sigma": (0, 1)}, "--kernel_sigma"), ({"jitter_prob": 1.5}, "--jitter_prob"),
    ({"kernel_size": 40}, "--kernel_size"), ({"color_shift": -1}, "--color_shift")])
def test_values_out_of_range_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        gfpgan(**settings)


def test_an_image_that_would_shrink_to_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="--downsample_range"):
        GFPGANDegradation().check(7)


# ---- colors ------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, neutral", [("brightness", 1), ("contrast", 1), ("saturation", 1),
                                           ("hue", 0), ("hue", 1)])
def test_a_neutral_factor_changes_nothing(name: str, neutral: float) -> None:
    image = face().astype(np.float32) / 255
    assert np.allclose(FUNCTIONS[name](image, neutral), image, atol=1e-6)


def test_a_third_of_the_circle_turns_red_into_green() -> None:
    image = np.array([[[0.9, 0.1, 0.1]]], np.float32)
    assert np.allclose(hue(image, 1 / 3), [[[0.1, 0.9, 0.1]]], atol=1e-6)


def test_no_saturation_is_gray_and_no_contrast_the_mean() -> None:
    image = face().astype(np.float32) / 255
    assert np.allclose(np.ptp(FUNCTIONS["saturation"](image, 0), axis=-1), 0)
    assert np.ptp(FUNCTIONS["contrast"](image, 0)) == 0


def test_jitter_applies_all_four_in_drawn_order(monkeypatch: pytest.MonkeyPatch) -> None:
    orders = []
    for name in FUNCTIONS:
        monkeypatch.setitem(FUNCTIONS, name,
                            lambda image, factor, name=name: orders[-1].append(name) or image)
    for seed in range(12):
        orders.append([])
        color_jitter(face(), np.random.default_rng(seed))
    assert all(sorted(order) == ["brightness", "contrast", "hue", "saturation"]
               for order in orders)
    assert len({tuple(order) for order in orders}) > 6


# ---- boxes --------------------------------------------------------------------------------------

def test_mirroring_twice_gives_the_parts_back() -> None:
    parts = template_parts(512)
    once = mirrored_parts(parts, 512)
    assert float(once[0, 0]) == 512 - float(parts[1, 0])
    assert torch.allclose(mirrored_parts(once, 512), parts)


def test_only_eyes_are_enlarged() -> None:
    sides = [(box[2:] - box[:2] + 1).tolist()
             for box in boxes_of_parts(torch.tensor([[100.0, 90, 20]] * 3), 1.5)]
    assert sides == [[60, 60], [60, 60], [40, 40]]


def test_tiny_parts_get_a_smallest_size_that_scales_with_the_image() -> None:
    points = torch.zeros(68, 2)
    assert parts_of_landmarks(points, 512)[:, 2].tolist() == [16, 16, 16]
    assert parts_of_landmarks(points, 256)[:, 2].tolist() == [8, 8, 8]


# ---- files --------------------------------------------------------------------------------------

def points_of(shift: float = 0.0) -> list[list[float]]:
    return [[10.0 * index + shift, 5.0 * index] for index in range(68)]


def test_a_written_file_is_read_back(tmp_path: Path) -> None:
    parts = {"a/1.png": torch.rand(3, 3, dtype=torch.float64), "2.png": torch.ones(3, 3).double()}
    write_components(tmp_path / "parts.json", parts, 256)
    found, size = read_components(tmp_path / "parts.json")
    assert size == 256 and found.keys() == parts.keys()
    assert all(torch.equal(found[name], parts[name]) for name in parts)


def published(path: Path, value: object = np.float64(191.5)) -> Path:
    """As upstream writes its file: a dict of lists of NumPy scalars."""
    torch.save({"00000003": {"left_eye": [value, np.float64(242.25), np.float64(28.5)],
                             "right_eye": [319.4, 247.0, np.float32(16.0)],
                             "mouth": [267.7, 355.8, 42.2]}}, path)
    return path


def test_the_published_file_of_numpy_scalars_is_read(tmp_path: Path) -> None:
    found, size = read_components(published(tmp_path / "FFHQ_eye_mouth_landmarks_512.pth"))
    assert size == 512
    assert found["00000003"][0].tolist() == [191.5, 242.25, 28.5]


class Exploit:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("exploited",)


def test_a_file_with_program_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                             ) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="--component_file"):
        read_components(published(tmp_path / "bad.pth", Exploit()))


def test_damage_of_the_published_file_is_noticed(tmp_path: Path) -> None:
    path = published(tmp_path / "FFHQ_eye_mouth_landmarks_512.pth")
    content = bytearray(path.read_bytes())
    at = content.index(b"numpy")
    for bit in range(at + 200, at + 240):       # inside the pickled numbers
        damaged = bytearray(content)
        damaged[bit] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="--component_file"):
            read_components(path)
    assert not (tmp_path / "exploited").exists()


@pytest.mark.parametrize("text", ["", "[]", '{"size": 512, "parts": {"a": {"mouth": [1, 2, 3]}}}',
                                  '{"size": 512, "parts": {"a": {"left_eye": [1, 2], "right_eye": '
                                  '[1, 2], "mouth": [1, 2]}}}',
                                  '{"size": 512, "parts": {"a": {"left_eye": [1, 2, NaN], '
                                  '"right_eye": [1, 2, 3], "mouth": [1, 2, 3]}}}'])
def test_what_is_no_component_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "parts.json").write_text(text)
    with pytest.raises(ValueError, match="--component_file"):
        read_components(tmp_path / "parts.json")


def prepare(tmp_path: Path, content: object, size: int | None = None) -> tuple[dict, int]:
    (tmp_path / "points.json").write_text(json.dumps(content))
    status = preparation.find("components").run(Namespace(
        input=None, weights=None,
        landmarks=str(tmp_path / "points.json"), output=str(tmp_path / "parts.json"), size=size))
    assert status == 0
    return read_components(tmp_path / "parts.json")


def test_ffhqs_own_file_becomes_a_component_file(tmp_path: Path) -> None:
    entry = {"image": {"file_path": "images1024x1024/00000/00007.png", "pixel_size": [1024, 1024],
                       "face_landmarks": points_of()}}
    parts, size = prepare(tmp_path, {"7": entry})
    expected = parts_of_landmarks(torch.tensor(points_of(), dtype=torch.float64) / 2, 512)
    assert size == 512 and list(parts) == ["00007.png"]
    assert torch.allclose(parts["00007.png"], expected)


def test_points_of_images_of_another_size_are_scaled(tmp_path: Path) -> None:
    parts, _ = prepare(tmp_path, {"a.png": points_of(), "b.png": points_of(100)}, size=1024)
    assert torch.allclose(parts["b.png"][:, 0] - parts["a.png"][:, 0], torch.tensor(50.0).double())


@pytest.mark.parametrize("content", [[], {}, {"a.png": points_of()[:5]}, {"a.png": "x"},
                                     {"7": {"image": {}}}])
def test_what_holds_no_points_is_refused(content: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--landmarks"):
        prepare(tmp_path, content)


# ---- the data set -------------------------------------------------------------------------------

NAMES = ("00000003.png", "00000001.png", "00000002.png")


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Three images, written in another order than that of their names."""
    for seed, name in enumerate(NAMES):
        write_image(tmp_path / "faces" / name, face(64, seed))
    return tmp_path / "faces"


PUBLISHED = GFPGANDegradation()


def dataset(faces: Path, *, split: str = "train", degrade: GFPGANDegradation | None = PUBLISHED,
            **settings: object) -> ComponentsDataset:
    return ComponentsDataset(ComponentsDataset.Settings(**{
        "dataroot": str(faces), "load_size": 64, "num_val_images": 0, **settings}), split=split,
        degrade=degrade)


def component_file(folder: Path, names: tuple[str, ...] = NAMES) -> str:
    parts = {name: template_parts(512).double() + int(name[:8]) for name in names}
    write_components(folder / "parts.json", parts, 512)
    return str(folder / "parts.json")


def test_boxes_belong_to_their_image_by_name(faces: Path, tmp_path: Path) -> None:
    found = dataset(faces, component_file=component_file(tmp_path), flip_prob=0.0)
    for index in range(3):
        sample = found[index]
        parts = (template_parts(512).double() + int(sample["path"][:8])) * (64 / 512)
        assert np.allclose(sample["boxes"], boxes_of_parts(parts).numpy(), atol=1e-5)


def test_a_number_finds_its_entry_in_the_published_file(tmp_path: Path) -> None:
    write_image(tmp_path / "faces" / "00003.png", face())
    path = published(tmp_path / "published.pth")
    sample = dataset(tmp_path / "faces", component_file=str(path), flip_prob=0.0)[0]
    assert sample["boxes"][0, 0] == pytest.approx((191.5 - 1.4 * 28.5) / 8 + 1, abs=1e-4)


def test_images_the_file_does_not_know_are_named(faces: Path, tmp_path: Path) -> None:
    path = component_file(tmp_path, NAMES[:1])
    with pytest.raises(ValueError, match=r"no entry for 2 of 3 images, such as 00000001\.png"):
        dataset(faces, component_file=path)


def test_without_a_file_boxes_are_the_templates(faces: Path) -> None:
    sample = dataset(faces, flip_prob=0.0)[0]
    assert np.allclose(sample["boxes"], boxes_of_parts(template_parts(64)).numpy())


def test_a_mirrored_image_brings_mirrored_boxes_each_time(faces: Path, tmp_path: Path) -> None:
    """The published data set mirrors its own table, so that the next reading is wrong."""
    settings = {"component_file": component_file(tmp_path), "degrade": None}
    plain = dataset(faces, flip_prob=0.0, **settings)[0]
    mirrored = dataset(faces, flip_prob=1.0, **settings)
    for _ in range(2):
        sample = mirrored[0]
        assert np.array_equal(sample["gt"], plain["gt"][:, ::-1])
        assert np.allclose(sample["boxes"][0, [0, 2]], 64 + 1 - plain["boxes"][1, [2, 0]])


def test_validation_is_not_mirrored(faces: Path) -> None:
    kept = [dataset(faces, flip_prob=fraction, split="val", num_val_images=1)[0]["gt"]
            for fraction in (0.0, 1.0)]
    assert np.array_equal(*kept)


@pytest.mark.parametrize("gt_gray", [True, False])
def test_the_target_turns_gray_with_the_input_where_asked(gt_gray: bool, faces: Path) -> None:
    degrade = gfpgan(lq_gray_prob=1.0, jitter_prob=0.0)
    sample = dataset(faces, degrade=degrade, gt_gray=gt_gray)[0]
    assert is_gray(sample["lq"])
    assert is_gray(sample["gt"]) == gt_gray


def test_the_target_keeps_its_colors_where_the_input_does(faces: Path) -> None:
    degrade = gfpgan(lq_gray_prob=0.0)
    assert not is_gray(dataset(faces, degrade=degrade)[0]["gt"])


@pytest.mark.parametrize("settings, words", [({"flip_prob": 2.0}, "--flip_prob"),
                                             ({"eye_enlarge_ratio": 0.0}, "--eye_enlarge_ratio")])
def test_impossible_fractions_are_refused(settings: dict, words: str, faces: Path) -> None:
    with pytest.raises(ValueError, match=words):
        dataset(faces, **settings)

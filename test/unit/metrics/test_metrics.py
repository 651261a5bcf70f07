"""PSNR and SSIM against hand-computed values and scikit-image."""
from __future__ import annotations

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from metrics.evaluation import MODEL, Column, Row, means
from metrics.psnr_ssim import PROTOCOLS, luma, psnr, ssim, truncated_luma
from metrics.tables import json_layout, per_image_csv, per_image_entry, table


@pytest.fixture(params=[(40, 33), (11, 64)])
def pair(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    first = generator.integers(0, 256, (*request.param, 3), dtype=np.uint8)
    noise = generator.integers(-20, 21, first.shape)
    return first, np.clip(first.astype(int) + noise, 0, 255).astype(np.uint8)


def test_psnr_of_a_known_error() -> None:
    assert psnr(np.zeros((4, 4)), np.full((4, 4), 5.0)) == pytest.approx(34.1514, abs=1e-4)


def test_equal_images_have_infinite_psnr_and_ssim_one(pair: tuple) -> None:
    assert PROTOCOLS["published"].measure(pair[0], pair[0]) == {"psnr": float("inf"),
                                                                "ssim": pytest.approx(1.0)}


def test_psnr_agrees_with_the_oracle(pair: tuple) -> None:
    assert psnr(*pair) == pytest.approx(peak_signal_noise_ratio(*pair, data_range=255), abs=1e-9)


@pytest.mark.parametrize("view", [lambda x: x.astype(float), truncated_luma])
def test_ssim_agrees_with_the_oracle(view: object, pair: tuple) -> None:
    first, second = map(view, pair)
    full = structural_similarity(
        first, second, data_range=255, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, channel_axis=-1 if first.ndim == 3 else None, full=True)[1]
    assert ssim(first, second) == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-9)


@pytest.mark.parametrize("color, y", [((255, 255, 255), 235.0), ((0, 0, 0), 16.0),
                                      ((255, 0, 0), 81.481)])
def test_luma_of_known_colors(color: tuple, y: float) -> None:
    assert luma(np.full((1, 1, 3), color, np.uint8))[0, 0] == pytest.approx(y)


def test_published_luma_is_truncated_not_rounded() -> None:
    white_ish = np.full((1, 1, 3), (254, 255, 255), np.uint8)      # Y = 234.743
    assert truncated_luma(white_ish)[0, 0] == 234.0


def test_the_two_protocols_differ_in_what_they_compare(pair: tuple) -> None:
    gray = [image.copy() for image in pair]
    gray[1][..., 2] = gray[0][..., 2] ^ 255     # blue hardly shows in Y
    published, standard = (PROTOCOLS[name].measure(*gray) for name in ("published", "standard"))
    assert published["psnr"] > standard["psnr"] + 3


def test_other_sizes_are_refused(pair: tuple) -> None:
    with pytest.raises(ValueError, match="its target's size"):
        PROTOCOLS["standard"].measure(pair[0], pair[1][1:])


def test_too_small_for_the_window_is_said() -> None:
    with pytest.raises(ValueError, match="11x11"):
        ssim(np.zeros((10, 40)), np.zeros((10, 40)))


def test_means_are_taken_per_method_and_protocol() -> None:
    psnr, ssim = (Column("restored", metric, "published") for metric in ("psnr", "ssim"))
    rows = [Row(str(v), {psnr: v, ssim: v / 10}) for v in (1.0, 3.0)]
    assert means(rows) == {psnr: 2.0, ssim: 0.2}


# ---- one table in every report ------------------------------------------------------------------

NUMBERS = {
    Column("bicubic", "psnr", "standard"): 20.0, Column("bicubic", "ssim", "standard"): 0.5,
    Column("restored", "psnr", "standard"): 21.0, Column("restored", "ssim", "standard"): 0.6,
    Column("restored", "mIoU", MODEL): 0.25,
    Column("bicubic", "lpips_alex"): 0.4, Column("restored", "lpips_alex"): 0.3}


def test_report_json_keeps_its_layout() -> None:
    assert per_image_entry(Row("a.png", NUMBERS, {"gt_pixels_sha256": "0f"})) == {
        "path": "a.png", "gt_pixels_sha256": "0f",
        "bicubic": {"standard": {"psnr": 20.0, "ssim": 0.5}},
        "restored": {"standard": {"psnr": 21.0, "ssim": 0.6}}, "further": {"mIoU": 0.25},
        "measured": {"bicubic": {"lpips_alex": 0.4}, "restored": {"lpips_alex": 0.3}}}


def test_every_method_has_an_entry_even_if_nothing_was_chosen() -> None:
    layout = json_layout({column: value for column, value in NUMBERS.items() if column.source
                          == "standard"})
    assert layout["measured"] == {"bicubic": {}, "restored": {}}


def test_columns_of_the_csv_keep_their_names() -> None:
    lines = per_image_csv([Row("a.png", NUMBERS, {"gt_file_sha256": "0f"})]).splitlines()
    assert lines == [
        "path,bicubic_standard_psnr,bicubic_standard_ssim,restored_standard_psnr,"
        "restored_standard_ssim,mIoU,bicubic_lpips_alex,restored_lpips_alex,gt_file_sha256",
        "a.png,20.000000,0.500000,21.000000,0.600000,0.250000,0.400000,0.300000,0f"]


def test_the_text_table_says_what_was_gained_and_what_is_missing() -> None:
    target = {Column("target", "fid"): 1.5}
    assert [line.split() for line in table({**NUMBERS, **target}, 3).splitlines()] == [
        ["3", "images", "PSNR", "standard", "SSIM", "standard"],
        ["bicubic", "20.0000", "0.5000"], ["restored", "21.0000", "0.6000"],
        ["gain", "+1.0000", "+0.1000"], ["mIoU", "0.2500"], [],
        ["bicubic", "restored", "target"], ["lpips_alex", "0.4000", "0.3000", "-"],
        ["fid", "-", "-", "1.5000"]]

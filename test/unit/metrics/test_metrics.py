"""PSNR and SSIM against hand-computed values and scikit-image."""
from __future__ import annotations

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from metrics.evaluation import Row, means
from metrics.psnr_ssim import PROTOCOLS, luma, psnr, ssim, truncated_luma


@pytest.fixture(params=[(40, 33), (11, 64)])
def pair(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    first = generator.integers(0, 256, (*request.param, 3), dtype=np.uint8)
    noise = generator.integers(-20, 21, first.shape)
    return first, np.clip(first.astype(int) + noise, 0, 255).astype(np.uint8)


def test_psnr_of_a_known_error() -> None:
    assert psnr(np.zeros((4, 4)), np.full((4, 4), 5.0)) == pytest.approx(34.1514, abs=1e-4)


def test_equal_pictures_have_infinite_psnr_and_ssim_one(pair: tuple) -> None:
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
def test_luma_of_known_colours(color: tuple, y: float) -> None:
    assert luma(np.full((1, 1, 3), color, np.uint8))[0, 0] == pytest.approx(y)


def test_published_luma_is_truncated_not_rounded() -> None:
    white_ish = np.full((1, 1, 3), (254, 255, 255), np.uint8)      # Y = 234.743
    assert truncated_luma(white_ish)[0, 0] == 234.0


def test_the_two_protocols_differ_in_what_they_compare(pair: tuple) -> None:
    grey = [image.copy() for image in pair]
    grey[1][..., 2] = grey[0][..., 2] ^ 255     # blue hardly shows in Y
    published, standard = (PROTOCOLS[name].measure(*grey) for name in ("published", "standard"))
    assert published["psnr"] > standard["psnr"] + 3


def test_other_sizes_are_refused(pair: tuple) -> None:
    with pytest.raises(ValueError, match="its target"):
        PROTOCOLS["standard"].measure(pair[0], pair[1][1:])


def test_too_small_for_the_window_is_said() -> None:
    with pytest.raises(ValueError, match="11x11"):
        ssim(np.zeros((10, 40)), np.zeros((10, 40)))


def test_means_are_taken_per_method_and_protocol() -> None:
    rows = [Row(str(v), {"restored": {"published": {"psnr": v, "ssim": v / 10}}})
            for v in (1.0, 3.0)]
    assert means(rows) == {"restored": {"published": {"psnr": 2.0, "ssim": 0.2}}}

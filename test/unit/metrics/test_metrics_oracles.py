"""Numbers next to those of scikit-image and torchmetrics, which others rely on."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_jaccard_index
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.image import PeakSignalNoiseRatio
from torchmetrics.image.fid import FrechetInceptionDistance

from data.synthetic.faces import render_face
from metrics import ms_ssim
from metrics.frechet import Moments, frechet_distance
from metrics.psnr_ssim import PROTOCOLS, pooled_psnr
from metrics.segmentation import iou_per_image

SIDE = 192      # five scales of MS-SSIM with a whole window each


def pair(seed: int, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """A face and what is left of it after noise."""
    gt = render_face(seed, size=side).image
    noise = np.random.default_rng(seed).normal(0, 12, gt.shape)
    return np.clip(gt + noise, 0, 255).astype(np.uint8), gt


def tensors(*images: np.ndarray) -> list[Tensor]:
    return [torch.from_numpy(image).permute(2, 0, 1)[None].double() for image in images]


def y_of(image: np.ndarray) -> np.ndarray:
    """scikit-image's Y, truncated as the published protocol has it."""
    return np.floor(rgb2ycbcr(image)[..., 0] + 1e-9)


def by_scikit_image(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    axis = -1 if first.ndim == 3 else None
    full = structural_similarity(first, second, data_range=255, gaussian_weights=True, sigma=1.5,
                                 use_sample_covariance=False, channel_axis=axis, full=True)[1]
    return (peak_signal_noise_ratio(first, second, data_range=255),
            float(full[5:-5, 5:-5].mean()))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name, view", [("standard", lambda x: x.astype(float)),
                                        ("published", y_of)])
def test_psnr_and_ssim_agree_with_scikit_image_to_a_millionth(name: str, view: object,
                                                              seed: int) -> None:
    restored, gt = pair(seed)
    found = PROTOCOLS[name].measure(restored, gt)
    psnr, ssim = by_scikit_image(view(restored), view(gt))
    assert found["psnr"] == pytest.approx(psnr, abs=1e-6)
    assert found["ssim"] == pytest.approx(ssim, abs=1e-6)


def by_torchmetrics(restored: Tensor, gt: Tensor, peak: float) -> tuple[float, float]:
    """SSIM and its contrast factor where the window fits: torchmetrics' own mean of SSIM has the
    mirrored border, too, for which there is no agreement to expect."""
    settings = {"data_range": peak}
    _, full = structural_similarity_index_measure(restored, gt, return_full_image=True, **settings)
    _, contrast = structural_similarity_index_measure(
        restored, gt, return_contrast_sensitivity=True, **settings)
    return float(full[..., 5:-5, 5:-5].mean()), float(contrast)


@pytest.mark.parametrize("seed", range(2))
def test_ssim_agrees_with_torchmetrics_to_a_millionth(seed: int) -> None:
    images = pair(seed)
    found = PROTOCOLS["standard"].measure(*images)["ssim"]
    assert found == pytest.approx(by_torchmetrics(*tensors(*images), 255.0)[0], abs=1e-6)


@pytest.mark.parametrize("seed", range(2))
def test_ms_ssim_agrees_with_torchmetrics_to_a_millionth(seed: int) -> None:
    restored, gt = (x / 255 for x in tensors(*pair(seed)))
    found, expected = float(ms_ssim.ms_ssim(restored, gt)), 1.0
    for scale, weight in enumerate(ms_ssim.WEIGHTS):
        whole, contrast = by_torchmetrics(restored, gt, 1.0)
        expected *= (whole if scale == 4 else contrast) ** weight
        restored, gt = (nn.functional.avg_pool2d(x, 2) for x in (restored, gt))
    assert found == pytest.approx(expected, abs=1e-6)


def test_pooled_psnr_agrees_with_torchmetrics() -> None:
    oracle = PeakSignalNoiseRatio(data_range=255.0)
    oracle.set_dtype(torch.float64)
    errors = []
    for seed, side in ((0, 64), (1, 96), (2, 64)):
        images = tensors(*pair(seed, side))
        oracle.update(*images)
        errors.append((float((images[0] - images[1]).square().mean()), images[0].numel()))
    assert pooled_psnr(errors) == pytest.approx(float(oracle.compute()), rel=1e-6)


def test_region_overlap_agrees_with_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 4, (2, 16, 16), generator=generator)
    target[1][target[1] == 2] = 3       # a region that only the result has
    predicted = torch.where(torch.rand(target.shape, generator=generator) < 0.3,
                            torch.randint(0, 4, target.shape, generator=generator), target)
    expected = []
    for one, other in zip(predicted, target, strict=True):
        every = multiclass_jaccard_index(one, other, 4, average="none")
        expected.append(float(every[[bool((other == k).any()) for k in range(4)]].mean()))
    assert iou_per_image(predicted, target, 4) == pytest.approx(expected, abs=1e-6)


# ---- FID -----------------------------------------------------------------------------------------

class Project(nn.Module):
    """A feature network that torchmetrics takes: fixed directions in pixel space."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.num_features = dimensions
        generator = torch.Generator().manual_seed(0)
        directions = torch.randn(3 * 8 * 8, dimensions, generator=generator, dtype=torch.float64)
        self.register_buffer("directions", directions / 60)

    def forward(self, x: Tensor) -> Tensor:
        return x.double().flatten(1) @ self.directions


def sample_images(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    low, high = 40 * seed, 160 + 40 * seed
    return torch.randint(low, high, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)


def distance(first: np.ndarray, second: np.ndarray) -> float:
    moments = Moments(), Moments()
    for gathered, rows in zip(moments, (first, second), strict=True):
        for row in rows:
            gathered.add(row)
    return frechet_distance(*moments[0].result(), *moments[1].result())


def root_of(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T


def reference(first: np.ndarray, second: np.ndarray) -> float:
    """tr (C1 C2)^(1/2) as the sum of singular values of C1^(1/2) C2^(1/2): all at once, float64."""
    one, two = (np.cov(rows, rowvar=False) for rows in (first, second))
    between = np.linalg.svd(root_of(one) @ root_of(two), compute_uv=False).sum()
    distances = first.mean(axis=0) - second.mean(axis=0)
    return distances @ distances + np.trace(one) + np.trace(two) - 2 * between


@pytest.mark.parametrize("count, dimensions", [(300, 48), (60, 48), (20, 48), (2, 48)])
def test_fid_agrees_with_a_float64_reference_and_is_finite(count: int, dimensions: int) -> None:
    """The last two sets have fewer images than dimensions."""
    network = Project(dimensions)
    first, second = (network(sample_images(count, seed)).numpy() for seed in (0, 1))
    found = distance(first, second)
    assert np.isfinite(found) and found == pytest.approx(reference(first, second), abs=1e-4)


def test_fid_agrees_with_torchmetrics() -> None:
    network, sets = Project(32), (sample_images(200, 0), sample_images(250, 1))
    oracle = FrechetInceptionDistance(feature=network, normalize=False)
    oracle.set_dtype(torch.float64)
    for images, real in zip(sets, (True, False), strict=True):
        for part in images.split(33):
            oracle.update(part, real=real)
    found = distance(*(network(images).numpy() for images in sets))
    assert found == pytest.approx(float(oracle.compute()), abs=1e-4)

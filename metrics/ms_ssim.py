"""PSNR, SSIM and MS-SSIM of floating-point images in two forms.

published: as PFSRNet's evaluation computes them, per batch, with its slips: the range guessed from
    the restored images, the last scale's factor taken four times, values not limited.
standard: per image, limited to [0, 1], MS-SSIM as its paper has it.

Images are float64 RGB (B, 3, H, W), black 0, white 1.

Source: Wang et al. 2003 (MS-SSIM); DeokyunKim/Progressive-Face-Super-Resolution, eval.py.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW, SIGMA = 11, 1.5


def float_images(x: Tensor) -> Tensor:
    """[-1, 1] on any device to float64 on the CPU, black 0, white 1, not limited."""
    return 0.5 * x.detach().cpu().double() + 0.5


def psnr(restored: Tensor, gt: Tensor) -> Tensor:
    """dB of each image, (B,)."""
    return -10 * (restored - gt).square().mean(dim=(1, 2, 3)).log10()


def batch_psnr(restored: Tensor, gt: Tensor) -> float:
    """dB of one mean squared error over the whole batch."""
    return float(-10 * (restored - gt).square().mean().log10())


def _window(side: int) -> Tensor:
    # Centered at side // 2, hence off-center for even sides, which only small scales have.
    x = torch.arange(side, dtype=torch.float64) - side // 2
    weights = (-x.square() / (2 * SIGMA ** 2)).exp()
    return weights / weights.sum()


def _smooth(x: Tensor, side: int) -> Tensor:
    weights = _window(side)
    x = F.conv2d(x.flatten(0, 1)[:, None], weights.view(1, 1, 1, -1))
    return F.conv2d(x, weights.view(1, 1, -1, 1))[:, 0]


def similarity(restored: Tensor, gt: Tensor, peak: float = 1.0) -> tuple[Tensor, Tensor]:
    """SSIM and its contrast factor per image and color, each (B, 3), means over positions.

    Args:
        peak: difference of white and black.
    """
    side = min(WINDOW, *restored.shape[2:])
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    mean_x, mean_y = _smooth(restored, side), _smooth(gt, side)
    var_x = _smooth(restored * restored, side) - mean_x ** 2
    var_y = _smooth(gt * gt, side) - mean_y ** 2
    covariance = _smooth(restored * gt, side) - mean_x * mean_y
    contrast = (2 * covariance + c2) / (var_x + var_y + c2)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x ** 2 + mean_y ** 2 + c1)
    shape = restored.shape[:2]
    return ((luminance * contrast).mean(dim=(1, 2)).view(shape),
            contrast.mean(dim=(1, 2)).view(shape))


def ssim(restored: Tensor, gt: Tensor) -> Tensor:
    """SSIM of each image, (B,), the mean over colors."""
    return similarity(restored, gt)[0].mean(dim=1)


def scale_factors(restored: Tensor, gt: Tensor, guess_range: bool = False) -> Tensor:
    """What MS-SSIM multiplies, (5, B, 3): contrasts of four scales, SSIM of the fifth.

    Args:
        guess_range: take the range from the restored images, at every scale anew.

    Raises:
        ValueError: a side below 16 pixels, which cannot be halved four times.
    """
    if min(restored.shape[2:]) < 2 ** (len(WEIGHTS) - 1):
        raise ValueError(f"MS-SSIM needs images of 16x16 pixels or more, got "
                         f"{restored.shape[3]}x{restored.shape[2]}")
    found = []
    for index in range(len(WEIGHTS)):
        whole, contrast = similarity(restored, gt, guessed_range(restored) if guess_range else 1.0)
        found.append(whole if index == len(WEIGHTS) - 1 else contrast)
        restored, gt = F.avg_pool2d(restored, 2), F.avg_pool2d(gt, 2)
    return torch.stack(found)


def standard_product(factors: Tensor) -> Tensor:
    """(5, ...) factors to their weighted product (...); negative ones count as 0."""
    weights = torch.tensor(WEIGHTS, dtype=factors.dtype).view(-1, *[1] * (factors.ndim - 1))
    return (factors.clamp(min=0) ** weights).prod(dim=0)


def ms_ssim(restored: Tensor, gt: Tensor) -> Tensor:
    """MS-SSIM of each image, (B,)."""
    return standard_product(scale_factors(restored, gt).mean(dim=2))


# ---- as published --------------------------------------------------------------------------------

def guessed_range(restored: Tensor) -> float:
    """The range that the published code reads off a batch of restored images."""
    high = 255.0 if float(restored.max()) > 128 else 1.0
    return high - (-1.0 if float(restored.min()) < -0.5 else 0.0)


def published_ssim(restored: Tensor, gt: Tensor) -> float:
    """SSIM of a batch as published."""
    return float(similarity(restored, gt, guessed_range(restored))[0].mean())


def published_ms_ssim(restored: Tensor, gt: Tensor) -> float:
    """MS-SSIM of a batch as published: factors are means over the batch, the last of them comes
    in four times; NaN where a mean contrast is negative."""
    factors = scale_factors(restored, gt, guess_range=True).mean(dim=(1, 2))
    powers = factors ** torch.tensor(WEIGHTS, dtype=factors.dtype)
    return float(powers[:-1].prod() * powers[-1] ** (len(WEIGHTS) - 1))


# ---- what evaluation reports ---------------------------------------------------------------------

def quality(restored: Tensor, gt: Tensor) -> dict[str, list[float]]:
    """Both forms for images (B, 3, H, W) in [-1, 1] on any device, by name, per image.

    `psnr_published`, `ssim_published` and `ms_ssim_published` belong to the batch, which is given
    for each of its images; published figures are means over batches of 16 in the data set's
    order. `psnr_picture`, `ssim_picture` and `ms_ssim_picture` are standard.
    """
    restored, gt = float_images(restored), float_images(gt)
    batch = {"psnr": batch_psnr(restored, gt), "ssim": published_ssim(restored, gt),
             "ms_ssim": published_ms_ssim(restored, gt)}
    found = {f"{name}_published": [value] * len(gt) for name, value in batch.items()}
    restored = restored.clamp(0, 1)
    for name, measured in (("psnr", psnr), ("ssim", ssim), ("ms_ssim", ms_ssim)):
        found[f"{name}_picture"] = measured(restored, gt).tolist()
    return found

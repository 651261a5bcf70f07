"""Blind degradation of GFP-GAN: Gaussian blur, shrinking, noise, JPEG, colour shifts."""
from __future__ import annotations

import argparse
from collections.abc import Sequence

import cv2
import numpy as np

from data.base_dataset import BaseDegradation
from data.blur import gaussian_kernel
from data.color_jitter import colour_jitter

# flag -> default, smallest and largest value, meaning
RANGES = {
    "kernel_sigma": ((0.1, 10.0), 0.01, 100, "deviations of the blur, in pixels"),
    "downsample_range": ((0.8, 8.0), 0.1, 64, "factor the picture is shrunk by"),
    "noise_range": ((0.0, 20.0), 0, 255, "deviation of the noise, in grey levels"),
    "jpeg_range": ((60.0, 100.0), 0, 100, "quality of the JPEG compression; 0 0 leaves it out")}
SHARES = {
    "shift_prob": (0.3, "whose channels are shifted by up to --colour_shift grey levels"),
    "jitter_prob": (0.3, "whose brightness, contrast, saturation and hue change"),
    "lq_gray_prob": (0.01, "turned grey")}


class GFPGANDegradation(BaseDegradation):
    """GFP-GAN's degradation, in the published order and ranges.

    Gaussian blur, round or elliptic; bilinear shrinking; coloured noise; JPEG; bilinear
    enlargement; then now and then a colour shift, grey, a colour jitter. Each range is (low, high).

    Raises:
        ValueError: a range upside down or out of bounds, naming the flag.

    Source: TencentARC/GFPGAN, options/train_gfpgan_v1.yml and ffhq_degradation_dataset.py.
    """

    @staticmethod
    def modify_commandline_options(parser: argparse.ArgumentParser, is_train: bool) -> None:
        for name, (default, _, _, text) in RANGES.items():
            parser.add_argument(f"--{name}", type=float, nargs=2, default=list(default),
                                metavar=("LOW", "HIGH"), help=text)
        for name, (default, text) in SHARES.items():
            parser.add_argument(f"--{name}", type=float, default=default,
                                help=f"share of pictures {text}")
        parser.add_argument("--kernel_side", type=int, default=41, help="side of the blur's kernel")
        parser.add_argument("--colour_shift", type=float, default=20.0,
                            help="largest shift of a channel, in grey levels")

    def __init__(self, *, kernel_sigma: Sequence[float] = RANGES["kernel_sigma"][0],
                 downsample_range: Sequence[float] = RANGES["downsample_range"][0],
                 noise_range: Sequence[float] = RANGES["noise_range"][0],
                 jpeg_range: Sequence[float] = RANGES["jpeg_range"][0], shift_prob: float = 0.3,
                 jitter_prob: float = 0.3, lq_gray_prob: float = 0.01, kernel_side: int = 41,
                 colour_shift: float = 20.0):
        given = {"kernel_sigma": kernel_sigma, "downsample_range": downsample_range,
                 "noise_range": noise_range, "jpeg_range": jpeg_range}
        for name, values in given.items():
            _, low, high, _ = RANGES[name]
            if len(values) != 2 or not low <= values[0] <= values[1] <= high:
                raise ValueError(f"--{name} must be two numbers from {low:g} to {high:g}, the "
                                 f"smaller first; got {' '.join(map(str, values))}")
        for name, share in (("shift_prob", shift_prob), ("jitter_prob", jitter_prob),
                            ("lq_gray_prob", lq_gray_prob)):
            if not 0 <= share <= 1:
                raise ValueError(f"--{name} must be from 0 to 1, got {share}")
        if kernel_side < 1 or kernel_side % 2 == 0:
            raise ValueError(f"--kernel_side must be odd and positive, got {kernel_side}")
        if not 0 <= colour_shift <= 255:
            raise ValueError(f"--colour_shift must be from 0 to 255, got {colour_shift}")
        self.kernel_sigma, self.downsample_range = kernel_sigma, downsample_range
        self.noise_range, self.jpeg_range = noise_range, jpeg_range
        self.shift_prob, self.jitter_prob = shift_prob, jitter_prob
        self.lq_gray_prob, self.kernel_side = lq_gray_prob, kernel_side
        self.colour_shift = colour_shift / 255

    def check(self, load_size: int) -> None:
        if load_size < self.downsample_range[1]:
            raise ValueError(f"--downsample_range must not shrink a picture of --load_size "
                             f"{load_size} to nothing, got {self.downsample_range[1]:g}")

    def __call__(self, gt: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return self.degrade(gt, rng)[0]

    def degrade(self, gt: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, bool]:
        """The degraded picture, and whether it was turned grey."""
        height, width = gt.shape[:2]
        lq = blurred(gt.astype(np.float32) / 255, self.kernel(rng))
        lq = shrunk(lq, rng.uniform(*self.downsample_range))
        noise = rng.standard_normal(lq.shape, dtype=np.float32)
        lq = noisy(lq, noise, rng.uniform(*self.noise_range))
        if self.jpeg_range[1] > 0:
            lq = compressed(lq, max(1, int(rng.uniform(*self.jpeg_range))))
        lq = cv2.resize(lq, (width, height), interpolation=cv2.INTER_LINEAR)
        if rng.random() < self.shift_prob:
            shift = rng.uniform(-self.colour_shift, self.colour_shift, 3)
            lq = shifted(lq, shift)
        is_gray = bool(rng.random() < self.lq_gray_prob)
        if is_gray:
            lq = cv2.cvtColor(cv2.cvtColor(lq, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        if rng.random() < self.jitter_prob:
            lq = colour_jitter(lq, rng)
        return quantised(lq), is_gray

    def kernel(self, rng: np.random.Generator) -> np.ndarray:
        """A random kernel, round or elliptic with equal chances."""
        sigma = rng.uniform(*self.kernel_sigma)
        if rng.random() < 0.5:
            return gaussian_kernel(self.kernel_side, (sigma, sigma))
        return gaussian_kernel(self.kernel_side, (sigma, rng.uniform(*self.kernel_sigma)),
                               rng.uniform(-np.pi, np.pi))


# ---- the steps, on float32 (H, W, 3) in [0, 1] ---------------------------------------------------

def blurred(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return cv2.filter2D(image, -1, kernel)


def shrunk(image: np.ndarray, factor: float) -> np.ndarray:
    """Bilinear without antialiasing; a factor below 1 enlarges."""
    height, width = image.shape[:2]
    return cv2.resize(image, (int(width // factor), int(height // factor)),
                      interpolation=cv2.INTER_LINEAR)


def noisy(image: np.ndarray, noise: np.ndarray, sigma: float) -> np.ndarray:
    """Standard normal noise of the picture's shape, scaled to `sigma` grey levels."""
    return np.clip(image + noise * np.float32(sigma / 255), 0, 1)


def shifted(image: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """One number per channel added."""
    return np.clip(image + shift.astype(np.float32), 0, 1)


def compressed(image: np.ndarray, quality: int) -> np.ndarray:
    """The picture after a JPEG file of this quality."""
    _, data = cv2.imencode(".jpg", quantised(image)[..., ::-1],
                           [int(cv2.IMWRITE_JPEG_QUALITY), quality])
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].astype(np.float32) / 255


def quantised(image: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)

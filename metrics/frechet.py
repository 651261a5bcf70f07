"""Frechet distance of two sets of images: how far apart the Gaussians of their features are.

With the features of Inception this is FID (arXiv 1706.08500). Everything is float64 on the CPU.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import checkpoint
from metrics.graph import GraphFeatures
from models.networks.pretrained import arcface
from models.networks.pretrained.inception import NUM_FEATURES, Inception
from models.networks.pretrained.vgg import VGGFeatures

# Features are folded into the moments so many at a time: a product per image would cost more.
_AT_ONCE = 64
# torchvision's index of the last ReLU, by the index of the last convolution.
_VGG = {28: ("vgg16", 29), 34: ("vgg19", 35)}


class Moments:
    """Mean and covariance of features that arrive one after the other.

    Memory does not grow with their number. Source: Chan, Golub, LeVeque 1979 (merging moments).
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = np.zeros(0)
        self._scatter = np.zeros((0, 0))
        self._waiting: list[np.ndarray] = []

    def add(self, features: np.ndarray) -> None:
        """Take features (D,) of an image."""
        self._waiting.append(np.asarray(features, np.float64))
        if len(self._waiting) >= _AT_ONCE:
            self._fold()

    def _fold(self) -> None:
        if self._waiting:
            block = np.stack(self._waiting)
            self._waiting = []
            mean = block.mean(axis=0)
            self._join(len(block), mean, (block - mean).T @ (block - mean))

    def _join(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        if not self.count:
            self.count, self.mean, self._scatter = count, mean, scatter
            return
        total, offset = self.count + count, mean - self.mean
        self.mean = self.mean + offset * (count / total)
        self._scatter = (self._scatter + scatter
                         + np.outer(offset, offset) * (self.count * count / total))
        self.count = total

    def merge(self, other: Moments) -> None:
        """Take what another one has seen."""
        self._fold()
        other._fold()
        if other.count:
            self._join(other.count, other.mean, other._scatter)

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean (D,) and covariance (D, D), divided by the number less one.

        Raises:
            ValueError: fewer than two images.
        """
        self._fold()
        if self.count < 2:
            raise ValueError(f"a covariance needs two or more images, got {self.count}")
        return self.mean, self._scatter / (self.count - 1)


def frechet_distance(mean_1: np.ndarray, covariance_1: np.ndarray, mean_2: np.ndarray,
                     covariance_2: np.ndarray) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), never below 0.

    The root's trace comes from the eigenvalues of C1^(1/2) C2 C1^(1/2), which is symmetric: those
    of C1 C2 turn complex, or the root fails, where there are fewer images than dimensions.

    Raises:
        ValueError: features of different length.
    """
    if mean_1.shape != mean_2.shape:
        raise ValueError(f"both features must have the same number of dimensions, got "
                         f"{mean_1.size} and {mean_2.size}; use the same network for both")
    values, vectors = np.linalg.eigh(covariance_1)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ covariance_2 @ root)
    between = np.sqrt(product.clip(min=0)).sum()
    offset = mean_1 - mean_2
    return float(max(0.0, offset @ offset + np.trace(covariance_1) + np.trace(covariance_2)
                     - 2 * between))


# What tools call mean and covariance: pytorch-fid and clean-fid; BasicSR.
_STATISTICS = (("mu", "sigma"), ("mean", "cov"))


def read_statistics(path: str | Path, flag: str = "--fid_stats") -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance from a file of pytorch-fid, clean-fid (.npz) or BasicSR (.pth).

    Raises:
        FileNotFoundError, ValueError: no such file, or not such statistics.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{flag}: {path} does not exist")
    try:
        content = _tensors(path) if Path(path).suffix in (".pth", ".pt") else _archive(path)
    except (ValueError, OSError, EOFError, AttributeError) as error:
        raise ValueError(f"{flag}: {path} must hold mu and sigma, or mean and cov ({error})"
                         ) from error
    mean, covariance = content
    if mean.ndim != 1 or covariance.shape != (mean.size, mean.size) or not (
            np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError(f"{flag}: {path} must have finite mu (D) and sigma (D, D), got "
                         f"{mean.shape} and {covariance.shape}")
    return mean, covariance


def _archive(path: str | Path) -> list[np.ndarray]:
    with np.load(path, allow_pickle=False) as content:
        return [content[key].astype(np.float64) for key in _keys(content.files)]


def _tensors(path: str | Path) -> list[np.ndarray]:
    """BasicSR saves NumPy arrays with torch.save: they are data, once their types are named."""
    rebuild = np.zeros(1).__reduce__()[0]
    types = [rebuild, np.ndarray, np.dtype, type(np.dtype(np.float64)), type(np.dtype(np.float32)),
             (rebuild, "numpy.core.multiarray._reconstruct")]
    with torch.serialization.safe_globals(types):
        content = checkpoint.read(path)
    return [np.asarray(content[key], np.float64) for key in _keys(content)]


def _keys(found: Iterable[str]) -> tuple[str, str]:
    found = list(found)
    for pair in _STATISTICS:
        if set(pair) <= set(found):
            return pair
    raise ValueError(f"it has {', '.join(map(str, found)) or 'nothing'}")


# ---- networks ------------------------------------------------------------------------------------

class PooledVGG(nn.Module):
    """Means over positions of VGG's last activations, (B, 512)."""

    def __init__(self, arch: str, last: int) -> None:
        super().__init__()
        self.vgg = VGGFeatures(arch, [last])

    def forward(self, x: Tensor) -> Tensor:
        return self.vgg(x)[0].mean(dim=(2, 3))


class GrayArcFace(nn.Module):
    """GFP-GAN's recognition network on RGB images, vectors of length 1, (B, 512)."""

    def __init__(self) -> None:
        super().__init__()
        self.network = arcface.ArcFace()

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.network(arcface.gray_input(x)))


def feature_network(path: str | Path, flag: str = "--fid_weights"
                    ) -> tuple[str, Callable[[Tensor], Tensor], int]:
    """The network that a file's key names speak of.

    Returns:
        Name of the number it gives, the network from RGB (B, 3, H, W) in [-1, 1] to (B, D), and D.
        Only Inception's number is called `fid`: others compare with nothing that is published. An
        ONNX graph may be any network; its number is called by the file's name.

    Raises:
        FileNotFoundError, ValueError: no such file, or of a network that is not known here.
    """
    if Path(path).suffix == ".onnx":
        graph = GraphFeatures(path, flag)
        return f"fd_{Path(path).stem}", graph, graph.dimensions
    with checkpoint.named_by(flag):
        keys = set(checkpoint.unwrap(checkpoint.read(path), path))
    if "Conv2d_1a_3x3.conv.weight" in keys:
        network = Inception()
        network.load_published(path, flag)
        return "fid", network, NUM_FEATURES
    if "fc5.weight" in keys:
        network = GrayArcFace()
        network.network.load_published(path, flag)
        return "fd_arcface", network, 512
    last = _last_index(keys)
    if last in _VGG:
        arch, relu = _VGG[last]
        network = PooledVGG(arch, relu)
        network.vgg.load_published(path, flag)
        return f"fd_{arch}", network, 512
    raise ValueError(f"{flag}: {path} must be pt_inception-2015-12-05-6726825d.pth (for FID), "
                     f"torchvision's vgg16 or vgg19, arcface_resnet18.pth or an ONNX graph")


def _last_index(keys: Iterable[str]) -> int:
    """Index of the last weight in torchvision's `features`, -1 without one."""
    parts = [key.split(".") for key in keys]
    return max((int(part[1]) for part in parts if len(part) == 3 and part[0] == "features"
                and part[1].isdigit()), default=-1)


def features_of(network: Callable[[Tensor], Tensor], images: Tensor) -> np.ndarray:
    """(B, D) float64 of images (B, 3, H, W) in [-1, 1]."""
    with torch.inference_mode():
        return network(images).float().cpu().double().numpy()

"""Inception v3 as the Frechet inception distance (FID) uses it: images to 2048 features.

Source: arXiv 1512.00567, arXiv 1706.08500; layers and names as mseitzer/pytorch-fid and torchvision
have them, weights `pt_inception-2015-12-05-6726825d.pth`. They come from TensorFlow, whose average
pooling leaves the border out, and whose last block pools by the maximum.
"""
from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import checkpoint
from models.ops.fixed import FixedNetwork

INPUT_SIZE = 299
NUM_FEATURES = 2048
NUM_CLASSES = 1008
# A layer: name, channels, kernel (height, width), stride. Kernels keep the size at stride 1.
Layer = tuple[str, int, tuple[int, int], int]


class ConvUnit(nn.Module):
    """Convolution, batch norm, ReLU."""

    # Names here and below follow the published file.
    def __init__(self, in_channels: int, out_channels: int, kernel: tuple[int, int],
                 stride: int = 1, padded: bool = True) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2) if padded else 0
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Branches side by side, their results joined along the channels.

    Args:
        branches: a chain of layers each; a layer that is a list of two forks, both ends count.
        pool: "mean" or "max" with stride 1, before the layer `branch_pool`; "halve" is a maximum
            with stride 2 and nothing after it.
        pool_channels: of `branch_pool`.
    """

    def __init__(self, in_channels: int, branches: list[list[Layer | list[Layer]]], pool: str,
                 pool_channels: int = 0) -> None:
        super().__init__()
        self.pool, self.chains = pool, []
        for branch in branches:
            channels, chain = in_channels, []
            for step in branch:
                forks = step if isinstance(step, list) else [step]
                for name, out_channels, kernel, stride in forks:
                    self.add_module(name, ConvUnit(channels, out_channels, kernel, stride,
                                                   padded=stride == 1))
                chain.append([fork[0] for fork in forks])
                channels = forks[0][1]
            self.chains.append(chain)
        if pool_channels:
            self.branch_pool = ConvUnit(in_channels, pool_channels, (1, 1))

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for chain in self.chains:
            parts = [x]
            for names in chain:     # only a chain's last step forks
                parts = [self.get_submodule(name)(parts[0]) for name in names]
            found += parts
        if self.pool == "halve":
            return torch.cat([*found, F.max_pool2d(x, 3, 2)], dim=1)
        pooled = (F.max_pool2d(x, 3, 1, 1) if self.pool == "max"
                  else F.avg_pool2d(x, 3, 1, 1, count_include_pad=False))
        return torch.cat([*found, self.branch_pool(pooled)], dim=1)


POINT, SMALL, LARGE, ROW, COLUMN = (1, 1), (3, 3), (5, 5), (1, 7), (7, 1)


def _block_a(in_channels: int, pool_channels: int) -> Mixed:
    return Mixed(in_channels, [
        [("branch1x1", 64, POINT, 1)],
        [("branch5x5_1", 48, POINT, 1), ("branch5x5_2", 64, LARGE, 1)],
        [("branch3x3dbl_1", 64, POINT, 1), ("branch3x3dbl_2", 96, SMALL, 1),
         ("branch3x3dbl_3", 96, SMALL, 1)]], "mean", pool_channels)


def _block_b(in_channels: int) -> Mixed:
    return Mixed(in_channels, [
        [("branch3x3", 384, SMALL, 2)],
        [("branch3x3dbl_1", 64, POINT, 1), ("branch3x3dbl_2", 96, SMALL, 1),
         ("branch3x3dbl_3", 96, SMALL, 2)]], "halve")


def _block_c(width: int) -> Mixed:
    kernels = (POINT, COLUMN, ROW, COLUMN, ROW)
    return Mixed(768, [
        [("branch1x1", 192, POINT, 1)],
        [("branch7x7_1", width, POINT, 1), ("branch7x7_2", width, ROW, 1),
         ("branch7x7_3", 192, COLUMN, 1)],
        [(f"branch7x7dbl_{index}", 192 if index == 5 else width, kernel, 1)
         for index, kernel in enumerate(kernels, 1)]], "mean", 192)


def _block_d(in_channels: int) -> Mixed:
    return Mixed(in_channels, [
        [("branch3x3_1", 192, POINT, 1), ("branch3x3_2", 320, SMALL, 2)],
        [("branch7x7x3_1", 192, POINT, 1), ("branch7x7x3_2", 192, ROW, 1),
         ("branch7x7x3_3", 192, COLUMN, 1), ("branch7x7x3_4", 192, SMALL, 2)]], "halve")


def _block_e(in_channels: int, pool: str) -> Mixed:
    wide, high = (1, 3), (3, 1)
    return Mixed(in_channels, [
        [("branch1x1", 320, POINT, 1)],
        [("branch3x3_1", 384, POINT, 1),
         [("branch3x3_2a", 384, wide, 1), ("branch3x3_2b", 384, high, 1)]],
        [("branch3x3dbl_1", 448, POINT, 1), ("branch3x3dbl_2", 384, SMALL, 1),
         [("branch3x3dbl_3a", 384, wide, 1), ("branch3x3dbl_3b", 384, high, 1)]]], pool, 192)


class Inception(FixedNetwork):
    """The features before the classifier; frozen, always in eval mode."""
    flag, published = "--fid_weights", "pt_inception-2015-12-05-6726825d.pth"
    use = "FID IS MEASURED BY"

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvUnit(3, 32, SMALL, 2, padded=False)
        self.Conv2d_2a_3x3 = ConvUnit(32, 32, SMALL, padded=False)
        self.Conv2d_2b_3x3 = ConvUnit(32, 64, SMALL)
        self.Conv2d_3b_1x1 = ConvUnit(64, 80, POINT)
        self.Conv2d_4a_3x3 = ConvUnit(80, 192, SMALL, padded=False)
        self.Mixed_5b, self.Mixed_5c = _block_a(192, 32), _block_a(256, 64)
        self.Mixed_5d, self.Mixed_6a = _block_a(288, 64), _block_b(288)
        self.Mixed_6b, self.Mixed_6c = _block_c(128), _block_c(160)
        self.Mixed_6d, self.Mixed_6e = _block_c(160), _block_c(192)
        self.Mixed_7a = _block_d(768)
        self.Mixed_7b, self.Mixed_7c = _block_e(1280, "mean"), _block_e(2048, "max")
        self.fc = nn.Linear(NUM_FEATURES, NUM_CLASSES)      # in the file, not used
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, 2048) of RGB images (B, 3, H, W) in [-1, 1], resized to 299 x 299."""
        x = F.interpolate(x, size=(INPUT_SIZE, INPUT_SIZE), mode="bilinear", align_corners=False)
        for name, layer in self.named_children():
            if name in ("Conv2d_3b_1x1", "Mixed_5b"):
                x = F.max_pool2d(x, 3, 2)
            x = x if name == "fc" else layer(x)
        return x.mean(dim=(2, 3))

    def read(self, path: str | Path) -> dict[str, Tensor]:
        """The state dict of pytorch-fid's file, strictly, but for counters of batches, which older
        ones lack.

        Raises:
            FileNotFoundError, ValueError: no such file, no state dict, or another network's.
        """
        counters = {key: value for key, value in self.state_dict().items()
                    if key.endswith("num_batches_tracked")}
        state = checkpoint.unwrap(checkpoint.read(path), path) | counters
        checkpoint.check_match(state, self.state_dict(), path)
        return state

"""PFSRNet: a generator that grows from 32 to 128 pixels and the discriminator that mirrors it.

Source: DeokyunKim/Progressive-Face-Super-Resolution (arXiv 1908.08239).
"""
from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.recompute import Recomputable
from models.ops.checkpointing import checkpointed

PUBLISHED_WIDTH = 512
NUM_STAGES = 3
SCALE = 2 ** NUM_STAGES
WIDTH_MULTIPLE = 8
DEVIATION_EPS = 1e-8


class _ScaledConv(nn.Module):
    """3x3 convolution whose N(0, 1) weights are scaled at each use (arXiv 1710.10196)."""

    # Names follow the released checkpoint, bias before weight_orig.
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.weight_orig = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.factor = math.sqrt(2 / (in_channels * 9))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight_orig * self.factor, self.bias, padding=1)


class EqualConv2d(nn.Module):
    """The scaled convolution under the name it has in published weights."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = _ScaledConv(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class ResBlock(nn.Module):
    """Two scaled convolutions with batch norm; the last ReLU sits before the addition."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            EqualConv2d(channels, channels), nn.BatchNorm2d(channels), nn.ReLU(),
            EqualConv2d(channels, channels), nn.BatchNorm2d(channels), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + x


def _blended(skip: Tensor, new: Tensor, alpha: float) -> Tensor:
    return (1 - alpha) * skip + alpha * new


def _check_width(width: int) -> None:
    if width < WIDTH_MULTIPLE or width % WIDTH_MULTIPLE:
        raise ValueError(f"--width must be a positive multiple of {WIDTH_MULTIPLE}, got {width}")


class Generator(Recomputable):
    """Doubles the side of its input once per stage.

    Args:
        width: channels of the first stage, 512 as published; later stages halve them.
    """

    # Names follow the released checkpoint, whose `step` is the stage.
    def __init__(self, *, width: int = PUBLISHED_WIDTH) -> None:
        super().__init__()
        _check_width(width)
        channels = [width // 2 ** stage for stage in range(NUM_STAGES + 1)]
        self.to_rgb = nn.ModuleList(nn.Conv2d(count, 3, 1) for count in channels[1:])
        stem = [nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        for index in range(NUM_STAGES):
            inside, outside = channels[index], channels[index + 1]
            setattr(self, f"step{index + 1}", nn.Sequential(
                *(stem if index == 0 else []), ResBlock(inside),
                nn.ConvTranspose2d(inside, outside, 4, stride=2, padding=1),
                nn.BatchNorm2d(outside), nn.ReLU()))

    def forward(self, x: Tensor, stage: int = NUM_STAGES, alpha: float = 1.0) -> Tensor:
        """Upscale images.

        Args:
            x: (B, 3, H, W) in [-1, 1].
            stage: 1, 2 or 3.
            alpha: from 0 to below 1, the fraction of the stage's own head beside that of the stage
                before, upscaled; any other value gives the stage's head alone.

        Returns:
            (B, 3, 2**stage * H, 2**stage * W), range not limited.
        """
        before = x
        for index in range(1, stage + 1):
            before, x = x, self._grow(index, x)
        restored = self.to_rgb[stage - 1](x)
        if stage == 1 or not 0 <= alpha < 1:
            return restored
        skip = F.interpolate(self.to_rgb[stage - 2](before), scale_factor=2, mode="nearest")
        return _blended(skip, restored, alpha)

    def _grow(self, stage: int, x: Tensor) -> Tensor:
        block = getattr(self, f"step{stage}")
        if self.checkpointing and torch.is_grad_enabled():
            return checkpointed(block, x)
        return block(x)

    def used(self, stage: int, alpha: float) -> list[nn.Module]:
        """The submodules that a forward at this stage and alpha runs through."""
        return _used(self, self.to_rgb, stage, alpha)


class ConvBlock(nn.Module):
    """Two scaled convolutions with LeakyReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            EqualConv2d(in_channels, out_channels), nn.LeakyReLU(0.2),
            EqualConv2d(out_channels, out_channels), nn.LeakyReLU(0.2))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Discriminator(nn.Module):
    """Halves the side of its input once per stage and gives one logit per image.

    Args:
        width: channels of the innermost stage, 512 as published.

    It trains in fp32 at every precision: its pixel gradients are about 1e-5 at first.
    """
    fp32_network = True

    def __init__(self, *, width: int = PUBLISHED_WIDTH) -> None:
        super().__init__()
        _check_width(width)
        channels = [width // 2 ** stage for stage in range(NUM_STAGES + 1)]
        for index in range(NUM_STAGES):
            setattr(self, f"step{index + 1}", nn.Sequential(
                ConvBlock(channels[index + 1], channels[index]), nn.AvgPool2d(2)))
        self.from_rgb = nn.ModuleList(nn.Conv2d(3, count, 1) for count in channels[1:])
        self.equal_conv = EqualConv2d(width + 1, width)
        self.linear = nn.Linear(width, 4 * width)
        self.linear2 = nn.Linear(4 * width, 1)

    def forward(self, x: Tensor, stage: int = NUM_STAGES, alpha: float = 1.0) -> Tensor:
        """Logits (B,) of images (B, 3, H, W) of a stage; alpha blends as in the generator.

        Raises:
            ValueError: fewer than two images, whose standard deviation is part of the logits, or a
                side that cannot be halved `stage` times.
        """
        side = 2 ** stage
        if len(x) < 2 or x.shape[2] % side or x.shape[3] % side:
            raise ValueError(f"the discriminator needs at least 2 images with sides that are "
                             f"multiples of {side} at stage {stage}, got {tuple(x.shape)}")
        h = getattr(self, f"step{stage}")(self.from_rgb[stage - 1](x))
        if stage > 1 and 0 <= alpha < 1:
            h = _blended(self.from_rgb[stage - 2](F.avg_pool2d(x, 2)), h, alpha)
        for index in range(stage - 1, 0, -1):
            h = getattr(self, f"step{index}")(h)
        deviation = batch_deviation(x).expand(len(x), 1, *h.shape[2:])
        h = self.equal_conv(torch.cat([h, deviation], dim=1)).mean(dim=(2, 3))
        return self.linear2(self.linear(h)).squeeze(1)

    def used(self, stage: int, alpha: float) -> list[nn.Module]:
        """The submodules that a forward at this stage and alpha runs through."""
        return [*_used(self, self.from_rgb, stage, alpha),
                self.equal_conv, self.linear, self.linear2]


def batch_deviation(x: Tensor) -> Tensor:
    """Mean over everything of the unbiased standard deviation over the batch, a scalar.

    The root of a variance of 0, where all images have the same value, has no gradient, hence eps.
    """
    variance = (x - x.mean(dim=0, keepdim=True)).square().sum(dim=0) / (len(x) - 1)
    return (variance + DEVIATION_EPS).sqrt().mean()


def _used(network: nn.Module, heads: nn.ModuleList, stage: int, alpha: float) -> list[nn.Module]:
    blends = stage > 1 and 0 <= alpha < 1
    return [*(getattr(network, f"step{index}") for index in range(1, stage + 1)),
            *heads[stage - 1 - blends:stage]]

"""PSFR-GAN: generator styled by image and parsing map, discriminator on image and map.

Source: arXiv 2009.08709, chaofengc/PSFRGAN.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.recompute import Recomputable
from models.networks.parsenet import NUM_LABELS
from models.networks.patch_discriminator import MultiScale, PatchLayers
from models.ops.blocks import LEAKY_SLOPE, ConvUnit, InstanceNorm2d
from models.ops.checkpointing import checkpointed
from models.ops.padded_conv import upsample_conv

NORMS = ("spade", "in")
IN_CHANNELS = 3 + NUM_LABELS
STYLE_WIDTH = 64
# width(side) = WIDTH_TIMES_SIDE / side, within limits.
WIDTH_TIMES_SIDE = 16384
FEAT_SIZE = 16
MAX_CHANNELS_D = 1024


# ---- generator -----------------------------------------------------------------------------------

class StyleNorm(nn.Module):
    """Instance norm whose gain and bias are maps made from the reference.

    Unlike in SPADE (arXiv 1903.07291) the gain is not an offset from 1.

    Args:
        channels: of the features.
        ref_channels: of the reference.
    """

    def __init__(self, channels: int, ref_channels: int) -> None:
        super().__init__()
        self.norm = InstanceNorm2d(channels)
        self.conv1 = nn.Sequential(nn.Conv2d(ref_channels, STYLE_WIDTH, 3, padding=1),
                                   nn.LeakyReLU(LEAKY_SLOPE))
        self.gamma_conv = nn.Conv2d(STYLE_WIDTH, channels, 3, padding=1)
        self.beta_conv = nn.Conv2d(STYLE_WIDTH, channels, 3, padding=1)

    def forward(self, x: Tensor, ref: Tensor) -> Tensor:
        """x (B, C, H, W) in the style of ref (B, ref_channels, H, W)."""
        style = self.conv1(ref)
        return self.norm(x) * self.gamma_conv(style) + self.beta_conv(style)


class PlainNorm(InstanceNorm2d):
    """Takes a reference and leaves it unused."""

    def forward(self, x: Tensor, ref: Tensor) -> Tensor:
        return super().forward(x)


class StyleBlock(nn.Module):
    """x plus two rounds of norm, LeakyReLU and convolution; `make_norm` gives the norms."""

    def __init__(self, channels: int, make_norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv_0 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm_0 = make_norm(channels)
        self.norm_1 = make_norm(channels)

    def forward(self, x: Tensor, ref: Tensor) -> Tensor:
        inner = self.conv_0(F.leaky_relu(self.norm_0(x, ref), LEAKY_SLOPE))
        return x + self.conv_1(F.leaky_relu(self.norm_1(inner, ref), LEAKY_SLOPE))


class UpsampledConv2d(nn.Conv2d):
    """Nearest up-sampling by 2 and a 3x3 convolution padded with zeros."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return upsample_conv(x, self.weight, self.bias, padding="zeros")


class Stage(nn.Sequential):
    """Modules of one resolution: what leads to it, then a StyleBlock.

    Takes features and reference in one tuple, as one input for checkpointing.
    """

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        x, ref = inputs
        *leading, block = self
        for module in leading:
            x = module(x)
        return block(x, resize(ref, tuple(x.shape[2:])))


class PSFRGenerator(Recomputable):
    """Grows a face from a learned constant; image and parsing map steer it at every scale.

    Args:
        size: side of the result, 16 times a power of two; weights fit one size only.
        norm: "spade", or "in" which uses neither image nor map (an ablation).
        min_channels, max_channels: limits of the channel plan.
        ref_channels: of image and map together.

    Attributes:
        checkpointing: compute the stages' insides again in the backward pass; less memory.

    Raises:
        ValueError: a size or norm outside what it may be.
    """

    # Names follow the released checkpoint; body.<i>.0 was an up-sampling without parameters.
    def __init__(self, *, size: int = 512, norm: str = "spade", min_channels: int = 32,
                 max_channels: int = 1024, ref_channels: int = IN_CHANNELS) -> None:
        super().__init__()
        norm = norm.lower()
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
        steps = int(math.log2(size / FEAT_SIZE)) if size >= FEAT_SIZE else 0
        if size != FEAT_SIZE * 2 ** steps:
            raise ValueError(f"size must be {FEAT_SIZE} times a power of two, got {size}")

        def make_norm(channels: int) -> nn.Module:
            if norm == "spade":
                return StyleNorm(channels, ref_channels)
            return PlainNorm(channels)

        widths = [max(min_channels, min(WIDTH_TIMES_SIDE // (FEAT_SIZE * 2 ** k), max_channels))
                  for k in range(steps + 1)]
        self.const_input = nn.Parameter(torch.randn(1, widths[0], FEAT_SIZE, FEAT_SIZE))
        self.head = Stage(nn.Conv2d(widths[0], widths[0], 3, padding=1),
                          StyleBlock(widths[0], make_norm))
        self.body = nn.ModuleList(
            Stage(nn.Identity(), UpsampledConv2d(start, end), StyleBlock(end, make_norm))
            for start, end in pairwise(widths))
        self.img_out = nn.Conv2d(widths[-1], 3, 3, padding=1)
        self.ref_channels = ref_channels

    def forward(self, lq: Tensor, mask: Tensor) -> Tensor:
        """Restore faces.

        Args:
            lq: (B, 3, H, W) in [-1, 1], any size.
            mask: (B, 19, H, W), one-hot.

        Returns:
            (B, 3, size, size), unbounded.

        Raises:
            ValueError: image and map differ in size or have another number of channels.
        """
        if lq.shape[2:] != mask.shape[2:] or lq.shape[1] + mask.shape[1] != self.ref_channels:
            raise ValueError(f"image and parsing map must have the same size and "
                             f"{self.ref_channels} channels together, got {tuple(lq.shape)} and "
                             f"{tuple(mask.shape)}")
        ref = torch.cat([lq, mask], dim=1)
        x = self.const_input.expand(lq.shape[0], -1, -1, -1)
        for stage in (self.head, *self.body):
            repeated = self.checkpointing and torch.is_grad_enabled()
            x = checkpointed(stage, (x, ref)) if repeated else stage((x, ref))
        return self.img_out(x)


def resize(ref: Tensor, size: tuple[int, int]) -> Tensor:
    """The reference at another size: bicubic without antialias, which makes the map fractional."""
    if tuple(ref.shape[2:]) == size:
        return ref
    return F.interpolate(ref, size=size, mode="bicubic", align_corners=False)


# ---- discriminator -------------------------------------------------------------------------------

class PooledUnit(ConvUnit):
    """ConvUnit with 2x2 average pooling between convolution and norm; n becomes n // 2."""

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.norm(F.avg_pool2d(self.conv2d(x), 2)))


class ParsedPatchDiscriminator(PatchLayers):
    """Convolution to `base_channels`, `n_layers` pooled convolutions, then a map of logits.

    Args:
        in_channels: of image and map together.
        base_channels: after the first convolution; doubled at each halving up to 1024.
        n_layers: pooled convolutions.
        norm: of those, one of `blocks.NORMS`, any case.
    """

    def __init__(self, *, in_channels: int = IN_CHANNELS, base_channels: int = 64,
                 n_layers: int = 4, norm: str = "in") -> None:
        norm = norm.lower()
        widths = [min(base_channels * 2 ** k, MAX_CHANNELS_D) for k in range(n_layers + 1)]
        # Unlike in SPARNetHD, only batch norm removes the bias, and instance norm has no gain.
        super().__init__([ConvUnit(in_channels, widths[0], activation=True), *(
            PooledUnit(start, end, norm=norm, activation=True, bias=norm != "bn",
                       affine=norm != "in") for start, end in pairwise(widths))], widths[-1])


class ParsedDiscriminator(MultiScale):
    """Patch discriminators of image and parsing map at several scales.

    SPARNetHD's differs: stride instead of pooling, another norm, bicubic halving.

    Args:
        num_scales: how many.
        in_channels, base_channels, n_layers, norm: see ParsedPatchDiscriminator.
    """

    def __init__(self, *, num_scales: int = 3, in_channels: int = IN_CHANNELS,
                 base_channels: int = 64, n_layers: int = 4, norm: str = "in") -> None:
        super().__init__((ParsedPatchDiscriminator(
            in_channels=in_channels, base_channels=base_channels, n_layers=n_layers, norm=norm)
            for _ in range(num_scales)), smallest_image(num_scales, n_layers))

    def halve(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)

    def forward(self, image: Tensor, mask: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        """As MultiScale's, of images (B, 3, H, W) in [-1, 1] and masks (B, 19, H, W), one-hot."""
        return super().forward(torch.cat([image, mask], dim=1))


def smallest_image(num_scales: int, n_layers: int) -> int:
    """Smallest side whose last scale still leaves 3 pixels for the last convolution."""
    side = 3 * 2 ** n_layers                        # a pooled unit maps n to n // 2
    for _ in range(num_scales - 1):
        side = 2 * side - 1                         # between scales n becomes ceil(n / 2)
    return side

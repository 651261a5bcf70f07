"""SPARNet generator (arXiv 2012.01211): residual blocks with hourglass face attention."""
from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from engine.recompute import Recomputable
from models.ops.blocks import NORMS, ConvUnit, ResidualBlock
from models.ops.checkpointing import run_blocks

ATTENTIONS = ("spar", "spar3d")
ATTENTION_WIDTH = 64
# Depth of the hourglasses follows from a 64-pixel map, whatever the input size (published so).
ATTENTION_MAP_SIZE = 64


class HourglassAttention(nn.Module):
    """x times an attention map in (0, 1) from an hourglass of `depth` levels.

    Args:
        depth: levels; 0 makes the module an identity without parameters.
        channels: channels of the features.
        map_channels: 1 gives one map for all channels, `channels` one for each.
        norm: one of NORMS.
    """

    # Names follow the released checkpoint: level l has b1_l beside, b2_l down and b3_l up.
    def __init__(self, depth: int, channels: int, map_channels: int, *, norm: str = "bn") -> None:
        super().__init__()
        self.depth = depth
        if depth == 0:
            return

        def unit(in_channels: int, mode: str = "none") -> ConvUnit:
            return ConvUnit(in_channels, ATTENTION_WIDTH, mode=mode, norm=norm, activation=True)

        for level in range(depth, 0, -1):
            width = channels if level == depth else ATTENTION_WIDTH
            self.add_module(f"b1_{level}", unit(width))
            self.add_module(f"b2_{level}", unit(width, "down"))
            if level == 1:
                self.add_module("b2_plus_1", unit(ATTENTION_WIDTH))
            self.add_module(f"b3_{level}", unit(ATTENTION_WIDTH, "up"))
        self.out_block = nn.Sequential(ConvUnit(ATTENTION_WIDTH, map_channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        if self.depth == 0:
            return x
        return x * self.out_block(self._hourglass(x, self.depth))

    def _hourglass(self, x: Tensor, level: int) -> Tensor:
        beside = getattr(self, f"b1_{level}")(x)
        inner = getattr(self, f"b2_{level}")(x)
        inner = self._hourglass(inner, level - 1) if level > 1 else self.b2_plus_1(inner)
        raised = getattr(self, f"b3_{level}")(inner)
        if raised.shape[2:] != beside.shape[2:]:      # odd sides come back one pixel larger
            raised = F.interpolate(raised, size=beside.shape[2:], mode="nearest")
        return beside + raised


class SPARNet(Recomputable):
    """Face super-resolution network; its input is already upscaled to the output size.

    SPARNetHD is SPARNet(size=512, feat_size=32, max_channels=512, norm="in").

    Args:
        res_depth: res_depth + 3 - log2(size / feat_size) blocks make the body.
        att_name: "spar" (one attention map) or "spar3d" (one per channel), any case.
        norm: one of NORMS, any case; "gn" needs channels divisible by 32.
        bottleneck_size: side of the innermost attention map at the nominal size; sets the depth of
            the hourglasses. Values that are not powers of two act as the next one.
        size: nominal side the channel plan is made for, in pixels.
        feat_size: side of the body's feature maps at the nominal size.
        min_channels, max_channels: limits of the channel plan.
        in_channels, out_channels: of the images.

    Attributes:
        checkpointing: compute the blocks' insides again in the backward pass; less memory.

    Raises:
        ValueError: an argument outside what it may be.

    Source: SPARNet and SPARNetHD as published, V16 layout.
    """

    def __init__(self, *, res_depth: int = 10, att_name: str = "spar", norm: str = "bn",
                 bottleneck_size: int = 4, size: int = 128, feat_size: int = 16,
                 min_channels: int = 32, max_channels: int = 128, in_channels: int = 3,
                 out_channels: int = 3) -> None:
        super().__init__()
        att_name, norm = _check_names(att_name, norm)
        steps = _num_steps(size, feat_size)
        num_body = res_depth + 3 - steps
        if num_body < 0:
            raise ValueError(f"res_depth must be at least {steps - 3}, got {res_depth}")
        first_depth = _first_depth(bottleneck_size, steps)

        def clip(channels: int) -> int:
            return max(min_channels, min(channels, max_channels))

        def block(start: int, end: int, mode: str, depth: int) -> ResidualBlock:
            map_channels = 1 if att_name == "spar" else end
            attention = HourglassAttention(depth, end, map_channels, norm=norm)
            return ResidualBlock(start, end, mode=mode, norm=norm, attention=attention)

        width = clip(max_channels // (steps + 1))
        encoder: list[nn.Module] = [ConvUnit(in_channels, width)]
        for k in range(steps):
            encoder.append(block(clip(width), clip(2 * width), "down", first_depth - k))
            width *= 2                                 # unclipped, so that the way back mirrors it
        body_depth = first_depth - steps + 1
        body = [block(clip(width), clip(width), "none", body_depth) for _ in range(num_body)]
        decoder = []
        for k in range(steps):
            decoder.append(block(clip(width), clip(width // 2), "up", body_depth + 1 + k))
            width //= 2
        self.encoder = nn.Sequential(*encoder)
        self.res_layers = nn.Sequential(*body)
        self.decoder = nn.Sequential(*decoder)
        self.out_conv = ConvUnit(clip(width), out_channels)
        # Every innermost attention map must be at least 2x2 for its reflection padding.
        self.min_size = 2 ** (steps + body_depth) + 1

    def forward(self, x: Tensor) -> Tensor:
        """Restore images.

        Args:
            x: (B, in_channels, H, W) in [-1, 1]; both sides at least `min_size`.

        Returns:
            (B, out_channels, H', W'), unbounded; sides rounded up to multiples of size / feat_size.

        Raises:
            ValueError: a side is too small for the innermost reflection padding.
        """
        height, width = x.shape[2:]
        if height < self.min_size or width < self.min_size:
            raise ValueError(f"SPARNet needs sides of at least {self.min_size} pixels, got "
                             f"{height}x{width}; upscale the image to the output size first")
        for blocks in (self.encoder, self.res_layers, self.decoder):
            x = run_blocks(blocks, x, self.checkpointing)
        return self.out_conv(x)


def _check_names(att_name: str, norm: str) -> tuple[str, str]:
    """Both names in lower case; ValueError for one that does not exist."""
    if att_name.lower() not in ATTENTIONS:
        raise ValueError(f"att_name must be one of {', '.join(ATTENTIONS)}, got {att_name!r}")
    if norm.lower() not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
    return att_name.lower(), norm.lower()


def _num_steps(size: int, feat_size: int) -> int:
    """Halvings between the image and the body's features."""
    steps = int(math.log2(size / feat_size)) if 0 < feat_size <= size else 0
    if steps < 1 or feat_size * 2 ** steps != size:
        raise ValueError(f"size must be feat_size times a power of two from 2 up, got size {size} "
                         f"and feat_size {feat_size}")
    return steps


def _first_depth(bottleneck_size: int, steps: int) -> int:
    """Hourglass depth of the first encoder block; the innermost block has `steps` - 1 less."""
    depth = int(math.log2(ATTENTION_MAP_SIZE / bottleneck_size)) if bottleneck_size > 0 else -1
    if depth - steps + 1 < 0:
        largest = ATTENTION_MAP_SIZE >> (steps - 1)
        raise ValueError(f"bottleneck_size must be from 1 to {largest}, got {bottleneck_size}")
    return depth

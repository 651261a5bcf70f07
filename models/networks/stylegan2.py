"""StyleGAN2: generator (the prior of GPEN) and discriminator.

Every learned layer has an equalized learning rate: stored weights are N(0, 1) and multiplied by
1 / sqrt(fan in) at run time, so the factor is never folded into what a checkpoint holds.

Names and their order follow the released checkpoints of GPEN; optimizer states count on the order.

Source: arXiv 1912.04958; sizes and noise of arXiv 2105.06070.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from engine.recompute import Recomputable
from models.ops.style_ops import (
    EPS,
    channels_last,
    equal_conv2d,
    fir_kernel,
    fused_leaky_relu,
    modulated_conv2d,
    resampling_pad,
    styled_conv,
    to_float32,
    upfirdn2d,
)

TAPS = (1, 3, 3, 1)
SIZES = tuple(2 ** k for k in range(3, 12))


def channels_at(channel_multiplier: int, narrow: float) -> dict[int, int]:
    """Feature channels by resolution, 4 to 2048; fractions are cut off."""
    table = {r: int(512 * narrow) for r in (4, 8, 16, 32)}
    return table | {r: int(16384 // r * channel_multiplier * narrow) for r in SIZES if r > 32}


def check_size(size: int) -> int:
    """log2 of a side that a network can have.

    Raises:
        ValueError: another side.
    """
    if size not in SIZES:
        raise ValueError(f"size must be a power of two from {SIZES[0]} to {SIZES[-1]}, got {size}")
    return int(math.log2(size))


def repeated(checkpointing: bool, function: Callable[..., Any], *inputs: Any) -> Any:
    """function(*inputs); with checkpointing its inside is computed again in the backward pass, and
    once more in that of a gradient's gradient."""
    if not (checkpointing and torch.is_grad_enabled()):
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False)


# ---- layers -------------------------------------------------------------------------------------

class PixelNorm(nn.Module):
    """Division by the root mean square over dimension 1."""

    def forward(self, x: Tensor) -> Tensor:
        wide = to_float32(x)
        wide = wide * torch.rsqrt(wide.square().mean(dim=1, keepdim=True) + EPS)
        return wide.to(x.dtype)


class EqualLinear(nn.Module):
    """Linear layer with equalized learning rate.

    Args:
        in_features, out_features: sizes.
        lr_mul: factor on this layer's learning rate.
        bias_init: start of the bias.
        activate: whether sqrt(2) leaky ReLU follows.
    """

    def __init__(self, in_features: int, out_features: int, *, lr_mul: float = 1.0,
                 bias_init: float = 0.0, activate: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_mul)
        self.bias = nn.Parameter(torch.full((out_features,), float(bias_init)))
        self.lr_mul, self.activate = lr_mul, activate

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x * (self.lr_mul / math.sqrt(self.weight.shape[1])), self.weight)
        bias = self.bias * self.lr_mul
        return fused_leaky_relu(y, bias) if self.activate else y + bias


class EqualConv2d(nn.Module):
    """Weight of a convolution with equalized learning rate; ConvLayer applies it."""

    def __init__(self, in_channels: int, out_channels: int, side: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, side, side))


class ChannelBias(nn.Module):
    """Bias of an activation; the layer that owns it applies both."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))


class Filter(nn.Module):
    """A FIR filter as a buffer `kernel`.

    Args:
        taps: along one axis.
        up, down, pad: see upfirdn2d.
    """

    def __init__(self, taps: Sequence[float], *, up: int = 1, down: int = 1,
                 pad: tuple[int, int] = (0, 0), gain: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("kernel", fir_kernel(taps, gain))
        self.up, self.down, self.pad = up, down, pad

    def forward(self, x: Tensor) -> Tensor:
        return upfirdn2d(x, self.kernel, up=self.up, down=self.down, pad=self.pad)


class ConvLayer(nn.Sequential):
    """[filter,] convolution[, bias and activation]; halves the sides with `down`.

    A filter before a pointwise convolution is evaluated only where that one looks.
    """

    def __init__(self, in_channels: int, out_channels: int, side: int, *, down: bool = False,
                 activate: bool = True) -> None:
        layers: list[nn.Module] = []
        if down:
            layers.append(Filter(TAPS, down=2 if side == 1 else 1,
                                 pad=resampling_pad(len(TAPS), conv=side)))
        layers.append(EqualConv2d(in_channels, out_channels, side))
        if activate:
            layers.append(ChannelBias(out_channels))
        super().__init__(*layers)
        self.down, self.activate = down, activate
        self.stride = 2 if down and side > 1 else 1
        self.padding = 0 if down else side // 2

    def forward(self, x: Tensor) -> Tensor:
        conv = self[int(self.down)]
        x = self[0](x) if self.down else x
        return equal_conv2d(x, conv.weight, self[-1].bias if self.activate else None,
                            stride=self.stride, padding=self.padding, activate=self.activate)


class ResBlock(nn.Module):
    """Residual block that halves the sides."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = ConvLayer(in_channels, in_channels, 3)
        self.conv2 = ConvLayer(in_channels, out_channels, 3, down=True)
        self.skip = ConvLayer(in_channels, out_channels, 1, down=True, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv2(self.conv1(x)) + self.skip(x)) / math.sqrt(2)


class ModulatedConv2d(nn.Module):
    """modulated_conv2d with its weight, filter and the linear layer from w to channel factors.

    Args:
        in_channels, out_channels, side: of the kernel.
        style_dim: length of w.
        demodulate, sample: see modulated_conv2d.
        taps: of the filter.
    """

    def __init__(self, in_channels: int, out_channels: int, side: int, style_dim: int, *,
                 demodulate: bool = True, sample: str = "none",
                 taps: Sequence[float] = TAPS) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, out_channels, in_channels, side, side))
        if sample != "none":
            self.blur = Filter(taps, gain=4.0 if sample == "up" else 1.0)
        self.modulation = EqualLinear(style_dim, in_channels, bias_init=1.0)
        self.demodulate, self.sample = demodulate, sample

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        # Module.to(memory_format=channels_last) fails at five dimensions; four of them matter.
        return super()._apply(lambda t: fn(t[0])[None] if t.ndim == 5 else fn(t), recurse)

    @property
    def kernel(self) -> Tensor | None:
        return None if self.sample == "none" else self.blur.kernel

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return modulated_conv2d(x, self.weight, self.modulation(w), demodulate=self.demodulate,
                                sample=self.sample, kernel=self.kernel)


class NoiseStrength(nn.Module):
    """The factor of a layer's noise, 0 at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


class StyledConv(nn.Module):
    """Modulated 3x3 convolution, noise, bias and activation; see styled_conv.

    Args:
        in_channels, out_channels: out counts the convolution's; with isconcat twice as many leave.
        style_dim: length of w.
        up: whether the sides double.
        isconcat: noise becomes channels instead of being added.
        taps: of the filter.
    """

    def __init__(self, in_channels: int, out_channels: int, style_dim: int, *, up: bool = False,
                 isconcat: bool = True, taps: Sequence[float] = TAPS) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(in_channels, out_channels, 3, style_dim,
                                    sample="up" if up else "none", taps=taps)
        self.noise = NoiseStrength()
        self.activate = ChannelBias(out_channels * (2 if isconcat else 1))
        self.isconcat = isconcat

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None = None) -> Tensor:
        """Noise is (B, out_channels, h, w); None draws it."""
        conv = self.conv
        return styled_conv(x, conv.weight, conv.modulation(w), self.activate.bias,
                           self.noise.weight, noise, concat=self.isconcat, sample=conv.sample,
                           kernel=conv.kernel)


class ToRGB(nn.Module):
    """Colors of a map, added to those of the resolution below."""

    def __init__(self, in_channels: int, style_dim: int, *, up: bool = True) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        if up:
            self.upsample = Filter(TAPS, up=2, pad=resampling_pad(len(TAPS), up=True), gain=4.0)
        self.conv = ModulatedConv2d(in_channels, 3, 1, style_dim, demodulate=False)

    def forward(self, x: Tensor, w: Tensor, skip: Tensor | None = None) -> Tensor:
        rgb = self.conv(x, w) + self.bias
        return rgb if skip is None else rgb + self.upsample(skip)


# ---- networks -----------------------------------------------------------------------------------

class ConstantInput(nn.Module):
    """The learned 4x4 map that every image starts from."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))

    def forward(self, batch_size: int) -> Tensor:
        return self.input.expand(batch_size, -1, -1, -1)


class Generator(Recomputable):
    """StyleGAN2's generator with skip connections.

    Args:
        size: side of the images, a power of two from 8 to 2048.
        style_dim: length of z and w.
        n_mlp: layers of the mapping network.
        channel_multiplier: of the widths above 32 pixels.
        narrow: of all widths.
        blur_kernel: taps of the filters in the convolutions that upscale.
        lr_mlp: learning-rate factor of the mapping network.
        isconcat: noise becomes channels (GPEN) instead of being added (StyleGAN2).

    Raises:
        ValueError: another size.
    """

    def __init__(self, *, size: int, style_dim: int = 512, n_mlp: int = 8,
                 channel_multiplier: int = 2, narrow: float = 1.0,
                 blur_kernel: Sequence[float] = TAPS, lr_mlp: float = 0.01,
                 isconcat: bool = True) -> None:
        super().__init__()
        levels, widths = check_size(size), channels_at(channel_multiplier, narrow)
        factor = 2 if isconcat else 1
        conv = {"isconcat": isconcat, "taps": blur_kernel}
        self.style = nn.Sequential(PixelNorm(), *(
            EqualLinear(style_dim, style_dim, lr_mul=lr_mlp, activate=True) for _ in range(n_mlp)))
        self.input = ConstantInput(widths[4])
        self.conv1 = StyledConv(widths[4], widths[4], style_dim, **conv)
        self.to_rgb1 = ToRGB(factor * widths[4], style_dim, up=False)
        self.convs, self.to_rgbs = nn.ModuleList(), nn.ModuleList()
        for level in range(3, levels + 1):
            below, width = factor * widths[2 ** (level - 1)], widths[2 ** level]
            self.convs.append(StyledConv(below, width, style_dim, up=True, **conv))
            self.convs.append(StyledConv(factor * width, width, style_dim, **conv))
            self.to_rgbs.append(ToRGB(factor * width, style_dim))
        self.style_dim = style_dim
        self.num_latents = 2 * levels - 2
        self.num_noises = 2 * levels - 3

    def noise_shapes(self) -> list[tuple[int, int, int]]:
        """(channels, height, width) of each convolution's noise, in forward's order."""
        layers = [self.conv1, *self.convs]
        return [(layer.conv.weight.shape[1], *(2 * [4 << (index + 1) // 2]))
                for index, layer in enumerate(layers)]

    def latents(self, styles: Sequence[Tensor], *, inject_index: int | None = None,
                truncation: float = 1.0, truncation_latent: Tensor | None = None,
                input_is_latent: bool = False) -> Tensor:
        """(B, num_latents, style_dim) from one code, or from two that are mixed; see forward."""
        if len(styles) not in (1, 2):
            raise ValueError(f"styles must hold one or two codes, got {len(styles)}")
        codes = list(styles) if input_is_latent else [self.style(z) for z in styles]
        if truncation < 1:
            if truncation_latent is None:
                raise ValueError(f"truncation {truncation} needs truncation_latent, the mean w, "
                                 "got None")
            codes = [truncation_latent + truncation * (w - truncation_latent) for w in codes]
        if len(codes) == 1:
            return codes[0][:, None].repeat(1, self.num_latents, 1)
        if inject_index is None:
            inject_index = int(torch.randint(1, self.num_latents, (1,)))
        counts = (inject_index, self.num_latents - inject_index)
        return torch.cat([w[:, None].repeat(1, count, 1)
                          for w, count in zip(codes, counts, strict=True)], dim=1)

    def forward(self, styles: Sequence[Tensor], *, noise: Sequence[Tensor | None] | None = None,
                return_latents: bool = False, inject_index: int | None = None,
                truncation: float = 1.0, truncation_latent: Tensor | None = None,
                input_is_latent: bool = False) -> tuple[Tensor, Tensor | None]:
        """Make images.

        Args:
            styles: one code (B, style_dim), or two to mix.
            noise: a map per convolution, coarse to fine, each with its convolution's shape; None
                draws them anew.
            return_latents: whether the second result is the latents.
            inject_index: number of latents from the first of two codes; None draws it.
            truncation: below 1, latents move towards truncation_latent.
            truncation_latent: (1, style_dim), the mean w.
            input_is_latent: codes are w, not z.

        Returns:
            Images (B, 3, size, size), unbounded, and the latents (B, num_latents, style_dim) that
            they depend on, or None.

        Raises:
            ValueError: the number of noises or codes is wrong, or the mean w is missing.
        """
        noise = [None] * self.num_noises if noise is None else list(noise)
        if len(noise) != self.num_noises:
            raise ValueError(f"noise must hold {self.num_noises} maps, got {len(noise)}")
        latents = self.latents(styles, inject_index=inject_index, truncation=truncation,
                               truncation_latent=truncation_latent,
                               input_is_latent=input_is_latent)
        w = latents.unbind(1)
        x = self.conv1(self.input(latents.shape[0]), w[0], noise[0])
        rgb = self.to_rgb1(x, w[1])
        for level in range(len(self.to_rgbs)):
            index = 2 * level + 1       # an image layer has the same w as the next upscaling
            x, rgb = repeated(self.checkpointing, self._level, level, x, rgb,
                              w[index:index + 3], noise[index:index + 2])
        return rgb, latents if return_latents else None

    def _level(self, level: int, x: Tensor, rgb: Tensor, w: Sequence[Tensor],
               noise: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
        """Features and colors of twice the sides."""
        x = self.convs[2 * level](x, w[0], noise[0])
        x = self.convs[2 * level + 1](x, w[1], noise[1])
        return x, self.to_rgbs[level](x, w[2], rgb)


def with_batch_deviation(x: Tensor, group: int = 0) -> Tensor:
    """x and one more channel: its standard deviation over the batch, averaged to one number.

    Args:
        x: (B, C, H, W).
        group: over groups of so many images instead, as many as divide the batch at most; 0 is
            the whole batch. Images i, i + B / group, ... are a group.
    """
    group = next(n for n in range(min(group or len(x), len(x)), 0, -1) if len(x) % n == 0)
    # In half precision the epsilon is 0, and the root of a single image's variance has no slope.
    wide = to_float32(x).unflatten(0, (group, -1))
    deviation = torch.sqrt(wide.var(dim=0, unbiased=False) + EPS).mean((1, 2, 3)).to(x.dtype)
    channel = deviation.repeat(group).view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])
    return torch.cat((x, channel), dim=1)


class Discriminator(Recomputable):
    """StyleGAN2's residual discriminator; an image's logit depends on the others of its batch.

    Args:
        size, channel_multiplier, narrow: see Generator.
        group: images with a common standard deviation, see with_batch_deviation; 4 in code before
            August 2022, 1 makes images independent of each other.
    """

    def __init__(self, *, size: int, channel_multiplier: int = 2, narrow: float = 1.0,
                 group: int = 0) -> None:
        super().__init__()
        levels, widths = check_size(size), channels_at(channel_multiplier, narrow)
        blocks = [ResBlock(widths[2 ** k], widths[2 ** (k - 1)]) for k in range(levels, 2, -1)]
        self.convs = nn.Sequential(ConvLayer(3, widths[size], 1), *blocks)
        self.final_conv = ConvLayer(widths[4] + 1, widths[4], 3)
        self.final_linear = nn.Sequential(EqualLinear(16 * widths[4], widths[4], activate=True),
                                          EqualLinear(widths[4], 1))
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 1) of images (B, 3, size, size)."""
        x = channels_last(x)
        for block in self.convs:
            x = repeated(self.checkpointing, block, x)
        x = self.final_conv(with_batch_deviation(x, self.group))
        return self.final_linear(x.flatten(1))

"""Layers of GFP-GAN's three architectures.

* "original": StyleGAN2's layers, with equalized learning rates and FIR resampling;
* "bilinear": the same, resampled bilinearly. Its state dict cannot be told from the original's;
* "clean": bilinear too, without equalized learning rates; what 1.2, 1.3 and 1.4 are published as.

Halving bilinearly without antialiasing is the mean of 2 x 2 pixels. A pointwise convolution
without bias and upscaling commute, so the convolution comes first, on a quarter of the pixels.

Source: GFP-GAN (arXiv 2101.04061), TencentARC/GFPGAN; StyleGAN2 (arXiv 1912.04958).
"""
from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.stylegan2 import (
    TAPS,
    ChannelBias,
    ConvLayer,
    EqualConv2d,
    EqualLinear,
    Filter,
    ModulatedConv2d,
    PixelNorm,
    ResBlock,
    resampling_pad,
)
from models.ops.style_ops import (
    GAIN,
    LEAKY_SLOPE,
    channels_last,
    equal_conv2d,
    modulated_conv2d,
    styled_conv,
)

ARCHITECTURES = ("original", "bilinear", "clean")


def doubled(x: Tensor) -> Tensor:
    """Twice the sides, bilinearly."""
    return F.interpolate(channels_last(x), scale_factor=2, mode="bilinear", align_corners=False)


def without_saved_filters(network: nn.Module) -> nn.Module:
    """Leave the filters of a network out of its state dict, as the published files do."""
    for module in network.modules():
        if isinstance(module, Filter):
            module.register_buffer("kernel", module.kernel, persistent=False)
    return network


# ---- plain and equalized convolutions -----------------------------------------------------------

class LeakyConv2d(nn.Conv2d):
    """Convolution that keeps the sides, and leaky ReLU."""

    def __init__(self, in_channels: int, out_channels: int, side: int) -> None:
        super().__init__(in_channels, out_channels, side, padding=side // 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(super().forward(x), LEAKY_SLOPE, inplace=True)


class BiasedEqualConv2d(EqualConv2d):
    """Convolution with equalized learning rate and bias; sqrt(2) leaky ReLU where asked."""

    def __init__(self, in_channels: int, out_channels: int, side: int, *,
                 activate: bool = False) -> None:
        super().__init__(in_channels, out_channels, side)
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        return equal_conv2d(x, self.weight, self.bias, padding=self.weight.shape[-1] // 2,
                            activate=self.activate)


class HalvingLayer(nn.Sequential):
    """ConvLayer with `down`, which halves bilinearly; the indices are the same."""

    def __init__(self, in_channels: int, out_channels: int, side: int, *,
                 activate: bool = True) -> None:
        super().__init__(nn.AvgPool2d(2), EqualConv2d(in_channels, out_channels, side),
                         *([ChannelBias(out_channels)] if activate else []))
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        weight = self[1].weight
        return equal_conv2d(self[0](x), weight, self[2].bias if self.activate else None,
                            padding=weight.shape[-1] // 2, activate=self.activate)


class DoublingLayer(EqualConv2d):
    """Upscaling, equalized 3x3 convolution and sqrt(2) leaky ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3)
        self.activation = ChannelBias(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return equal_conv2d(doubled(x), self.weight, self.activation.bias, padding=1, activate=True)


# ---- blocks of the U-Net ------------------------------------------------------------------------

class BilinearDown(ResBlock):
    """Residual block that halves the sides, architecture "bilinear"."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels)
        self.conv2 = HalvingLayer(in_channels, out_channels, 3)
        self.skip = HalvingLayer(in_channels, out_channels, 1, activate=False)


class EqualUp(nn.Module):
    """Residual block that doubles the sides, architectures "original" and "bilinear"."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = ConvLayer(in_channels, in_channels, 3)
        self.conv2 = DoublingLayer(in_channels, out_channels)
        self.skip = EqualConv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = doubled(equal_conv2d(x, self.skip.weight))
        return (self.conv2(self.conv1(x)) + skip) / math.sqrt(2)


class CleanBlock(nn.Module):
    """Residual block of "clean" that halves or doubles the sides."""

    def __init__(self, in_channels: int, out_channels: int, *, up: bool) -> None:
        super().__init__()
        self.conv1 = LeakyConv2d(in_channels, in_channels, 3)
        self.conv2 = LeakyConv2d(in_channels, out_channels, 3)
        self.skip = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.up = up

    def forward(self, x: Tensor) -> Tensor:
        if self.up:
            return self.conv2(doubled(self.conv1(x))) + doubled(self.skip(x))
        return self.conv2(F.avg_pool2d(self.conv1(x), 2)) + self.skip(F.avg_pool2d(x, 2))


def conv_layer(in_channels: int, out_channels: int, side: int, arch: str) -> nn.Module:
    """Convolution with activation that keeps the sides."""
    layer = LeakyConv2d if arch == "clean" else ConvLayer
    return layer(in_channels, out_channels, side)


def down_block(in_channels: int, out_channels: int, arch: str) -> nn.Module:
    if arch == "clean":
        return CleanBlock(in_channels, out_channels, up=False)
    return (BilinearDown if arch == "bilinear" else ResBlock)(in_channels, out_channels)


def up_block(in_channels: int, out_channels: int, arch: str) -> nn.Module:
    if arch == "clean":
        return CleanBlock(in_channels, out_channels, up=True)
    return EqualUp(in_channels, out_channels)


def pointwise_to_rgb(in_channels: int, arch: str) -> nn.Module:
    return nn.Conv2d(in_channels, 3, 1) if arch == "clean" else BiasedEqualConv2d(in_channels, 3, 1)


def linear(in_features: int, out_features: int, arch: str) -> nn.Module:
    return (nn.Linear if arch == "clean" else EqualLinear)(in_features, out_features)


def condition_net(channels: int, out_channels: int, arch: str, start: float) -> nn.Sequential:
    """Two convolutions that make a scale (start 1) or a shift (start 0) of features.

    Published "clean" networks are converted, not trained; their own start of the scale is near 0,
    from where training diverges. Here it is 1 everywhere.
    """
    # Index 1 is the activation, which the first convolution brings along.
    layers = ((LeakyConv2d(channels, channels, 3), nn.Conv2d(channels, out_channels, 3, padding=1))
              if arch == "clean" else
              (BiasedEqualConv2d(channels, channels, 3, activate=True),
               BiasedEqualConv2d(channels, out_channels, 3)))
    nn.init.constant_(layers[1].bias, start)
    return nn.Sequential(layers[0], nn.Identity(), layers[1])


# ---- decoder ------------------------------------------------------------------------------------

def style_mlp(style_dim: int, num_layers: int, arch: str, lr_mlp: float) -> nn.Sequential:
    """The mapping from z to w."""
    if arch != "clean":
        return nn.Sequential(PixelNorm(), *(
            EqualLinear(style_dim, style_dim, lr_mul=lr_mlp, activate=True)
            for _ in range(num_layers)))
    layers: list[nn.Module] = [PixelNorm()]
    for _ in range(num_layers):
        layer = nn.Linear(style_dim, style_dim)
        nn.init.kaiming_normal_(layer.weight, a=LEAKY_SLOPE)
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.LeakyReLU(LEAKY_SLOPE)]
    return nn.Sequential(*layers)


class CleanModulatedConv2d(ModulatedConv2d):
    """ModulatedConv2d without equalized learning rates."""

    def __init__(self, in_channels: int, out_channels: int, side: int, style_dim: int) -> None:
        super().__init__(in_channels, out_channels, side, style_dim)
        self.modulation = nn.Linear(style_dim, in_channels)
        nn.init.kaiming_normal_(self.modulation.weight, nonlinearity="linear")
        nn.init.ones_(self.modulation.bias)
        with torch.no_grad():
            self.weight /= math.sqrt(in_channels * side ** 2)


class StyleConv(nn.Module):
    """Modulated 3x3 convolution with noise, bias and activation; doubles the sides with `up`."""

    def __init__(self, in_channels: int, out_channels: int, style_dim: int, arch: str, *,
                 up: bool = False, taps: Sequence[float] = TAPS) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))      # of the noise
        if arch == "clean":
            self.bias = nn.Parameter(torch.zeros(1, out_channels, 1, 1))
            self.modulated_conv = CleanModulatedConv2d(in_channels, out_channels, 3, style_dim)
        else:
            sample = "up" if up and arch == "original" else "none"
            self.modulated_conv = ModulatedConv2d(in_channels, out_channels, 3, style_dim,
                                                  sample=sample, taps=taps)
            self.activate = ChannelBias(out_channels)
        self.clean, self.doubles = arch == "clean", up and arch != "original"

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        conv = self.modulated_conv
        style, strength = conv.modulation(w), self.weight
        x = doubled(x) if self.doubles else x
        if not self.clean:
            return styled_conv(x, conv.weight, style, self.activate.bias, strength, noise,
                               concat=False, sample=conv.sample, kernel=conv.kernel)
        # The operator divides weights by sqrt(fan in), and multiplies noise and bias by sqrt(2).
        return styled_conv(x, conv.weight, style * math.sqrt(conv.weight[0, 0].numel()),
                           self.bias.flatten() / GAIN, strength / GAIN, noise, concat=False)


class ToRGB(nn.Module):
    """Colors of a map, added to those of the resolution below."""

    def __init__(self, in_channels: int, style_dim: int, arch: str, *, up: bool = True,
                 taps: Sequence[float] = TAPS) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        if up and arch == "original":
            self.upsample = Filter(taps, up=2, pad=resampling_pad(len(taps), up=True), gain=4.0)
        if arch == "clean":
            self.modulated_conv = CleanModulatedConv2d(in_channels, 3, 1, style_dim)
        else:
            self.modulated_conv = ModulatedConv2d(in_channels, 3, 1, style_dim, demodulate=False)
        self.gain = math.sqrt(in_channels) if arch == "clean" else 1.0
        self.arch = arch

    def forward(self, x: Tensor, w: Tensor, skip: Tensor | None = None) -> Tensor:
        conv = self.modulated_conv
        rgb = modulated_conv2d(x, conv.weight, conv.modulation(w) * self.gain, demodulate=False)
        rgb = rgb + self.bias
        if skip is None:
            return rgb
        return rgb + (self.upsample(skip) if self.arch == "original" else doubled(skip))

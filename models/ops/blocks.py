"""Convolution, norm and residual units of SPARNet (arXiv 2012.01211) and what builds on it.

Names of submodules follow the released checkpoints: `conv2d`, `norm`, `relu`, `shortcut_func`,
`preact_func`, `conv1`, `conv2`, `att_func`.
"""
from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from engine import device as devices
from models.ops.padded_conv import reflect_padded, upsample_conv

LEAKY_SLOPE = 0.2
NORMS = ("bn", "in", "gn", "pixel", "none")
MODES = ("none", "down", "up")
GROUPS = 32


def centered(x: Tensor, groups: int) -> Tensor:
    """x (B, C, H, W) less the mean of each group, where torch's group norm needs that.

    In channels-last order on the CPU it squares before it subtracts (torch 2.13): of values around
    3 with a standard deviation of 0.05, results are off by up to 0.19, centered by 4e-5.
    """
    if not devices.on_host(x.device) or x.is_contiguous():
        return x
    means = x.mean(dim=(2, 3)).unflatten(1, (groups, -1))
    return x - means.mean(dim=2, keepdim=True).expand_as(means).flatten(1)[..., None, None]


class InstanceNorm2d(nn.InstanceNorm2d):
    """Instance norm without running statistics, computed as group norm with one channel a group.

    Twice as fast as torch's on the CPU, and right: torch 2.13's instance norm gives wrong gradients
    there for a single image when the gradient arrives in channels-last order.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(centered(x, self.num_features), self.num_features, self.weight,
                            self.bias, self.eps)


class GroupNorm(nn.GroupNorm):
    """Group norm that is exact in every layout, see `centered`."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(centered(x, self.num_groups))


class PixelNorm(nn.Module):
    """L2 normalization over the channels of every pixel; no parameters."""

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, p=2.0, dim=1)


def make_norm(norm: str, channels: int, *, affine: bool = True) -> nn.Module:
    """The normalization layer a name stands for.

    Args:
        norm: one of NORMS, any case.
        channels: feature channels; a multiple of 32 for "gn".
        affine: whether instance norm has a gain and a bias (it never has running statistics).

    Raises:
        ValueError: an unknown name, or channels that 32 groups do not divide.
    """
    norm = norm.lower()
    if norm == "bn":
        return nn.BatchNorm2d(channels)
    if norm == "in":
        return InstanceNorm2d(channels, affine=affine)
    if norm == "gn":
        if channels % GROUPS:
            raise ValueError(f"norm gn needs channels divisible by {GROUPS}, got {channels}")
        return GroupNorm(GROUPS, channels)
    if norm == "pixel":
        return PixelNorm()
    if norm == "none":
        return nn.Identity()
    raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")


class NormUnit(nn.Module):
    """A normalization layer under the name `norm`; see make_norm for the choices."""

    def __init__(self, norm: str, channels: int, *, affine: bool = True) -> None:
        super().__init__()
        self.norm = make_norm(norm, channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class SampledConv2d(nn.Conv2d):
    """3x3 convolution together with its reflection padding and change of resolution.

    A plain nn.Conv2d to weight norms, initializers and state dicts; its result is the published
    `conv2d`'s, its input the unit's.

    Args:
        in_channels, out_channels: feature channels.
        mode: "none"; "up" up-samples by 2 before, "down" has stride 2 (n becomes ceil(n / 2)).
        bias: whether there is one.
        pad: reflection padding by 1; without it a side loses two pixels. "up" always pads.

    Raises:
        ValueError: an unknown mode, or "up" without padding.
    """

    def __init__(self, in_channels: int, out_channels: int, *, mode: str = "none",
                 bias: bool = True, pad: bool = True) -> None:
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        if mode == "up" and not pad:
            raise ValueError("mode up needs padding, got pad=False")
        super().__init__(in_channels, out_channels, 3, stride=2 if mode == "down" else 1, bias=bias)
        self.mode = mode
        self.pad = pad

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "up":
            return upsample_conv(x, self.weight, self.bias)
        return self._conv_forward(reflect_padded(x) if self.pad else x, self.weight, self.bias)


class ConvUnit(nn.Module):
    """Convolution, norm, LeakyReLU 0.2.

    Args:
        in_channels, out_channels, mode, pad: see SampledConv2d.
        norm: one of NORMS, any case.
        activation: whether LeakyReLU follows.
        bias: None gives the convolution a bias only where no norm brings its own.
        affine: see make_norm.
    """

    def __init__(self, in_channels: int, out_channels: int, *, mode: str = "none",
                 norm: str = "none", activation: bool = False, pad: bool = True,
                 bias: bool | None = None, affine: bool = True) -> None:
        super().__init__()
        if bias is None:
            bias = norm.lower() in ("none", "pixel")
        self.conv2d = SampledConv2d(in_channels, out_channels, mode=mode, bias=bias, pad=pad)
        self.norm = NormUnit(norm, out_channels, affine=affine)
        self.relu = nn.LeakyReLU(LEAKY_SLOPE) if activation else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.norm(self.conv2d(x)))


class ResidualBlock(nn.Module):
    """Face attention unit: shortcut(x) + attention(conv2(conv1(preact(x)))).

    Args:
        in_channels, out_channels: feature channels.
        mode: "none", "down" (stride 2 in conv2) or "up" (in conv1); the shortcut does the same.
        norm: one of NORMS, any case.
        attention: what the second convolution's result goes through; None leaves it as it is.
    """

    def __init__(self, in_channels: int, out_channels: int, *, mode: str = "none", norm: str = "bn",
                 attention: nn.Module | None = None) -> None:
        super().__init__()
        if mode == "none" and in_channels == out_channels:
            self.shortcut_func = nn.Identity()
        else:
            self.shortcut_func = ConvUnit(in_channels, out_channels, mode=mode)
        self.preact_func = nn.Sequential(NormUnit(norm, in_channels),
                                         nn.LeakyReLU(LEAKY_SLOPE))
        self.conv1 = ConvUnit(in_channels, out_channels, mode="up" if mode == "up" else "none",
                              norm=norm, activation=True)
        self.conv2 = ConvUnit(out_channels, out_channels, mode="down" if mode == "down" else "none",
                              norm=norm)
        self.att_func = attention if attention is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        features = self.conv2(self.conv1(self.preact_func(x)))
        return self.shortcut_func(x) + self.att_func(features)

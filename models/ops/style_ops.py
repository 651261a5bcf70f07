"""StyleGAN2's operators as pure functions: FIR resampling, modulated convolution, activation.

Values and derivatives, second ones included, are those of the published operators up to rounding.
No compiled extension, and on every backend the same few torch operators:

* a FIR filter is one depthwise convolution. Autograd would differentiate a grouped convolution
  twice channel by channel; the adjoint of a FIR filter is a FIR filter, so FirFilter is its own
  backward pass, of any order;
* modulation scales activations, demodulation scales results: one weight serves the whole batch.
  Published code makes a weight per image and convolves in groups. On the CPU maps larger than
  the weight get a weight per image too, as that passes over the maps less often: in groups where
  they are contiguous, image by image where they are channels-last;
* the gain sqrt(2) of the activation is positive, hence moves through the leaky ReLU into
  factors that are there anyway.

On the CPU fresh memory costs more than arithmetic, so maps are channels-last from the size on where
that pays, and without gradients results are written in place.

Source: StyleGAN2 (arXiv 1912.04958), appendix B; StyleGAN2-ADA (arXiv 2006.06676) for modulating
activations.
"""
from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from engine import device as devices
from models.ops import padded_conv

LEAKY_SLOPE = 0.2
GAIN = math.sqrt(2)
EPS = 1e-8
SAMPLES = ("none", "up", "down")
Pad = tuple[int, int]


# ---- FIR filters --------------------------------------------------------------------------------

def fir_kernel(taps: Sequence[float] | Sequence[Sequence[float]], gain: float = 1.0) -> Tensor:
    """(K, K) filter that sums to gain: the outer product of 1-d taps, or 2-d taps as they are."""
    kernel = torch.tensor(taps, dtype=torch.float32)
    if kernel.ndim == 1:
        kernel = kernel[:, None] * kernel[None]
    return kernel * (gain / kernel.sum())


def resampling_pad(taps: int, *, up: bool = False, conv: int = 1) -> Pad:
    """Zeros before and after along each axis, where a filter accompanies a factor of 2.

    Args:
        taps: of the filter along one axis.
        up: the filter follows upscaling (with conv > 1: a transposed convolution).
        conv: side of the convolution's kernel; 1 where there is none.

    Returns:
        (before, after).
    """
    if not up:
        spare = taps - 2 + conv - 1
        return (spare + 1) // 2, spare // 2
    spare = taps - 2 - (conv - 1)
    return (spare + 1) // 2 + 1, spare // 2 + (1 if conv > 1 else 0)


def _filter_once(x: Tensor, kernel: Tensor, up: int, down: int, pad: tuple[Pad, Pad]) -> Tensor:
    """upfirdn2d for one order of differentiation; pad is ((top, bottom), (left, right))."""
    channels, side = int(x.shape[1]), int(kernel.shape[0])      # constants to an exporter
    (top, bottom), (left, right) = pad
    if up == 1:
        border = (top, left)
        if top != bottom or left != right or min(border) < 0:
            x, border = F.pad(x, (left, right, top, bottom)), (0, 0)
        weight = kernel.flip((0, 1)).to(x.dtype).expand(channels, 1, side, side)
        return F.conv2d(x, weight, stride=down, padding=border, groups=channels)
    weight = kernel.to(x.dtype).expand(channels, 1, side, side)
    # A transposed convolution is the full result: cropped it is the one with less than K - 1 zeros.
    crop = (side - 1 - top, side - 1 - left)
    beyond = (up - 1 + bottom - top, up - 1 + right - left)
    if down == 1 and min(crop) >= 0 and min(beyond) >= 0 and max(beyond) < up:
        return F.conv_transpose2d(x, weight, stride=up, padding=crop, output_padding=beyond,
                                  groups=channels)
    full = F.conv_transpose2d(x, weight, stride=up, groups=channels)
    cut = (-crop[1], up - 1 + right - (side - 1), -crop[0], up - 1 + bottom - (side - 1))
    return F.pad(full, cut)[:, :, ::down, ::down]


class FirFilter(Function):
    """upfirdn2d; its backward pass is the adjoint filter, which is a FirFilter again."""

    @staticmethod
    def forward(ctx, x: Tensor, kernel: Tensor, up: int, down: int,
                pad: tuple[Pad, Pad]) -> Tensor:
        result = _filter_once(x, kernel, up, down, pad)
        ctx.save_for_backward(kernel)
        ctx.adjoint = (down, up, tuple(
            (kernel.shape[0] - before - 1, given * up - made * down + before - up + 1)
            for (before, _), given, made in zip(pad, x.shape[2:], result.shape[2:], strict=True)))
        return result

    @staticmethod
    def backward(ctx, grad: Tensor):
        kernel, = ctx.saved_tensors
        return FirFilter.apply(grad, kernel.flip((0, 1)), *ctx.adjoint), None, None, None, None


def upfirdn2d(x: Tensor, kernel: Tensor, *, up: int = 1, down: int = 1,
              pad: Pad = (0, 0)) -> Tensor:
    """Insert zeros, pad, filter, keep every down-th sample; along both axes alike.

    Args:
        x: (B, C, H, W).
        kernel: (K, K), convolved with (not correlated); gets no gradient.
        up: up - 1 zeros follow every sample, the last included.
        down: step between kept samples; the first is kept.
        pad: zeros before and after the upscaled map; negative crops.

    Returns:
        (B, C, h, w) with h = (H up + before + after - K) // down + 1; differentiable any number of
        times.

    Raises:
        ValueError: the padded map is smaller than the kernel.
    """
    if min(x.shape[2:]) * up + sum(pad) < kernel.shape[0]:
        raise ValueError(f"a filter of {kernel.shape[0]} taps does not fit a map of "
                         f"{x.shape[2]}x{x.shape[3]}, upscaled by {up} and padded by {pad}")
    pads = (tuple(pad), tuple(pad))
    if torch.is_grad_enabled() and x.requires_grad:
        return FirFilter.apply(x, kernel, up, down, pads)
    return _filter_once(x, kernel, up, down, pads)


# ---- layout, activation -------------------------------------------------------------------------

def laid_out(x: Tensor, weight: Tensor, *, filtered: bool = False) -> Tensor:
    """x in the memory order that is faster to convolve with this weight, on the CPU.

    Channels-last filters several times as fast. But a weight in the usual order is then reordered
    at each call, which counts where the weight is larger than the map.

    Args:
        x: (B, I, H, W).
        weight: 4-d or 5-d, the last three dimensions are (I, k, k).
        filtered: whether a FIR filter follows; makes a large map channels-last.
    """
    if not padded_conv.uses_custom_kernel(x):
        return x
    if x.numel() < weight.numel():
        return x if weight.stride(-3) == 1 else x.contiguous()
    return channels_last(x) if filtered else x


def channels_last(x: Tensor) -> Tensor:
    """Images or features in the order that suits this file; elsewhere than on the CPU as is."""
    if not padded_conv.uses_custom_kernel(x):
        return x
    return x.contiguous(memory_format=torch.channels_last)


def to_float32(x: Tensor) -> Tensor:
    """Half precision as float32, others as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def per_channel(values: Tensor) -> Tensor:
    """(C,) as (1, C, 1, 1), or (B, C) as (B, C, 1, 1)."""
    return values.view(-1, values.shape[-1], 1, 1)


def fused_leaky_relu(x: Tensor, bias: Tensor) -> Tensor:
    """sqrt(2) leaky_relu(x + bias, 0.2).

    Args:
        x: (B, C, H, W) or (B, C).
        bias: (C,).
    """
    bias = per_channel(GAIN * bias) if x.ndim == 4 else GAIN * bias
    return F.leaky_relu(torch.add(bias.to(x.dtype), x, alpha=GAIN), LEAKY_SLOPE, inplace=True)


def equal_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1,
                 padding: int = 0, activate: bool = False) -> Tensor:
    """Convolution with equalized learning rate, then sqrt(2) leaky ReLU where asked.

    Args:
        x: (B, I, H, W).
        weight: (O, I, k, k) as stored; 1 / sqrt(I k^2) is applied here.
        bias: (O,).
        stride, padding: as in conv2d.
        activate: whether fused_leaky_relu follows; the bias is then its.
    """
    gain = GAIN if activate else 1.0
    scaled = weight * (gain / math.sqrt(math.prod(weight.shape[1:])))
    y = F.conv2d(laid_out(x, weight), scaled, None if bias is None else bias * gain, stride=stride,
                 padding=padding)
    return F.leaky_relu(y, LEAKY_SLOPE, inplace=True) if activate else y


# ---- modulated convolution ----------------------------------------------------------------------

def _factors(weight: Tensor, style: Tensor, demodulate: bool,
             gain: float) -> tuple[Tensor, Tensor | None]:
    """What inputs (B, I) and results (B, O) are multiplied by, in float32.

    Half precision would lose the epsilon.
    """
    fan_in = math.prod(weight.shape[2:])
    scale = to_float32(style) * ((1.0 if demodulate else gain) / math.sqrt(fan_in))
    if not demodulate:
        return scale, None
    energy = to_float32(weight.squeeze(0)).square().sum((2, 3))          # (O, I)
    with devices.full_precision(weight.device):
        total = scale.square() @ energy.t()
    return scale, gain * torch.rsqrt(total + EPS)


def _convolve(x: Tensor, weight: Tensor, sample: str, kernel: Tensor | None) -> Tensor:
    """The k x k convolution with its change of resolution; weight is (O, I, k, k)."""
    side = weight.shape[-1]
    if sample == "none":
        return F.conv2d(x, weight, padding=side // 2)
    if sample == "down":
        pad = resampling_pad(kernel.shape[0], conv=side)
        return F.conv2d(upfirdn2d(x, kernel, pad=pad), weight, stride=2)
    upscaled = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
    return upfirdn2d(upscaled, kernel, pad=resampling_pad(kernel.shape[0], up=True, conv=side))


def _in_groups(x: Tensor, weights: Tensor) -> Tensor:
    """A stride-1 convolution with a weight per image, (B, O, I, k, k); x is contiguous."""
    y = F.conv2d(x.view(1, -1, *x.shape[2:]), weights.flatten(0, 1),
                 padding=weights.shape[-1] // 2, groups=x.shape[0])
    return y.view(x.shape[0], -1, *y.shape[2:])


def _weights_are_cheaper(x: Tensor, weight: Tensor, sample: str) -> bool:
    """Whether to scale a weight per image rather than the maps.

    Joining the results of several images costs one pass over them: less than scaling the maps,
    unless they were upscaled. For a single image and without gradients a weight pays even where
    the map is small: the energies that maps need sum nine numbers at a time, which is slow.
    """
    if not padded_conv.uses_custom_kernel(x):
        return False
    if x.shape[0] == 1 and not torch.is_grad_enabled():
        return True
    return ((x.shape[0] == 1 or sample == "none")
            and math.prod(x.shape[1:]) > 2 * weight.numel())


def _own_weights(weight: Tensor, style: Tensor, demodulate: bool, gain: float) -> Tensor:
    """The modulated weight of each image, float32 (B, O, I, k, k)."""
    fan_in = math.prod(weight.shape[2:])
    scale = to_float32(style) * ((1.0 if demodulate else gain) / math.sqrt(fan_in))
    own = to_float32(weight) * scale.view(scale.shape[0], 1, -1, 1, 1)
    if not demodulate:
        return own
    return own * (gain * torch.rsqrt(own.square().sum((2, 3, 4), keepdim=True) + EPS))


def _pointwise(x: Tensor, weight: Tensor, style: Tensor, demodulate: bool, gain: float) -> Tensor:
    """The modulated 1x1 convolution; reads the map once."""
    batch, _, height, width = x.shape
    if demodulate:
        own = _own_weights(weight, style, True, gain)
    else:       # to RGB: so little is computed that each call of Python's counts
        scale = to_float32(style) * (gain / math.sqrt(weight.shape[2]))
        own = weight * scale.view(batch, 1, -1, 1, 1)
    own = own.to(x.dtype)
    contiguous = x.is_contiguous()
    if x.stride(1) == 1 and not contiguous:
        rows = x.permute(0, 2, 3, 1).flatten(1, 2) @ own.flatten(2).transpose(1, 2)
        return rows.view(batch, height, width, -1).permute(0, 3, 1, 2)
    # Of several images the groups are faster forward, the products backward and twice backward.
    if (contiguous and batch > 1 and not torch.is_grad_enabled()
            and padded_conv.uses_custom_kernel(x)):
        y = F.conv2d(x.view(1, -1, height, width), own.flatten(0, 1), groups=batch)
        return y.view(batch, -1, height, width)
    return torch.bmm(own.flatten(2), x.flatten(2)).view(batch, -1, height, width)


def _modulated(x: Tensor, weight: Tensor, style: Tensor, demodulate: bool, sample: str,
               kernel: Tensor | None, gain: float) -> tuple[Tensor, Tensor | None]:
    """A map and what is still to be multiplied to it, (B, O, 1, 1) or None."""
    if sample not in SAMPLES:
        raise ValueError(f"sample must be one of {', '.join(SAMPLES)}, got {sample!r}")
    if weight.shape[-1] == 1 and sample == "none":
        return _pointwise(x, weight, style, demodulate, gain), None
    x = laid_out(x, weight, filtered=sample != "none")
    per_image = _weights_are_cheaper(x, weight, sample)
    if per_image and x.shape[0] == 1:
        own = _own_weights(weight, style, demodulate, gain)[0].to(x.dtype)
        return _convolve(x, own, sample, kernel), None
    inner, outer = _factors(weight, style, demodulate, gain)
    kernels = weight.squeeze(0)
    if per_image:
        both = inner[:, None] if outer is None else inner[:, None] * outer[:, :, None]
        own = (kernels * both[..., None, None]).to(x.dtype)
        if x.is_contiguous():
            return _in_groups(x, own), None
        return torch.cat([_convolve(image, each, sample, kernel) for image, each
                          in zip(x.split(1), own.unbind(), strict=True)]), None
    y = _convolve(x * per_channel(inner.to(x.dtype)), kernels, sample, kernel)
    return y, None if outer is None else per_channel(outer.to(y.dtype))


def modulated_conv2d(x: Tensor, weight: Tensor, style: Tensor, *, demodulate: bool = True,
                     sample: str = "none", kernel: Tensor | None = None) -> Tensor:
    """Convolution whose weight is scaled per image by a style, and normalized again.

    Args:
        x: (B, I, H, W).
        weight: (1, O, I, k, k) as stored; 1 / sqrt(I k^2) is applied here.
        style: (B, I), factors of the input channels.
        demodulate: divide by the norm of each image's weight, per output channel.
        sample: "none"; "up" doubles the sides by a transposed convolution and a filter, "down"
            halves them by a filter and stride 2.
        kernel: (K, K) filter of "up" (sum 4) and "down" (sum 1).

    Returns:
        (B, O, h, w).

    Raises:
        ValueError: an unknown sample.
    """
    y, factor = _modulated(x, weight, style, demodulate, sample, kernel, 1.0)
    return y if factor is None else y * factor


def styled_conv(x: Tensor, weight: Tensor, style: Tensor, bias: Tensor, strength: Tensor,
                noise: Tensor | None = None, *, concat: bool = True, sample: str = "none",
                kernel: Tensor | None = None) -> Tensor:
    """Demodulated convolution, noise, and sqrt(2) leaky_relu(. + bias, 0.2).

    Args:
        x, weight, style, sample, kernel: see modulated_conv2d.
        bias: (2 O,) with concat, (O,) without.
        strength: (1,), factor of the noise.
        noise: (B, O, h, w); None draws N(0, 1).
        concat: the noise becomes more channels, which bias and activation see too; otherwise
            it is added.

    Returns:
        (B, 2 O, h, w) with concat, (B, O, h, w) without.

    Source: GPEN (arXiv 2105.06070) for concatenated noise.
    """
    y, factor = _modulated(x, weight, style, True, sample, kernel, GAIN)
    noise = torch.randn_like(y) if noise is None else noise
    bias, strength = per_channel(GAIN * bias), GAIN * strength
    if concat:
        y = _join(y, factor, noise, strength, bias)
    else:
        y = _affine(y, factor, torch.addcmul(bias, noise, strength))
    return F.leaky_relu(y, LEAKY_SLOPE, inplace=True)


def _affine(y: Tensor, factor: Tensor | None, bias: Tensor, **out: Tensor) -> Tensor:
    if factor is None:
        return torch.add(y, bias, **out)
    return torch.addcmul(bias, y, factor, **out)


def _join(y: Tensor, factor: Tensor | None, noise: Tensor, strength: Tensor,
          bias: Tensor) -> Tensor:
    """cat((y factor, noise strength)) + bias."""
    first, second = bias.chunk(2, dim=1)
    in_place = (padded_conv.uses_custom_kernel(y) and not torch.is_grad_enabled()
                and y.dtype == noise.dtype == bias.dtype)
    if not in_place:
        return torch.cat((_affine(y, factor, first), torch.addcmul(second, noise, strength)), dim=1)
    joined = padded_conv.empty_map(y, 2 * y.shape[1], *y.shape[2:])
    upper, lower = joined.chunk(2, dim=1)
    _affine(y, factor, first, out=upper)
    torch.addcmul(second, noise, strength.view(1, 1, 1, 1), out=lower)
    return joined

"""Reflection padding and up-sampling 3x3 convolutions without the work that computes nothing.

Of the multiplications of "nearest up-sampling by 2, padding by 1, 3x3 convolution", 5 in 9 are
redundant; such units are 41 % of SPARNet. Values and gradients here are those of the plain
operators up to rounding, parameters stay 3x3.

Output pixel (2i + r, 2j + c), r and c in {0, 1}, sees a 3x3 window of the upscaled image, and that
window holds only 2x2 different source pixels. Along one axis the taps (w0, w1, w2) fall on the
source x as

    r = 0:  w0 on x[i-1],        w1 + w2 on x[i]
    r = 1:  w0 + w1 on x[i],     w2 on x[i+1]

so each phase (r, c) is a 2x2 convolution with summed weights that reads the padded source shifted
by (r, c). Reflecting the upscaled image at its border repeats the outermost source pixel, hence the
source is padded by replication. One convolution with four times the output channels computes all
phases at all (H+1) x (W+1) positions; PhaseInterleave picks the H x W window of each. The weights
get their gradient through the sums.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from engine import device as devices

# How a border is filled, as the padded coordinate of the row (or column) that it repeats.
REPLICATE, REFLECT = 1, 2
# Below these sizes, in elements of the input, fixed costs exceed the savings.
MIN_PHASE_NUMEL = 1 << 15
MIN_PAD_NUMEL = 1 << 19
# TAPS[r][a]: which of the three taps of phase r fall on its source pixel a.
TAPS = (((1, 0, 0), (0, 1, 1)), ((1, 1, 0), (0, 0, 1)))


def uses_custom_kernel(x: Tensor) -> bool:
    """Whether the forms of this file apply: on the CPU, outside of compilers and exporters."""
    return devices.on_host(x.device) and not (
        torch.compiler.is_compiling() or torch.jit.is_tracing())


def empty_map(like: Tensor, channels: int, height: int, width: int) -> Tensor:
    """Uninitialized (B, channels, height, width) with `like`'s B, dtype, device, memory format."""
    layout = torch.channels_last if like.stride(1) == 1 else torch.contiguous_format
    return torch.empty((like.shape[0], channels, height, width), dtype=like.dtype,
                       device=like.device, memory_format=layout)


def interior(padded: Tensor) -> Tensor:
    """View of a padded map without its border."""
    return padded[:, :, 1:-1, 1:-1]


def fill_border(padded: Tensor, source: int) -> Tensor:
    """Write the border from the interior, in place; source is REPLICATE or REFLECT."""
    padded[:, :, 0, 1:-1] = padded[:, :, source, 1:-1]
    padded[:, :, -1, 1:-1] = padded[:, :, -1 - source, 1:-1]
    padded[:, :, :, 0] = padded[:, :, :, source]
    padded[:, :, :, -1] = padded[:, :, :, -1 - source]
    return padded


def fold_border(grad: Tensor, source: int) -> Tensor:
    """Adjoint of fill_border: adds the border to where it came from, returns the interior.

    Works in place: only a convolution reads a padded map, and the gradient it returns for its
    input is a fresh tensor that nobody else holds.
    """
    grad[:, :, :, source] += grad[:, :, :, 0]
    grad[:, :, :, -1 - source] += grad[:, :, :, -1]
    grad[:, :, source] += grad[:, :, 0]
    grad[:, :, -1 - source] += grad[:, :, -1]
    return interior(grad)


class BorderPad(Function):
    """Padding by one pixel; the backward pass copies nothing."""

    @staticmethod
    def forward(ctx, x: Tensor, source: int) -> Tensor:
        ctx.source = source
        padded = empty_map(x, x.shape[1], x.shape[2] + 2, x.shape[3] + 2)
        interior(padded).copy_(x)
        return fill_border(padded, source)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        return fold_border(grad, ctx.source), None


def reflect_padded(x: Tensor) -> Tensor:
    """x with a reflected border of one pixel, for one convolution to read (see fold_border).

    Args:
        x: (B, C, H, W), sides at least 2.

    Returns:
        (B, C, H + 2, W + 2).
    """
    if uses_custom_kernel(x) and x.numel() >= MIN_PAD_NUMEL and min(x.shape[2:]) > 1:
        return BorderPad.apply(x, REFLECT)
    return F.pad(x, (1, 1, 1, 1), mode="reflect")


def phase_weights(weight: Tensor) -> Tensor:
    """The four 2x2 kernels of a 3x3 kernel: (O, I, 3, 3) to (4 O, I, 2, 2), ordered (r, c, O)."""
    out_channels, in_channels = weight.shape[:2]
    sums = weight.new_tensor([[TAPS[r][a][k] * TAPS[c][b][m] for k in range(3) for m in range(3)]
                              for r in (0, 1) for c in (0, 1) for a in (0, 1) for b in (0, 1)])
    taps = weight.permute(2, 3, 0, 1).reshape(9, -1)
    kernels = (sums @ taps).view(4, 2, 2, out_channels, in_channels)
    # In memory (r, c, O), 2, 2, I: channels-last.
    kernels = kernels.permute(0, 3, 1, 2, 4).reshape(4 * out_channels, 2, 2, in_channels)
    return kernels.permute(0, 3, 1, 2)


def _phase_windows(phases: Tensor) -> Tensor:
    """(B, 4 C, H+1, W+1) seen as (B, C, H, 2, W, 2): phase (r, c) shifted by (r, c)."""
    channels = phases.shape[1] // 4
    batch_step, channel_step, row_step, column_step = phases.stride()
    shape = (phases.shape[0], channels, phases.shape[2] - 1, 2, phases.shape[3] - 1, 2)
    return phases.as_strided(shape, (
        batch_step, channel_step, row_step, row_step + 2 * channels * channel_step,
        column_step, column_step + channels * channel_step))


class PhaseInterleave(Function):
    """(B, 4 C, H+1, W+1), channels ordered (r, c, C), to (B, C, 2 H, 2 W)."""

    @staticmethod
    def forward(ctx, phases: Tensor) -> Tensor:
        windows = _phase_windows(phases)
        _, channels, height, _, width, _ = windows.shape
        result = empty_map(phases, channels, 2 * height, 2 * width)
        result.view(windows.shape).copy_(windows)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        channels, height, width = grad.shape[1], grad.shape[2] // 2, grad.shape[3] // 2
        result = empty_map(grad, 4 * channels, height + 1, width + 1)
        windows = _phase_windows(result)
        windows.copy_(grad.reshape(windows.shape))
        for phase, part in enumerate(result.split(channels, dim=1)):
            r, c = divmod(phase, 2)
            part[:, :, 0 if r else -1] = 0              # what the window leaves out
            part[:, :, :, 0 if c else -1] = 0
        return result


def upsample_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None,
                  padding: str = "reflect") -> Tensor:
    """Nearest up-sampling by 2, padding by 1 and a 3x3 convolution.

    Args:
        x: (B, I, H, W).
        weight: (O, I, 3, 3).
        bias: (O,).
        padding: of the upscaled image, "reflect" or "zeros".

    Returns:
        (B, O, 2 H, 2 W), once differentiable on the CPU.

    Raises:
        ValueError: an unknown padding.
    """
    if padding not in ("reflect", "zeros"):
        raise ValueError(f"padding must be reflect or zeros, got {padding!r}")
    zeros = padding == "zeros"
    if uses_custom_kernel(x) and x.numel() >= MIN_PHASE_NUMEL:
        source = x if zeros else BorderPad.apply(x, REPLICATE)
        phases = F.conv2d(source, phase_weights(weight), None if bias is None else bias.repeat(4),
                          padding=1 if zeros else 0)
        return PhaseInterleave.apply(phases)
    upscaled = F.interpolate(x, size=(2 * x.shape[2], 2 * x.shape[3]), mode="nearest")
    return F.conv2d(upscaled if zeros else reflect_padded(upscaled), weight, bias,
                    padding=1 if zeros else 0)

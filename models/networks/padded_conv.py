"""Padding and up-sampling 3x3 convolutions without the work that computes nothing.

Two things cost SPARNet's training on a CPU time for nothing: separate passes over memory that only
pad, and the multiplications of "nearest up-sampling by 2, padding by 1, 3x3 convolution", of which
5 in 9 are redundant. Values and gradients here are those of the plain operators up to rounding.

The up-sampling convolution. Output pixel (2i + r, 2j + c), r and c in {0, 1}, sees a 3x3 window of
the enlarged image, and that window holds only 2x2 different source pixels. Along one axis the taps
(w0, w1, w2) fall on the source x as

    r = 0:  w0 on x[i-1],        w1 + w2 on x[i]
    r = 1:  w0 + w1 on x[i],     w2 on x[i+1]

so each phase (r, c) is a 2x2 convolution with summed weights that reads the padded source shifted
by (r, c). Reflecting the enlarged image at its border repeats the outermost source pixel, hence the
source is padded by replication. One convolution with four times the output channels computes all
phases at all (H+1) x (W+1) positions; PhaseInterleave picks the H x W window of each. Parameters
stay 3x3 and get their gradient through the sums.

Padding. A map that the next convolution pads by reflection is written into the middle of a padded
map at once and handed on as a view of it; `reflect_padded` recognises the view and copies nothing.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

aten = torch.ops.aten

# How a border is filled, as the padded coordinate of the row (or column) that it repeats.
REPLICATE, REFLECT = 1, 2
# Below these sizes, in elements of the input, fixed costs exceed the savings.
MIN_PHASE_NUMEL = 1 << 15
MIN_PAD_NUMEL = 1 << 19
# TAPS[r][a]: which of the three taps of phase r fall on its source pixel a.
TAPS = (((1, 0, 0), (0, 1, 1)), ((1, 1, 0), (0, 0, 1)))


def runs_by_hand(x: Tensor) -> bool:
    """Whether the forms of this file apply: on the CPU, outside of compilers and exporters."""
    return x.device.type == "cpu" and not (torch.compiler.is_compiling() or torch.jit.is_tracing())


def pads_by_hand(x: Tensor) -> bool:
    """Whether writing x into a padded map is faster than F.pad afterwards."""
    return runs_by_hand(x) and x.numel() >= MIN_PAD_NUMEL and min(x.shape[2:]) > 1


def empty_map(like: Tensor, channels: int, height: int, width: int) -> Tensor:
    """Uninitialised (B, channels, height, width) with `like`'s B, dtype, device, memory format."""
    layout = torch.channels_last if like.stride(1) == 1 else torch.contiguous_format
    return torch.empty((like.shape[0], channels, height, width), dtype=like.dtype,
                       device=like.device, memory_format=layout)


def empty_padded(x: Tensor) -> Tensor:
    """Uninitialised map for x and a border of one pixel."""
    return empty_map(x, x.shape[1], x.shape[2] + 2, x.shape[3] + 2)


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

    Works in place. Only convolutions read a padded map, and the gradient a convolution returns for
    its input is a fresh tensor that nobody else holds.
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
        padded = empty_padded(x)
        interior(padded).copy_(x)
        return fill_border(padded, source)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        return fold_border(grad, ctx.source), None


class LeakyPad(Function):
    """LeakyReLU and reflection padding in one pass; the slope must be above 0."""

    @staticmethod
    def forward(ctx, x: Tensor, slope: float) -> Tensor:
        padded = empty_padded(x)
        aten.leaky_relu.out(x, slope, out=interior(padded))
        ctx.slope = slope
        ctx.save_for_backward(padded)
        return fill_border(padded, REFLECT)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        (padded,) = ctx.saved_tensors
        inner = fold_border(grad, REFLECT)
        result = empty_map(inner, *inner.shape[1:])
        # The result of a leaky rectifier has the sign of its input, so it is all that was kept.
        aten.leaky_relu_backward.grad_input(inner, interior(padded), ctx.slope, True,
                                            grad_input=result)
        return result, None


class AddPad(Function):
    """Sum of two maps and reflection padding in one pass."""

    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor) -> Tensor:
        padded = empty_padded(a)
        torch.add(a, b, out=interior(padded))
        return fill_border(padded, REFLECT)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        inner = fold_border(grad, REFLECT)
        return inner, inner


def hand_on(padded: Tensor) -> Tensor:
    """Interior of a reflection-padded map, in a way that lets reflect_padded find the map again."""
    padded.is_reflection_padded = True
    return interior(padded)


def _handed_on(x: Tensor) -> Tensor | None:
    """The padded map that x is the interior of, if x comes from hand_on."""
    padded = x._base
    if padded is None or not getattr(padded, "is_reflection_padded", False):
        return None
    inner = interior(padded)
    same = (x.shape, x.stride(), x.data_ptr()) == (inner.shape, inner.stride(), inner.data_ptr())
    return padded if same else None


def reflect_padded(x: Tensor) -> Tensor:
    """x with a reflected border of one pixel, for a convolution to read (and nobody else).

    Args:
        x: (B, C, H, W), sides at least 2; not copied if it comes from hand_on.

    Returns:
        (B, C, H + 2, W + 2).
    """
    if runs_by_hand(x):
        padded = _handed_on(x)
        if padded is not None:
            return padded
        if pads_by_hand(x):
            return BorderPad.apply(x, REFLECT)
    return F.pad(x, (1, 1, 1, 1), mode="reflect")


def padded_for_several(x: Tensor) -> Tensor:
    """x itself in value, padded once for all the convolutions that read it."""
    return hand_on(reflect_padded(x)) if pads_by_hand(x) else x


def padded_leaky_relu(x: Tensor, slope: float) -> Tensor:
    """LeakyReLU for a reader that pads by reflection; the slope must be above 0."""
    return hand_on(LeakyPad.apply(x, slope)) if pads_by_hand(x) else F.leaky_relu(x, slope)


def padded_sum(a: Tensor, b: Tensor) -> Tensor:
    """a + b, equal in shape, for a reader that pads by reflection."""
    return hand_on(AddPad.apply(a, b)) if pads_by_hand(a) else a + b


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
        padding: of the enlarged image, "reflect" or "zeros".

    Returns:
        (B, O, 2 H, 2 W).
    """
    zeros = padding == "zeros"
    if runs_by_hand(x) and x.numel() >= MIN_PHASE_NUMEL:
        source = x if zeros else BorderPad.apply(x, REPLICATE)
        phases = F.conv2d(source, phase_weights(weight), None if bias is None else bias.repeat(4),
                          padding=1 if zeros else 0)
        return PhaseInterleave.apply(phases)
    enlarged = F.interpolate(x, size=(2 * x.shape[2], 2 * x.shape[3]), mode="nearest")
    return F.conv2d(enlarged if zeros else reflect_padded(enlarged), weight, bias,
                    padding=1 if zeros else 0)

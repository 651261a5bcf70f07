"""StyleGAN2's operators against their definitions, and their derivatives."""
from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from models.ops import padded_conv, style_ops
from models.ops.style_ops import (
    equal_conv2d,
    fir_kernel,
    fused_leaky_relu,
    modulated_conv2d,
    resampling_pad,
    styled_conv,
    upfirdn2d,
)

TAPS = (1, 3, 3, 1)
UNEVEN = [[1.0, 2, 3, 4], [0, 1, 5, 2], [7, 1, 0, 3], [2, 2, 1, 6]]


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(params=["by hand", "as on a card"])
def forms(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways through the operators: the CPU's own, and what a card gets."""
    if request.param == "as on a card":
        monkeypatch.setattr(padded_conv, "uses_custom_kernel", lambda x: False)


# ---- FIR filters --------------------------------------------------------------------------------

def filtered_by_definition(x: np.ndarray, kernel: np.ndarray, up: int, down: int,
                           pad: tuple[int, int]) -> np.ndarray:
    """Zeros after every sample, zeros around, convolution, every down-th sample; one (H, W) map."""
    upscaled = np.zeros((x.shape[0] * up, x.shape[1] * up))
    upscaled[::up, ::up] = x
    before, after = pad
    padded = np.pad(upscaled, [(max(before, 0), max(after, 0))] * 2)
    padded = padded[max(-before, 0):, max(-before, 0):]
    padded = padded[:padded.shape[0] - max(-after, 0), :padded.shape[1] - max(-after, 0)]
    side = kernel.shape[0]
    rows, columns = padded.shape[0] - side + 1, padded.shape[1] - side + 1
    result = np.zeros((rows, columns))
    for i, j in itertools.product(range(side), repeat=2):
        result += kernel[i, j] * padded[side - 1 - i:, side - 1 - j:][:rows, :columns]
    return result[::down, ::down]


@pytest.mark.parametrize("pad", [(0, 0), (2, 1), (1, 2), (2, 2), (4, 3), (-1, 2), (2, -1)])
@pytest.mark.parametrize("up, down", [(1, 1), (2, 1), (1, 2), (2, 2), (3, 1), (3, 2)])
def test_filter_is_its_definition(up: int, down: int, pad: tuple[int, int], forms: None) -> None:
    x, kernel = draw(2, 3, 9, 6), fir_kernel(UNEVEN).double()
    found = upfirdn2d(x, kernel, up=up, down=down, pad=pad)
    for image, channel in itertools.product(range(2), range(3)):
        expected = filtered_by_definition(x[image, channel].numpy(), kernel.numpy(), up, down,
                                          pad)
        assert found[image, channel].numpy() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("up, down, pad", [
    (1, 1, (2, 2)), (1, 1, (1, 1)), (2, 1, (2, 1)), (1, 2, (1, 1)), (2, 2, (0, 3)), (1, 1, (-1, 3)),
    (3, 2, (4, 1)), (1, 2, (2, 1))])
def test_filter_has_right_derivatives_of_two_orders(up: int, down: int,
                                                    pad: tuple[int, int]) -> None:
    x, kernel = draw(1, 2, 5, 6).requires_grad_(), fir_kernel(UNEVEN).double()

    def squared(x: Tensor) -> Tensor:       # a linear function has no second derivative to check
        return upfirdn2d(x, kernel, up=up, down=down, pad=pad).square()
    assert gradcheck(squared, x) and gradgradcheck(squared, x)


def test_filter_is_the_same_with_and_without_gradients() -> None:
    x, kernel = draw(2, 3, 8, 8, dtype=torch.float32), fir_kernel(UNEVEN)
    plain = upfirdn2d(x, kernel, up=2, pad=(2, 1))
    assert torch.equal(upfirdn2d(x.requires_grad_(), kernel, up=2, pad=(2, 1)), plain)


class Convolutions(TorchDispatchMode):
    """Counts convolutions of either kind."""
    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.name().split(".")[0] in ("aten::convolution",
                                                    "aten::convolution_backward")
        return func(*args, **(kwargs or {}))


def test_second_derivative_of_a_filter_takes_no_convolution_per_channel() -> None:
    x = draw(1, 16, 8, 8).requires_grad_()
    with Convolutions() as seen:
        result = upfirdn2d(x, fir_kernel(TAPS).double(), pad=(2, 2)).square().sum()
        grad, = torch.autograd.grad(result, x, create_graph=True)
        torch.autograd.grad(grad.square().sum(), x)
    assert seen.count == 4


def test_filter_larger_than_the_map_is_named() -> None:
    with pytest.raises(ValueError, match="filter of 4 taps does not fit a map of 2x2"):
        upfirdn2d(draw(1, 1, 2, 2), fir_kernel(TAPS), pad=(0, 1))


@pytest.mark.parametrize("gain", [1.0, 4.0])
@pytest.mark.parametrize("taps", [TAPS, UNEVEN])
def test_kernel_sums_to_its_gain(taps: object, gain: float) -> None:
    assert float(fir_kernel(taps, gain).sum()) == pytest.approx(gain)


@pytest.mark.parametrize("arguments, pad", [
    ({"up": True}, (2, 1)), ({"up": True, "conv": 3}, (1, 1)), ({"conv": 3}, (2, 2)),
    ({"conv": 1}, (1, 1))])
def test_pads_of_four_taps_are_the_published_ones(arguments: dict, pad: tuple[int, int]) -> None:
    assert resampling_pad(4, **arguments) == pad


# ---- modulated convolution ----------------------------------------------------------------------

def modulated_by_definition(x: Tensor, weight: Tensor, style: Tensor, demodulate: bool,
                            sample: str, kernel: Tensor | None) -> Tensor:
    """The published form: a weight and a convolution for every image."""
    results = []
    for image, factors in zip(x, style, strict=True):
        own = weight[0] / weight[0, 0].numel() ** 0.5 * factors[None, :, None, None]
        if demodulate:
            own = own / (own.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if sample == "up":
            y = F.conv_transpose2d(image[None], own.transpose(0, 1), stride=2)
            y = upfirdn2d(y, kernel, pad=(1, 1))
        elif sample == "down":
            y = F.conv2d(upfirdn2d(image[None], kernel, pad=(2, 2)), own, stride=2)
        else:
            y = F.conv2d(image[None], own, padding=weight.shape[-1] // 2)
        results.append(y)
    return torch.cat(results)


def kernel_of(sample: str) -> Tensor | None:
    return None if sample == "none" else fir_kernel(UNEVEN, 4 if sample == "up" else 1).double()


# Maps smaller and larger than the weight take different forms on the CPU; so does one image.
@pytest.mark.parametrize("size", [4, 16])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("side, sample, demodulate", [
    (3, "none", True), (3, "up", True), (3, "down", True), (1, "none", False), (1, "none", True),
    (3, "none", False), (3, "up", False)])
def test_modulated_convolution_is_its_definition(
        size: int, batch: int, layout: torch.memory_format, side: int, sample: str,
        demodulate: bool, forms: None) -> None:
    x = draw(batch, 4, size, size).contiguous(memory_format=layout)
    weight, style = draw(1, 5, 4, side, side, seed=1), draw(batch, 4, seed=2)
    expected = modulated_by_definition(x, weight, style, demodulate, sample, kernel_of(sample))
    found = modulated_conv2d(x, weight, style, demodulate=demodulate, sample=sample,
                             kernel=kernel_of(sample))
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("batch, size", [(1, 6), (2, 4)])
@pytest.mark.parametrize("side, sample, demodulate", [
    (3, "none", True), (3, "up", True), (3, "down", True), (1, "none", False)])
def test_modulated_convolution_has_right_derivatives_of_two_orders(
        batch: int, size: int, side: int, sample: str, demodulate: bool) -> None:
    leaves = [draw(batch, 2, size, size), draw(1, 1, 2, side, side, seed=1),
              draw(batch, 2, seed=2)]
    for leaf in leaves:
        leaf.requires_grad_()

    def function(*values: Tensor) -> Tensor:
        return modulated_conv2d(*values, demodulate=demodulate, sample=sample,
                                kernel=kernel_of(sample))
    assert gradcheck(function, leaves, fast_mode=True)
    assert gradgradcheck(function, leaves, fast_mode=True)


def test_demodulated_results_ignore_the_size_of_the_style() -> None:
    x, weight, style = draw(2, 4, 6, 6), draw(1, 5, 4, 3, 3, seed=1), draw(2, 4, seed=2)
    assert torch.allclose(modulated_conv2d(x, weight, style),
                          modulated_conv2d(x, weight, 100 * style), rtol=1e-6)


def test_demodulation_survives_half_precision() -> None:
    x, weight, style = (value.half() for value in (
        draw(2, 4, 6, 6), 1e-4 * draw(1, 5, 4, 3, 3, seed=1), draw(2, 4, seed=2)))
    expected = modulated_conv2d(x.float(), weight.float(), style.float())
    found = modulated_conv2d(x, weight, style)
    assert found.dtype == torch.float16
    assert torch.allclose(found.float(), expected, atol=0.01 * float(expected.abs().max()))


def test_unknown_sample_is_named() -> None:
    with pytest.raises(ValueError, match="sample must be one of none, up, down, got 'sideways'"):
        modulated_conv2d(draw(1, 2, 4, 4), draw(1, 2, 2, 3, 3), draw(1, 2), sample="sideways")


# ---- noise, bias, activation --------------------------------------------------------------------

def activated(x: Tensor, bias: Tensor) -> Tensor:
    return 2 ** 0.5 * F.leaky_relu(x + bias.view(1, -1, *[1] * (x.ndim - 2)), 0.2)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 5)])
def test_activation_is_its_definition(shape: tuple[int, ...]) -> None:
    x, bias = draw(*shape), draw(3, seed=1)
    assert torch.allclose(fused_leaky_relu(x, bias), activated(x, bias))


def test_activation_leaves_its_input_alone() -> None:
    x = draw(2, 3, 4, 4)
    kept = x.clone()
    fused_leaky_relu(x, draw(3, seed=1))
    assert torch.equal(x, kept)


def test_activation_has_right_derivatives_of_two_orders() -> None:
    leaves = [draw(2, 3, 2, 2).requires_grad_(), draw(3, seed=1).requires_grad_()]

    def squared(x: Tensor, bias: Tensor) -> Tensor:
        return fused_leaky_relu(x, bias).square()
    assert gradcheck(squared, leaves) and gradgradcheck(squared, leaves)


@pytest.mark.parametrize("activate", [False, True])
@pytest.mark.parametrize("stride, padding", [(1, 1), (2, 0)])
def test_equalised_convolution_is_its_definition(stride: int, padding: int, activate: bool,
                                                 forms: None) -> None:
    x, weight, bias = draw(2, 4, 9, 9), draw(5, 4, 3, 3, seed=1), draw(5, seed=2)
    expected = F.conv2d(x, weight / 6, stride=stride, padding=padding)
    expected = activated(expected, bias) if activate else expected + bias.view(1, -1, 1, 1)
    found = equal_conv2d(x, weight, bias, stride=stride, padding=padding, activate=activate)
    assert torch.allclose(found, expected)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("batch, size", [(1, 16), (2, 4)])
@pytest.mark.parametrize("concat", [False, True])
@pytest.mark.parametrize("sample", ["none", "up"])
def test_styled_convolution_is_its_definition(sample: str, concat: bool, batch: int, size: int,
                                              grad: bool, forms: None) -> None:
    x, weight, style = draw(batch, 4, size, size), draw(1, 3, 4, 3, 3, seed=1), draw(batch, 4)
    bias, strength = draw(6 if concat else 3, seed=3), draw(1, seed=4)
    y = modulated_by_definition(x, weight, style, True, sample, kernel_of(sample))
    noise = draw(*y.shape, seed=5)
    expected = activated(torch.cat((y, strength * noise), 1) if concat else y + strength * noise,
                         bias)
    with torch.set_grad_enabled(grad):
        found = styled_conv(x, weight.requires_grad_(grad), style, bias, strength, noise,
                            concat=concat, sample=sample, kernel=kernel_of(sample))
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("concat", [False, True])
@pytest.mark.parametrize("batch, size", [(1, 6), (2, 3)])
def test_styled_convolution_has_right_derivatives_of_two_orders(concat: bool, batch: int,
                                                                size: int) -> None:
    leaves = [draw(batch, 2, size, size), draw(1, 1, 2, 3, 3, seed=1), draw(batch, 2, seed=2),
              draw(2 if concat else 1, seed=3), draw(1, seed=4), draw(batch, 1, size, size, seed=5)]
    for leaf in leaves:
        leaf.requires_grad_()

    def function(*values: Tensor) -> Tensor:
        return styled_conv(*values, concat=concat)
    assert gradcheck(function, leaves, fast_mode=True)
    assert gradgradcheck(function, leaves, fast_mode=True)


def test_missing_noise_is_drawn_anew_for_every_channel() -> None:
    x, weight, style = draw(1, 2, 8, 8), draw(1, 3, 2, 3, 3, seed=1), torch.zeros(1, 2).double()
    torch.manual_seed(0)
    one, two = (styled_conv(x, weight, style, torch.zeros(6).double(), torch.ones(1).double())
                for _ in range(2))
    assert not torch.equal(one, two) and not torch.equal(one[:, 3], one[:, 4])


def test_large_maps_stay_in_the_order_that_filters_fast() -> None:
    x, weight = draw(1, 4, 16, 16, dtype=torch.float32), draw(1, 4, 4, 3, 3, dtype=torch.float32)
    y = modulated_conv2d(x, weight, torch.ones(1, 4), sample="up", kernel=fir_kernel(TAPS, 4))
    assert style_ops.channels_last(y).data_ptr() == y.data_ptr()

"""SPARNet's generator, its units and its initialization; values are held by the golden cases."""
from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

import data
import models
from models.networks.sparnet import SPARNet
from models.ops import padded_conv
from models.ops.blocks import ConvUnit, ResidualBlock, SampledConv2d
from models.ops.init import KINDS, init_weights
from options.train_options import TrainOptions

HD = {"size": 512, "feat_size": 32, "max_channels": 512, "norm": "in"}
TINY = {"res_depth": 0, "bottleneck_size": 16}
# res_depth, att_name, bottleneck_size, norm, parameters, state-dict entries: as published.
TOTALS = [
    (10, "spar", 4, "bn", 10_518_867, 1154), (1, "spar3d", 4, "bn", 5_242_211, 605),
    (10, "spar3d", 4, "bn", 11_562_083, 1154), (1, "spar", 4, "bn", 4_858_506, 605),
    (4, "spar", 4, "bn", 6_745_293, 788), (0, "spar", 4, "bn", 4_229_577, 544),
    (10, "spar", 4, "in", 10_518_867, 593), (10, "spar", 4, "gn", 10_518_867, 593),
    (10, "spar", 4, "none", 10_502_675, 390), (10, "spar", 4, "pixel", 10_502_675, 390),
    (10, "spar", 2, "bn", 12_294_483, 1442), (10, "spar", 8, "bn", 8_743_251, 866),
    (10, "spar", 6, "bn", 8_743_251, 866), (10, "spar", 16, "bn", 5_743_368, 490)]


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hand-written forms, however small the input."""
    monkeypatch.setattr(padded_conv, "MIN_PHASE_NUMEL", 0)
    monkeypatch.setattr(padded_conv, "MIN_PAD_NUMEL", 0)


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def on_meta(**arguments: object) -> SPARNet:
    with torch.device("meta"):
        return SPARNet(**arguments)


def plain_upsample_conv(x: Tensor, weight: Tensor, bias: Tensor, padding: str) -> Tensor:
    upscaled = F.interpolate(x, scale_factor=2.0, mode="nearest")
    mode = "reflect" if padding == "reflect" else "constant"
    return F.conv2d(F.pad(upscaled, (1, 1, 1, 1), mode=mode), weight, bias)


def with_gradients(function, *leaves: Tensor) -> list[Tensor]:
    """Result of a function and the gradients of a weighted sum of it."""
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    result = function(*leaves)
    weights = torch.arange(result.numel(), dtype=result.dtype).view(result.shape).sin()
    return [result.detach(), *torch.autograd.grad((result * weights).sum(), leaves)]


@pytest.mark.parametrize("res_depth, att_name, bottleneck, norm, parameters, entries", TOTALS)
def test_totals_are_the_published_ones(res_depth: int, att_name: str, bottleneck: int, norm: str,
                                       parameters: int, entries: int) -> None:
    net = on_meta(res_depth=res_depth, att_name=att_name, bottleneck_size=bottleneck, norm=norm)
    assert (count(net), len(net.state_dict())) == (parameters, entries)


@pytest.mark.parametrize("arguments, parameters", [
    ({}, 85_793_412), ({"att_name": "spar3d"}, 90_093_793), ({"bottleneck_size": 8}, 78_370_170)])
def test_hd_totals_are_the_published_ones(arguments: dict, parameters: int) -> None:
    assert count(on_meta(**HD, **arguments)) == parameters


@pytest.mark.parametrize("bad, match", [
    ({"norm": "layer"}, "norm must be"), ({"att_name": "cbam"}, "att_name must be"),
    ({"bottleneck_size": 32}, "from 1 to 16"), ({"bottleneck_size": 17}, "from 1 to 16"),
    ({"bottleneck_size": 0}, "from 1 to 16"), ({**HD, "bottleneck_size": 16}, "from 1 to 8"),
    ({**HD, "norm": "gn"}, "divisible by 32"), ({**HD, "res_depth": 0}, "res_depth must be"),
    ({"size": 100}, "power of two"), ({"feat_size": 128}, "power of two")])
def test_an_impossible_build_is_refused(bad: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        on_meta(**bad)


def test_names_are_case_insensitive() -> None:
    assert count(on_meta(att_name="SPAR3D", norm="BN", res_depth=1)) == 5_242_211


@pytest.mark.parametrize("bottleneck, side", [(4, 32), (8, 16), (16, 8)])
def test_the_smallest_image_that_runs_is_one_pixel_larger(bottleneck: int, side: int) -> None:
    net = SPARNet(res_depth=0, bottleneck_size=bottleneck).eval()
    with torch.no_grad():
        net(torch.zeros(1, 3, side + 1, side + 1))
        with pytest.raises(ValueError, match=f"at least {side + 1} pixels"):
            net(torch.zeros(1, 3, 64, side))


@pytest.mark.parametrize("side, result", [(33, 40), (36, 40), (64, 64), (100, 104)])
def test_sides_are_rounded_up_to_multiples_of_eight(side: int, result: int) -> None:
    with torch.no_grad():
        restored = SPARNet(res_depth=0).eval()(torch.zeros(1, 3, side, 40))
    assert restored.shape == (1, 3, result, 40)


@pytest.mark.parametrize("norm", ["bn", "in", "gn", "pixel", "none"])
def test_every_submodule_is_called(norm: str) -> None:
    net = SPARNet(res_depth=1, norm=norm, bottleneck_size=8)
    called = set()
    for name, module in net.named_modules():
        module.register_forward_hook(lambda *_, name=name: called.add(name))
    net(torch.zeros(2, 3, 32, 32))
    assert {name for name, _ in net.named_modules()} - called == set()


@pytest.mark.parametrize("norm", ["bn", "in", "gn", "pixel", "none"])
def test_every_weight_gets_a_gradient(norm: str) -> None:
    net = SPARNet(res_depth=1, norm=norm, att_name="spar3d", bottleneck_size=8)
    net(torch.randn(2, 3, 32, 32)).abs().mean().backward()
    assert [name for name, weight in net.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize("norm, bias", [
    ("bn", False), ("in", False), ("gn", False), ("pixel", True), ("none", True)])
def test_a_convolution_has_a_bias_only_without_affine_norm(norm: str, bias: bool) -> None:
    assert (ConvUnit(32, 32, norm=norm).conv2d.bias is not None) == bias


def test_without_norm_the_shortcut_carries_the_untouched_input() -> None:
    block = ResidualBlock(4, 4, norm="none")
    x = torch.randn(1, 4, 6, 6)
    features = block.conv2(block.conv1(F.leaky_relu(x, 0.2)))
    torch.testing.assert_close(block(x), x + features)


@pytest.mark.parametrize("padding", ["reflect", "zeros"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("height, width", [(1, 1), (1, 4), (2, 3), (5, 4)])
@pytest.mark.parametrize("in_channels, out_channels", [(3, 2), (1, 1)])
def test_upsample_conv_is_the_plain_form(by_hand: None, padding: str, layout: torch.memory_format,
                                         height: int, width: int, in_channels: int,
                                         out_channels: int) -> None:
    x = torch.randn(2, in_channels, height, width, dtype=torch.float64).to(memory_format=layout)
    weight = torch.randn(out_channels, in_channels, 3, 3, dtype=torch.float64)
    bias = torch.randn(out_channels, dtype=torch.float64)
    expected = with_gradients(lambda *a: plain_upsample_conv(*a, padding), x, weight, bias)
    got = with_gradients(lambda *a: padded_conv.upsample_conv(*a, padding), x, weight, bias)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_upsample_conv_refuses_an_unknown_padding() -> None:
    with pytest.raises(ValueError, match="padding must be"):
        padded_conv.upsample_conv(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 3, 3), padding="wrap")


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("mode", ["none", "down"])
@pytest.mark.parametrize("height, width", [(2, 2), (2, 5), (7, 3)])
def test_a_convolution_pads_by_reflection(by_hand: None, layout: torch.memory_format, mode: str,
                                          height: int, width: int) -> None:
    conv = SampledConv2d(3, 2, mode=mode).double()
    x = torch.randn(2, 3, height, width, dtype=torch.float64).to(memory_format=layout)
    expected = with_gradients(
        lambda x: F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), conv.weight, conv.bias,
                           stride=conv.stride), x)
    torch.testing.assert_close(with_gradients(conv, x), expected, rtol=1e-12, atol=1e-12)


def test_padding_leaves_its_input_alone(by_hand: None) -> None:
    image = torch.randn(1, 2, 6, 6)
    before = image.clone()
    padded_conv.reflect_padded(image[:, :, 1:-1, 1:-1])
    assert torch.equal(image, before)


def test_hand_written_forms_keep_the_memory_format(by_hand: None) -> None:
    unit = ConvUnit(3, 8, mode="up").to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    assert unit(x).is_contiguous(memory_format=torch.channels_last)


def test_mean_and_gradients_do_not_depend_on_who_pads(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net, x = SPARNet(**TINY).double(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    results = []
    for smallest in (0, 1 << 60):
        monkeypatch.setattr(padded_conv, "MIN_PHASE_NUMEL", smallest)
        monkeypatch.setattr(padded_conv, "MIN_PAD_NUMEL", smallest)
        net.zero_grad()
        net(x).square().mean().backward()
        results.append([weight.grad.clone() for weight in net.parameters()])
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-12)


def test_spectral_norm_governs_the_up_sampling_weights(by_hand: None) -> None:
    unit = ConvUnit(3, 2, mode="up").eval()
    x = torch.randn(1, 3, 4, 4)
    plain = unit(x) - unit.conv2d.bias[:, None, None]
    spectral_norm(unit.conv2d, n_power_iterations=50)
    unit.train()(x)
    normed = unit.eval()(x) - unit.conv2d.bias[:, None, None]
    sigma = torch.linalg.matrix_norm(unit.conv2d.weight_orig.flatten(1), 2)
    torch.testing.assert_close(normed * sigma, plain, rtol=1e-4, atol=1e-5)


def test_autocast_trains(by_hand: None) -> None:
    net = SPARNet(**TINY)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = net(torch.randn(2, 3, 32, 32)).abs().mean()
    loss.backward()
    assert all(torch.isfinite(weight.grad).all() for weight in net.parameters())


def test_a_deep_copy_after_training_computes_the_same(by_hand: None) -> None:
    net, x = SPARNet(**TINY), torch.randn(2, 3, 32, 32)
    net(x).mean().backward()
    assert torch.equal(copy.deepcopy(net).eval()(x), net.eval()(x))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_trace_computes_the_same(by_hand: None) -> None:
    net, x = SPARNet(**TINY).eval(), torch.randn(1, 3, 32, 32)
    traced = torch.jit.trace(net, x)
    with torch.no_grad():
        torch.testing.assert_close(traced(x), net(x), rtol=1e-4, atol=1e-5)


def test_an_exported_program_computes_the_same(by_hand: None) -> None:
    net, x = SPARNet(**TINY).eval(), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        exported = torch.export.export(net, (x,)).module()
        torch.testing.assert_close(exported(x), net(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_initialisation_zeroes_biases(kind: str) -> None:
    net = init_weights(SPARNet(**TINY), kind)
    assert not any(value.any() for key, value in net.state_dict().items() if key.endswith("bias"))


def test_normal_initialisation_has_the_asked_deviation() -> None:
    torch.manual_seed(0)
    conv = init_weights(nn.Conv2d(64, 64, 3), "normal", 0.05)
    assert conv.weight.std().item() == pytest.approx(0.05, rel=0.02)


def test_normal_initialisation_draws_batch_norm_gains_around_one() -> None:
    torch.manual_seed(0)
    gain = init_weights(nn.BatchNorm2d(10_000)).weight
    assert (gain.mean().item(), gain.std().item()) == pytest.approx((1.0, 0.02), rel=0.03)


def test_initialisation_leaves_instance_norm_at_one() -> None:
    norm = init_weights(nn.InstanceNorm2d(4, affine=True))
    assert torch.equal(norm.weight, torch.ones(4))


def test_orthogonal_initialisation_scales_an_orthogonal_matrix() -> None:
    weight = init_weights(nn.Conv2d(8, 8, 1), "orthogonal", 0.5).weight.flatten(1)
    torch.testing.assert_close(weight @ weight.T, 0.25 * torch.eye(8))


def test_default_initialisation_keeps_the_weights() -> None:
    conv = nn.Conv2d(3, 3, 3)
    before = conv.weight.clone()
    assert torch.equal(init_weights(conv, "default").weight, before)


def test_initialisation_reaches_a_spectrally_normalised_weight() -> None:
    conv = spectral_norm(nn.Conv2d(3, 3, 3))
    before = conv.weight_orig.clone()
    assert not torch.equal(init_weights(conv).weight_orig, before)


def test_an_unknown_initialisation_is_refused() -> None:
    with pytest.raises(ValueError, match="init kind must be one of"):
        init_weights(nn.Conv2d(1, 1, 1), "uniform")


def test_the_published_network_costs_what_is_known() -> None:
    """At 128 x 128: 14.26 billion multiplications and additions, whatever forms the CPU takes."""
    opt = TrainOptions(models, data, "test").parse(["--model", "sparnet"])
    assert models.find("sparnet").forward_flops(opt) == 14_260_469_760

"""Mixed precision against the numbers of Ascend's apex, and what it must survive."""
from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from engine import device as devices
from engine.casting import cast_network
from engine.optimizer_step import LossScaler
from engine.precision import Precision
from tools.golden import fill, make_input

CPU = torch.device("cpu")

# ascend.md 5.4: six Adam steps under Ascend apex O2 (and plain fp32 for contrast).
STATIC = {
    "losses": [0.897579730, 0.842440605, 0.866034746, 0.888591349, 0.802056551, 0.832528412],
    "conv1.weight": -1.9486804, "conv1.bias": 0.4424344, "norm.weight": 7.8905979,
    "norm.bias": 0.0118339, "act.weight": 8.1857882, "conv2.weight": -0.6502662,
    "conv2.bias": -0.0046355, "norm.running_mean": 0.2051085, "norm.running_var": 5.6529397}
OVERFLOW = {
    "losses": [0.897579730, 0.850334466, 0.874210358, 0.895918429, 0.818457663, 0.850137711],
    "conv1.weight": -1.9419604, "conv1.bias": 0.4374516, "norm.weight": 7.9058172,
    "norm.bias": 0.0176970, "act.weight": 8.2023565, "conv2.weight": -0.6733994,
    "conv2.bias": -0.0030174, "norm.running_mean": 0.2044281, "norm.running_var": 5.6522497}
FP32 = {
    "losses": [0.897649825, 0.842384100, 0.866054296, 0.888630152, 0.802076995, 0.832541525],
    "conv1.weight": -1.9490971, "conv1.bias": 0.4355755, "norm.weight": 7.8906028,
    "norm.bias": 0.0118689, "act.weight": 8.1861143, "conv2.weight": -0.6499320,
    "conv2.bias": -0.0046711}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.act, self.conv2 = nn.PReLU(8), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(self.act(self.norm(self.conv1(x))))


def prepared(network: nn.Module, **settings: object) -> tuple[Precision, nn.Module]:
    precision = Precision(CPU, **settings)
    plan = (["G"], lambda net: [{"params": list(net.parameters())}],
            {"lr": 1e-3, "betas": (0.9, 0.99)})
    wrapped = precision.prepare({"G": network}, {"G": plan}, True)
    return precision, wrapped["G"]


@contextmanager
def rounding_as_recorded() -> Iterator[None]:
    """Without oneDNN: on processors with 16-bit arithmetic of their own its fp16 convolutions
    round otherwise, and a bias before a batch norm moves by rounding alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")     # of torch, about another setting of oneDNN
        with torch.backends.mkldnn.flags(enabled=False):
            yield


@rounding_as_recorded()
def golden_run(overflows: tuple[int, ...] = (), **settings: object) -> tuple[dict, list, Precision]:
    network = Net()
    fill(network)
    precision, wrapped = prepared(network, keep_fp32="apex", **settings)
    update = precision.steps["G"]
    losses, scales = [], []
    for step in range(6):
        x, y = (make_input(f"amp_{kind}{step}", (2, 3, 8, 8)) for kind in "xy")
        loss = F.l1_loss(wrapped(x), y)
        if update.scaler is not None:
            update.scaler.unscale = lambda grads, step=step: (
                LossScaler.unscale(update.scaler, grads) or step in overflows)
            update.step(loss)
            scales.append((update.scaler.loss_scale, update.scaler.unskipped))
        else:
            update.step(loss)
        losses.append(float(loss.detach()))
    state = {key: float(value.double().sum()) for key, value in precision.state_of(network).items()}
    return {"losses": losses, **state}, scales, precision


def assert_matches(found: dict, expected: dict) -> None:
    assert found["losses"] == pytest.approx(expected["losses"], abs=1e-4)
    for key, value in expected.items():
        if key != "losses":     # conv1.bias stands before a batch norm: its gradient is noise
            limit = 2e-2 if key == "conv1.bias" else 1e-3
            assert found[key] == pytest.approx(value, abs=limit), key


@pytest.mark.parametrize("optimizer", ["adam", "fused"])
def test_native_o2_with_static_scale_reproduces_apex(optimizer: str) -> None:
    found, scales, _ = golden_run(opt_level="O2", optimizer=optimizer)
    assert_matches(found, STATIC)
    assert scales == [(128.0, step) for step in range(1, 7)]


def test_native_o2_with_dynamic_scale_reproduces_apex() -> None:
    found, scales, _ = golden_run(opt_level="O2", loss_scale="dynamic")
    assert_matches(found, STATIC)
    assert scales == [(65536.0, step) for step in range(1, 7)]


def test_overflow_skips_the_step_and_halves_the_scale_as_apex_does() -> None:
    found, scales, _ = golden_run(overflows=(0, 3), opt_level="O2", loss_scale="dynamic")
    assert_matches(found, OVERFLOW)
    assert scales == [(32768.0, 0), (32768.0, 1), (32768.0, 2), (16384.0, 0), (16384.0, 1),
                      (16384.0, 2)]


def test_o0_is_plain_fp32() -> None:
    assert_matches(golden_run(opt_level="O0")[0], FP32)


def test_apex_casts_everything_but_batch_norm() -> None:
    network = Net()
    cast_network(network, torch.float16, "apex", torch.device("cpu"))
    fp32 = {name for name, p in network.named_parameters() if p.dtype == torch.float32}
    assert fp32 == {"norm.weight", "norm.bias"}


@pytest.mark.parametrize("layer", [nn.InstanceNorm2d(8, affine=True), nn.GroupNorm(4, 8),
                                   nn.BatchNorm2d(8, affine=False)])
def test_other_norms_stay_in_fp32_between_half_layers(layer: nn.Module) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1), layer, nn.Conv2d(8, 3, 1))
    seen = []
    cast_network(network, torch.float16, "safe", torch.device("cpu"))
    layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].dtype))
    result = network(torch.rand(2, 3, 8, 8).half())
    assert (seen, result.dtype) == ([torch.float32], torch.float16)


def test_spectral_norm_iterates_in_fp32_and_convolves_in_fp16() -> None:
    conv = nn.utils.spectral_norm(nn.Conv2d(3, 8, 3))
    cast_network(conv, torch.float16, "safe", torch.device("cpu"))
    result = conv(torch.rand(1, 3, 8, 8).half())
    assert (conv.weight_orig.dtype, conv.weight_u.dtype, result.dtype) == (
        torch.float32, torch.float32, torch.float16)


@pytest.mark.parametrize("init, equal", [("rounded", False), ("exact", True)])
def test_masters_start_where_asked(init: str, equal: bool) -> None:
    network = Net()
    original = network.conv1.weight.detach().clone()
    precision, _ = prepared(network, opt_level="O2", master_init=init)
    assert torch.equal(precision.master(network.conv1.weight), original) is equal


def test_saved_weights_are_the_masters_not_the_rounded_copies() -> None:
    network = Net()
    precision, wrapped = prepared(network, opt_level="O2")
    precision.steps["G"].step(wrapped(torch.rand(2, 3, 8, 8)).square().mean())
    saved = precision.state_of(network)["conv1.weight"]
    assert saved.dtype == torch.float32
    assert not torch.equal(saved, network.conv1.weight.float())
    assert torch.equal(saved.half(), network.conv1.weight)


@pytest.mark.parametrize("settings", [
    {"opt_level": "O0"}, {"opt_level": "O0", "optimizer": "adam"}, {"opt_level": "O1"},
    {"opt_level": "O2"}, {"opt_level": "O2", "loss_scale": "dynamic"}])
def test_a_step_with_infinite_loss_changes_nothing_and_is_counted(settings: dict) -> None:
    network = Net()
    precision, wrapped = prepared(network, **settings)
    update = precision.steps["G"]
    update.step(wrapped(torch.rand(2, 3, 8, 8)).square().mean())
    before = {k: v.clone() for k, v in precision.state_of(network).items() if "running" not in k
              and "num_batches" not in k}
    update.step(wrapped(torch.rand(2, 3, 8, 8)).square().mean() * float("inf"))
    after = precision.state_of(network)
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert int(update.bad_steps) == 1


def test_an_infinite_gradient_skips_exactly_that_step_under_the_dynamic_scale() -> None:
    def losses(inject: bool) -> tuple[list[float], float]:
        network = Net()
        fill(network)
        precision, wrapped = prepared(network, opt_level="O2", loss_scale="dynamic")
        update, found = precision.steps["G"], []
        for step in range(4):
            x = make_input(f"inject{step}", (2, 3, 8, 8))
            if step == 1 and inject:
                handle = network.conv2.weight.register_hook(lambda g: g * float("inf"))
                before = precision.state_of(network)["conv1.weight"].clone()
                update.step(wrapped(x).square().mean())
                handle.remove()
                assert torch.equal(before, precision.state_of(network)["conv1.weight"])
                continue
            if step == 1:
                wrapped(x)      # batch statistics advance in skipped steps as well
                continue
            loss = wrapped(x).square().mean()
            update.step(loss)
            found.append(float(loss.detach()))
        return found, update.scaler.loss_scale
    (skipped, scale), (without, _) = losses(True), losses(False)
    assert skipped == pytest.approx(without, rel=1e-3)
    assert scale == 32768.0


def test_an_infinite_gradient_under_the_static_scale_is_taken_and_shows_in_the_next_loss() -> None:
    network = Net()
    precision, wrapped = prepared(network, opt_level="O2")
    update = precision.steps["G"]
    handle = network.conv2.weight.register_hook(lambda g: g * float("inf"))
    update.step(wrapped(torch.rand(2, 3, 8, 8)).square().mean())
    handle.remove()
    assert int(update.bad_steps) == 0 and not torch.isfinite(update.gradient_norm())
    update.step(wrapped(torch.rand(2, 3, 8, 8)).square().mean())
    assert int(update.bad_steps) == 1


def test_amp_state_has_apex_layout_and_comes_back() -> None:
    _, _, precision = golden_run(overflows=(0,), opt_level="O2", loss_scale="dynamic")
    state = precision.state_dict()
    assert state == {"opt_level": "O2", "G": {"loss_scaler0": {"loss_scale": 32768.0,
                                                              "unskipped": 5}}}
    fresh, _ = prepared(Net(), opt_level="O2", loss_scale="dynamic")
    fresh.load_state_dict(state)
    assert fresh.state_dict() == state


def test_apex_own_flat_state_is_understood() -> None:
    fresh, _ = prepared(Net(), opt_level="O2", loss_scale="dynamic")
    fresh.load_state_dict({"loss_scaler0": {"loss_scale": 512.0, "unskipped": 7}})
    assert fresh.steps["G"].scaler.loss_scale == 512.0


def test_dynamic_scale_grows_after_its_window_up_to_a_limit() -> None:
    scaler = LossScaler("dynamic")
    scaler.loss_scale, scaler.unskipped = 2.0 ** 24, 1999
    scaler.update(False)
    assert (scaler.loss_scale, scaler.unskipped) == (2.0 ** 24, 0)


def test_gradient_clipping_limits_the_masters_gradients() -> None:
    precision, wrapped = prepared(Net(), opt_level="O2", grad_clip=1e-3)
    precision.steps["G"].step(wrapped(torch.rand(2, 3, 8, 8)).square().mean())
    assert float(precision.steps["G"].gradient_norm()) == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("settings, word", [
    ({"opt_level": "O2", "amp_dtype": "bf16"}, "--amp_dtype"),
    ({"opt_level": "O2", "loss_scale": "-1"}, "--loss_scale"),
    ({"opt_level": "O2", "loss_scale": "nan"}, "--loss_scale"),
    ({"opt_level": "O2", "amp_backend": "apex"}, "--amp_backend")])
def test_impossible_combinations_name_the_flag(settings: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Precision(CPU, **settings)


def conv(layout: torch.memory_format = torch.contiguous_format) -> nn.Module:
    network = nn.Conv2d(3, 4, 3)
    fill(network)
    return network.to(memory_format=layout)


@pytest.mark.parametrize("optimizer", ["adam", "fused"])
def test_moments_saved_in_another_memory_layout_are_taken_over(optimizer: str) -> None:
    """Fused kernels do not look at strides: moments of a contiguous run, as an NPU leaves them,
    must not be read in channels-last order."""
    x = make_input("layout", (2, 3, 6, 6))
    first, wrapped = prepared(conv(), opt_level="O0", optimizer=optimizer)
    first.steps["G"].step(wrapped(x).square().mean())
    state = copy.deepcopy(first.steps["G"].optimizer.state_dict())
    weights = {k: v.clone() for k, v in wrapped.state_dict().items()}
    first.steps["G"].step(wrapped(x).square().mean())
    second, other = prepared(conv(torch.channels_last), opt_level="O0", optimizer=optimizer)
    second.load_state_of(other, weights)
    second.load_optimizer("G", state)
    second.steps["G"].step(other(x).square().mean())
    assert torch.allclose(other.weight, wrapped.weight, atol=1e-6)


@pytest.mark.parametrize("before, now", [("adam", "fused"), ("fused", "adam")])
@pytest.mark.parametrize("counted", [float, int])
def test_the_state_of_another_adam_is_taken_over(before: str, now: str, counted: type) -> None:
    """How a step is computed is the run's choice; older torch counts steps as plain integers."""
    x = make_input("adam", (2, 3, 6, 6))

    def step(precision: Precision, network: nn.Module) -> None:
        precision.steps["G"].step(network(x).square().mean())
    first, network = prepared(conv(), opt_level="O0", optimizer=before)
    step(first, network)
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    state = copy.deepcopy(first.steps["G"].optimizer.state_dict())
    for group in state["param_groups"]:     # as torch's plain Adam writes them
        group |= {"fused": before == "fused", "foreach": None, "maximize": False}
    if counted is int:
        for entry in state["state"].values():
            entry["step"] = int(entry["step"])
    step(first, network)
    second, other = prepared(conv(), opt_level="O0", optimizer=now)
    chosen = second.steps["G"].optimizer.param_groups[0]["fused"]
    second.load_state_of(other, weights)
    second.load_optimizer("G", state)
    assert second.steps["G"].optimizer.param_groups[0]["fused"] == chosen
    step(second, other)
    assert torch.allclose(other.weight, network.weight, atol=1e-6)


@pytest.mark.parametrize("given, saturates, expected", [
    (None, False, "dynamic"), ("64", False, 64.0), (None, True, 1.0)])
def test_a_models_own_scale_is_taken_where_none_is_given(
        given: str | None, saturates: bool, expected: str | float,
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "overflow_saturates", lambda device: saturates)
    precision = Precision(CPU, opt_level="O2", loss_scale=given, default_scale="dynamic")
    assert precision.loss_scale == expected

"""O1 and O2 on the device: the recorded numbers of Ascend's apex, scalers, overflow."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from npu_suite import ROOT, load
from torch import nn

from engine.casting import cast_network
from engine.optimizer_step import LossScaler
from engine.precision import Precision
from tools.golden import fill, make_input

# ascend.md's values for six steps, and the network they belong to.
recorded = load(ROOT / "test" / "unit" / "engine" / "test_precision.py")


def prepared(network: nn.Module, device: torch.device, **settings: object,
             ) -> tuple[Precision, nn.Module]:
    precision = Precision(device, **settings)
    plan = (["G"], lambda net: [{"params": list(net.parameters())}],
            {"lr": 1e-3, "betas": (0.9, 0.99)})
    return precision, precision.prepare({"G": network.to(device)}, {"G": plan}, True)["G"]


@recorded.rounding_as_recorded()
def golden_run(device: torch.device, overflows: tuple[int, ...] = (), **settings: object,
               ) -> tuple[dict, list, nn.Module]:
    """Six steps; overflow is reported in the steps named, as the chip's flag did when recorded."""
    network = recorded.Net()
    fill(network)
    precision, wrapped = prepared(network, device, opt_level="O2", keep_fp32="apex", **settings)
    update, losses, scales = precision.steps["G"], [], []
    for step in range(6):
        x, y = (make_input(f"amp_{kind}{step}", (2, 3, 8, 8)).to(device) for kind in "xy")
        update.scaler.unscale = lambda grads, step=step: (
            LossScaler.unscale(update.scaler, grads) or step in overflows)
        loss = F.l1_loss(wrapped(x), y)
        update.step(loss)
        losses.append(float(loss.detach()))
        scales.append((update.scaler.loss_scale, update.scaler.unskipped))
    state = {key: float(value.cpu().double().sum())
             for key, value in precision.state_of(network).items()}
    return {"losses": losses, **state}, scales, network


BOTH = pytest.mark.parametrize("optimizer", ["adam", "fused"])


@BOTH
def test_o2_with_static_scale_reproduces_apex(optimizer: str, npu: torch.device) -> None:
    found, scales, _ = golden_run(npu, optimizer=optimizer)
    recorded.assert_matches(found, recorded.STATIC)
    assert scales == [(128.0, step) for step in range(1, 7)]


@BOTH
def test_o2_with_dynamic_scale_reproduces_apex(optimizer: str, npu: torch.device) -> None:
    found, scales, _ = golden_run(npu, optimizer=optimizer, loss_scale="dynamic")
    recorded.assert_matches(found, recorded.STATIC)
    assert scales == [(65536.0, step) for step in range(1, 7)]


@BOTH
def test_overflow_skips_and_halves_as_apex_does(optimizer: str, npu: torch.device) -> None:
    found, scales, _ = golden_run(npu, (0, 3), optimizer=optimizer, loss_scale="dynamic")
    recorded.assert_matches(found, recorded.OVERFLOW)
    assert scales == [(32768.0, 0), (32768.0, 1), (32768.0, 2), (16384.0, 0), (16384.0, 1),
                      (16384.0, 2)]


def test_only_the_batch_norm_keeps_fp32_parameters_under_apex_rules(npu: torch.device) -> None:
    _, _, network = golden_run(npu)
    assert {name for name, p in network.named_parameters() if p.dtype is torch.float32} == {
        "norm.weight", "norm.bias"}


def test_prelu_is_an_fp32_island_on_the_npu() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.PReLU(8), nn.Conv2d(8, 3, 1))
    seen = []
    cast_network(network, torch.float16, "safe", torch.device("npu"))
    network[1].register_forward_pre_hook(lambda _, args: seen.append(args[0].dtype))
    result = network(torch.rand(2, 3, 8, 8).half())
    assert (seen, network[1].weight.dtype, result.dtype) == (
        [torch.float32], torch.float32, torch.float16)


@BOTH
def test_a_truly_infinite_gradient_skips_the_step_under_the_dynamic_scale(
        optimizer: str, npu: torch.device) -> None:
    network = recorded.Net()
    fill(network)
    precision, wrapped = prepared(network, npu, opt_level="O2", loss_scale="dynamic",
                                  optimizer=optimizer)
    update = precision.steps["G"]
    x = make_input("overflow", (2, 3, 8, 8)).to(npu)
    update.step(wrapped(x).square().mean())
    before = precision.state_of(network)["conv1.weight"].cpu().clone()
    handle = network.conv2.weight.register_hook(lambda grad: grad * float("inf"))
    update.step(wrapped(x).square().mean())
    handle.remove()
    assert torch.equal(before, precision.state_of(network)["conv1.weight"].cpu())
    assert (update.scaler.loss_scale, update.scaler.unskipped) == (32768.0, 0)


def test_an_infinite_loss_is_counted_on_the_device(npu: torch.device) -> None:
    precision, wrapped = prepared(recorded.Net(), npu, opt_level="O2")
    update = precision.steps["G"]
    x = torch.rand(2, 3, 8, 8, device=npu)
    update.step(wrapped(x).square().mean())
    assert int(update.bad_steps) == 0
    update.step(wrapped(x).square().mean() * float("inf"))
    assert int(update.bad_steps) == 1 and update.bad_steps.device.type == "npu"


def test_o1_runs_convolutions_in_fp16_and_skips_what_overflows(npu: torch.device) -> None:
    network = nn.Conv2d(3, 3, 3)
    precision, wrapped = prepared(network, npu, opt_level="O1")
    seen = []
    network.register_forward_hook(lambda _, args, output: seen.append(output.dtype))
    update = precision.steps["G"]
    x = torch.rand(2, 3, 8, 8, device=npu)
    update.step(wrapped(x).square().mean())
    before = network.weight.detach().cpu().clone()
    update.step(wrapped(x).square().mean() * float("inf"))
    assert (seen, network.weight.dtype) == ([torch.float16] * 2, torch.float32)
    assert torch.equal(before, network.weight.detach().cpu())
    assert update.scaler.get_scale() == 2.0 ** 15


@pytest.mark.parametrize("scaler, second_moves", [("torch", True), ("torch_npu", False)])
def test_torch_npus_scaler_couples_its_optimizers_and_torchs_does_not(
        scaler: str, second_moves: bool, npu: torch.device) -> None:
    """Why each optimizer gets a scaler of its own."""
    made = torch.amp.GradScaler("npu") if scaler == "torch" else torch.npu.amp.GradScaler()
    params = [nn.Parameter(torch.ones(3, device=npu)) for _ in range(2)]
    optimizers = [torch.optim.SGD([param], lr=0.1) for param in params]
    made.scale(params[0].sum() * float("inf")).backward()
    made.scale(params[1].sum()).backward()
    for optimizer in optimizers:
        made.step(optimizer)
    made.update()
    assert torch.equal(params[0].detach().cpu(), torch.ones(3))
    assert torch.equal(params[1].detach().cpu(), torch.ones(3)) is not second_moves


def test_every_optimizer_has_a_scaler_of_its_own(npu: torch.device) -> None:
    precision = Precision(npu, opt_level="O1")
    plans = {name: ([name], lambda net: [{"params": list(net.parameters())}],
                    {"lr": 1e-3, "betas": (0.9, 0.99)}) for name in "GD"}
    precision.prepare({name: nn.Conv2d(3, 3, 1).to(npu) for name in "GD"}, plans, True)
    assert precision.steps["G"].scaler is not precision.steps["D"].scaler


def test_torch_npus_static_scaler_changes_and_skips_nothing(npu: torch.device) -> None:
    scaler = torch.npu.amp.GradScaler(init_scale=64.0, dynamic=False)
    param = nn.Parameter(torch.ones(3, device=npu))
    optimizer = torch.optim.SGD([param], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        scaler.scale(param.sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 64.0
    assert torch.allclose(param.detach().cpu(), torch.full((3,), 0.8))

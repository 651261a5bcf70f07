"""NpuFusedAdam: each of its defects exists, and our own classes avoid all of them.

The first of a pair shows the optimizer by itself, the second how `Precision` and `Update` avoid it.
"""
from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from npu_suite import differing, farthest
from torch import nn

from engine import device as devices
from engine.precision import Precision
from tools.golden import fill, make_input


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).tanh())


def network(device: torch.device | str) -> Net:
    made = Net()
    fill(made)
    return made.to(device)


def loss_of(net: nn.Module, step: int, device: torch.device | str) -> torch.Tensor:
    return net(make_input(f"fused{step}", (2, 3, 8, 8)).to(device)).square().mean()


def fused(params: object, **settings: object) -> torch.optim.Optimizer:
    import torch_npu
    return torch_npu.optim.NpuFusedAdam(params, lr=1e-2, betas=(0.9, 0.99), **settings)


def steps(net: nn.Module, optimizer: torch.optim.Optimizer, numbers: range,
          zero: Callable | None = None) -> None:
    """Plain training steps, `zero` instead of the optimizer's own zero_grad."""
    device = next(net.parameters()).device
    for step in numbers:
        (zero or optimizer.zero_grad)()
        loss_of(net, step, device).backward()
        optimizer.step()


def weights_of(net: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.detach().cpu().clone() for key, value in net.state_dict().items()}


def adam_weights(count: int) -> dict[str, torch.Tensor]:
    """What torch's Adam makes of the network on the CPU."""
    net = network("cpu")
    steps(net, torch.optim.Adam(net.parameters(), lr=1e-2, betas=(0.9, 0.99)), range(count))
    return weights_of(net)


def prepared(net: nn.Module, device: torch.device, every_gradient: bool = True,
             **settings: object) -> tuple[Precision, nn.Module]:
    precision = Precision(device, **{"opt_level": "O0", **settings})
    plan = (["G"], lambda net: [{"params": list(net.parameters())}],
            {"lr": 1e-2, "betas": (0.9, 0.99)})
    return precision, precision.prepare({"G": net}, {"G": plan}, every_gradient)["G"]


def update_steps(precision: Precision, net: nn.Module, numbers: range) -> None:
    for step in numbers:
        precision.steps["G"].step(loss_of(net, step, precision.device))


# ---- values -------------------------------------------------------------------------------------

def test_values_are_adams(npu: torch.device) -> None:
    net = network(npu)
    steps(net, fused(net.parameters()), range(10))
    assert farthest(weights_of(net), adam_weights(10)) < 1e-6


@pytest.mark.parametrize("settings", [{"weight_decay": 0.1}, {"amsgrad": True}])
def test_other_settings_are_adams_too(settings: dict, npu: torch.device) -> None:
    net, other = network(npu), network("cpu")
    steps(net, fused(net.parameters(), **settings), range(6))
    steps(other, torch.optim.Adam(other.parameters(), lr=1e-2, betas=(0.9, 0.99), **settings),
          range(6))
    assert farthest(weights_of(net), weights_of(other)) < 1e-6


def test_precision_takes_it_by_itself_and_gets_adams_values(npu: torch.device) -> None:
    precision, net = prepared(network(npu), npu)
    update_steps(precision, net, range(10))
    assert type(precision.steps["G"].optimizer).__name__ == "NpuFusedAdam"
    assert farthest(weights_of(net), adam_weights(10)) < 1e-6


# ---- gradients ----------------------------------------------------------------------------------

def test_alone_it_steps_with_stale_gradients_after_the_modules_zero_grad(npu: torch.device) -> None:
    net = network(npu)
    steps(net, fused(net.parameters()), range(5), zero=net.zero_grad)
    assert farthest(weights_of(net), adam_weights(5)) > 1e-3


@pytest.mark.parametrize("level", ["O0", "O2"])
def test_update_zeroes_through_the_optimizer(level: str, npu: torch.device) -> None:
    """Gradients that somebody left behind before the step do not count either."""
    precision, net = prepared(network(npu), npu, opt_level=level, loss_scale=None)
    for step in range(5):
        precision.steps["G"].step(loss_of(net, step, npu))
        loss_of(net, 50 + step, npu).backward()
    limit = 1e-6 if level == "O0" else 2e-2     # fp16 weights; stale gradients give 4e-2 and more
    state = {key: value.cpu() for key, value in precision.state_of(
        net if level == "O0" else net.network).items()}
    assert farthest(state, adam_weights(5)) < limit


def test_alone_it_refuses_set_to_none(npu: torch.device) -> None:
    net = network(npu)
    with pytest.raises(ValueError, match="set_to_none"):
        fused(net.parameters()).zero_grad(set_to_none=True)


def test_alone_it_dies_of_a_late_first_gradient(npu: torch.device) -> None:
    net = network(npu)
    optimizer = fused(net.parameters())
    net.first(torch.ones(1, 3, 8, 8, device=npu)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    loss_of(net, 0, npu).backward()
    with pytest.raises(KeyError, match="step"):
        optimizer.step()


def test_precision_takes_adam_for_models_with_late_gradients(npu: torch.device) -> None:
    precision, _ = prepared(network(npu), npu, every_gradient=False)
    assert type(precision.steps["G"].optimizer) is torch.optim.Adam
    with pytest.raises(ValueError, match=r"--optimizer fused.*--optimizer adam"):
        prepared(network(npu), npu, every_gradient=False, optimizer="fused")


def test_frozen_parameters_never_reach_it(npu: torch.device) -> None:
    net = network(npu)
    net.first.requires_grad_(False)
    before = weights_of(net)
    precision, wrapped = prepared(net, npu)
    update_steps(precision, wrapped, range(3))
    moved = differing(before, weights_of(net))
    assert sorted(moved) == ["second.bias", "second.weight"]


def test_a_step_without_any_gradient_changes_nothing(npu: torch.device) -> None:
    net = network(npu)
    before = weights_of(net)
    optimizer = fused(net.parameters())
    optimizer.zero_grad()
    optimizer.step()
    assert differing(before, weights_of(net)) == []


def test_clipping_returns_the_norm_before_and_limits_what_is_taken(npu: torch.device) -> None:
    net, other = network(npu), network("cpu")
    optimizer = fused(net.parameters())
    for made, device in ((net, npu), (other, "cpu")):
        loss_of(made, 0, device).backward()
    expected = nn.utils.clip_grad_norm_(other.parameters(), 1e-2)
    assert float(optimizer.clip_grad_norm_fused_(1e-2)) == pytest.approx(float(expected), rel=1e-5)
    for one, two in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.allclose(one.grad.cpu(), two.grad, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("level", ["O0", "O2"])
def test_update_clips_the_fused_gradients(level: str, npu: torch.device) -> None:
    precision, net = prepared(network(npu), npu, opt_level=level, grad_clip=1e-3)
    update_steps(precision, net, range(3))
    assert float(precision.steps["G"].gradient_norm()) == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("scaler", ["torch", "torch_npu"])
def test_both_scalers_step_it_and_skip_on_overflow(scaler: str, npu: torch.device) -> None:
    net = network(npu)
    optimizer = fused(net.parameters())
    scaler = (torch.amp.GradScaler("npu") if scaler == "torch" else torch.npu.amp.GradScaler())
    for step in range(3):
        optimizer.zero_grad()
        loss = loss_of(net, step, npu)
        scaler.scale(loss * float("inf") if step == 2 else loss).backward()
        scaler.step(optimizer)
        scaler.update()
    assert farthest(weights_of(net), adam_weights(2)) < 1e-5
    assert scaler.get_scale() == 2.0 ** 15


# ---- states -------------------------------------------------------------------------------------

def state_after(count: int, optimizer_of: Callable, device: torch.device | str,
                ) -> tuple[dict, dict]:
    net = network(device)
    optimizer = optimizer_of(net.parameters())
    steps(net, optimizer, range(count))
    return copy.deepcopy(optimizer.state_dict()), weights_of(net)


def adam(params: object) -> torch.optim.Optimizer:
    return torch.optim.Adam(params, lr=1e-2, betas=(0.9, 0.99))


def continued(device: torch.device, before: int = 0) -> dict[str, torch.Tensor]:
    """Weights after steps 5 to 9; five steps' state is loaded after `before` steps of its own."""
    state, weights = state_after(5, fused, device)
    net = network(device)
    optimizer = fused(net.parameters())
    steps(net, optimizer, range(100, 100 + before))
    net.load_state_dict(weights)
    optimizer.load_state_dict(state)
    steps(net, optimizer, range(5, 10))
    return weights_of(net)


def test_alone_a_state_loaded_before_the_first_step_is_exact(npu: torch.device) -> None:
    assert farthest(continued(npu), adam_weights(10)) < 1e-6


def test_alone_a_state_loaded_after_a_step_is_ignored(npu: torch.device) -> None:
    assert farthest(continued(npu, before=1), adam_weights(10)) > 1e-3


def test_alone_a_tensor_step_counts_double_for_the_first_parameter(npu: torch.device) -> None:
    state, _ = state_after(5, adam, "cpu")
    net = network(npu)
    optimizer = fused(net.parameters())
    optimizer.load_state_dict(state)
    steps(net, optimizer, range(5, 10))
    counts = [int(entry["step"]) for entry in optimizer.state.values()]
    assert counts == [15, 10, 10, 10]


def test_its_state_goes_on_in_torchs_adam(npu: torch.device) -> None:
    state, weights = state_after(5, fused, npu)
    precision, net = prepared(network("cpu"), torch.device("cpu"), optimizer="adam")
    precision.load_state_of(net, weights)
    for entry in state["state"].values():
        entry.update({key: value.cpu() for key, value in entry.items()
                      if isinstance(value, torch.Tensor)})
    precision.load_optimizer("G", state)
    update_steps(precision, net, range(5, 10))
    assert farthest(weights_of(net), adam_weights(10)) < 1e-6


@pytest.mark.parametrize("origin", ["fused", "adam"])
def test_precision_restores_it_exactly_from_either_state(origin: str, npu: torch.device) -> None:
    state, weights = state_after(5, {"fused": fused, "adam": adam}[origin],
                                 npu if origin == "fused" else "cpu")
    precision, net = prepared(network(npu), npu)
    precision.load_state_of(net, weights)
    precision.load_optimizer("G", state)
    update_steps(precision, net, range(5, 10))
    assert farthest(weights_of(net), adam_weights(10)) < 1e-6
    assert {int(entry["step"]) for entry in precision.steps["G"].optimizer.state.values()} == {10}


def test_precision_refuses_a_state_after_a_step(npu: torch.device) -> None:
    precision, net = prepared(network(npu), npu)
    update_steps(precision, net, range(1))
    with pytest.raises(AssertionError, match="ignores a load"):
        precision.load_optimizer("G", precision.steps["G"].optimizer.state_dict())


# ---- parameters ---------------------------------------------------------------------------------

def test_alone_it_loses_a_parameter_whose_data_is_replaced(npu: torch.device) -> None:
    net = network(npu)
    optimizer = fused(net.parameters())
    steps(net, optimizer, range(1))
    net.first.weight.data = net.first.weight.data.clone()
    before = weights_of(net)
    steps(net, optimizer, range(1, 3))
    assert "first.weight" not in differing(before, weights_of(net))


def test_weights_copied_in_place_stay_in_its_buffer(npu: torch.device) -> None:
    precision, net = prepared(network(npu), npu)
    update_steps(precision, net, range(1))
    precision.load_state_of(net, network("cpu").state_dict())
    before = weights_of(net)
    update_steps(precision, net, range(1, 2))
    assert len(differing(before, weights_of(net))) == 4


@pytest.mark.parametrize("device, dtype, error", [
    ("npu", torch.bfloat16, TypeError), ("cpu", torch.float32, NotImplementedError)])
def test_alone_it_takes_neither_bf16_nor_cpu_parameters(device: str, dtype: torch.dtype,
                                                        error: type, npu: torch.device) -> None:
    param = nn.Parameter(torch.ones(3, device=npu if device == "npu" else "cpu", dtype=dtype))
    optimizer = fused([param])
    param.grad = torch.ones_like(param)
    with pytest.raises(error):
        optimizer.step()


def test_precision_refuses_bf16_up_front_and_never_uses_it_on_the_cpu(npu: torch.device) -> None:
    with pytest.raises(ValueError, match="--amp_dtype bf16"):
        Precision(npu, opt_level="O1", amp_dtype="bf16")
    build, name = devices.fused_adam(torch.device("cpu"))
    assert "Npu" not in name and build([nn.Parameter(torch.ones(1))]).defaults["fused"]


def test_masters_are_what_it_holds_under_o2(npu: torch.device) -> None:
    precision, net = prepared(network(npu), npu, opt_level="O2")
    update_steps(precision, net, range(2))
    held = precision.steps["G"].optimizer.param_groups[0]["params"]
    assert {p.dtype for p in held} == {torch.float32}
    for weight, master in precision.steps["G"].pairs:
        assert weight.dtype is torch.float16 and torch.equal(weight.cpu(), master.half().cpu())

"""The real NpuFusedAdam: each of its defects, and that our code avoids it."""
from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from engine.precision import Precision

STEPS, LR, BETAS = 10, 1e-2, (0.9, 0.99)
EQUAL = 1e-7        # fp32 rounding of another order of operations


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))


def loss_of(net: nn.Module, step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    x, y = torch.randn(4, 3, generator=generator), torch.randn(4, 2, generator=generator)
    device = next(net.parameters()).device
    return (net(x.to(device)) - y.to(device)).square().mean()


def steps(net: nn.Module, optimizer: torch.optim.Optimizer, first: int = 0, count: int = STEPS,
          zero: Callable | None = None) -> None:
    for step in range(first, first + count):
        (zero or optimizer.zero_grad)()
        loss_of(net, step).backward()
        optimizer.step()


def apart(one: nn.Module, other: nn.Module) -> float:
    """Largest difference of two networks' weights."""
    return max(float((p.cpu() - q.cpu()).detach().abs().max())
               for p, q in zip(one.parameters(), other.parameters(), strict=True))


def reference(count: int = STEPS) -> tuple[nn.Module, torch.optim.Adam]:
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), lr=LR, betas=BETAS)
    steps(net, optimizer, count=count)
    return net, optimizer


def fused(net: nn.Module) -> torch.optim.Optimizer:
    import torch_npu
    return torch_npu.optim.NpuFusedAdam(net.parameters(), lr=LR, betas=BETAS)


@pytest.fixture
def net(card: torch.device) -> nn.Module:
    return network().to(card)


# ---- the optimizer itself ------------------------------------------------------------------------

def test_ten_steps_equal_torch_adam(net: nn.Module) -> None:
    steps(net, fused(net))
    assert apart(net, reference()[0]) < EQUAL


def test_zeroing_through_the_module_steps_with_stale_gradients(net: nn.Module) -> None:
    steps(net, fused(net), zero=net.zero_grad)
    assert apart(net, reference()[0]) > 1e-3


def test_zero_grad_with_set_to_none_raises(net: nn.Module) -> None:
    with pytest.raises(ValueError):
        fused(net).zero_grad(set_to_none=True)


def test_a_parameter_whose_first_gradient_is_late_raises(net: nn.Module) -> None:
    optimizer = fused(net)
    optimizer.zero_grad()
    net[2](torch.zeros(1, 8, device=net[0].weight.device)).sum().backward()
    optimizer.step()
    with pytest.raises(KeyError, match="step"):
        steps(net, optimizer, count=2)


def state_after(count: int, kind: Callable, net: nn.Module) -> tuple[dict, dict]:
    optimizer = kind(net)
    steps(net, optimizer, count=count)
    return copy.deepcopy(net.state_dict()), copy.deepcopy(optimizer.state_dict())


def test_a_state_loaded_before_the_first_step_is_exact(net: nn.Module) -> None:
    weights, state = state_after(5, fused, net)
    other = network().to(net[0].weight.device)
    other.load_state_dict(weights)
    optimizer = fused(other)
    optimizer.load_state_dict(state)
    steps(other, optimizer, first=5, count=5)
    assert apart(other, reference()[0]) < EQUAL


def test_a_state_loaded_after_a_step_is_ignored(net: nn.Module) -> None:
    weights, state = state_after(5, fused, net)
    other = network().to(net[0].weight.device)
    optimizer = fused(other)
    steps(other, optimizer, first=50, count=1)
    other.load_state_dict(weights)
    optimizer.load_state_dict(state)
    steps(other, optimizer, first=5, count=5)
    assert apart(other, reference()[0]) > 1e-3


@pytest.mark.parametrize("as_integer", [False, True])
def test_torch_adams_tensor_step_counts_double_for_the_first_parameter(
        as_integer: bool, net: nn.Module) -> None:
    source, adam = reference(5)
    state = copy.deepcopy(adam.state_dict())
    if as_integer:
        for entry in state["state"].values():
            entry["step"] = int(entry["step"])
    net.load_state_dict(source.state_dict())
    optimizer = fused(net)
    optimizer.load_state_dict(state)
    steps(net, optimizer, first=5, count=5)
    counts = [int(entry["step"]) for entry in optimizer.state_dict()["state"].values()]
    if as_integer:
        assert set(counts) == {10} and apart(net, reference()[0]) < EQUAL
    else:
        assert counts[0] == 15 and apart(net, reference()[0]) > EQUAL


def test_its_state_goes_into_torch_adam_exactly(net: nn.Module) -> None:
    weights, state = state_after(5, fused, net)
    other = network()
    other.load_state_dict(weights)
    adam = torch.optim.Adam(other.parameters(), lr=LR, betas=BETAS)
    for entry in state["state"].values():
        entry["step"] = torch.tensor(float(entry["step"]))
    adam.load_state_dict(state)
    steps(other, adam, first=5, count=5)
    assert apart(other, reference()[0]) < EQUAL


def test_a_replaced_parameter_never_moves_again(net: nn.Module) -> None:
    optimizer = fused(net)
    steps(net, optimizer, count=1)
    net[0].weight.data = net[0].weight.data.clone()
    before = net[0].weight.detach().clone()
    steps(net, optimizer, first=1, count=3)
    assert torch.equal(net[0].weight, before)


def test_loading_weights_in_place_is_fine(net: nn.Module) -> None:
    optimizer = fused(net)
    steps(net, optimizer, count=5)
    net.load_state_dict(reference(5)[0].state_dict())
    steps(net, optimizer, first=5, count=5)
    assert apart(net, reference()[0]) < EQUAL


def test_bf16_parameters_raise(card: torch.device) -> None:
    net = network().to(card).bfloat16()
    optimizer = fused(net)
    with pytest.raises(TypeError):
        net(torch.ones(1, 3, device=card, dtype=torch.bfloat16)).sum().backward()
        optimizer.step()


def test_parameters_on_the_cpu_raise() -> None:
    net = network()
    optimizer = fused(net)
    loss_of(net, 0).backward()
    with pytest.raises(NotImplementedError):
        optimizer.step()


def test_a_scheduler_is_fine(net: nn.Module) -> None:
    optimizer = fused(net)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 if step < 10 else 0.0)
    for step in range(STEPS + 3):
        steps(net, optimizer, first=step, count=1)
        scheduler.step()
    assert apart(net, reference()[0]) < EQUAL


def test_a_first_step_without_gradients_does_nothing_but_spoils_the_second(net: nn.Module) -> None:
    optimizer = fused(net)
    optimizer.step()
    assert apart(net, network()) == 0
    with pytest.raises(KeyError, match="step"):
        steps(net, optimizer, count=1)


def test_fused_clipping_returns_the_norm_before_and_clips(net: nn.Module) -> None:
    optimizer = fused(net)
    optimizer.zero_grad()
    (100 * loss_of(net, 0)).backward()
    before = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in net.parameters()]))
    norm = optimizer.clip_grad_norm_fused_(1.0)
    after = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in net.parameters()]))
    assert float(norm) == pytest.approx(float(before), rel=1e-5)
    assert float(after) == pytest.approx(1.0, abs=1e-4)


# ---- behind our own step -------------------------------------------------------------------------

def prepared(net: nn.Module, device: torch.device, every_gradient: bool = True,
             **settings: object) -> tuple[Precision, nn.Module]:
    precision = Precision(device, opt_level="O0", **settings)
    plan = (["G"], lambda member: [{"params": list(member.parameters())}],
            {"lr": LR, "betas": BETAS})
    return precision, precision.prepare({"G": net}, {"G": plan}, every_gradient)["G"]


def our_steps(precision: Precision, net: nn.Module, first: int = 0, count: int = STEPS) -> None:
    for step in range(first, first + count):
        precision.steps["G"].step(loss_of(net, step))


@pytest.mark.parametrize("optimizer", ["auto", "fused"])
def test_our_step_takes_it_and_equals_torch_adam(optimizer: str, net: nn.Module,
                                                 card: torch.device) -> None:
    precision, called = prepared(net, card, optimizer=optimizer)
    assert type(precision.steps["G"].optimizer).__name__ == "NpuFusedAdam"
    our_steps(precision, called)
    assert apart(net, reference()[0]) < EQUAL


def test_our_step_survives_gradients_cleared_behind_its_back(net: nn.Module,
                                                             card: torch.device) -> None:
    precision, called = prepared(net, card)
    for step in range(STEPS):
        precision.steps["G"].step(loss_of(called, step))
        precision.steps["G"].zero()
    assert apart(net, reference()[0]) < EQUAL


def test_a_model_with_late_gradients_gets_torch_adam(net: nn.Module, card: torch.device) -> None:
    precision, _ = prepared(net, card, every_gradient=False)
    assert type(precision.steps["G"].optimizer) is torch.optim.Adam
    with pytest.raises(ValueError, match="without gradient"):
        prepared(network().to(card), card, every_gradient=False, optimizer="fused")


@pytest.mark.parametrize("source", ["adam", "fused"])
@pytest.mark.parametrize("target", ["adam", "fused"])
def test_resuming_across_optimizers_is_exact(source: str, target: str, net: nn.Module,
                                             card: torch.device) -> None:
    precision, called = prepared(net, card, optimizer=source)
    our_steps(precision, called, count=5)
    weights = copy.deepcopy(net.state_dict())
    state = copy.deepcopy(precision.steps["G"].optimizer.state_dict())
    other = network().to(card)
    other.load_state_dict(weights)
    resumed, called = prepared(other, card, optimizer=target)
    resumed.load_optimizer("G", state)
    our_steps(resumed, called, first=5, count=5)
    assert apart(other, reference()[0]) < EQUAL


def test_a_skipped_first_step_does_not_move_weights_under_a_forward_pass(
        net: nn.Module, card: torch.device) -> None:
    precision = Precision(card, opt_level="O2", loss_scale="dynamic")
    plan = (["G"], lambda member: [{"params": list(member.parameters())}],
            {"lr": LR, "betas": BETAS})
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1)).to(card)
    called = precision.prepare({"G": net}, {"G": plan}, True)["G"]
    start = net[1].weight.detach().clone()
    for step, factor in enumerate((float("inf"), 1.0, 1.0)):
        loss = called(torch.rand(2, 3, 4, 4, device=card)).square().mean() * factor
        precision.steps["G"].step(loss)
        assert torch.equal(net[1].weight.detach(), start) == (step == 0)


def test_loading_after_a_step_is_refused(net: nn.Module, card: torch.device) -> None:
    precision, called = prepared(net, card)
    our_steps(precision, called, count=1)
    with pytest.raises(AssertionError, match="ignores a load"):
        precision.load_optimizer("G", precision.steps["G"].optimizer.state_dict())


def test_our_clipping_limits_the_gradients_it_uses(net: nn.Module, card: torch.device) -> None:
    precision, called = prepared(net, card, grad_clip=1e-3)
    precision.steps["G"].step(loss_of(called, 0))
    assert float(precision.steps["G"].gradient_norm()) == pytest.approx(1e-3, rel=1e-3)


def test_bf16_is_refused_up_front(card: torch.device) -> None:
    with pytest.raises(ValueError, match="bf16"):
        Precision(card, opt_level="O1", amp_dtype="bf16")

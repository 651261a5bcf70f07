"""--amp_backend apex against a stand-in with the signatures and behavior of Ascend's apex."""
from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import npu_suite
import pytest
import torch
import torch.nn.functional as F
from npu_suite import FOLDER, ROOT, load
from torch import nn

from engine.optimizer_step import MicroBatch
from engine.precision import Precision
from tools.golden import fill, make_input

recorded = load(ROOT / "test" / "unit" / "engine" / "test_precision.py")
SETTINGS = {"lr": 1e-3, "betas": (0.9, 0.99)}


@pytest.fixture(autouse=True)
def apex(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """The stand-in, as a process that has just started sees it; called, it is so again."""
    monkeypatch.syspath_prepend(str(FOLDER / "ascend_apex"))

    def forget() -> None:
        for name in [name for name in sys.modules if name.split(".")[0] == "apex"]:
            del sys.modules[name]
    yield forget
    forget()


def prepared(network: nn.Module, device: torch.device, every_gradient: bool = True,
             **settings: object) -> tuple[Precision, nn.Module]:
    precision = Precision(device, amp_backend="apex", **{"opt_level": "O2", **settings})
    plan = (["G"], lambda net: [{"params": list(net.parameters())}], SETTINGS)
    networks = precision.prepare({"G": network.to(device)}, {"G": plan}, every_gradient)
    return precision, networks["G"]


def pair(step: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(make_input(f"amp_{kind}{step}", (2, 3, 8, 8)).to(device) for kind in "xy")


def run(precision: Precision, wrapped: nn.Module, steps: range, device: torch.device
        ) -> list[float]:
    losses = []
    for step in steps:
        x, y = pair(step, device)
        loss = F.l1_loss(wrapped(x), y)
        precision.steps["G"].step(loss)
        losses.append(float(loss.detach()))
    return losses


def net(device: torch.device) -> nn.Module:
    network = recorded.Net()
    fill(network)
    return network.to(device)


@pytest.mark.parametrize("optimizer", ["adam", "fused"])
@pytest.mark.parametrize("loss_scale", [None, "dynamic"])
@recorded.rounding_as_recorded()
def test_six_steps_give_the_recorded_numbers(optimizer: str, loss_scale: str | None,
                                             npu: torch.device) -> None:
    network = net(npu)
    precision, wrapped = prepared(network, npu, optimizer=optimizer, loss_scale=loss_scale)
    losses = run(precision, wrapped, range(6), npu)
    state = {key: float(value.cpu().double().sum())
             for key, value in precision.state_of(network).items()}
    recorded.assert_matches({"losses": losses, **state}, recorded.STATIC)
    scale = 65536.0 if loss_scale else 128.0
    assert precision.state_dict() == {
        "opt_level": "O2", "loss_scaler0": {"loss_scale": scale, "unskipped": 6}}


def test_saved_weights_are_the_masters_not_the_rounded_ones(npu: torch.device) -> None:
    network = net(npu)
    precision, wrapped = prepared(network, npu)
    run(precision, wrapped, range(2), npu)
    saved = precision.state_of(network)["conv2.weight"]
    assert saved.dtype == torch.float32
    assert not torch.equal(saved, saved.half().float())
    assert torch.equal(saved.half(), network.conv2.weight.detach())


@pytest.mark.parametrize("optimizer", ["adam", "fused"])
def test_going_on_from_a_file_equals_not_stopping(optimizer: str, npu: torch.device, tmp_path: Path,
                                                  apex: Callable) -> None:
    settings = {"optimizer": optimizer, "loss_scale": "dynamic"}
    whole_network = net(npu)
    whole, wrapped = prepared(whole_network, npu, **settings)
    run(whole, wrapped, range(3), npu)
    content = {"weights": whole.state_of(whole_network), "amp": whole.state_dict(),
               "optimizer": whole.steps["G"].optimizer.state_dict()}
    torch.save(npu_suite.newtrain.checkpoint._to_cpu(content), tmp_path / "state.pth")
    expected = run(whole, wrapped, range(3, 6), npu)
    apex()      # a new process
    state = torch.load(tmp_path / "state.pth", weights_only=True)
    network = recorded.Net().to(npu)
    precision, wrapped = prepared(network, npu, **settings)
    precision.load_state_of(network, state["weights"])
    precision.load_optimizer("G", state["optimizer"])
    precision.load_state_dict(state["amp"])
    assert run(precision, wrapped, range(3, 6), npu) == expected
    ours, theirs = precision.state_of(network), whole.state_of(whole_network)
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    assert precision.state_dict()["loss_scaler0"] == {"loss_scale": 65536.0, "unskipped": 6}


def test_a_file_of_native_o2_is_understood(npu: torch.device) -> None:
    precision, _ = prepared(net(npu), npu, loss_scale="dynamic")
    precision.load_state_dict({"opt_level": "O2", "G": {"loss_scaler0": {
        "loss_scale": 512.0, "unskipped": 3}}})     # other keys: the scale starts anew
    assert precision.state_dict()["loss_scaler0"]["loss_scale"] == 65536.0


def test_overflow_skips_the_step_and_halves_the_scale(npu: torch.device) -> None:
    network = net(npu)
    precision, wrapped = prepared(network, npu, loss_scale="dynamic")
    run(precision, wrapped, range(1), npu)
    before = {key: value.clone() for key, value in precision.state_of(network).items()
              if key in dict(network.named_parameters())}
    precision.steps["G"].step(wrapped(pair(1, npu)[0]).sum() * 1e6)
    after = precision.state_of(network)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert precision.state_dict()["loss_scaler0"] == {"loss_scale": 32768.0, "unskipped": 0}


def test_parts_of_a_batch_are_unscaled_once(npu: torch.device) -> None:
    """Two equal halves are the whole: gradients are summed before they are unscaled."""
    results = []
    for parts in ([MicroBatch()], [MicroBatch(True, False, 0.5), MicroBatch(False, True, 0.5)]):
        for name in [name for name in sys.modules if name.split(".")[0] == "apex"]:
            del sys.modules[name]
        network = net(npu).eval()       # batch statistics would tell the halves apart
        precision, wrapped = prepared(network, npu)
        x, y = pair(0, npu)
        for part in parts:
            precision.steps["G"].step(F.l1_loss(wrapped(x), y), at=part)
        assert precision.state_dict()["loss_scaler0"]["unskipped"] == 1
        results.append(precision.state_of(network)["conv2.weight"].cpu())
    assert torch.allclose(results[0], results[1], atol=1e-6)


def test_clipping_limits_the_unscaled_gradients(npu: torch.device) -> None:
    precision, wrapped = prepared(net(npu), npu, grad_clip=1e-3)
    run(precision, wrapped, range(1), npu)
    assert float(precision.steps["G"].gradient_norm()) == pytest.approx(1e-3, rel=1e-2)


def test_o1_leaves_weights_in_fp32(npu: torch.device) -> None:
    network = net(npu)
    precision, wrapped = prepared(network, npu, opt_level="O1")
    losses = run(precision, wrapped, range(2), npu)
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert losses == pytest.approx(recorded.STATIC["losses"][:2], abs=5e-3)


def test_amp_is_initialized_once_over_everything(npu: torch.device,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    from apex import amp
    calls, real = [], amp.initialize

    def spy(models: list, optimizers: list, **settings: object) -> tuple:
        calls.append((len(models), len(optimizers), settings))
        return real(models, optimizers, **settings)
    monkeypatch.setattr(amp, "initialize", spy)
    spy.__signature__ = inspect.signature(real)
    precision = Precision(npu, opt_level="O2", amp_backend="apex", loss_scale="64")
    networks = {"G": net(npu), "D": net(npu), "fixed": net(npu)}
    plans = {name: ([name], lambda network: [{"params": list(network.parameters())}], SETTINGS)
             for name in "GD"}
    wrapped = precision.prepare(networks, plans, every_gradient=True)
    assert calls == [(2, 2, {"opt_level": "O2", "loss_scale": 64.0, "combine_grad": True,
                             "num_losses": 2})]
    assert wrapped["fixed"].conv1.weight.dtype == torch.float32
    precision.steps["D"].step(wrapped["D"](pair(0, npu)[0]).sum())
    assert [scaler["unskipped"] for scaler in (
        precision.state_dict()[f"loss_scaler{i}"] for i in range(2))] == [0, 1]


def test_a_model_with_missing_gradients_gets_the_plain_adam(npu: torch.device) -> None:
    precision, _ = prepared(net(npu), npu, every_gradient=False)
    assert type(precision.steps["G"].optimizer) is torch.optim.Adam
    with pytest.raises(ValueError, match="--optimizer fused"):
        prepared(net(npu), npu, every_gradient=False, optimizer="fused")


@pytest.mark.parametrize("settings, word", [({"opt_level": "O0"}, "O1 or O2")])
def test_levels_that_apex_has_no_part_in_are_refused(settings: dict, word: str,
                                                     npu: torch.device) -> None:
    with pytest.raises(ValueError, match=word):
        prepared(net(npu), npu, **settings)


def test_newtrain_trains_and_resumes_with_it(tmp_path: Path, apex: Callable) -> None:
    arguments = ("sparnet", "npu", "--opt_level", "O2", "--amp_backend", "apex",
                 "--save_latest_freq", 2)
    whole = npu_suite.train(tmp_path / "whole", *arguments, "--train_steps", 4)
    apex()
    npu_suite.train(tmp_path / "parts", *arguments, "--train_steps", 2)
    apex()
    parts = npu_suite.train(tmp_path / "parts", *arguments, "--train_steps", 4, "--continue_train")
    assert "Ascend apex" in parts.result["precision"]
    assert npu_suite.differing(whole.weights, parts.weights) == []

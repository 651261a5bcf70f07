"""Training on the NPU is training on the CPU: every model and precision, stopped and resumed."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from npu_suite import Run, differing, farthest, leaves, train

import models

MODELS = pytest.mark.parametrize("name", models.names())
# SPARNetHD takes as long as four others; `make deep` has it everywhere.
MOST = pytest.mark.parametrize("name", [
    pytest.param(name, marks=[pytest.mark.deep] * (name == "sparnethd"))
    for name in models.names()])
QUICK_O2 = ("sparnet", "stylegan2")
O0 = ("--opt_level", "O0", "--train_steps", 3)
ADAM = ("--optimizer", "adam")


@MODELS
def test_o0_training_is_bit_identical_to_the_cpus(name: str, trained: Callable[..., Run]) -> None:
    npu, cpu = (trained(name, device, *O0, *ADAM) for device in ("npu", "cpu"))
    assert (npu.result["device"], cpu.result["device"]) == ("npu", "cpu")
    assert npu.losses == cpu.losses
    assert differing(npu.weights, cpu.weights) == []


@MOST
def test_the_fused_optimizer_trains_as_adam_does(name: str, trained: Callable[..., Run]) -> None:
    """Adam's first steps divide gradients by their own size, so that rounding of a gradient near
    zero may move its weight by the learning rate (2e-4) the other way; the losses hardly see it."""
    if not models.find(name).every_gradient:
        pytest.skip("NpuFusedAdam does not fit a model that leaves parameters without gradient")
    fused, adam = trained(name, "npu", *O0), trained(name, "npu", *O0, *ADAM)
    for one, other in zip(fused.losses, adam.losses, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    assert farthest(fused.weights, adam.weights) < 3 * 2 * 2e-4 * 1.01


@MOST
@pytest.mark.parametrize("level", ["O1", "O2"])
def test_mixed_precision_stays_close_to_fp32(name: str, level: str,
                                             trained: Callable[..., Run]) -> None:
    """fp16 rounds by 2**-11 = 5e-4 relative at each of some dozen layers in a row, hence 2 % for
    the first losses. After a step the whole loss is compared, to 5 %: Adam moves a weight with a
    tiny gradient either way, which small terms feel more than they weigh. The scale is small, so
    that no step is skipped while a dynamic one would come down."""
    low = trained(name, "npu", "--opt_level", level, "--loss_scale", 16, "--train_steps", 3, *ADAM)
    full = trained(name, "cpu", *O0, *ADAM)
    assert low.result["opt_level"] == level
    # Adversarial terms are means of logits around zero, so that their own size says nothing.
    assert low.losses[0] == pytest.approx(full.losses[0], rel=2e-2, abs=5e-3)
    for one, other in zip(low.losses, full.losses, strict=True):
        assert sum(one.values()) == pytest.approx(sum(other.values()), rel=5e-2)


# SPARNetHD's steps take long; with the real front end it resumes, too (test/npu/wheel).
@pytest.mark.parametrize("name, level", [
    pytest.param(name, level, marks=[pytest.mark.deep] * (
        name == "sparnethd" or (level == "O2" and name not in QUICK_O2)))
    for name in models.names() for level in ("O0", "O2")])
def test_resuming_equals_not_stopping(name: str, level: str, tmp_path: Path,
                                      trained: Callable[..., Run]) -> None:
    """With the optimizer that `--optimizer auto` takes, the fused one where the model allows; the
    scale is small, so that no step is skipped."""
    settings = ("--opt_level", level, *(("--loss_scale", 16) if level == "O2" else ()))
    whole = trained(name, "npu", *settings, "--train_steps", 3)
    train(tmp_path, name, "npu", *settings, "--train_steps", 2)
    again = train(tmp_path, name, "npu", *settings, "--train_steps", 3, "--continue_train")
    assert again.losses == whole.losses
    assert differing(again.weights, whole.weights) == []


@MOST
@pytest.mark.parametrize("first, second", [("cpu", "npu"), ("npu", "cpu")])
def test_a_run_goes_on_exactly_on_the_other_device(name: str, first: str, second: str,
                                                   tmp_path: Path,
                                                   trained: Callable[..., Run]) -> None:
    train(tmp_path, name, first, "--opt_level", "O0", "--train_steps", 2, *ADAM)
    again = train(tmp_path, name, second, *O0, *ADAM, "--continue_train")
    whole = trained(name, "cpu", *O0, *ADAM)
    assert again.losses == whole.losses
    assert differing(again.weights, whole.weights) == []


@MOST
def test_a_cpu_runs_tensor_steps_go_on_under_the_fused_optimizer(
        name: str, tmp_path: Path, trained: Callable[..., Run]) -> None:
    """Steps that count double for a parameter change its bias correction from 2.9 to 4.7, and with
    it the third step by more than half the learning rate everywhere in its buffer."""
    train(tmp_path, name, "cpu", "--opt_level", "O0", "--train_steps", 2, *ADAM)
    again = train(tmp_path, name, "npu", *O0, "--continue_train")
    whole = trained(name, "cpu", *O0, *ADAM)
    moved = [(again.weights[key] - whole.weights[key]).abs().mean() for key in whole.weights
             if whole.weights[key].is_floating_point()]
    assert float(max(moved)) < 2e-5
    steps = {entry["step"] if isinstance(entry["step"], int) else int(entry["step"])
             for optimizer in again.state["optimizers"].values()
             for entry in optimizer["state"].values()}
    assert steps == {3}


@MOST
def test_checkpoints_hold_cpu_tensors_only(name: str, trained: Callable[..., Run]) -> None:
    run = trained(name, "npu", "--opt_level", "O2", "--train_steps", 3)
    assert {tensor.device.type for tensor in leaves([run.state, run.weights])} == {"cpu"}
    assert {tensor.dtype for tensor in leaves(run.weights) if tensor.is_floating_point()} == {
        torch.float32}

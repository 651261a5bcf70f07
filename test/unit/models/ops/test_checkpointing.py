"""--checkpointing: the same numbers bit for bit, out of less memory."""
from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ROOT, models_and_levels, tiny_arguments, torchrun_command
from torch import Tensor, nn

import models
from models.ops.blocks import ConvUnit
from models.ops.checkpointing import checkpointed, run_blocks
from models.ops.spectral import apply_spectral_norm

# The perceptual loss takes most of a tiny step and has no part in this.
FAST = {"sparnethd": ["--lambda_pcp", "0"]}


def steps(model: object, batch: dict, count: int = 2) -> dict[str, Tensor]:
    """Losses, gradients, weights and buffers of the first steps, by name."""
    found: dict[str, Tensor] = {}
    for step in range(1, count + 1):
        model.start_step(step, 100, 100)
        losses = model.run_step(batch)
        found |= {f"loss {name} {step}": loss for name, loss in losses.items()}
        for letter, network in model.unwrapped.items():
            found |= {f"gradient {letter} {key} {step}": weight.grad.clone()
                      for key, weight in network.named_parameters() if weight.grad is not None}
    for letter, state in model.weights().items():
        found |= {f"state {letter} {key}": value for key, value in state.items()}
    return found


def saved_bytes(function: Callable[[], object]) -> int:
    """Bytes that autograd keeps for the backward pass of what a function computes."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = function()         # held until here, so that no address is used twice
    assert result is not None
    return sum(kept.values())


@pytest.mark.parametrize("name, level", models_and_levels())
def test_checkpointing_changes_no_number_of_a_step(name: str, level: str, tiny_run: Callable
                                                   ) -> None:
    runs = []
    for switch in ("--checkpointing", "--no-checkpointing"):
        # A small scale: gradients that overflow, as a dynamic one's first do, equal nothing.
        scale = ["--loss_scale", "16"] if level == "O2" else []
        model, batch = tiny_run(name, "--opt_level", level, switch, *scale, *FAST.get(name, []))
        runs.append(steps(model, batch, 2 if level == "O0" else 1))
    assert runs[0].keys() == runs[1].keys()
    assert [key for key in runs[0] if not torch.equal(runs[0][key], runs[1][key])] == []


@pytest.mark.parametrize("Gnorm", ["gn", "none"])
def test_checkpointing_suits_every_norm(Gnorm: str, tiny_run: Callable) -> None:
    runs = [steps(*tiny_run("sparnet", "--Gnorm", Gnorm, switch))
            for switch in ("--checkpointing", "--no-checkpointing")]
    assert [key for key in runs[0] if not torch.equal(runs[0][key], runs[1][key])] == []


@pytest.mark.parametrize("name", models.names())
def test_checkpointing_keeps_less_for_the_backward_pass(name: str, tiny_run: Callable) -> None:
    sizes = {}
    for switch in ("--checkpointing", "--no-checkpointing"):
        model, batch = tiny_run(name, switch, *FAST.get(name, []))
        name_of_network = model.optimizer_names()[0]
        inputs: list[tuple] = []
        hook = model.unwrapped[name_of_network].register_forward_pre_hook(
            lambda _, args, inputs=inputs: inputs.append(args))
        model.run_step(batch)
        hook.remove()
        sizes[switch] = saved_bytes(
            lambda network=model.networks[name_of_network], args=inputs[0]: network(*args))
    assert sizes["--checkpointing"] < 0.4 * sizes["--no-checkpointing"]


def test_without_gradients_nothing_is_computed_twice() -> None:
    calls = []
    block = ConvUnit(3, 3)
    block.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        run_blocks(nn.Sequential(block), torch.rand(1, 3, 8, 8), checkpointing=True)
    assert len(calls) == 1


@pytest.mark.parametrize("norm", ["bn", "in"])
def test_the_second_computation_leaves_the_block_as_it_found_it(norm: str) -> None:
    block = apply_spectral_norm(ConvUnit(3, 4, norm=norm, activation=True))
    result = checkpointed(block, torch.rand(2, 3, 8, 8))
    state, places = block.state_dict(), [id(buffer) for buffer in block.buffers()]
    state = {key: value.clone() for key, value in state.items()}
    result.sum().backward()
    assert all(torch.equal(value, state[key]) for key, value in block.state_dict().items())
    assert [id(buffer) for buffer in block.buffers()] == places
    assert all(module.training for module in block.modules())


def test_a_batch_norm_that_keeps_no_statistics_is_left_alone() -> None:
    block = nn.BatchNorm2d(3, track_running_stats=False)
    checkpointed(block, torch.rand(2, 3, 8, 8)).sum().backward()
    assert not block.track_running_stats and block.running_mean is None


@pytest.mark.deep
def test_synchronised_norms_are_checkpointed_too(run_ranks: Callable, tmp_path: Path) -> None:
    for switch in ("--checkpointing", "--no-checkpointing"):
        run_ranks(*tiny_arguments("sparnet"), "--sync_bn", switch, "--train_steps", 2,
                  "--eval_freq", 0, "--name", switch.strip("-"))
    one, two = (torch.load(tmp_path / name / "latest_net_G.pth", weights_only=True)
                for name in ("checkpointing", "no-checkpointing"))
    assert [key for key in one if not torch.equal(one[key], two[key])] == []


@pytest.fixture
def run_ranks(tmp_path: Path) -> Callable[..., None]:
    """newtrain.py on two processes."""
    def run(*arguments: object) -> None:
        done = subprocess.run(
            [*torchrun_command(ROOT / "newtrain.py"), *map(str, arguments), "--no-tensorboard",
             "--checkpoints_dir", str(tmp_path)], capture_output=True, text=True, timeout=240,
            env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stdout + done.stderr
    return run

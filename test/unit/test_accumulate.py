"""--accumulate: parts of a step add up to the step, in every precision and on several processes."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ROOT, tiny_arguments, torchrun_command
from torch import Tensor

import data
import models
from data.base_dataset import collate
from models.base_model import BaseModel, split
from utils.update import LossScaler

# Without batch statistics a loss is a mean over samples, and parts can equal the whole. The
# perceptual loss takes most of a tiny step and has no part in this.
PLAIN = {"sparnet": ["--Gnorm", "in"], "sparnethd": ["--lambda_pcp", "0"]}


def make(tiny_run: Callable, name: str, samples: int, *arguments: str) -> tuple[BaseModel, dict]:
    """A recipe and a batch of so many samples, which `run_step` splits by --batch_size."""
    model, _ = tiny_run(name, *PLAIN.get(name, []), *arguments)
    opt = model.opt
    dataset = data.create_dataset(opt.dataset_name, "train", opt.degradation, vars(opt))
    return model, model.prepare(collate([dataset[index] for index in range(samples)]))


def gradients(model: BaseModel) -> dict[str, Tensor]:
    """The fp32 gradients that the last step used, one vector per optimiser."""
    return {name: torch.cat([master.grad.double().flatten() for master in update.masters])
            for name, update in model.precision.updates.items()}


def distance(one: Tensor, two: Tensor) -> float:
    return float((one - two).norm() / two.norm())


def state_of(model: BaseModel) -> dict[str, Tensor]:
    return {f"{letter}.{key}": value.clone() for letter, state in model.weights().items()
            for key, value in state.items()}


# ---- parts and the whole -------------------------------------------------------------------------

@pytest.mark.parametrize("count, sizes", [(4, [2, 2]), (5, [2, 2, 1]), (1, [1]), (2, [2])])
def test_a_batch_falls_into_parts_in_order(count: int, sizes: list[int]) -> None:
    batch = {"lq": torch.arange(count), "path": [str(i) for i in range(count)], "bad": ["x"] * 3}
    parts = split(batch, 2)
    assert [len(part["path"]) for part in parts] == sizes
    assert torch.equal(torch.cat([part["lq"] for part in parts]), batch["lq"])
    assert [path for part in parts for path in part["path"]] == batch["path"]


@pytest.mark.parametrize("samples", [4, 3], ids=["equal parts", "a smaller last part"])
@pytest.mark.parametrize("name", models.names())
def test_gradients_and_losses_of_the_parts_are_those_of_the_batch(
        name: str, samples: int, tiny_run: Callable) -> None:
    """In eval mode, where spectral norms stand still: in training each part is one more power
    iteration."""
    runs = []
    for batch_size in ("4", "2"):
        model, batch = make(tiny_run, name, samples, "--batch_size", batch_size)
        model.eval()
        losses = model.run_step(batch)
        runs.append((gradients(model), losses))
    (whole, whole_losses), (parts, part_losses) = runs
    assert [letter for letter in whole if distance(parts[letter], whole[letter]) > 1e-4] == []
    for key, loss in whole_losses.items():
        # D's loss and features follow its weights, which are the same within a step.
        assert part_losses[key].item() == pytest.approx(loss.item(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("level", [["--opt_level", "O1", "--amp_dtype", "fp16"],
                                   ["--opt_level", "O2"]], ids=["O1", "O2"])
def test_scaled_gradients_of_the_parts_are_those_of_the_batch(level: list[str],
                                                              tiny_run: Callable) -> None:
    runs = []
    for batch_size in ("4", "2"):
        model, batch = make(tiny_run, "sparnet", 3, "--batch_size", batch_size, *level)
        model.run_step(batch)
        runs.append(gradients(model)["G"])
    assert distance(runs[1], runs[0]) < 0.02        # fp16 rounds to a thousandth


@pytest.mark.parametrize("name", models.names())
def test_optimisers_step_once_per_step(name: str, tiny_run: Callable) -> None:
    model, batch = make(tiny_run, name, 4)
    for step in (1, 2):
        model.start_step(step, 100, 100)
        model.run_step(batch)
    counts = {name: {int(entry["step"]) for entry in update.optimizer.state.values()}
              for name, update in model.precision.updates.items()}
    assert all(count == {2} for count in counts.values()), counts


def test_a_dynamic_loss_scale_counts_steps_not_parts(tiny_run: Callable) -> None:
    model, batch = make(tiny_run, "sparnet", 4, "--opt_level", "O2", "--loss_scale", "dynamic")
    scaler = model.precision.updates["G"].scaler
    scaler.loss_scale = 128.0
    model.run_step(batch)
    assert isinstance(scaler, LossScaler) and (scaler.unskipped, scaler.loss_scale) == (1, 128.0)


@pytest.mark.parametrize("level", ["O0", "O2"])
@pytest.mark.parametrize("poisoned", [0, 3], ids=["first part", "last part"])
def test_one_bad_part_spoils_and_skips_the_whole_step(poisoned: int, level: str,
                                                      tiny_run: Callable) -> None:
    model, batch = make(tiny_run, "sparnet", 4, "--opt_level", level)
    before = state_of(model)
    batch["gt"][poisoned] = float("nan")
    model.run_step(batch)
    after = state_of(model)
    assert model.bad_steps() == 1
    assert [key for key in before if not torch.equal(before[key], after[key])] == []


def test_the_average_moves_once_per_step(tiny_run: Callable) -> None:
    model, batch = make(tiny_run, "sparnethd", 4, "--ema_decay", "0.75")
    with torch.no_grad():
        for weight in model.bare["G"].parameters():
            weight += 0.1
    start = {letter: {key: weight.detach().clone() for key, weight
                      in model.bare[letter].named_parameters()} for letter in "GH"}
    model.run_step(batch)
    for key, weight in model.bare["H"].named_parameters():
        expected = 0.75 * start["H"][key] + 0.25 * start["G"][key]
        assert torch.allclose(weight, expected, rtol=1e-5, atol=1e-6), key


def test_parts_add_up_only_until_the_step(tiny_run: Callable) -> None:
    """The second step starts from cleared gradients."""
    model, batch = make(tiny_run, "sparnet", 4, "--lr", "1e-30")
    model.run_step(batch)
    first = gradients(model)["G"]
    model.run_step(batch)
    assert distance(gradients(model)["G"], first) < 1e-5


# ---- whole runs ----------------------------------------------------------------------------------

def train(folder: Path, name: str, *arguments: object, processes: int = 1,
          script: str = "newtrain.py") -> Path:
    """A run of SPARNetHD; its folder."""
    command = (torchrun_command(ROOT / script, processes) if processes > 1
               else [sys.executable, str(ROOT / script)])
    done = subprocess.run(
        [*command, *tiny_arguments("sparnethd"), *PLAIN["sparnethd"], "--checkpoints_dir",
         str(folder), "--name", name, "--no-tensorboard", "--print_freq", "1", "--eval_freq", "0",
         "--num_val_images", "0", "--accumulate", "2", *map(str, arguments)],
        capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / name


def weights(run: Path, letter: str) -> dict[str, Tensor]:
    return torch.load(run / f"latest_net_{letter}.pth", weights_only=True)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps in double precision, two batches of two each."""
    return train(tmp_path_factory.mktemp("whole"), "one", "--train_steps", 3, "--batch_size", 2,
                 script="test/unit/train_in_float64.py")


def test_the_result_counts_every_part(whole_run: Path) -> None:
    result = json.loads((whole_run / "result.json").read_text())
    assert (result["step"], result["batch_size"], result["accumulate"]) == (3, 2, 2)
    assert result["fps"] == pytest.approx(4 / result["sec_per_step"])


@pytest.mark.parametrize("letter", ["G", "D", "H"])
def test_two_processes_with_parts_equal_one(letter: str, two_processes: Path, whole_run: Path
                                            ) -> None:
    """Two parts of one sample on each of two processes, against two parts of two."""
    one, two = weights(whole_run, letter), weights(two_processes, letter)
    far = {key: distance(two[key], one[key]) for key in one if one[key].is_floating_point()
           and one[key].norm() > 0}
    assert max(far.values()) < 1e-6, max(far, key=far.get)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("two"), "two", "--train_steps", 3, "--batch_size", 1,
                 processes=2, script="test/unit/train_in_float64.py")


def test_resuming_between_steps_equals_not_stopping(whole_run: Path, tmp_path: Path) -> None:
    script = "test/unit/train_in_float64.py"
    train(tmp_path, "cut", "--train_steps", 1, "--batch_size", 2, script=script)
    run = train(tmp_path, "cut", "--train_steps", 3, "--batch_size", 2, "--continue_train",
                script=script)
    for letter in "GDH":
        one, two = weights(whole_run, letter), weights(run, letter)
        assert [key for key in one if not torch.equal(one[key], two[key])] == []

"""--accumulate: parts of a step add up to the step, in every precision and on several processes."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, tiny_arguments, torchrun_command
from torch import Tensor

import data
import models
from data.base_dataset import collate
from engine.optimizer_step import WHOLE, LossScaler
from engine.step import Step
from models.base_model import BaseModel
from models.ops.spectral import iterate_spectral_norms
from utils.images.io import write_image

# Without batch statistics a loss is a mean over samples, and parts can equal the whole. The
# perceptual loss takes most of a tiny step and has no part in this.
PLAIN = {"sparnet": ["--Gnorm", "in"], "sparnethd": ["--lambda_pcp", "0"]}


def make(tiny_run: Callable, name: str, samples: int, *arguments: str) -> tuple[BaseModel, dict]:
    """A model and a batch of so many samples, which `run_step` splits by --batch_size."""
    model, _ = tiny_run(name, *PLAIN.get(name, []), *arguments)
    opt = model.opt
    dataset = data.create_dataset(opt.dataset_name, "train", opt.degradation, vars(opt))
    return model, model.prepare(collate([dataset[index] for index in range(samples)]))


def gradients(model: BaseModel) -> dict[str, Tensor]:
    """The fp32 gradients that the last step used, one vector per optimizer."""
    return {name: torch.cat([master.grad.double().flatten() for master in update.masters])
            for name, update in model.precision.steps.items()}


def distance(one: Tensor, two: Tensor) -> float:
    return float((one - two).norm() / two.norm())


def state_of(model: BaseModel) -> dict[str, Tensor]:
    return {f"{letter}.{key}": value.clone() for letter, state in model.weights().items()
            for key, value in state.items()}


# ---- parts and the whole -------------------------------------------------------------------------

class Recorded:
    """What a step needs of a model, and what it was told."""
    networks: dict = {}
    micro_batch = WHOLE
    began = True
    ended = 0

    def on_step_end(self) -> None:
        self.ended += 1


@pytest.mark.parametrize("count, sizes", [(4, [2, 2]), (5, [2, 2, 1]), (1, [1]), (2, [2])])
def test_a_batch_falls_into_micro_batches_in_order(count: int, sizes: list[int]) -> None:
    batch = {"gt": torch.arange(count), "path": [str(i) for i in range(count)], "bad": ["x"] * 3}
    model, places = Recorded(), []
    with Step(model, 2) as step:
        found = []
        for micro_batch in step.split(batch):
            found.append(micro_batch)
            places.append((model.micro_batch.first, model.micro_batch.last))
            assert model.ended == 0
    assert [len(each["path"]) for each in found] == sizes
    assert torch.equal(torch.cat([each["gt"] for each in found]), batch["gt"])
    assert [path for each in found for path in each["path"]] == batch["path"]
    assert [place for each in found for place in each["place"]] == list(range(count))
    assert [each["fraction"] for each in found] == [size / count for size in sizes]
    assert places == [(i == 0, i == len(sizes) - 1) for i in range(len(sizes))]
    assert (model.ended, model.micro_batch) == (1, WHOLE)


def test_a_step_that_fails_leaves_no_trace_and_ends_nothing() -> None:
    model = Recorded()
    with pytest.raises(RuntimeError, match="lost"), Step(model, 2) as step:
        for _ in step.split({"gt": torch.arange(4)}):
            raise RuntimeError("lost")
    assert (model.ended, model.micro_batch) == (0, WHOLE)


# PFSRNet's discriminator looks at the deviation among the images of a part.
SEPARABLE = [name for name in models.names() if name != "pfsrnet"]


@pytest.mark.parametrize("samples", [4, 3], ids=["equal parts", "a smaller last part"])
@pytest.mark.parametrize("name", SEPARABLE)
def test_gradients_and_losses_of_the_parts_are_those_of_the_batch(
        name: str, samples: int, tiny_options: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """In double precision, since narrow maps under instance norm magnify rounding; and in eval
    mode, where spectral norms stand still: in training each part is one more power iteration."""
    runs = []
    for batch_size in ("4", "2"):
        model, batch = in_float64(tiny_options(
            name, *PLAIN.get(name, []), "--batch_size", batch_size), samples, monkeypatch)
        losses = model.run_step(batch)
        runs.append((gradients(model), losses))
    (whole, whole_losses), (parts, part_losses) = runs
    assert [letter for letter in whole if distance(parts[letter], whole[letter]) > 1e-10] == []
    assert {key: loss.item() for key, loss in part_losses.items()} == pytest.approx(
        {key: loss.item() for key, loss in whole_losses.items()}, rel=1e-10)


def in_float64(opt: object, samples: int, monkeypatch: pytest.MonkeyPatch
               ) -> tuple[BaseModel, dict]:
    """A model in double precision and eval mode, and a batch."""
    torch.manual_seed(0)
    model = models.create(opt, torch.device("cpu"))
    for network in model.unwrapped.values():
        network.double()
        for _ in range(20):     # singular values as after some training
            iterate_spectral_norms(network)
    model.setup()
    monkeypatch.setattr(model.precision, "state_of", lambda network: network.state_dict())
    model.eval()
    model.start_step(1, 100, 100)
    dataset = data.create_dataset(opt.dataset_name, "train", opt.degradation, vars(opt))
    batch = model.prepare(collate([dataset[index] for index in range(samples)]))
    return model, {**batch, **{key: batch[key].double() for key in ("lq", "gt")}}


@pytest.mark.parametrize("level", [
    pytest.param(["--opt_level", "O1", "--amp_dtype", "fp16"], marks=pytest.mark.deep, id="O1"),
    pytest.param(["--opt_level", "O2"], marks=pytest.mark.deep, id="O2")])
def test_scaled_gradients_of_the_parts_are_those_of_the_batch(level: list[str],
                                                              tiny_run: Callable) -> None:
    runs = []
    for batch_size in ("4", "2"):
        model, batch = make(tiny_run, "sparnet", 3, "--Gnorm", "none", "--batch_size", batch_size,
                            *level)
        model.run_step(batch)
        runs.append(gradients(model)["G"])
    assert distance(runs[1], runs[0]) < 0.02        # fp16 rounds to a thousandth


@pytest.mark.parametrize("name", models.names())
def test_optimizers_step_once_per_step(name: str, tiny_run: Callable) -> None:
    model, batch = make(tiny_run, name, 4)
    for step in (1, 2):
        model.start_step(step, 100, 100)
        model.run_step(batch)
    counts = {name: {int(entry["step"]) for entry in update.optimizer.state.values()}
              for name, update in model.precision.steps.items()}
    assert all(count == {2} for count in counts.values()), counts


def test_a_dynamic_loss_scale_counts_steps_not_parts(tiny_run: Callable) -> None:
    model, batch = make(tiny_run, "sparnet", 4, "--opt_level", "O2", "--loss_scale", "dynamic")
    scaler = model.precision.steps["G"].scaler
    scaler.loss_scale = 128.0
    model.run_step(batch)
    assert isinstance(scaler, LossScaler) and (scaler.unskipped, scaler.loss_scale) == (1, 128.0)


@pytest.mark.parametrize("poisoned, level", [
    (0, "O0"), (3, "O0"), *(pytest.param(at, "O2", marks=pytest.mark.deep) for at in (0, 3))])
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
        for weight in model.unwrapped["G"].parameters():
            weight += 0.1
    start = {letter: {key: weight.detach().clone() for key, weight
                      in model.unwrapped[letter].named_parameters()} for letter in "GH"}
    model.run_step(batch)
    for key, weight in model.unwrapped["H"].named_parameters():
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
          script: Path = ROOT / "newtrain.py") -> Path:
    """A run of SPARNetHD with two parts per step; its folder."""
    command = torchrun_command(script, processes) if processes > 1 else [sys.executable, script]
    tiny = tiny_arguments("sparnethd")
    if "bicubic" in arguments:      # which does not know the flag of the other degradation
        place = tiny.index("--lq_size")
        del tiny[place:place + 3]
    done = subprocess.run(
        [*map(str, command), *tiny, *PLAIN["sparnethd"],
         "--checkpoints_dir", str(folder), "--name", name, "--no-tensorboard", "--print_freq", "1",
         "--eval_freq", "0", "--num_val_images", "0", "--accumulate", "2", *map(str, arguments)],
        capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / name


def weights(run: Path, letter: str) -> dict[str, Tensor]:
    return torch.load(run / f"latest_net_{letter}.pth", weights_only=True)


def records(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").open()]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps of two batches of two."""
    return train(tmp_path_factory.mktemp("whole"), "one", "--train_steps", 3, "--batch_size", 2)


def test_the_result_counts_every_part(whole_run: Path) -> None:
    result = json.loads((whole_run / "result.json").read_text())
    assert (result["step"], result["batch_size"], result["accumulate"]) == (3, 2, 2)
    assert result["fps"] == pytest.approx(4 / result["sec_per_step"])


@pytest.fixture(scope="module")
def in_order(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[object]]:
    """Arguments for training on four images in a given order, the same for each place."""
    generator = np.random.default_rng(0)
    crops = {name: generator.integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(
        8, 1) for name in "abcd"}

    def arguments(order: str) -> list[object]:
        folder = tmp_path_factory.mktemp(order)
        for place, name in enumerate(order):
            write_image(folder / f"{place}.png", crops[name])
        return ["--dataset_name", "ffhq", "--dataroot", folder, "--serial_batches", "--gray_prob",
                0, "--train_steps", 2, "--degradation", "bicubic", "--scale_factor", 4]
    return arguments


@pytest.mark.deep
def test_two_processes_with_parts_equal_one(in_order: Callable, tmp_path: Path) -> None:
    """Two parts of one sample on each of two processes, against two parts of two: the first process
    has a and b, the second c and d, so that a and c are the first part."""
    script = ROOT / "test" / "unit" / "engine" / "train_in_float64.py"
    one, two = (records(train(tmp_path, order, *in_order(order), "--batch_size", 4 // (
        2 * processes), processes=processes, script=script))
        for order, processes in (("acbd", 1), ("abcd", 2)))
    for step in (0, 1):
        for key in ("losses", "gradient_norm"):
            assert two[step][key] == pytest.approx(one[step][key], rel=1e-6), (step, key)


@pytest.mark.deep
def test_resuming_between_steps_equals_not_stopping(whole_run: Path, tmp_path: Path) -> None:
    train(tmp_path, "cut", "--train_steps", 1, "--batch_size", 2)
    run = train(tmp_path, "cut", "--train_steps", 3, "--batch_size", 2, "--continue_train")
    for letter in "GDH":
        one, two = weights(whole_run, letter), weights(run, letter)
        assert [key for key in one if not torch.equal(one[key], two[key])] == []

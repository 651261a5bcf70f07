"""The model of the prior, and what it shares with GPEN: lazy regularizers, averages, sampling."""
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
from conftest import ROOT, torchrun_command
from torch import Tensor

import data
import models
from engine import checkpoint
from models.losses.regularizers import path_length_penalty, path_lengths, r1_penalty
from models.networks.stylegan2 import Discriminator, with_batch_deviation
from models.style_options import PRESETS
from options.train_options import TrainOptions
from tools import sample
from utils.images.io import read_image

sys.path.insert(0, str(ROOT / "test" / "npu"))

import operators

MODELS = pytest.mark.parametrize("name", ["stylegan2", "gpen"])
LAZY = ("--d_reg_every", "2", "--g_reg_every", "3")
# What the engine adds to a batch of two.
WHOLE_BATCH = {"place": [0, 1], "fraction": 1.0}
ALWAYS = ("--d_reg_every", "1", "--g_reg_every", "1")


def run(model: object, batch: dict, count: int, first: int = 1) -> list[dict[str, Tensor]]:
    losses = []
    for step in range(first, first + count):
        model.start_step(step, 100, 100)
        losses.append(model.run_step(batch))
    return losses


def state_of(model: object) -> dict[str, Tensor]:
    return {f"{letter}.{key}": value.clone() for letter, state in model.weights().items()
            for key, value in state.items()}


def differing(one: dict[str, Tensor], two: dict[str, Tensor]) -> list[str]:
    return [key for key in one if not torch.equal(one[key], two[key])]


# ---- regularizers --------------------------------------------------------------------------------

def test_r1_is_the_squared_gradient_per_image_averaged() -> None:
    gt = torch.zeros(2, 1, 1, 2, requires_grad=True)
    logits = (gt * torch.tensor([[3.0, 4.0]])).sum((1, 2, 3)) * torch.tensor([1.0, 2.0])
    assert r1_penalty(logits, gt).item() == pytest.approx((25 + 100) / 2)


def test_path_lengths_of_a_linear_map() -> None:
    """The gradient of sum(image * noise) / 2 for four pixels w0 each is 4 / 2 in entry 0."""
    latents = torch.zeros(1, 3, 5, requires_grad=True)
    images = latents[:, 0, 0].view(1, 1, 1, 1).expand(1, 1, 2, 2)
    lengths = path_lengths(images, latents, torch.ones(1, 1, 2, 2))
    assert lengths.tolist() == pytest.approx([(4 / 3) ** 0.5])


def test_the_running_mean_moves_by_its_fraction_and_carries_no_gradient() -> None:
    lengths = torch.tensor([1.0, 3.0], requires_grad=True)
    penalty, mean = path_length_penalty(lengths, torch.tensor(1.0), decay=0.1)
    assert mean.item() == pytest.approx(1.1) and not mean.requires_grad
    assert penalty.item() == pytest.approx((0.1 ** 2 + 1.9 ** 2) / 2)


def test_the_penalty_sees_the_mean_with_its_gradient() -> None:
    """The mean is 1 and half of it moves with the lengths: l - 1 - 0.5 each."""
    lengths = torch.tensor([1.0, 3.0], requires_grad=True)
    path_length_penalty(lengths, torch.tensor(0.0), decay=0.5)[0].backward()
    assert lengths.grad.tolist() == pytest.approx([-0.5, 1.5])


# ---- the order of a step -------------------------------------------------------------------------

@MODELS
def test_regularisers_come_every_so_many_steps_from_the_first_on(name: str, tiny_run: Callable
                                                                 ) -> None:
    losses = run(*tiny_run(name, *LAZY), 4)
    assert [step for step, each in enumerate(losses) if "R1" in each] == [0, 2]
    assert [step for step, each in enumerate(losses) if "Path" in each] == [0, 3]


@MODELS
def test_all_weights_of_an_optimizer_take_equally_many_steps(name: str, tiny_run: Callable) -> None:
    """Weights that a regularizer does not touch would lag behind."""
    model, batch = tiny_run(name, *LAZY)
    run(model, batch, 3)
    counts = {name: {int(entry["step"]) for entry in update.optimizer.state.values()}
              for name, update in model.precision.steps.items()}
    assert counts == {"D": {3 + 2}, "G": {3 + 1}}


@pytest.mark.parametrize("every, fraction", [(4, 0.8), (16, 16 / 17), (0, 1.0)])
def test_learning_rates_and_betas_make_up_for_the_lazy_steps(every: int, fraction: float,
                                                    tiny_run: Callable) -> None:
    model, _ = tiny_run("gpen", "--g_reg_every", str(every), "--lr", "0.002")
    group = model.precision.steps["G"].optimizer.param_groups[0]
    assert group["lr"] == pytest.approx(0.002 * fraction)
    assert group["betas"] == pytest.approx((0.0 ** fraction, 0.99 ** fraction))


@MODELS
@pytest.mark.parametrize("level", ["O1", "O2"])
def test_regularisers_are_those_of_fp32_in_every_precision(name: str, level: str,
                                                           tiny_run: Callable) -> None:
    """O2 computes them in fp32 out of weights with 11 bits, after a step in fp16."""
    low, full = (run(*tiny_run(name, *ALWAYS, "--opt_level", each, "--lr", "1e-12"), 1)[0]
                 for each in (level, "O0"))
    for key in ("R1", "Path"):
        assert low[key].item() == pytest.approx(full[key].item(), rel=2e-2)


@MODELS
@pytest.mark.parametrize("level", ["O0", "O1", "O2"])
def test_lazy_steps_go_on_from_a_state_as_if_not_stopped(name: str, level: str, tiny_run: Callable,
                                                         tmp_path: Path) -> None:
    model, batch = tiny_run(name, *LAZY, "--opt_level", level)
    run(model, batch, 2)
    torch.save(model.state_dict(), tmp_path / "state.pth")
    losses = run(model, batch, 3, first=3)
    fresh, _ = tiny_run(name, *LAZY, "--opt_level", level)
    again = type(fresh)(fresh.opt, fresh.device)
    again.setup(torch.load(tmp_path / "state.pth", weights_only=True))
    again.train()
    repeated = run(again, batch, 3, first=3)
    assert [list(each) for each in repeated] == [list(each) for each in losses]
    assert differing(state_of(model), state_of(again)) == []


@MODELS
@pytest.mark.parametrize("level", ["O0", "O2"])
def test_checkpointing_changes_no_number_of_the_regularisers(name: str, level: str,
                                                             tiny_run: Callable) -> None:
    states = []
    for switch in ("--checkpointing", "--no-checkpointing"):
        model, batch = tiny_run(name, *ALWAYS, "--opt_level", level, switch, "--loss_scale", "16")
        run(model, batch, 2)
        states.append(state_of(model))
    assert differing(*states) == []


def test_r1_of_parts_is_that_of_the_batch(tiny_run: Callable) -> None:
    """Each part of the phase adds its fraction; groups of one image make them independent."""
    model, batch = tiny_run("gpen", "--d_reg_every", "1", "--lr", "1e-12")
    model.start_step(1, 100, 100)
    whole = model.run_step(batch)
    model.opt.batch_size = 1
    parts = model.run_step(batch)
    assert {key: value.item() for key, value in parts.items()} == pytest.approx(
        {key: value.item() for key, value in whole.items()}, rel=1e-4)


def test_a_bad_step_leaves_the_mean_path_length_alone(tiny_run: Callable) -> None:
    model, batch = tiny_run("gpen", *ALWAYS)
    run(model, batch, 1)
    before = model.path_mean.item()
    run(model, {**batch, "lq": batch["lq"] * float("nan")}, 1, first=2)
    assert before > 0 and model.path_mean.item() == before


@MODELS
def test_no_operator_of_the_regularisers_lacks_an_npu_kernel(name: str, tiny_run: Callable) -> None:
    put_back = operators.plain_forms()
    try:
        model, batch = tiny_run(name, *ALWAYS, "--memory_format", "contiguous")
        model.iteration = 1
        with operators.Recorder() as recorder:
            model._regularize_d(batch | WHOLE_BATCH)
            model._regularize_g(batch | WHOLE_BATCH)
    finally:
        put_back()
    assert operators.missing(recorder.counts, operators.registered()) == []


# ---- the batch's deviation -----------------------------------------------------------------------

def test_groups_take_every_so_manyth_image() -> None:
    x = torch.tensor([0.0, 10.0, 2.0, 10.0]).view(4, 1, 1, 1)
    channel = with_batch_deviation(x, group=2)[:, 1].flatten()
    assert channel.tolist() == pytest.approx([1.0, 1e-4, 1.0, 1e-4], abs=1e-6)


def test_a_group_that_does_not_divide_the_batch_becomes_smaller() -> None:
    x = torch.rand(6, 2, 3, 3)
    assert torch.equal(with_batch_deviation(x, 4), with_batch_deviation(x, 3))


def test_with_groups_of_one_a_logit_does_not_depend_on_batch_mates() -> None:
    torch.manual_seed(0)
    x = torch.rand(3, 3, 8, 8)
    for group, alike in ((1, True), (0, False)):
        network = Discriminator(size=8, narrow=0.03125, group=group)
        assert torch.allclose(network(x)[:1], network(x[:1]), rtol=1e-4, atol=1e-6) == alike


# ---- codes, samples, options ---------------------------------------------------------------------

def test_every_step_and_purpose_draws_codes_of_its_own(tiny_run: Callable) -> None:
    model, batch = tiny_run("stylegan2", "--mixing", "0")
    first, again, other = (model._draw(batch | WHOLE_BATCH, stream)[0][0] for stream in (0, 0, 1))
    model.iteration = 1
    later = model._draw(batch | WHOLE_BATCH, 0)[0][0]
    assert torch.equal(first, again)
    assert not torch.equal(first, other) and not torch.equal(first, later)
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("mixing, codes", [("0", 1), ("1", 2)])
def test_mixing_says_how_often_two_codes_are_drawn(mixing: str, codes: int,
                                                   tiny_run: Callable) -> None:
    model, batch = tiny_run("stylegan2", "--mixing", mixing)
    assert len(model._draw(batch | WHOLE_BATCH, 0)[0]) == codes


def test_noise_of_the_device_trains_too(tiny_run: Callable) -> None:
    model, batch = tiny_run("stylegan2", "--noise_from", "device", *ALWAYS)
    assert all(torch.isfinite(loss) for losses in run(model, batch, 2) for loss in losses.values())


def test_the_paths_are_of_a_fraction_of_the_batch(tiny_run: Callable,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = tiny_run("stylegan2", *ALWAYS, "--path_batch_shrink", "2")
    counts = []
    monkeypatch.setattr("models.style_training.path_lengths", lambda images, *rest: (
        counts.append(len(images)), path_lengths(images, *rest))[1])
    model.run_step(batch)
    assert (len(batch["gt"]), counts) == (2, [1])


def test_truncation_to_nothing_shows_the_mean_face_only(tiny_run: Callable) -> None:
    model, _ = tiny_run("stylegan2")
    codes = model.draw_codes(2, 5)
    one, other = model.sample(codes, truncation=0.0)
    assert torch.allclose(one, other, atol=1e-5)
    one, other = model.sample(codes)
    assert not torch.allclose(one, other, atol=1e-2)


def test_samples_of_images_do_not_depend_on_their_company(tiny_run: Callable) -> None:
    model, batch = tiny_run("stylegan2")
    both = model.restore(batch["lq"])
    assert torch.allclose(model.restore(batch["lq"][1:]), both[1:], atol=1e-5)
    assert not torch.allclose(both[0], both[1], atol=1e-2)


def test_sample_writes_the_same_grid_for_the_same_seed(tmp_path: Path, tiny_run: Callable) -> None:
    model, _ = tiny_run("stylegan2")
    torch.save(model.weights()["H"], tmp_path / "H.pth")
    grids = []
    for seed in ("1", "1", "2"):
        opt = sample.SampleOptions(models, data, "tools.sample").parse(
            ["--pretrain_model_path", str(tmp_path / "H.pth"), "--load_size", "16", "--narrow",
             "0.03125", "--style_dim", "16", "--n_mlp", "2", "--rows", "2", "--columns", "3",
             "--batch_size", "4", "--seed", seed, "--device", "cpu", "--output",
             str(tmp_path / "grid.png")])
        assert sample.sample(opt) == 0
        grids.append(read_image(tmp_path / "grid.png"))
    assert grids[0].shape == (32, 48, 3)
    assert np.array_equal(grids[0], grids[1]) and not np.array_equal(grids[0], grids[2])


def test_sample_refuses_what_is_no_prior(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        sample.SampleOptions(models, data, "tools.sample").parse(
            ["--model", "sparnet", "--name", "x"])
    assert "--model must be a prior such as stylegan2, got sparnet" in capsys.readouterr().err


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_presets_set_size_and_widths(preset: str) -> None:
    opt = TrainOptions(models, data, "test").parse(["--model", "stylegan2", "--preset", preset])
    assert {name: getattr(opt, name) for name in PRESETS[preset]} == PRESETS[preset]


@pytest.mark.parametrize("arguments, words", [
    (["--preset", "256"], "--load_size must be 256 for --preset 256, got 16"),
    (["--load_size", "48"], "size must be a power of two"),
    (["--ema_decay", "1"], "--ema_decay"), (["--path_batch_shrink", "0"], "--path_batch_shrink"),
    (["--mixing", "1.5"], "--mixing")])
def test_values_that_make_no_sense_are_one_line(arguments: list[str], words: str,
                                                tiny_options: Callable,
                                                capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        tiny_options("stylegan2", *arguments)
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


# ---- several processes ---------------------------------------------------------------------------

@pytest.mark.deep
def test_two_ranks_agree_on_weights_and_mean_path_length(tmp_path: Path) -> None:
    script = Path(__file__).with_name("two_ranks_lazy.py")
    done = subprocess.run([*torchrun_command(script), str(tmp_path)], capture_output=True,
                          text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    one, two = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    for name in ("stylegan2", "gpen"):
        assert one[name]["digest"] == two[name]["digest"] != one[name]["start"]
        assert one[name]["path_mean"] == two[name]["path_mean"] > 0
        assert one[name]["losses"] != two[name]["losses"]       # of samples of their own


def test_there_is_no_best_not_even_one_that_an_earlier_version_left(tiny_run: Callable,
                                                                    tmp_path: Path) -> None:
    model, _ = tiny_run("stylegan2")
    folder = tmp_path / "runs" / "tiny"
    for suffix in ("best", "latest"):
        checkpoint.save_weights(folder, suffix, model.weights(), {})
    opt = sample.SampleOptions(models, data, "tools.sample").parse(
        ["--name", "tiny", "--checkpoints_dir", str(tmp_path / "runs"), "--load_size", "16"])
    assert opt.epoch == "best"
    assert models.find_weights(opt) == folder / "latest_net_H.pth"

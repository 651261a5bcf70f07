"""The PFSRNet model: schedule, files, options, and runs through all three stages."""
from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, tiny_arguments, torchrun_command

import data
import models
from data.pyramid_degradation import PyramidDegradation
from models.networks.pfsrnet import Discriminator, Generator
from models.pfsrnet_checkpoint import reached, read_generator
from models.pfsrnet_model import position
from options.evaluate_options import EvaluateOptions
from tools import pfsrnet_checkpoint as to_published
from utils.images.convert import to_image, to_tensor
from utils.images.io import read_image, write_image
from utils.images.resize import downscale_through

PUBLISHED = (50000, 50000, 100000)
# Two steps of fade in each of the later stages.
STAGES = ["--stage_steps", "4", "4", "4", "--fade", "0.5"]
NUM_STEPS = 12


# ---- schedule ------------------------------------------------------------------------------------

@pytest.mark.parametrize("k, expected", [
    (0, (1, 0.0)), (24999, (1, 24999 / 25000)), (25000, (1, 1.0)), (49999, (1, 1.0)),
    (50000, (2, 0.0)), (62500, (2, 0.5)), (100000, (3, 0.0)), (125000, (3, 1.0)),
    (199999, (3, 1.0)), (300000, (3, 1.0))])
def test_stage_and_alpha_follow_the_published_schedule(k: int, expected: tuple) -> None:
    assert position(k, PUBLISHED, 0.5) == expected


@pytest.mark.parametrize("steps, expected", [((0, 0, 9), (3, 1.0)), ((0, 4, 9), (2, 1.0))])
def test_stages_of_no_steps_are_left_out(steps: tuple, expected: tuple) -> None:
    assert position(0, steps, 0.5) == expected


def test_no_fade_starts_each_stage_with_its_own_head() -> None:
    assert position(50000, PUBLISHED, 0.0) == (2, 1.0)


def test_what_the_weights_have_reached_stays_in_their_stage() -> None:
    assert position(4, (4, 4, 4), 0.5, 1) == (1, 1.0)


# ---- training ------------------------------------------------------------------------------------

def steps_of(model: object, batch: dict, steps: range) -> list[dict[str, torch.Tensor]]:
    found = []
    for step in steps:
        model.start_step(step, 100, 100)
        found.append(model.run_step(batch))
    return found


def test_every_stage_moves_what_it_uses_and_nothing_else(tiny_run: Callable) -> None:
    model, batch = tiny_run("pfsrnet", *STAGES)
    for step in range(1, NUM_STEPS + 1):
        model.start_step(step, 100, 100)
        before = {(name, key): weight.detach().clone() for name in ("G", "D")
                  for key, weight in model.unwrapped[name].named_parameters()}
        model.run_step(batch)
        for name in ("G", "D"):
            network = model.unwrapped[name]
            used = {id(weight) for module in network.used(model.stage, model.alpha)
                    for weight in module.parameters()}
            for key, weight in network.named_parameters():
                moved = not torch.equal(weight, before[name, key])
                # At alpha 0 what is new is used, but with a gradient of 0.
                assert moved == (id(weight) in used) or not (moved or model.alpha), (step, key)


def test_each_stage_has_its_own_losses_and_size(tiny_run: Callable,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = tiny_run("pfsrnet", *STAGES)
    sizes = []
    model.unwrapped["D"].register_forward_pre_hook(
        lambda _, args: sizes.append(args[0].shape[2]) if not sizes or
        sizes[-1] != args[0].shape[2] else None)
    losses = steps_of(model, batch, range(1, NUM_STEPS + 1))
    assert sizes == [8, 16, 32]
    assert set(losses[0]) == {"Pix", "GAN", "D", "GP"}
    assert set(losses[4]) == set(losses[8]) == {"Pix", "GAN", "HM", "ATT", "D", "GP"}


@pytest.mark.parametrize("flag, name", [("--lambda_gan", "GAN"), ("--lambda_att", "ATT"),
                                        ("--lambda_hm", "HM"), ("--lambda_pcp", "PCP")])
def test_weights_belong_to_stages(flag: str, name: str, tiny_run: Callable) -> None:
    found = []
    for weights in (("7", "0", "2"), ("0", "5", "4")):
        model, batch = tiny_run("pfsrnet", flag, *weights, "--vgg_weights", "random")
        found.append(model.run_step(batch)[name].item())
    assert found[1] == pytest.approx(2 * found[0], rel=1e-6)


def test_the_squared_pixel_loss_is_another_one(tiny_run: Callable) -> None:
    found = [tiny_run("pfsrnet", "--pix_loss", kind) for kind in ("l1", "l2")]
    values = [model.run_step(batch)["Pix"].item() for model, batch in found]
    assert values[0] != values[1]


def test_the_one_sided_penalty_lets_small_slopes_be(tiny_run: Callable) -> None:
    model, batch = tiny_run("pfsrnet", "--gp", "one_sided_mean")
    assert model.run_step(batch)["GP"].item() == 0


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_landmark_networks_mode_is_the_options(mode: str, tiny_run: Callable) -> None:
    model, batch = tiny_run("pfsrnet", "--fan_mode", mode)
    before = model.unwrapped["FAN"].layers[1].running_mean.clone()
    model.run_step(batch)
    moved = not torch.equal(before, model.unwrapped["FAN"].layers[1].running_mean)
    assert (model.unwrapped["FAN"].training, moved) == (mode == "train", mode == "train")


def test_the_generators_batch_norms_see_each_batch_twice(tiny_run: Callable) -> None:
    model, batch = tiny_run("pfsrnet")
    steps_of(model, batch, range(1, 4))
    assert int(model.unwrapped["G"].step3[2].num_batches_tracked) == 6


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_the_discriminator_stays_in_fp32(level: str, tiny_run: Callable) -> None:
    model, batch = tiny_run("pfsrnet", "--opt_level", level)
    types = set()
    for module in model.unwrapped["D"].modules():
        module.register_forward_hook(lambda _, args, result: types.add(result.dtype))
    model.run_step(batch)
    assert types == {torch.float32}
    assert {weight.dtype for weight in model.unwrapped["D"].parameters()} == {torch.float32}


@pytest.mark.parametrize("level", ["O0", "O1", "O2"])
def test_a_resumed_fade_equals_one_that_was_not_stopped(level: str, tiny_run: Callable,
                                                        tmp_path: Path) -> None:
    settings = [*STAGES, "--opt_level", level]
    model, batch = tiny_run("pfsrnet", *settings)
    steps_of(model, batch, range(1, 6))         # alpha is 0.5 in the next step
    torch.save(model.state_dict(), tmp_path / "state.pth")
    losses = steps_of(model, batch, range(6, NUM_STEPS + 1))
    fresh, _ = tiny_run("pfsrnet", *settings)
    again = type(fresh)(fresh.opt, fresh.device)
    again.setup(torch.load(tmp_path / "state.pth", weights_only=True))
    again.train()
    assert steps_of(again, batch, range(6, NUM_STEPS + 1)) == losses
    for letter, state in model.weights().items():
        other = again.weights()[letter]
        assert [key for key in state if not torch.equal(state[key], other[key])] == []


def test_parts_of_a_batch_draw_different_mixtures(tiny_run: Callable) -> None:
    model, _ = tiny_run("pfsrnet")
    gt = torch.zeros(4, 3, 2, 2)
    whole = model._fractions(gt, [0, 1, 2, 3])
    parts = [model._fractions(gt[:2], place) for place in ([0, 1], [2, 3])]
    assert torch.equal(torch.cat(parts), whole) and len(set(whole.flatten().tolist())) == 4


def test_mixtures_depend_on_step_and_seed_only(tiny_run: Callable) -> None:
    gt, found = torch.zeros(2, 3, 2, 2), {}
    for seed in ("1", "2"):
        model, _ = tiny_run("pfsrnet", "--seed", seed)
        for step in (3, 4, 3):
            model.start_step(step, 100, 100)
            fraction = model._fractions(gt, [0, 1])
            assert torch.equal(found.setdefault((seed, step), fraction), fraction)
    assert len({fraction[0].item() for fraction in found.values()}) == 4


def test_input_of_the_targets_size_is_refused_with_the_way_out(tiny_run: Callable) -> None:
    model, batch = tiny_run("pfsrnet")
    with pytest.raises(ValueError, match=r"targets of side 32, got 32; use --degradation pyramid"):
        model.run_step({**batch, "lq": batch["gt"]})


@pytest.mark.parametrize("arguments, words", [
    (["--batch_size", "1"], "--batch_size must be at least 2, got 1"),
    (["--stage_steps", "0", "0", "0"], "--stage_steps must be three numbers"),
    (["--fade", "1.5"], "--fade must be from 0 to 1, got 1.5"),
    (["--width", "20"], "--width must be a positive multiple of 8, got 20"),
    (["--load_size", "40"], "--load_size must be a multiple of 16"),
    (["--amp_backend", "apex"], "--amp_backend must be native"),
    (["--beta2", "1"], "--beta2 must be from 0 to below 1"),
    (["--lambda_pcp", "0", "0", "1"], "--vgg_weights is missing")])
def test_options_that_cannot_work_are_named(arguments: list[str], words: str,
                                            tiny_options: Callable,
                                            capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        tiny_options("pfsrnet", *arguments)
    assert words in capsys.readouterr().err


def test_the_landmark_network_must_be_given(tiny_options: Callable, capsys: pytest.CaptureFixture
                                            ) -> None:
    with pytest.raises(SystemExit):
        tiny_options("pfsrnet", without="--fan_weights")
    assert "--fan_weights is missing" in capsys.readouterr().err


def test_losses_of_stages_without_steps_need_no_network(tiny_options: Callable) -> None:
    opt = tiny_options("pfsrnet", "--stage_steps", "5", "0", "0", "--lambda_pcp", "0", "1", "1",
                       without="--fan_weights")
    assert opt.train_steps == 5


@pytest.mark.parametrize("arguments, steps", [([], 100), (["--train_steps", "7"], 7)])
def test_the_run_is_as_long_as_its_stages(arguments: list[str], steps: int,
                                          tiny_options: Callable) -> None:
    assert tiny_options("pfsrnet", *arguments).train_steps == steps


# ---- files ---------------------------------------------------------------------------------------

@pytest.fixture
def generator() -> Generator:
    torch.manual_seed(3)
    return Generator(width=8)


def test_the_networks_have_the_published_names() -> None:
    with torch.device("meta"):
        networks = (Generator(), Discriminator())
    assert [len(network.state_dict()) for network in networks] == [76, 24]


@pytest.mark.parametrize("prefix", ["", "module."])
def test_published_files_bring_their_stage_and_alpha(prefix: str, generator: Generator,
                                                     tmp_path: Path) -> None:
    state = {f"{prefix}{key}": value for key, value in generator.state_dict().items()}
    torch.save({"step": 2, "alpha": 0.25, "iteration": 6250, "model_state_dict": state},
               tmp_path / "g.ckpt")
    found, stated = read_generator(tmp_path / "g.ckpt", Generator(width=8).state_dict())
    assert stated == (2, 0.25)
    assert torch.equal(found["step3.1.weight"], generator.step3[1].weight)


def test_counters_may_be_missing_but_nothing_else(generator: Generator, tmp_path: Path) -> None:
    state = {key: value for key, value in generator.state_dict().items()
             if not key.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "g.pth")
    found, stated = read_generator(tmp_path / "g.pth", generator.state_dict())
    assert stated is None and int(found["step3.2.num_batches_tracked"]) == 0
    del state["step3.1.bias"]
    torch.save(state, tmp_path / "g.pth")
    with pytest.raises(ValueError, match=r"1 missing \(step3\.1\.bias\)"):
        read_generator(tmp_path / "g.pth", generator.state_dict())


def test_weights_of_another_width_name_it(generator: Generator, tmp_path: Path,
                                          tiny_run: Callable) -> None:
    torch.save(generator.state_dict(), tmp_path / "g.pth")
    model, _ = tiny_run("pfsrnet")
    with pytest.raises(ValueError, match="--width 8"):
        model.load_weights("G", tmp_path / "g.pth")


def test_weights_tell_how_far_training_came(tiny_run: Callable) -> None:
    model, batch = tiny_run("pfsrnet", *STAGES)
    found = []
    for step in range(1, NUM_STEPS + 1):
        steps_of(model, batch, range(step, step + 1))
        found.append(reached(model.weights()["G"], 0.5))
    assert found == [(1, 1.0)] * 4 + [(2, 0.5), (2, 1.0), (2, 1.0), (2, 1.0),
                                      (3, 0.5), (3, 1.0), (3, 1.0), (3, 1.0)]


def test_untouched_counters_mean_the_whole_network(generator: Generator) -> None:
    assert reached(generator.state_dict(), 0.5) == (3, 1.0)


@pytest.mark.parametrize("last", [2, 5, 7, 9])
def test_validation_and_loaded_weights_restore_alike(last: int, tiny_run: Callable,
                                                     tmp_path: Path) -> None:
    model, batch = tiny_run("pfsrnet", *STAGES)
    steps_of(model, batch, range(1, last + 1))
    torch.save(model.weights()["G"], tmp_path / "g.pth")
    model.eval()
    opt = Namespace(**{**vars(model.opt), "is_train": False,
                       "pretrain_model_path": str(tmp_path / "g.pth")})
    loaded = type(model)(opt, torch.device("cpu"))
    loaded.setup()
    with torch.no_grad():
        assert torch.equal(loaded.restore(batch["lq"]), model.restore(batch["lq"]))


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_every_stage_restores_the_whole_size(stage: int, tiny_run: Callable) -> None:
    model, batch = tiny_run("pfsrnet", *STAGES)
    steps_of(model, batch, range(4 * stage, 4 * stage + 1))
    assert model.restore(batch["lq"]).shape == batch["gt"].shape


def test_fine_tuning_counts_its_own_steps(generator: Generator, tmp_path: Path,
                                          tiny_run: Callable) -> None:
    generator(torch.randn(2, 3, 4, 4))
    torch.save(generator.state_dict(), tmp_path / "g.pth")
    model, batch = tiny_run("pfsrnet", "--width", "8", *STAGES, "--pretrain_model_path",
                            str(tmp_path / "g.pth"))
    steps_of(model, batch, range(1, 2))
    assert reached(model.weights()["G"], 0.5) == (1, 1.0)


def test_our_weights_become_a_published_file(generator: Generator, tmp_path: Path,
                                             capsys: pytest.CaptureFixture) -> None:
    for stage in (1, 1, 1, 1, 2):
        generator(torch.randn(2, 3, 4, 4), stage)
    torch.save(generator.state_dict(), tmp_path / "g.pth")
    assert to_published.main([str(tmp_path / "g.pth"), str(tmp_path / "g.ckpt")]) == 0
    content = torch.load(tmp_path / "g.ckpt", weights_only=True)
    assert list(content) == ["step", "alpha", "iteration", "model_state_dict"]
    assert (content["step"], content["alpha"]) == (2, 0.5)
    assert list(content["model_state_dict"]) == list(generator.state_dict())
    assert "stage 2 with alpha 0.5" in capsys.readouterr().out


def test_the_command_refuses_other_weights(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "g.pth")
    assert to_published.main([str(tmp_path / "g.pth"), str(tmp_path / "g.ckpt")]) == 2
    assert "must hold network G of --model pfsrnet" in capsys.readouterr().err


# ---- as its user sees it -------------------------------------------------------------------------

@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run through all three stages."""
    root = tmp_path_factory.mktemp("pfsrnet")
    done = subprocess.run(
        [sys.executable, str(ROOT / "newtrain.py"), *command(root, "whole")],
        capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return root / "whole"


def command(root: Path, name: str, *more: object) -> list[str]:
    return [*tiny_arguments("pfsrnet"), *STAGES, "--eval_freq", "6", "--print_freq", "1",
            "--save_latest_freq", "1", "--no-tensorboard", "--checkpoints_dir", str(root),
            "--name", name, *map(str, more)]


def test_a_run_validates_in_both_protocols(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    assert {"psnr_published", "ms_ssim_published", "psnr_picture", "ms_ssim_picture"} <= set(result)
    assert result["step"] == NUM_STEPS


def test_a_run_is_evaluated_next_to_bicubic_enlargement(run: Path, run_script: Callable,
                                                        tmp_path: Path) -> None:
    done = run_script("evaluate.py", "--name", "whole", "--epoch", "latest", "--checkpoints_dir",
                      run.parent, "--results_dir", tmp_path, "--max_dataset_size", 4,
                      "--num_threads", 0, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "whole_synthetic" / "report.json").read_text())
    assert report["mean"]["bicubic"]["standard"]["psnr"] > 15
    assert "ms_ssim_published" in done.stdout and "ms_ssim_picture" in done.stdout


@pytest.mark.deep       # test/npu has enhance.py with every model
def test_images_are_reduced_and_restored(run: Path, run_script: Callable, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 44, 3), dtype=np.uint8)
    write_image(tmp_path / "in" / "a.png", image)
    done = run_script("enhance.py", "--name", "whole", "--epoch", "latest", "--checkpoints_dir",
                      run.parent, "--input", tmp_path / "in", "--output", tmp_path / "out",
                      "--device", "cpu", "--align", "square")
    assert done.returncode == 0, done.stderr
    network = Generator(width=16).eval()
    network.load_state_dict(torch.load(run / "latest_net_G.pth", weights_only=True))
    with torch.no_grad():
        small = downscale_through(image[8:52], (16, 8, 4))
        expected = to_image(network(to_tensor(small), 3, 1.0))[0]
    found = read_image(tmp_path / "out" / "a.png").astype(int)
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("align, part", [
    ("none", np.s_[:, :]), ("square", np.s_[20:220, :]), ("center178", np.s_[31:209, 11:189])])
def test_the_published_chain_leads_to_the_input(align: str, part: tuple,
                                                tiny_run: Callable) -> None:
    model, _ = tiny_run("pfsrnet")
    image = np.random.default_rng(0).integers(0, 256, (240, 200, 3), dtype=np.uint8)
    model.opt.align = align
    small = model.preprocess(image, model.opt)
    assert np.array_equal(
        small, downscale_through(np.ascontiguousarray(image[part]), (16, 8, 4)))
    model.opt.simulate_lq = True
    degraded = PyramidDegradation()(model.preprocess(image, model.opt), np.random.default_rng(0))
    assert np.array_equal(
        degraded, downscale_through(np.ascontiguousarray(image[part]), (32, 16, 8, 4)))


def test_evaluation_takes_the_published_batches() -> None:
    opt = EvaluateOptions(models, data, "test").parse(
        ["--model", "pfsrnet", "--pretrain_model_path", "g.pth"])
    assert (opt.batch_size, opt.degradation) == (16, "pyramid")


@pytest.mark.deep
def test_a_run_killed_in_each_stage_ends_with_the_same_weights(run: Path) -> None:
    """Killed -9 in the middle of the fades of stages 2 and 3, and once in stage 1."""
    arguments = [sys.executable, str(ROOT / "newtrain.py"),
                 *command(run.parent, "killed", "--continue_train")]
    (run.parent / "killed").mkdir()     # beside another run, a new name might be misspelled
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for step in (2, 5, 9):
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment)
        for line in process.stdout:
            if f" step: {step}/" in line:
                process.kill()
                break
        process.wait()
        assert process.returncode == -9
        time.sleep(0.2)
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr
    assert_same(run, run.parent / "killed")


def assert_same(first: Path, second: Path) -> None:
    for letter in ("G", "D"):
        one, two = (torch.load(folder / f"latest_net_{letter}.pth", weights_only=True)
                    for folder in (first, second))
        assert [key for key in one if not torch.equal(one[key], two[key])] == []


@pytest.mark.deep
def test_two_ranks_hold_the_same_weights_through_all_stages(tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    done = subprocess.run(
        [*torchrun_command(script), str(tmp_path), *command(tmp_path, "two")],
        capture_output=True, text=True, timeout=400,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    ranks = [torch.load(tmp_path / f"rank{rank}.pth", weights_only=True) for rank in (0, 1)]
    weights = [key for key in ranks[0] if "running" not in key]     # statistics are each rank's own
    assert [key for key in weights if not torch.equal(ranks[0][key], ranks[1][key])] == []
    fresh = Generator(width=16).state_dict()
    assert any(not torch.equal(fresh[key[2:]], ranks[0][key]) for key in ranks[0]
               if key.startswith("G.to_rgb"))


RANK = '''
import sys
import torch
import data, models, newtrain
from options.train_options import TrainOptions
from engine import distributed

def keep(trainer, interrupted):
    state = {f"{letter}.{key}": value for letter in ("G", "D")
             for key, value in trainer.model.unwrapped[letter].state_dict().items()}
    torch.save(state, f"{folder}/rank{distributed.rank()}.pth")
    return conclude(trainer, interrupted)

folder, conclude = sys.argv[1], newtrain.conclude
newtrain.conclude = keep
opt = TrainOptions(models, data, "newtrain.py").parse(sys.argv[2:])
distributed.leave(newtrain.train(opt))
'''

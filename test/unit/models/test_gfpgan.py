"""The gfpgan model: options, updates, boxes, files, fine-tuning, whole trainings."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from conftest import ROOT, tiny_arguments, torchrun_command
from torch import Tensor

import data
import models
import newtrain
import preparation
from models.gfpgan_model import COMPONENTS, LAZY_BETA, GFPGANModel, in_float32
from models.networks.gfpgan import GFPGAN
from models.networks.gfpgan_discriminators import StyleGAN2Discriminator
from options.enhance_options import EnhanceOptions
from options.train_options import TrainOptions
from utils import face_parts

CPU = torch.device("cpu")
NETWORK = {"size": 16, "narrow": 1 / 32, "style_dim": 16, "num_mlp": 1}
SIMPLE = ("--lambda_component", "0", "--lambda_comp_style", "0")


def state_of(model: GFPGANModel, letter: str) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.unwrapped[letter].state_dict().items()}


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {key for key, value in before.items() if not torch.equal(value, after[key])}


def refusal(capsys: pytest.CaptureFixture, make: Callable[[], object]) -> str:
    """What a command line that is refused prints."""
    with pytest.raises(SystemExit) as error:
        make()
    assert error.value.code == 2
    return capsys.readouterr().err


# ---- options ------------------------------------------------------------------------------------

@pytest.mark.parametrize("flag, switch", [
    ("--vgg_weights", ("--lambda_pcp", "1")), ("--vgg_weights", ("--lambda_style", "1")),
    ("--id_weights", ("--lambda_id", "1")), ("--decoder_weights", ("--fix_decoder",))])
def test_a_missing_weight_file_is_refused_by_its_flag(
        flag: str, switch: tuple[str, ...], tiny_options: Callable,
        capsys: pytest.CaptureFixture) -> None:
    text = refusal(capsys, lambda: tiny_options("gfpgan", *switch))
    assert f"{flag} is missing" in text and len(text.strip().splitlines()) == 1


@pytest.mark.parametrize("arguments, words", [
    (("--load_size", "24"), "power of two"), (("--narrow", "0.1"), "must give the decoder even"),
    (("--r1_every", "0"), "--r1_every"), (("--ema_decay", "1"), "--ema_decay")])
def test_impossible_values_are_refused(arguments: tuple[str, ...], words: str,
                                       tiny_options: Callable,
                                       capsys: pytest.CaptureFixture) -> None:
    assert words in refusal(capsys, lambda: tiny_options("gfpgan", *arguments))


def test_the_papers_network_is_trained_and_1_3_restores(tiny_options: Callable) -> None:
    assert tiny_options("gfpgan").preset == "1"
    opt = tiny_options("gfpgan")
    opt.preset, opt.is_train = "auto", False
    GFPGANModel.resolve(opt)
    assert opt.preset == "1.3"


@pytest.mark.parametrize("name", ["gfpgan_v1", "gfpgan_v1_simple"])
def test_a_published_setting_is_the_models_default(name: str) -> None:
    """All but what the simple one leaves out."""
    options = TrainOptions(models, data, "test")
    files = ["--dataroot", "FACES", "--vgg_weights", "V", "--id_weights", "I",
             "--decoder_weights", "D", "--device", "cpu"]
    ours = vars(options.parse(["--model", "gfpgan", *files]))
    theirs = vars(options.parse(["--config", str(ROOT / "options" / f"{name}.yaml"), *files]))
    lengths = {"train_steps", "print_freq", "eval_freq", "save_latest_freq", "save_epoch_freq",
               "config", "D_channel_multiplier"}
    off = {"lambda_component", "lambda_comp_style", "lambda_id"} if "simple" in name else set()
    assert {key for key in ours if ours[key] != theirs[key]} <= lengths | off
    assert all(theirs[key] == 0 for key in off)


# ---- who moves, how fast ------------------------------------------------------------------------

def test_a_fixed_decoder_stays_while_all_else_moves(tiny_run: Callable) -> None:
    model, batch = tiny_run("gfpgan", "--fix_decoder", "--decoder_weights", "random")
    before = state_of(model, "G")
    model.run_step(batch)
    changed = moved(before, state_of(model, "G"))
    assert changed == {key for key in before if not key.startswith("stylegan_decoder.")}


def test_every_network_has_its_published_rate(tiny_run: Callable) -> None:
    model, _ = tiny_run("gfpgan")
    found = {name: (update.optimizer.param_groups[0]["lr"], update.optimizer.defaults["betas"])
             for name, update in model.precision.steps.items()}
    assert found == {"G": (2e-3, (0.0, 0.99)), "D": (2e-3, (0.0, LAZY_BETA)),
                     "components": (2e-3, (0.9, 0.99))}
    assert pytest.approx(0.9905855) == LAZY_BETA


def test_a_clean_network_learns_slower_and_its_modulated_layers_slower_still(
        tiny_run: Callable) -> None:
    model, _ = tiny_run("gfpgan", "--preset", "1.3")
    rates = {parameter: group["lr"]
             for group in model.precision.steps["G"].optimizer.param_groups
             for parameter in group["params"]}
    network = model.unwrapped["G"]
    assert rates[network.final_conv.weight] == pytest.approx(1e-4)
    inner = network.stylegan_decoder.style_conv1.modulated_conv
    assert rates[inner.weight] == pytest.approx(1e-4 / 3)


@pytest.mark.parametrize("step, factor", [(3, 1.0), (4, 0.5), (6, 0.5), (7, 0.25)])
def test_a_milestones_rate_starts_with_the_step_after_it(step: int, factor: float,
                                                         tiny_run: Callable) -> None:
    model, _ = tiny_run("gfpgan", "--lr_milestones", "3", "6")
    model.start_step(step, 100, 100)
    assert set(model.learning_rates().values()) == {2e-3 * factor}


def test_the_average_follows_with_its_decay(tiny_run: Callable) -> None:
    model, batch = tiny_run("gfpgan", "--ema_decay", "0.75")
    start = state_of(model, "H")
    model.run_step(batch)
    g, h = state_of(model, "G"), state_of(model, "H")
    key = "conv_body_first.0.weight"
    assert torch.allclose(h[key], 0.75 * start[key] + 0.25 * g[key])
    assert all(torch.equal(h[key], g[key]) for key in h if ".noises." in key)


def test_discriminators_first_train_alone(tiny_run: Callable) -> None:
    model, batch = tiny_run("gfpgan", "--d_init_steps", "1")
    before = {letter: state_of(model, letter) for letter in ("G", "D", *COMPONENTS.values())}
    losses = model.run_step(batch)
    assert losses.keys() == {"D", *COMPONENTS.values()}
    assert [letter for letter in before if not moved(before[letter], state_of(model, letter))
            ] == ["G"]
    model.start_step(2, 100, 100)
    model.run_step(batch)
    assert moved(before["G"], state_of(model, "G"))


def test_g_can_be_trained_at_every_second_step_only(tiny_run: Callable) -> None:
    model, batch = tiny_run("gfpgan", "--d_iters", "2")
    assert "Pix" not in model.run_step(batch)
    model.start_step(2, 100, 100)
    assert "Pix" in model.run_step(batch)


def test_without_component_losses_there_are_no_component_discriminators(tiny_run: Callable) -> None:
    model, batch = tiny_run("gfpgan", *SIMPLE)
    assert set(model.unwrapped) == {"G", "H", "D"}
    assert model.run_step(batch).keys() == {"Pix", "Pyramid", "G", "D"}


# ---- losses over time ---------------------------------------------------------------------------

@pytest.mark.parametrize("step, expected", [(1, False), (2, True), (3, False), (4, True)])
def test_the_gradient_penalty_comes_every_few_steps(step: int, expected: bool,
                                                    tiny_run: Callable) -> None:
    model, batch = tiny_run("gfpgan", "--r1_every", "2", *SIMPLE)
    model.start_step(step, 100, 100)
    assert ("R1" in model.run_step(batch)) == expected


@pytest.mark.parametrize("flag, default, names", [
    ("pix", 0.1, ["Pix"]), ("pyramid", 1, ["Pyramid"]), ("g", 0.1, ["G"]),
    ("component", 1, [f"G_{part}" for part in COMPONENTS]), ("comp_style", 200, ["CompStyle"]),
    ("r1", 10, ["R1"])])
def test_a_loss_grows_with_its_weight_and_no_other_does(flag: str, default: float,
                                                        names: list[str],
                                                        tiny_run: Callable) -> None:
    runs = []
    for factor in (1, 3):
        model, batch = tiny_run("gfpgan", f"--lambda_{flag}", str(factor * default),
                                "--r1_every", "1")
        runs.append(model.run_step(batch))
    grown = {name for name in runs[0] if runs[1][name] != runs[0][name]}
    assert grown == set(names)
    assert all(float(runs[1][name]) == pytest.approx(3 * float(runs[0][name]), rel=1e-5)
               for name in names)


def test_the_penalty_weighs_more_the_rarer_it_is(tiny_run: Callable) -> None:
    values = []
    for every in ("2", "6"):
        model, batch = tiny_run("gfpgan", "--r1_every", every, *SIMPLE)
        model.start_step(6, 100, 100)
        values.append(float(model.run_step(batch)["R1"]))
    assert values[1] == pytest.approx(3 * values[0], rel=1e-5)


def test_the_pyramid_ends_after_its_last_step(tiny_run: Callable) -> None:
    values = []
    for step in (5, 6):
        model, batch = tiny_run("gfpgan", "--remove_pyramid", "5", *SIMPLE)
        model.start_step(step, 100, 100)
        values.append(float(model.run_step(batch)["Pyramid"]))
    assert values[0] > 0.1
    assert values[1] == pytest.approx(1e-12 * values[0], rel=1e-5, abs=0)


def test_the_penalty_is_computed_in_float32_on_half_precision_weights() -> None:
    torch.manual_seed(0)
    discriminator = StyleGAN2Discriminator(size=16, narrow=1 / 32)
    x = torch.rand(2, 3, 16, 16)
    expected = discriminator(x)
    logits = in_float32(discriminator.half(), x)
    logits.sum().backward()
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, expected, atol=2e-3)
    assert all(weight.grad.dtype == torch.float16 for weight in discriminator.parameters())


# ---- boxes --------------------------------------------------------------------------------------

def test_boxes_come_from_the_batch_its_landmarks_or_the_template(tiny_run: Callable) -> None:
    model, batch = tiny_run("gfpgan")
    given = torch.rand(2, 3, 4)
    assert model._boxes({**batch, "boxes": given}) is given
    by_points = model._boxes(batch)
    parts = face_parts.parts_of_landmarks(batch["landmarks"], 16)
    assert torch.equal(by_points, face_parts.boxes_of_parts(parts))
    del batch["landmarks"]
    template = model._boxes(batch)
    assert template.shape == (2, 3, 4)
    # Drawn faces are aligned as FFHQ's, so that both must agree roughly.
    assert float((template - by_points).abs().max()) < 16 * 0.1


def test_crops_of_both_images_are_where_the_boxes_are(tiny_run: Callable) -> None:
    model, batch = tiny_run("gfpgan")
    batch["boxes"] = torch.tensor([[0.0, 0, 8, 8], [8, 0, 16, 8], [4, 8, 12, 16]]).repeat(2, 1, 1)
    restored = torch.rand(2, 3, 16, 16)
    crops = model._crops(batch, restored)
    assert [crop.shape for crop in crops["mouth"]] == [(2, 3, 8, 8)] * 2
    # Samples lie half a pixel further on, between four pixels.
    middle = crops["right_eye"][0][:, :, :7, :7]
    around = [restored[:, :, y:y + 7, 8 + x:15 + x] for y in (0, 1) for x in (0, 1)]
    assert torch.allclose(middle, sum(around) / 4, atol=1e-6)


@pytest.mark.parametrize("part, size, expected", [
    ("left_eye", 512, 80), ("mouth", 512, 120), ("mouth", 1024, 240), ("right_eye", 256, 40),
    ("left_eye", 16, 8)])
def test_crops_scale_with_the_image(part: str, size: int, expected: int) -> None:
    assert face_parts.crop_size(part, size) == expected


# ---- files --------------------------------------------------------------------------------------

def file_of(tmp_path: Path, arch: str, key: str = "params_ema") -> tuple[Path, GFPGAN]:
    """A file in the published layout, and its network."""
    torch.manual_seed(5)
    network = GFPGAN(arch=arch, **NETWORK,
                     channel_multiplier=1 if arch == "original" else 2)
    path = tmp_path / f"{arch}.pth"
    torch.save({key: network.state_dict()}, path)
    return path, network


@pytest.mark.parametrize("key", ["params_ema", "params"])
def test_a_clean_file_is_recognised_and_fine_tuned(key: str, tmp_path: Path, tiny_run: Callable,
                                                   caplog: pytest.LogCaptureFixture) -> None:
    path, network = file_of(tmp_path, "clean", key)
    caplog.set_level("INFO", "facezoo")
    model, _ = tiny_run("gfpgan", "--pretrained", str(path))
    assert model.opt.preset == "1.3" and model.warmup == 500
    for letter in "GH":
        assert not moved(network.state_dict(), state_of(model, letter))
    assert f"all {len(network.state_dict())} entries" in caplog.text
    assert "discriminators start fresh and train alone for 500 steps" in caplog.text


def test_fine_tuning_needs_no_prior(tmp_path: Path, tiny_options: Callable) -> None:
    path, _ = file_of(tmp_path, "clean")
    assert tiny_options("gfpgan", "--fix_decoder", "--pretrained", str(path)).fix_decoder


@pytest.mark.parametrize("arch, preset", [("original", "1"), ("bilinear", "bilinear")])
def test_an_equalised_file_needs_the_preset_said(arch: str, preset: str, tmp_path: Path,
                                                 tiny_run: Callable, tiny_options: Callable,
                                                 capsys: pytest.CaptureFixture) -> None:
    path, network = file_of(tmp_path, arch)
    text = refusal(capsys, lambda: tiny_options("gfpgan", "--pretrained", str(path)))
    assert "--preset 1 " in text and "--preset bilinear" in text
    model, _ = tiny_run("gfpgan", "--pretrained", str(path), "--preset", preset)
    assert not moved(network.state_dict(), state_of(model, "G"))


def test_a_file_of_the_other_architecture_is_refused_with_advice(
        tmp_path: Path, tiny_options: Callable, capsys: pytest.CaptureFixture) -> None:
    path, _ = file_of(tmp_path, "clean")
    text = refusal(capsys, lambda: tiny_options("gfpgan", "--pretrained", str(path), "--preset",
                                                "bilinear"))
    assert f"--preset bilinear contradicts {path}, which needs --preset 1.3" in text


def test_a_prior_loads_into_the_decoder_only(tmp_path: Path, tiny_run: Callable,
                                             tiny_options: Callable,
                                             capsys: pytest.CaptureFixture) -> None:
    _, network = file_of(tmp_path, "original")
    decoder, path = network.stylegan_decoder.state_dict(), tmp_path / "prior.pth"
    torch.save({"params_ema": decoder}, path)
    model, _ = tiny_run("gfpgan", "--decoder_weights", str(path), "--fix_decoder")
    found = model.unwrapped["G"].stylegan_decoder.state_dict()
    assert not moved(decoder, found)
    text = refusal(capsys, lambda: tiny_options("gfpgan", "--pretrained", str(path)))
    assert "--decoder_weights" in text


def test_another_networks_file_is_no_prior(tmp_path: Path, tiny_run: Callable) -> None:
    path, _ = file_of(tmp_path, "clean")
    with pytest.raises(ValueError, match="--decoder_weights: "):
        tiny_run("gfpgan", "--decoder_weights", str(path), "--fix_decoder")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of one step."""
    return train_here(tmp_path_factory.mktemp("gfpgan"))


def train_here(root: Path, *arguments: str) -> Path:
    """Folder of a run of one step in this process."""
    assert newtrain.train(TrainOptions(models, data, "test").parse(
        [*tiny_arguments("gfpgan"), "--checkpoints_dir", str(root), "--name", "run",
         "--no-tensorboard", "--eval_freq", "0", "--train_steps", "1", "--print_freq", "1",
         *arguments])) == 0
    return root / "run"


def train(root: Path, *arguments: str, processes: int = 1, name: str = "run") -> str:
    script = ROOT / "newtrain.py"
    command = (torchrun_command(script, processes) if processes > 1
               else [sys.executable, str(script)])
    done = subprocess.run(
        [*command, *tiny_arguments("gfpgan"), "--checkpoints_dir", str(root), "--name", name,
         "--no-tensorboard", "--eval_freq", "0", "--print_freq", "1", *arguments],
        capture_output=True, text=True, timeout=500, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_saved_network_is_a_published_file(finished: Path) -> None:
    content = torch.load(finished / "latest_net_H.pth", weights_only=True)
    assert list(content) == ["params_ema"]
    assert all(isinstance(value, Tensor) for value in content["params_ema"].values())
    network = GFPGAN(arch="original", channel_multiplier=1, **NETWORK)
    network.load_state_dict(content["params_ema"])


def test_restoring_takes_the_average_and_the_runs_own_network(finished: Path) -> None:
    opt = EnhanceOptions(models, data, "test").parse(
        ["--name", "run", "--checkpoints_dir", str(finished.parent), "--input", "x", "--device",
         "cpu"])
    model, path = models.load_trained(opt, CPU)
    assert path.name == "latest_net_H.pth"
    assert not moved(torch.load(path, weights_only=True)["params_ema"], state_of(model, "G"))
    assert model.restore(torch.zeros(1, 3, 16, 16)).shape == (1, 3, 16, 16)


def test_a_fine_tuned_run_restores_with_its_own_weights(tmp_path: Path) -> None:
    """Also the first steps, in which G is not trained, are logged."""
    path, _ = file_of(tmp_path, "clean")
    run = train_here(tmp_path, "--pretrained", str(path))
    opt = EnhanceOptions(models, data, "test").parse(
        ["--name", "run", "--checkpoints_dir", str(tmp_path), "--input", "x", "--device", "cpu"])
    assert models.load_trained(opt, CPU)[1] == run / "latest_net_H.pth"
    assert opt.preset == "1.3"


def test_a_published_file_restores_without_a_run(tmp_path: Path) -> None:
    path, network = file_of(tmp_path, "clean")
    opt = EnhanceOptions(models, data, "test").parse(
        ["--model", "gfpgan", "--pretrain_model_path", str(path), "--load_size", "16", "--narrow",
         "0.03125", "--style_dim", "16", "--num_mlp", "1", "--input", "x", "--device", "cpu"])
    model, _ = models.load_trained(opt, CPU)
    lq = torch.rand(1, 3, 16, 16)
    assert torch.allclose(model.restore(lq), network(lq)[0], atol=1e-5)


def test_a_bilinear_run_becomes_a_clean_file(tmp_path: Path) -> None:
    path, network = file_of(tmp_path, "bilinear")
    assert preparation.find("clean").run(Namespace(input=path, output=tmp_path / "out.pth")) == 0
    clean = GFPGAN(arch="clean", **NETWORK)
    clean.load_state_dict(torch.load(tmp_path / "out.pth", weights_only=True)["params_ema"])
    x = torch.rand(1, 3, 16, 16)
    assert torch.allclose(clean(x)[0], network(x)[0], atol=1e-4)


@pytest.mark.parametrize(("preset", "refused"), [("1", True), ("bilinear", False)])
def test_only_the_options_of_a_run_tell_bilinear_weights_from_original_ones(
        preset: str, refused: bool, tmp_path: Path) -> None:
    path, _ = file_of(tmp_path, "bilinear")
    (tmp_path / "train_opt.yaml").write_text(f"preset: '{preset}'\n")
    opt = Namespace(input=path, output=tmp_path / "out.pth")
    with pytest.raises(ValueError, match="of --preset 1") if refused else nullcontext():
        preparation.find("clean").run(opt)
    assert (tmp_path / "out.pth").exists() != refused


def test_what_is_not_bilinear_cannot_be_made_clean(tmp_path: Path) -> None:
    path, _ = file_of(tmp_path, "clean")
    with pytest.raises(ValueError, match=r"--input must hold weights of a bilinear"):
        preparation.find("clean").run(Namespace(input=path, output=tmp_path / "out.pth"))


# ---- whole trainings with every loss ------------------------------------------------------------

EVERYTHING = ("--load_size", "32", "--lambda_pcp", "1", "--lambda_style", "50", "--vgg_weights",
              "random", "--lambda_id", "10", "--id_weights", "random", "--r1_every", "2",
              "--stddev_group", "4", "--randomize_noise", "--remove_pyramid", "3",
              "--save_latest_freq", "1")
TERMS = {"Pix", "Pyramid", "PCP", "Style", "ID", "G", "CompStyle", "R1", "D", *COMPONENTS.values(),
         *(f"G_{part}" for part in COMPONENTS)}


def logged(root: Path, name: str = "run") -> list[dict]:
    records = [json.loads(line) for line in (root / name / "metrics.jsonl").open()]
    return [record["losses"] for record in records if "losses" in record]


def weights(root: Path, letter: str) -> dict[str, Tensor]:
    content = torch.load(root / "run" / f"latest_net_{letter}.pth", weights_only=True)
    return content.get("params_ema", content)


@pytest.mark.deep
@pytest.mark.parametrize("processes", [1, 2])
def test_training_with_every_loss_resumes_exactly(processes: int, tmp_path: Path) -> None:
    train(tmp_path / "whole", *EVERYTHING, "--train_steps", "4", processes=processes)
    train(tmp_path / "parts", *EVERYTHING, "--train_steps", "2", processes=processes)
    train(tmp_path / "parts", *EVERYTHING, "--train_steps", "4", "--continue_train",
          processes=processes)
    assert set().union(*logged(tmp_path / "whole")) == TERMS
    for letter in ("G", "H", "D", *COMPONENTS.values()):
        assert moved(weights(tmp_path / "whole", letter), weights(tmp_path / "parts", letter)
                     ) == set()


@pytest.mark.deep
def test_two_processes_take_the_step_of_one_with_both_batches(tmp_path: Path) -> None:
    """Without batch statistics and drawn noise, SGD-like: one step from the same start."""
    arguments = ("--train_steps", "1", "--r1_every", "1", "--serial_batches")
    train(tmp_path / "one", *arguments, "--batch_size", "2")
    train(tmp_path / "two", *arguments, "--batch_size", "1", processes=2)
    states = [torch.load(tmp_path / folder / "run" / "latest_state.pth", weights_only=True)
              for folder in ("one", "two")]
    for name in ("G", "D", "components"):
        # Adam's second moment after a step is a hundredth of the squared gradient.
        one, two = (torch.cat([entry["exp_avg_sq"].flatten().sqrt() for entry in
                               state["optimizers"][name]["state"].values()]) for state in states)
        assert float((one - two).norm() / one.norm()) < 1e-4

"""GPEN's model: published files, prior, losses, ranges, tasks."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_arguments
from torch import Tensor

import data
import models
from models.networks.gpen import FullGenerator
from models.networks.stylegan2 import Discriminator, Generator
from options.enhance_options import EnhanceOptions
from options.train_options import TrainOptions

SMALL = {"style_dim": 16, "n_mlp": 2, "narrow": 0.03125}


def generator(size: int = 16, **settings: object) -> FullGenerator:
    torch.manual_seed(7)
    return FullGenerator(size=size, **{**SMALL, **settings})


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def saved(path: Path, content: object) -> str:
    torch.save(content, path)
    return str(path)


# ---- published files -----------------------------------------------------------------------------

PLAIN, WIDE = (lambda state: state), {"size": 16}


@pytest.mark.parametrize("wrap, settings", [
    (PLAIN, WIDE), (lambda state: {"g_ema": state}, WIDE),
    (lambda state: {f"module.{key}": value for key, value in state.items()}, WIDE),
    (PLAIN, {"size": 64, "channel_multiplier": 1}), (PLAIN, {"size": 16, "isconcat": False})],
    ids=["plain", "g_ema", "module.", "64 x 1", "added noise"])
def test_a_file_alone_says_how_to_build_its_network(wrap: Callable, settings: dict,
                                                    tmp_path: Path) -> None:
    network = generator(**settings).eval()
    path = saved(tmp_path / "GPEN.pth", wrap(network.state_dict()))
    opt = EnhanceOptions(models, data, "test").parse(
        ["--model", "gpen", "--pretrain_model_path", path, "--input", "x", "--device", "cpu"])
    model, _ = models.load_trained(opt, torch.device("cpu"))
    lq = torch.rand(1, 3, settings["size"], settings["size"])
    assert opt.load_size == settings["size"]
    assert torch.allclose(model.restore(lq), network(lq)[0], atol=1e-5)


def test_without_a_file_the_options_are_those_of_bfr_512() -> None:
    opt = TrainOptions(models, data, "test").parse(["--model", "gpen", "--lambda_id", "0"])
    assert (opt.load_size, opt.channel_multiplier, opt.narrow, opt.style_dim, opt.n_mlp,
            opt.noise) == (512, 2, 1.0, 512, 8, "concat")


def test_a_file_of_other_widths_is_refused_with_the_options_it_needs(tiny_run: Callable,
                                                                     tmp_path: Path) -> None:
    path = saved(tmp_path / "GPEN.pth", generator(size=32, n_mlp=3).state_dict())
    model, _ = tiny_run("gpen")
    with pytest.raises(ValueError, match=r"--load_size 32 .*--narrow 0.03125 .*--n_mlp 3"):
        model.load_weights("G", path)


def test_a_bare_file_starts_g_and_the_average(tiny_run: Callable, tmp_path: Path) -> None:
    state = generator().state_dict()
    model, _ = tiny_run("gpen", "--pretrain_model_path", saved(tmp_path / "G.pth", state))
    assert same(model.weights()["G"], state) and same(model.weights()["H"], state)


def training_file(tiny_run: Callable, *arguments: str) -> tuple[object, dict]:
    """A trained model and what the original would have saved of it."""
    model, batch = tiny_run("gpen", *arguments)
    model.run_step(batch)
    weights = {letter: {key: value.clone() for key, value in state.items()}
               for letter, state in model.weights().items()}
    optimizers = {name: update.optimizer.state_dict()
                  for name, update in model.precision.steps.items()}
    return model, {"g": weights["G"], "d": weights["D"], "g_ema": weights["H"],
                   "g_optim": optimizers["G"], "d_optim": optimizers["D"]}


@pytest.mark.parametrize("level", ["O0", "O2"])
def test_a_training_checkpoint_starts_everything(level: str, tiny_run: Callable,
                                                 tmp_path: Path) -> None:
    _, content = training_file(tiny_run)
    path = saved(tmp_path / "010000.pth", content)
    again, batch = tiny_run("gpen", "--pretrain_model_path", path, "--opt_level", level)
    if level == "O0":
        found = again.weights()
        assert all(same(found[letter], content[key])
                   for letter, key in (("G", "g"), ("D", "d"), ("H", "g_ema")))
    assert same(again.weights()["H"], content["g_ema"])
    for name, key in (("G", "g_optim"), ("D", "d_optim")):
        entries = again.precision.steps[name].optimizer.state_dict()["state"]
        for index, entry in content[key]["state"].items():
            assert torch.equal(entries[index]["exp_avg_sq"], entry["exp_avg_sq"])
    again.run_step(batch)
    steps = {int(entry["step"]) for update in again.precision.steps.values()
             for entry in update.optimizer.state.values()}
    assert steps <= {1, 2} and (level == "O2" or steps == {2})


def test_training_from_a_checkpoint_takes_the_rate_of_the_options(tiny_run: Callable,
                                                                  tmp_path: Path) -> None:
    _, content = training_file(tiny_run)
    model, _ = tiny_run("gpen", "--lr", "0.5", "--pretrain_model_path",
                        saved(tmp_path / "1.pth", content))
    assert model.learning_rates()["G"] == pytest.approx(0.5)


def test_inference_takes_the_average_of_a_training_checkpoint(tiny_run: Callable,
                                                              tmp_path: Path) -> None:
    _, content = training_file(tiny_run, "--ema_decay", "0.5")
    opt = EnhanceOptions(models, data, "test").parse(
        ["--model", "gpen", "--pretrain_model_path", saved(tmp_path / "1.pth", content),
         "--input", "x", "--device", "cpu"])
    model, _ = models.load_trained(opt, torch.device("cpu"))
    assert same(model.weights()["G"], content["g_ema"])
    assert not same(content["g"], content["g_ema"])


# ---- D, prior, rates -----------------------------------------------------------------------------

def test_d_takes_the_widths_of_its_file(tiny_run: Callable, tmp_path: Path) -> None:
    state = Discriminator(size=16, narrow=0.0625).state_dict()
    for name, content in (("plain", state), ("training", {"d": state, "g": {}})):
        path = saved(tmp_path / f"{name}.pth", content)
        model, _ = tiny_run("gpen", "--d_weights", path)
        assert same(model.weights()["D"], state)


def test_a_d_of_another_size_is_refused(tiny_run: Callable, tmp_path: Path,
                                        capsys: pytest.CaptureFixture) -> None:
    path = saved(tmp_path / "D.pth", Discriminator(size=32, narrow=0.03125).state_dict())
    with pytest.raises(SystemExit):
        tiny_run("gpen", "--d_weights", path)
    assert "--load_size must be 32 for --d_weights" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["plain", "with noise maps", "g_ema", "full generator"])
def test_a_prior_goes_into_the_generator_of_g_and_h(kind: str, tiny_run: Callable,
                                                    tmp_path: Path) -> None:
    torch.manual_seed(3)
    state = Generator(size=16, **SMALL).state_dict()
    content = {"plain": state, "with noise maps": {**state, "noises.noise_0": torch.zeros(1)},
               "g_ema": {"g_ema": state, "g": {}, "d": {}},
               "full generator": {**{f"generator.{key}": value for key, value in state.items()},
                                  "ecd0.0.0.weight": torch.zeros(1)}}[kind]
    model, _ = tiny_run("gpen", "--prior", saved(tmp_path / "prior.pth", content))
    for letter in "GH":
        assert same(model.unwrapped[letter].generator.state_dict(), state)


def test_a_prior_of_added_noise_does_not_fit_concatenated(tiny_run: Callable,
                                                          tmp_path: Path) -> None:
    path = saved(tmp_path / "p.pth", Generator(size=16, isconcat=False, **SMALL).state_dict())
    with pytest.raises(ValueError, match=r"--prior: .*of another shape"):
        tiny_run("gpen", "--prior", path)
    assert tiny_run("gpen", "--prior", path, "--noise", "add")


def test_encoder_and_decoder_may_have_rates_of_their_own(tiny_run: Callable) -> None:
    model, _ = tiny_run("gpen", "--lr", "0.01", "--decoder_lr", "0.001", "--d_lr", "0.0001")
    groups = model.precision.steps["G"].optimizer.param_groups
    names = {id(p): name for name, p in model.unwrapped["G"].named_parameters()}
    for group, rate, inside in zip(groups, (0.01, 0.001), (False, True), strict=True):
        assert group["lr"] == pytest.approx(rate)
        assert {names[id(p)].startswith("generator.") for p in group["params"]} == {inside}
    assert model.learning_rates()["D"] == pytest.approx(0.0001)


# ---- losses and ranges ---------------------------------------------------------------------------

def test_the_identity_loss_asks_for_its_weights(tiny_options: Callable,
                                                capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        tiny_options("gpen", "--lambda_id", "1")
    assert "--id_weights is missing" in capsys.readouterr().err


def test_prior_and_start_weights_exclude_each_other(tiny_options: Callable, tmp_path: Path,
                                                    capsys: pytest.CaptureFixture) -> None:
    path = saved(tmp_path / "G.pth", generator().state_dict())
    with pytest.raises(SystemExit):
        tiny_options("gpen", "--prior", path, "--pretrain_model_path", path)
    assert "both start G" in capsys.readouterr().err


def test_the_identity_loss_trains_g_and_not_its_network(tiny_run: Callable) -> None:
    model, batch = tiny_run("gpen", "--lambda_id", "2", "--id_weights", "random", "--lambda_g",
                            "0", "--lambda_pix", "0")
    before = model.unwrapped["G"].ecd0[0][0].weight.clone()
    losses = model.run_step(batch)
    assert 0 < losses["ID"] < 4 and "ID" not in model.weights()
    assert not torch.equal(before, model.unwrapped["G"].ecd0[0][0].weight)
    assert all(weight.grad is None for weight in model.unwrapped["ID"].parameters())


def test_the_pixel_loss_is_smooth_l1(tiny_run: Callable) -> None:
    model, batch = tiny_run("gpen", "--lambda_pix", "3")
    with torch.no_grad():
        expected = 3 * F.smooth_l1_loss(model.unwrapped["G"](batch["lq"])[0], batch["gt"])
    assert model.run_step(batch)["Pix"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_unit_range_means_zero_to_one_at_the_network_only(tiny_run: Callable) -> None:
    model, batch = tiny_run("gpen", "--unit_range")
    expected = model.unwrapped["H"]((batch["lq"] + 1) / 2)[0] * 2 - 1
    assert torch.equal(model.restore(batch["lq"]), expected)
    assert torch.isfinite(model.run_step(batch)["Pix"])


def test_kept_luminance_is_the_inputs_and_colors_are_the_networks(tiny_run: Callable) -> None:
    model, batch = tiny_run("gpen", "--keep_luminance")
    lq = batch["lq"]
    kept, made = model.restore(lq), model.unwrapped["H"](lq)[0]
    luma = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    assert torch.allclose((kept * luma).sum(1), (lq * luma).sum(1), atol=1e-5)
    assert torch.allclose(kept[:, 0] - kept[:, 1], made[:, 0] - made[:, 1], atol=1e-5)


def test_images_are_brought_to_size_bilinearly(tiny_run: Callable) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    expected = cv2.resize(image, (16, 16), interpolation=cv2.INTER_LINEAR)
    model, _ = tiny_run("gpen")
    assert np.array_equal(model.preprocess(image, model.opt), expected)


# ---- whole runs ----------------------------------------------------------------------------------

@pytest.mark.deep
def test_a_prior_is_trained_and_used(run_script: Callable, tmp_path: Path) -> None:
    def train(name: str, *arguments: object) -> None:
        done = run_script("newtrain.py", *tiny_arguments(name), "--checkpoints_dir", tmp_path,
                          "--name", name, "--no-tensorboard", "--train_steps", 2, "--print_freq",
                          1, "--d_reg_every", 2, "--g_reg_every", 2, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        assert ("validation at step 2" in done.stdout) == (name == "gpen")
    train("stylegan2")
    run = tmp_path / "stylegan2"
    train("gpen", "--prior", run / "latest_net_H.pth", "--d_weights", run / "latest_net_D.pth")
    state = torch.load(tmp_path / "gpen" / "latest_net_H.pth", weights_only=True)
    assert state.keys() == generator().state_dict().keys()

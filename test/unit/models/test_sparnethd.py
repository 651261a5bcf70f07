"""SPARNetHD: networks as published, order of updates, moving average, files, options."""
from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ROOT, tiny_arguments
from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm

import data
import models
from models.base_model import BaseModel
from models.losses.gan import TERMS
from models.networks.patch_discriminator import MultiScaleDiscriminator
from models.networks.sparnet import SPARNet
from models.ops.blocks import InstanceNorm2d
from models.ops.spectral import apply_spectral_norm
from options.enhance_options import EnhanceOptions
from options.train_options import TrainOptions

# The perceptual loss would take most of a tiny step; tests of something else leave it out.
FAST = ["--lambda_pcp", "0"]
PERCEPTUAL = ["--lambda_pcp", "1", "--vgg_weights", "random"]


def parameters(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


# ---- networks ------------------------------------------------------------------------------------

@pytest.mark.parametrize("settings, count", [
    ({}, 85_793_412), ({"att_name": "spar3d"}, 90_093_793), ({"bottleneck_size": 8}, 78_370_170)],
    ids=["2D", "3D", "bottleneck 8"])
def test_the_generator_has_the_published_size(settings: dict, count: int) -> None:
    with torch.device("meta"):
        network = SPARNet(size=512, feat_size=32, max_channels=512, norm="in", **settings)
    assert parameters(network) == count


def test_the_generators_state_has_the_published_number_of_entries() -> None:
    with torch.device("meta"):
        network = SPARNet(size=512, feat_size=32, max_channels=512, norm="in")
    assert len(apply_spectral_norm(network).state_dict()) == 892


@pytest.mark.parametrize("scales, layers, norm, count, entries", [
    (3, 4, "in", 11_750_403, 84), (3, 4, "bn", 11_750_403, 120),
    (3, 4, "none", 11_746_179, 72), (2, 3, "none", 3_111_170, 40)])
def test_the_discriminator_has_the_published_size(scales: int, layers: int, norm: str, count: int,
                                                  entries: int) -> None:
    with torch.device("meta"):
        network = apply_spectral_norm(MultiScaleDiscriminator(num_scales=scales, n_layers=layers,
                                                              norm=norm))
    assert parameters(network) == count
    assert len(network.state_dict()) == entries


@pytest.mark.parametrize("size, sides", [(512, [30, 14, 6]), (256, [14, 6, 2]), (160, [8, 3, 1])])
def test_score_maps_have_the_published_sides(size: int, sides: list[int]) -> None:
    with torch.device("meta"):
        logits, features = MultiScaleDiscriminator(num_scales=3)(torch.empty(2, 3, size, size))
    assert [tuple(score.shape) for score in logits] == [(2, 1, side, side) for side in sides]
    assert [len(layers) for layers in features] == [5, 5, 5]


@pytest.mark.parametrize("scales, layers, smallest", [(3, 4, 132), (2, 2, 18), (1, 1, 5)])
def test_the_discriminator_refuses_what_its_last_scale_cannot_classify(
        scales: int, layers: int, smallest: int) -> None:
    with torch.device("meta"):
        network = MultiScaleDiscriminator(num_scales=scales, n_layers=layers)
        network(torch.empty(1, 3, smallest, smallest))
        with pytest.raises(ValueError, match=f"at least {smallest} pixels, got {smallest - 1}x"):
            network(torch.empty(1, 3, smallest - 1, smallest))


def test_a_smaller_image_would_not_fit_the_discriminators_last_convolution() -> None:
    with torch.device("meta"):
        network = MultiScaleDiscriminator(num_scales=3)
        network.min_size = 0
        with pytest.raises(RuntimeError, match="size"):
            network(torch.empty(1, 3, 128, 128))


# ---- instance norm -------------------------------------------------------------------------------

def gradient_of_one_image(norm: nn.Module, layout: torch.memory_format) -> Tensor:
    """Gradient for an image whose loss arrives in a layout."""
    generator = torch.Generator().manual_seed(0)
    image, weight = (torch.randn(1, 4, 8, 8, generator=generator, dtype=torch.float64)
                       for _ in range(2))
    image.requires_grad_()
    norm.double()(image).backward(weight.contiguous(memory_format=layout))
    return image.grad


def test_instance_norm_differentiates_one_image_in_channels_last_order() -> None:
    expected = gradient_of_one_image(nn.InstanceNorm2d(4, affine=True), torch.contiguous_format)
    found = gradient_of_one_image(InstanceNorm2d(4, affine=True), torch.channels_last)
    assert torch.allclose(found, expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_instance_norm_is_torchs(layout: torch.memory_format) -> None:
    ours, torchs = InstanceNorm2d(6, affine=True), nn.InstanceNorm2d(6, affine=True)
    with torch.no_grad():
        for norm in (ours, torchs):
            norm.weight.copy_(torch.linspace(-1, 2, 6))
            norm.bias.copy_(torch.linspace(3, -1, 6))
    images = torch.randn(3, 6, 5, 7).contiguous(memory_format=layout)
    assert torch.allclose(ours(images), torchs(images.contiguous()), atol=1e-6)


# ---- one step ------------------------------------------------------------------------------------

def snapshots(model: BaseModel, letter: str) -> dict[str, Tensor | None]:
    return {key: None if weight.grad is None else weight.grad.clone()
            for key, weight in model.unwrapped[letter].named_parameters()}


def same(one: dict[str, Tensor | None], two: dict[str, Tensor | None]) -> bool:
    return all((value is None and two[key] is None) or torch.equal(value, two[key])
               for key, value in one.items())


@pytest.mark.parametrize("updated, other", ["GD", "DG"])
def test_a_step_leaves_no_gradient_in_the_other_network(updated: str, other: str,
                                                           tiny_run: Callable) -> None:
    model, batch = tiny_run("sparnethd", *FAST)
    optimize, seen = model.optimize, []

    def watched(name: str, loss: Tensor) -> None:
        before = snapshots(model, other)
        optimize(name, loss)
        if name == updated:
            seen.append(same(before, snapshots(model, other)))
    model.optimize = watched
    model.run_step(batch)
    assert seen == [True]


def test_the_discriminator_learns_again_after_its_frozen_forward(tiny_run: Callable) -> None:
    model, batch = tiny_run("sparnethd", *FAST)
    frozen_forwards = []
    model.unwrapped["D"].register_forward_hook(lambda network, *_: frozen_forwards.append(
        not any(weight.requires_grad for weight in network.parameters())))
    model.run_step(batch)
    assert frozen_forwards == [False, False, True]
    assert all(weight.requires_grad for weight in model.unwrapped["D"].parameters())


@pytest.mark.parametrize("switch", ["--checkpointing", "--no-checkpointing"])
def test_power_iterations_per_step_are_three_in_d_and_one_in_g_and_h(
        switch: str, tiny_run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = tiny_run("sparnethd", *FAST, switch)
    counts: Counter[int] = Counter()
    compute = SpectralNorm.compute_weight

    def counted(hook: SpectralNorm, module: nn.Module, do_power_iteration: bool) -> Tensor:
        counts[id(module)] += do_power_iteration
        return compute(hook, module, do_power_iteration)
    monkeypatch.setattr(SpectralNorm, "compute_weight", counted)
    model.run_step(batch)
    for letter, expected in (("G", 1), ("D", 3), ("H", 1)):
        found = {counts[id(module)] for module in model.unwrapped[letter].modules()
                 if isinstance(module, nn.Conv2d)}
        assert found == {expected}, letter


@pytest.mark.parametrize("mode", TERMS)
def test_every_adversarial_loss_trains_both_networks(mode: str, tiny_run: Callable) -> None:
    model, batch = tiny_run("sparnethd", *FAST, "--gan_mode", mode)
    losses = model.run_step(batch)
    assert set(losses) == {"Pix", "FM", "G", "D"}
    assert all(torch.isfinite(loss) and loss != 0 for loss in losses.values())


@pytest.mark.parametrize("flag, loss", [("pix", "Pix"), ("pcp", "PCP"), ("fm", "FM"), ("g", "G")])
def test_each_weight_scales_its_own_loss(flag: str, loss: str, tiny_run: Callable) -> None:
    found = {}
    for weight in ("2", "4"):
        common = PERCEPTUAL if flag == "pcp" else FAST
        model, batch = tiny_run("sparnethd", *common, f"--lambda_{flag}", weight)
        found[weight] = model.run_step(batch)
    ratios = {key: (found["4"][key] / found["2"][key]).item() for key in found["2"]}
    assert ratios == pytest.approx({key: 2 if key == loss else 1 for key in ratios}, rel=1e-5)


@pytest.mark.parametrize("arguments, rates", [
    ([], {"G": 1e-4, "D": 4e-4}), (["--lr", "1e-3"], {"G": 1e-3, "D": 4e-3}),
    (["--g_lr", "1e-5"], {"G": 1e-5, "D": 4e-5}),
    (["--g_lr", "1e-5", "--d_lr", "3e-5"], {"G": 1e-5, "D": 3e-5})])
def test_the_discriminator_learns_four_times_as_fast_unless_told(
        arguments: list[str], rates: dict, tiny_run: Callable) -> None:
    model, _ = tiny_run("sparnethd", *FAST, *arguments)
    assert model.learning_rates() == pytest.approx(rates)


# ---- moving average ------------------------------------------------------------------------------

def clones(network: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items()}


@pytest.fixture
def drifted(tiny_run: Callable) -> BaseModel:
    """A model with batch norm whose G has gone away from H in weights, buffers and counters."""
    model, batch = tiny_run("sparnethd", *FAST, "--Gnorm", "bn")
    with torch.no_grad():
        for weight in model.unwrapped["G"].parameters():
            weight.add_(torch.randn_like(weight))
        for _ in range(3):
            model.unwrapped["G"](batch["lq"])
    return model


def test_the_average_moves_weights_and_buffers_by_its_formula(drifted: BaseModel) -> None:
    old, origin = clones(drifted.unwrapped["H"]), clones(drifted.unwrapped["G"])
    drifted.update_ema("H", 0.9)
    floating = [key for key in old if old[key].is_floating_point()]
    assert {"running_mean", "weight_u", "weight_orig"} <= {key.split(".")[-1] for key in floating}
    for key, value in drifted.unwrapped["H"].state_dict().items():
        if key in floating:
            assert torch.allclose(value, 0.9 * old[key] + 0.1 * origin[key], atol=1e-6), key


def test_the_average_copies_counters(drifted: BaseModel) -> None:
    drifted.update_ema("H", 0.9)
    counters = [value.item() for key, value in drifted.unwrapped["H"].state_dict().items()
                if key.endswith("num_batches_tracked")]
    assert counters and set(counters) == {3}


def test_the_average_follows_the_masters_not_the_rounded_weights(tiny_run: Callable) -> None:
    model, _ = tiny_run("sparnethd", *FAST, "--opt_level", "O2", "--keep_fp32", "apex")
    weight = model.unwrapped["G"].encoder[0].conv2d.bias
    assert weight.dtype == torch.float16
    with torch.no_grad():
        model.precision.master(weight).fill_(1e-9)      # not an fp16 number
    model.update_ema("H", 0.0)
    assert torch.all(model.unwrapped["H"].encoder[0].conv2d.bias == 1e-9)


def test_the_average_lags_one_step_and_uses_its_decay(tiny_run: Callable) -> None:
    model, batch = tiny_run("sparnethd", *FAST, "--ema_decay", "0.5")
    start = {key: weight.detach().clone()
             for key, weight in model.unwrapped["G"].named_parameters()}
    model.run_step(batch)
    assert all(torch.equal(weight, start[key])
               for key, weight in model.unwrapped["H"].named_parameters())
    moved = {key: weight.detach().clone()
             for key, weight in model.unwrapped["G"].named_parameters()}
    model.run_step(batch)
    for key, weight in model.unwrapped["H"].named_parameters():
        assert torch.allclose(weight, (start[key] + moved[key]) / 2, atol=1e-7), key


def test_the_averages_vectors_stay_of_unit_length(tiny_run: Callable) -> None:
    model, batch = tiny_run("sparnethd", *FAST, "--ema_decay", "0.5", "--lr", "0.01")
    for _ in range(3):
        model.run_step(batch)
    for key, value in model.unwrapped["H"].state_dict().items():
        if key.endswith(("weight_u", "weight_v")):
            assert value.norm().item() == pytest.approx(1, abs=1e-4), key


def test_restoring_during_training_uses_the_average(tiny_run: Callable) -> None:
    model, batch = tiny_run("sparnethd", *FAST)
    model.run_step(batch)
    with torch.no_grad():
        model.unwrapped["G"].out_conv.conv2d.bias += 1
    model.eval()
    with torch.no_grad():
        restored = model.restore(batch["lq"])
        assert torch.equal(restored, model.unwrapped["H"](batch["lq"]))
        assert not torch.allclose(restored, model.unwrapped["G"](batch["lq"]), atol=0.1)


# ---- files ---------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of three steps: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("runs")
    done = subprocess.run(
        [sys.executable, str(ROOT / "newtrain.py"), *tiny_arguments("sparnethd"), *PERCEPTUAL,
         "--train_steps", "3", "--ema_decay", "0.5", "--no-tensorboard", "--checkpoints_dir",
         str(folder), "--name", "hd"], capture_output=True, text=True, timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "hd", done.stdout + done.stderr


def weights(folder: Path, name: str) -> dict[str, Tensor]:
    return torch.load(folder / f"{name}.pth", weights_only=True)


def test_a_run_writes_every_trained_network_and_the_average(finished: tuple[Path, str]) -> None:
    names = {path.name for path in finished[0].glob("*_net_*.pth")}
    assert names == {f"{suffix}_net_{letter}.pth" for suffix in ("latest", "best")
                     for letter in "GDH"}


def test_the_saved_average_is_not_the_generator(finished: tuple[Path, str]) -> None:
    one, two = (weights(finished[0], f"latest_net_{letter}") for letter in "GH")
    assert one.keys() == two.keys()
    assert any(not torch.equal(one[key], two[key]) for key in one)


def test_random_perceptual_weights_are_announced_in_the_log(finished: tuple[Path, str]) -> None:
    lines = [line for line in finished[1].splitlines() if line.startswith("warning:")]
    assert len([line for line in lines if "--vgg_weights random" in line]) == 1


@pytest.mark.parametrize("epoch", ["best", "latest"])
def test_evaluate_and_enhance_take_the_average(epoch: str, finished: tuple[Path, str]) -> None:
    opt = enhance_options("--name", "hd", "--checkpoints_dir", str(finished[0].parent), "--epoch",
                          epoch)
    model, path = models.load_trained(opt, torch.device("cpu"))
    assert path.name == f"{epoch}_net_H.pth"
    expected = weights(finished[0], f"{epoch}_net_H")
    assert all(torch.equal(value, expected[key])
               for key, value in model.unwrapped["G"].state_dict().items())


def enhance_options(*arguments: str) -> object:
    return EnhanceOptions(models, data, "enhance.py").parse(
        ["--model", "sparnethd", "--load_size", "32", "--device", "cpu", "--input", "x",
         *arguments])


NETWORK = ["--res_depth", "1", "--bottleneck_size", "8", "--max_channels", "32"]


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_published_style_file_restores_as_the_average_did(prefix: str, tmp_path: Path,
                                                            tiny_run: Callable) -> None:
    model, batch = tiny_run("sparnethd", *FAST)
    model.run_step(batch)
    model.eval()
    with torch.no_grad():
        expected = model.restore(batch["lq"])
    path = tmp_path / "SPARNetHD_V4_Attn2D_net_H-epoch10.pth"
    torch.save({prefix + key: value for key, value in model.weights()["H"].items()}, path)
    again, _ = models.load_trained(enhance_options("--pretrain_model_path", str(path), *NETWORK),
                                   torch.device("cpu"))
    with torch.no_grad():
        assert torch.allclose(again.restore(batch["lq"]), expected, atol=1e-5)


def test_weights_of_another_layout_are_refused_with_the_options_they_need(
        finished: tuple[Path, str], tiny_run: Callable) -> None:
    model, _ = tiny_run("sparnethd", "--res_depth", "4")
    with pytest.raises(ValueError, match="--res_depth 1 --att_name spar --bottleneck_size 8 "
                                         r"--Gnorm in or gn --max_channels 32"):
        model.load_weights("G", finished[0] / "latest_net_H.pth")


def test_fine_tuning_starts_generator_and_average_alike(finished: tuple[Path, str],
                                                        tiny_run: Callable) -> None:
    model, _ = tiny_run("sparnethd", *FAST, "--pretrain_model_path",
                        str(finished[0] / "latest_net_H.pth"))
    expected = weights(finished[0], "latest_net_H")
    for letter in "GH":
        state = model.unwrapped[letter].state_dict()
        assert all(torch.equal(value, state[key]) for key, value in expected.items())


# ---- options -------------------------------------------------------------------------------------

def parse(*arguments: str) -> object:
    return TrainOptions(models, data, "newtrain.py").parse(["--model", "sparnethd", *arguments])


@pytest.mark.parametrize("arguments, words", [
    ([], ["--vgg_weights", "vgg19-dcbb9e9d.pth", "--lambda_pcp 0"]),
    ([*FAST, "--load_size", "128"], ["--load_size", "132", "network D"]),
    ([*FAST, "--load_size", "500"], ["--load_size", "multiple of 16", "500"]),
    ([*FAST, "--ema_decay", "1"], ["--ema_decay", "1"]),
    ([*FAST, "--bottleneck_size", "16"], ["bottleneck_size", "1 to 8", "16"]),
    ([*FAST, "--gan_mode", "lsgun"], ["--gan_mode", "lsgan"])])
def test_mistakes_are_one_line_and_status_2(arguments: list[str], words: list[str],
                                            capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(*arguments)
    text = capsys.readouterr().err
    assert stop.value.code == 2 and len(text.splitlines()) == 1
    assert [word for word in words if word not in text] == []


def test_a_missing_weight_file_is_one_line_and_status_2(run_script: Callable, tmp_path: Path
                                                        ) -> None:
    done = run_script("newtrain.py", *tiny_arguments("sparnethd"), *PERCEPTUAL,
                      "--vgg_weights", tmp_path / "gone.pth", "--checkpoints_dir", tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "--vgg_weights" in done.stderr and "gone.pth" in done.stderr


def test_without_the_perceptual_loss_no_weights_are_needed() -> None:
    assert parse(*FAST).vgg_weights is None


def test_a_preview_needs_no_weights() -> None:
    assert parse("--preview_degradation", "preview.png").vgg_weights is None


def test_the_defaults_are_the_published_setting() -> None:
    opt = parse("--vgg_weights", "x", "--dataroot", "FFHQ")
    expected = {
        "dataset_name": "ffhq", "degradation": "blind", "load_size": 512, "batch_size": 2,
        "beta1": 0.5, "Gnorm": "in", "Dnorm": "in", "num_D": 3, "n_layers_D": 4,
        "gan_mode": "hinge", "lambda_pix": 100, "lambda_pcp": 1, "lambda_fm": 10, "lambda_g": 1,
        "lr": 1e-4, "ema_decay": 0.999, "lr_policy": "constant", "init_type": "default"}
    assert {key: getattr(opt, key) for key in expected} == expected

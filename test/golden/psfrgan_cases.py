"""How the golden cases of PSFR-GAN are built: networks, losses, iterations."""
from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from engine import device as devices
from models.base_model import BaseModel
from models.losses.gan import fake_term, generator_term, real_term
from models.losses.style import feature_mse, style_loss
from models.networks.parsenet import ParseNet
from models.networks.pretrained.vgg import VGGFeatures
from models.networks.psfrgan import ParsedDiscriminator, PSFRGenerator
from models.ops.spectral import apply_spectral_norm
from models.parse_model import ParseModel
from models.psfrgan_model import PCP_WEIGHTS, STYLE_FROM, VGG_LAYERS, PSFRGANModel
from tools.golden import (
    Check,
    Inputs,
    check_keys,
    compare_all,
    fill,
    make_input,
    require,
    run_network,
    without_effect,
)

# What newtrain.py would set, in fp32.
COMMON = {
    "is_train": True, "verbose": False, "pretrain_model_path": None, "init_type": "default",
    "init_gain": 0.02, "memory_format": "contiguous", "opt_level": "O0", "loss_scale": None,
    "amp_backend": "auto", "amp_dtype": "auto", "optimizer": "auto", "master_init": "rounded",
    "keep_fp32": "safe", "grad_clip": 0.0, "lr_policy": "constant", "n_epochs": 10,
    "n_epochs_decay": 10, "lr_decay_epochs": 50, "sync_bn": False, "checkpointing": False,
    "batch_size": 2}
PARSENET = {"Pnorm": "bn", "parse_channels": 64, "parse_depth": 10}


def parsing(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    config = case["config"]
    require(config, out_size=config["in_size"], relu_type="LeakyReLU")
    low, high = config.get("ch_range", (32, 256))
    network = ParseNet(
        size=config["in_size"], feat_size=config.get("min_feat_size", 32),
        base_channels=config.get("base_ch", 64), min_channels=low, max_channels=high,
        num_labels=config["parsing_ch"], res_depth=config.get("res_depth", 10),
        norm=config.get("norm_type", "bn"))
    return run_network(case, network, device, folder, memory_format=devices.memory_format(device))


def generator(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    config = case["config"]
    low, high = config["ch_range"]
    without_effect(config, "in_size")       # as in the original
    require(config, min_feat_size=16, relu_type="LeakyReLU", weight_norm="spectral_norm")
    network = PSFRGenerator(size=config["out_size"], norm=config["norm_type"], min_channels=low,
                            max_channels=high)
    return run_network(case, apply_spectral_norm(network), device, folder,
                       memory_format=devices.memory_format(device))


class Joined(ParsedDiscriminator):
    """Takes image and map in one tensor, as the recorded input is."""

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        return super().forward(x[:, :3], x[:, 3:])


def discriminator(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    config = case["config"]
    require(config, relu_type="LeakyReLU", weight_norm="spectral_norm")
    network = Joined(num_scales=config["num_D"], in_channels=config["input_ch"],
                     base_channels=config["base_ch"], n_layers=config["n_layers"],
                     norm=config["norm_type"])

    def named(result: tuple[list[Tensor], list[list[Tensor]]]) -> dict[str, Tensor]:
        scores = {f"D{s}.score": score for s, score in enumerate(result[0])}
        return scores | {f"D{s}.feat{k}": feature for s, layers in enumerate(result[1])
                         for k, feature in enumerate(layers)}
    return run_network(case, apply_spectral_norm(network), device, folder, named,
                       devices.memory_format(device))


# ---- losses --------------------------------------------------------------------------------------

def blocky_labels(entry: dict[str, Any]) -> Tensor:
    """Labels (B, H, W) of the cases' rule: squares, each of the largest of its channels' values."""
    if entry["rule"] not in ("blocky_onehot", "blocky_label"):
        raise ValueError(f"unknown rule {entry['rule']!r}")
    batch, channels, height, width = entry["shape"]
    grid = entry["grid"]
    cells = make_input(entry["name"], (batch, channels, grid, grid), entry["low"], entry["high"])
    return cells.argmax(dim=1).repeat_interleave(height // grid, 1).repeat_interleave(
        width // grid, 2)


def losses(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    regions = case["config"]["reg_num"]
    require(case["config"], eps=1e-8)
    x = Inputs(case, device)
    labels = blocky_labels(x.entries["mask"]).to(device)
    vgg = VGGFeatures("vgg19", VGG_LAYERS, resize=True)
    fill(vgg)
    vgg.to(device)
    with torch.no_grad():
        sr, hr = vgg(x["sr"]), vgg(x["hr"])
    values = {f"vgg.sr.feat{k}": feature for k, feature in enumerate(sr)}
    values |= {f"ss.feat{k}": style_loss([sr[k]], [hr[k]], labels, regions)
               for k in range(STYLE_FROM, len(sr))}
    values |= {
        "ss.total": style_loss(sr[STYLE_FROM:], hr[STYLE_FROM:], labels, regions),
        "pcp": feature_mse(sr, hr, PCP_WEIGHTS),
        "pix": F.l1_loss(x["sr"], x["hr"]),
        "fm": feature_mse(x.series("fx"), x.series("fy"))}
    terms = {"d_real": real_term, "d_fake": fake_term, "g": generator_term}
    modes = {record["name"].split(".")[1] for record in case["outputs"]
             if record["name"].startswith("gan.")}
    values |= {f"gan.{mode}.{name}": term(x["pred"], mode) for name, term in terms.items()
               for mode in modes}
    return compare_all(case, case["outputs"], values)


# ---- training ------------------------------------------------------------------------------------

def psfrgan(config: dict[str, Any], device: torch.device) -> PSFRGANModel:
    """The model as newtrain.py runs it, every network filled by its own key names."""
    sizes = {"load_size": config["Gout_size"], "max_channels": 1024, "num_D": config["D_num"],
             **PARSENET}
    model = PSFRGANModel(Namespace(**{**COMMON, **sizes, **config, "model": "psfrgan",
                                      "parse_weights": "random", "vgg_weights": "random"}), device)
    for name in ("G", "D", "VGG"):
        fill(model.unwrapped[name])
    model.setup()
    model.train()
    return model


# Of each step: the prefix of what is recorded, and how often weights have moved.
STEPS = (("", "step"), ("second.", "two_steps"), ("third.", "three_steps"),
         ("fourth.", "four_steps"), ("fifth.", "five_steps"))


def steps_of(case: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """STEPS up to the last of which something is recorded."""
    used = [index for index, (prefix, _) in enumerate(STEPS) for record in case["outputs"]
            if prefix and record["name"].startswith(prefix)]
    require(case, second_step=bool(used))
    return STEPS[:max(used, default=0) + 1]


def watched(case: dict[str, Any], state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: state[key].detach().clone()
            for key in (*case["watch"], *case.get("watch_state", []))}


def changes(case: dict[str, Any], before: dict[str, Tensor], after: dict[str, Tensor],
            learning_rates: dict[str, float], suffix: str) -> dict[str, Tensor]:
    """The watched weights' steps in units of their learning rate."""
    return {f"{key}:{suffix}": (after[key] - before[key]) / learning_rates[key.split(".")[0]]
            for key in case["watch"]}


def enhance_iterations(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    config = case["config"]
    model = psfrgan(config, device)
    checks = [check for name, keys in case.get("state_dicts", {}).items()
              for check in check_keys({"state_dict": keys}, model.unwrapped[name])]
    x = Inputs(case, device)
    lq_labels, labels = (blocky_labels(x.entries[name]).to(device) for name in ("lr_mask", "mask"))
    model.parse = lambda image: lq_labels       # recorded without a parsing network
    batch = {"lq": x["lr"], "gt": x["hr"], "labels": labels}
    learning_rates = {"G": config["g_lr"], "D": config["d_lr"]}

    def state() -> dict[str, Tensor]:
        return watched(case, {f"{name}.{key}": value for name in "GD"
                              for key, value in model.unwrapped[name].state_dict().items()})
    before, values, made = state(), {}, []
    hook = model.unwrapped["G"].register_forward_hook(
        lambda _, args, result: made.append(result.detach().clone()))
    for step, (prefix, moved) in enumerate(steps_of(case), 1):
        model.start_step(step, 10 ** 6, 10 ** 6)
        # A loss of weight 0 is not computed, but recorded as 0.
        found = {"PCP": torch.zeros(()), **model.run_step(batch)}
        values |= {f"{prefix}loss_{name}": loss for name, loss in found.items()}
        values[f"{prefix}img_SR"] = made[-1]
        after = state()
        values |= {f"{prefix}{name}.{key}:grad": weight.grad.clone() for name in "GD"
                   for key, weight in model.unwrapped[name].named_parameters()}
        values |= {f"{prefix}{key}:after": value for key, value in after.items()}
        values |= {f"{prefix}{key}": value for key, value in changes(
            case, before, after, learning_rates, f"{moved}_over_lr").items()}
    hook.remove()
    return checks + compare_all(case, case["outputs"], values)


def parse_iteration(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    config = case["config"]
    model: BaseModel = ParseModel(Namespace(**{
        **COMMON, **PARSENET, "beta1": 0.9, **config,
        "model": "parse"}), device)
    network = model.unwrapped["P"]
    checks = check_keys(case, network)
    fill(network)
    model.setup()
    model.train()
    x = Inputs(case, device)
    batch = {"lq": x["lr"], "gt": x["hr"],
             "labels": blocky_labels(x.entries["labels"]).to(device)}
    before, values, made = watched(case, network.state_dict()), {}, {}
    hook = network.register_forward_hook(lambda _, args, result: made.update(
        pred_Parse=result[0].detach().clone(), img_SR=result[1].detach().clone()))
    for step, (prefix, moved) in enumerate(steps_of(case), 1):
        model.start_step(step, 10 ** 6, 10 ** 6)
        found = {f"loss_{name}": loss for name, loss in model.run_step(batch).items()} | made
        after = watched(case, network.state_dict())
        found |= {f"{key}:grad": weight.grad.clone() for key, weight in network.named_parameters()}
        found |= {f"{key}:after": value for key, value in after.items()}
        found |= {f"{key}:{moved}_over_lr": (after[key] - before[key]) / config["lr"]
                  for key in case["watch"]}
        values |= {f"{prefix}{key}": value for key, value in found.items()}
    hook.remove()
    return checks + compare_all(case, case["outputs"], values)


SOURCE = "chaofengc/PSFRGAN"
CASES = [
    (SOURCE, "parse_train_step", parse_iteration),
    (SOURCE, "psfrgan_train_step", enhance_iterations),
    (SOURCE, "PSFRGenerator", generator),
    (SOURCE, "MultiScaleDiscriminator", discriminator),
    (SOURCE, "psfrgan_losses", losses),
    (SOURCE, "ParseNet", parsing),
    # The same network elsewhere.
    ("xinntao/facexlib", "ParseNet", parsing),
    ("yangxy/GPEN", "parsenet", parsing),
]

"""How the golden cases of GPEN are built: StyleGAN2's operators, networks, losses, regularizers."""
from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.blur import gaussian_kernel, plateau_kernel, sinc_kernel
from models.gpen_model import GPENModel
from models.losses.gan import fake_term, generator_term, real_term
from models.losses.identity import identity_loss
from models.losses.regularizers import path_length_penalty, path_lengths, r1_penalty
from models.networks.gpen import FullGenerator
from models.networks.pretrained.irse import IRSE50, face_crop
from models.networks.stylegan2 import Discriminator, Generator, ModulatedConv2d, StyledConv
from models.ops.style_ops import fir_kernel, upfirdn2d
from models.style_training import PATH_DECAY
from tools.golden import (
    Check,
    Inputs,
    check_keys,
    compare_all,
    make_input,
    require,
    run_network,
    set_weights,
    without_effect,
)

# What newtrain.py would set, in fp32.
COMMON = {
    "is_train": True, "verbose": False, "pretrain_model_path": None, "memory_format": "contiguous",
    "opt_level": "O0", "loss_scale": None, "amp_backend": "auto", "amp_dtype": "auto",
    "optimizer": "auto", "master_init": "rounded", "keep_fp32": "safe", "grad_clip": 0.0,
    "lr_policy": "constant", "n_epochs": 10, "n_epochs_decay": 10, "lr_decay_epochs": 50,
    "sync_bn": False, "checkpointing": False, "seed": 0, "beta1": 0.0, "d_weights": None,
    "d_lr": None, "decoder_lr": None, "stddev_group": 0, "path_batch_shrink": 1, "prior": None,
    "unit_range": False, "lambda_g": 1.0}


class FlatGenerator(Generator):
    """A Generator that takes its inputs in the recorded order: codes, mean w, noises."""

    def forward(self, *inputs: Tensor, **options: Any) -> tuple[Tensor, Tensor | None]:
        first = len(inputs) - self.num_noises
        codes, noise = list(inputs[:first]), list(inputs[first:])
        if options.get("truncation", 1) < 1:
            options["truncation_latent"] = codes.pop()
        return super().forward(codes, noise=noise, **options)


def recognition(config: dict[str, Any]) -> nn.Module:
    require(config, input_size=112, num_layers=50, mode="ir_se")
    without_effect(config, "drop_ratio")        # in eval mode
    return IRSE50()


def modulated(config: dict[str, Any]) -> nn.Module:
    samples = [name for name in ("up", "down") if config.get(f"{name}sample")]
    return ModulatedConv2d(config["in_channel"], config["out_channel"], config["kernel_size"],
                           config["style_dim"], demodulate=config.get("demodulate", True),
                           sample=samples[0] if samples else "none")


def styled(config: dict[str, Any]) -> nn.Module:
    require(config, kernel_size=3)
    return StyledConv(config["in_channel"], config["out_channel"], config["style_dim"],
                      up=config.get("upsample", False), isconcat=config["isconcat"])


BUILD: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
    "modulated_conv2d": modulated, "styled_conv": styled,
    "gpen_full_generator": lambda config: FullGenerator(**config),
    "gpen_generator": lambda config: FlatGenerator(**config),
    "gpen_discriminator": lambda config: Discriminator(**config),
    "arcface_ir_se50": recognition}


def network(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    """A network of BUILD; a case without outputs is about keys and their order only."""
    build = BUILD[case["network"]]
    if not case["outputs"]:
        without_effect(case, "keep")
        with torch.device("meta"):
            return checked_order(case, build(case["config"]))
    built = build(case["config"])
    return checked_order(case, built) + run_network(case, built, device, folder)


def checked_order(case: dict[str, Any], built: nn.Module) -> list[Check]:
    """Keys and shapes, and that they come in the recorded order: optimizers count on it."""
    expected = [key for key, _ in case["state_dict"]]
    found = list(built.state_dict())
    wrong = sum(a != b for a, b in zip(expected, found, strict=False))
    order = Check("order of the state dict", float(wrong + abs(len(expected) - len(found))), 0.0)
    return [*check_keys(case, built), order]


def filters(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    x = make_input(**case["inputs"][0]).to(device)
    values = {}
    for index, call in enumerate(case["config"]["calls"]):
        kernel = fir_kernel(call["kernel"], call["gain"]).to(device)
        values[f"call{index}"] = upfirdn2d(x, kernel, up=call["up"], down=call["down"],
                                           pad=tuple(call["pad"]))
    return compare_all(case, case["outputs"], values)


def losses(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    x = Inputs(case, device)
    require(case["config"], id_weight=0.0)
    adversarial = generator_term(x["fake_pred"], "logistic")
    pixel = F.smooth_l1_loss(x["fake"], x["real"])
    return compare_all(case, case["outputs"], {
        "d_logistic": real_term(x["real_pred"], "logistic") + fake_term(x["fake_pred"], "logistic"),
        "g_adversarial": adversarial, "smooth_l1": pixel,
        "g_total_without_id": adversarial + case["config"]["smooth_l1_weight"] * pixel})


# ---- regularizers: gradients of gradients -------------------------------------------------------

def filled(case: dict[str, Any], built: nn.Module, device: torch.device,
           folder: Path) -> tuple[nn.Module, list[Tensor]]:
    """The network with its recorded weights, and the inputs."""
    set_weights(case, built, folder)
    return built.to(device), [make_input(**entry).to(device) for entry in case["inputs"]]


def with_gradients(loss: Tensor, built: nn.Module, case: dict[str, Any]) -> dict[str, Tensor]:
    """Gradients of a loss by recorded name, `grad <parameter>`."""
    names = [r["name"][5:] for r in case["outputs"] if r["name"].startswith("grad ")]
    grads = torch.autograd.grad(loss, [built.get_parameter(name) for name in names])
    return {f"grad {name}": grad for name, grad in zip(names, grads, strict=True)}


def r1(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    config = case["config"]
    built = Discriminator(**config["discriminator"])
    checks = checked_order(case, built)
    built, (gt,) = filled(case, built, device, folder)
    gt.requires_grad_()
    value = r1_penalty(built(gt), gt)
    loss = config["r1"] / 2 * value * config["d_reg_every"]
    return checks + compare_all(case, case["outputs"],
                                {"r1": value, **with_gradients(loss, built, case)})


def path_length(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    config = case["config"]
    built = FullGenerator(**config["generator"])
    checks = checked_order(case, built)
    built, (lq, noise) = filled(case, built, device, folder)
    restored, latents = built(lq, return_latents=True)
    lengths = path_lengths(restored, latents, noise)
    before = lengths.new_tensor(config["mean_path_length"])
    penalty, mean = path_length_penalty(lengths, before, config["decay"])
    loss = config["path_regularize"] * config["g_reg_every"] * penalty
    return checks + compare_all(case, case["outputs"], {
        "penalty": penalty, "mean_path_length": mean, "path_lengths": lengths,
        **with_gradients(loss, built, case)})


class IdentityNetwork(nn.Module):
    """The recognition network under its recorded name."""

    def __init__(self) -> None:
        super().__init__()
        self.facenet = IRSE50()


def identity(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    """The loss and its gradient; the other records are what upstream only logs."""
    holder = IdentityNetwork()
    checks = checked_order(case, holder)
    holder, (restored, gt, lq) = filled(case, holder, device, folder)
    require(case["config"], size=gt.shape[-1])
    with torch.no_grad():
        ours, target, views = (holder.facenet(face_crop(x)) for x in (restored, gt, lq))
    made = {"diff_target": (ours * target).sum(1), "diff_views": (target * views).sum(1),
            "diff_input": (ours * views).sum(1)}
    restored.requires_grad_()
    made["loss"] = identity_loss(holder.facenet, restored, gt)
    made["grad y_hat"], = torch.autograd.grad(made["loss"], restored)
    made["sim_improvement"] = (made["diff_target"] - made["diff_views"]).mean()
    return checks + compare_all(case, case["outputs"], made)


# ---- iterations ----------------------------------------------------------------------------------

class RecordedDirections(GPENModel):
    """The model with the recorded directions of the path lengths, one for each time."""
    directions: Iterator[Tensor]

    def _direction(self, batch: dict[str, Any]) -> Tensor:
        return next(self.directions)


def directions_of(noises: list[Tensor], config: dict[str, Any]) -> list[Tensor]:
    """The noise of each path length step: of every iteration if there are so many, else in turn."""
    every, count = config["g_reg_every"], config["iterations"]
    steps = range(0, count, every) if every and config["path_regularize"] else range(0)
    if len(noises) == count:
        return [noises[index] for index in steps]
    if len(noises) > len(steps):
        raise ValueError(f"the case has {len(noises)} noises for {len(steps)} path length steps")
    return [noises[number % len(noises)] for number in range(len(steps))]


def filled_model(case: dict[str, Any], device: torch.device, folder: Path) -> GPENModel:
    """The model with the recorded weights in G, D and H, ready to train."""
    config = case["config"]
    network, discriminator = config["generator"], config["discriminator"]
    require(config, id_weight=0.0)
    require(discriminator, size=network["size"])
    without_effect(config, "path_batch_shrink")     # the original computes it and ignores it
    opt = Namespace(
        **COMMON, load_size=network["size"], lr=config["lr"], noise="concat",
        d_multiplier=discriminator["channel_multiplier"], d_narrow=discriminator["narrow"],
        r1=config["r1"],
        batch_size=case["inputs"][0]["shape"][0], d_reg_every=config["d_reg_every"],
        g_reg_every=config["g_reg_every"], path_regularize=config["path_regularize"],
        lambda_pix=config["l1_weight"], lambda_id=config["id_weight"], ema_decay=config["ema"],
        **{name: network[name] for name in ("style_dim", "n_mlp", "channel_multiplier", "narrow")})
    model = RecordedDirections(opt, device)
    both = networks_of(model)
    set_weights(case, both, folder)
    both.to(device)
    model.unwrapped["H"].load_state_dict(model.unwrapped["G"].state_dict())
    model.setup()
    model.train()
    return model


def networks_of(model: GPENModel) -> nn.Module:
    return nn.ModuleDict({"g": model.unwrapped["G"], "d": model.unwrapped["D"]})


def train_loop(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    """Iterations of the model: losses, changes of weights, the EMA."""
    config = case["config"]
    model = filled_model(case, device, folder)
    checks = checked_order(case, networks_of(model))
    x = Inputs(case, device)
    lqs, gts = x.series("lq"), x.series("hq")
    model.directions = iter(directions_of(x.series("pathnoise"), config))
    start = {f"{letter.lower()} change {key}": value.clone()
             for letter in "GD" for key, value in model.unwrapped[letter].state_dict().items()}
    made: dict[str, list[Tensor]] = {name: [] for name in (
        "d", "g", "r1", "path", "path_length", "real_score", "fake_score")}
    scale = {"r1": config["r1"] / 2 * config["d_reg_every"],
             "path": config["path_regularize"] * config["g_reg_every"]}
    raw: dict[str, Tensor] = {}
    for index in range(config["iterations"]):
        batch = {"lq": lqs[index % len(lqs)], "gt": gts[index % len(gts)]}
        with torch.no_grad():
            made["real_score"].append(model.unwrapped["D"](batch["gt"]).mean())
            made["fake_score"].append(model.unwrapped["D"](model.unwrapped["G"](batch["lq"])[0]).mean())
        model.start_step(index + 1, 10 ** 6, 10 ** 6)
        mean = model.path_mean
        losses = model.run_step(batch)
        raw |= {name: losses[key] / scale[name] for key, name in (("R1", "r1"), ("Path", "path"))
                if key in losses}
        if "Path" in losses:        # the batch's own mean, from what it changed
            raw["path_length"] = mean + (model.path_mean - mean) / PATH_DECAY
        losses = {**raw, "d": losses["D"], "g": losses["G"] + losses["Pix"]}
        for name, value in losses.items():
            made[name].append(value)
    with torch.no_grad():
        image = model.unwrapped["H"](lqs[0])[0]
    ended = {f"{letter.lower()} change {key}": value
             for letter in "GD" for key, value in model.unwrapped[letter].state_dict().items()}
    return checks + compare_all(case, case["outputs"], {
        **{name: torch.stack(values) for name, values in made.items() if values},
        "ema image": image,
        **{key: ended[key] - value for key, value in start.items()},
        **{f"g_ema {key}": value for key, value in model.unwrapped["H"].state_dict().items()}})


# ---- blur kernels --------------------------------------------------------------------------------

def blur_kernel(item: dict[str, Any]) -> np.ndarray:
    """A kernel as the cases of GPEN and GFP-GAN describe it."""
    kind, side = item["kind"], item["size"]
    if kind == "sinc":
        without_effect(item, "sigma_x", "sigma_y", "theta", "isotropic")
        return sinc_kernel(side, item["cutoff"], item["pad_to"])
    along, across, turn = (item.get(short, item.get(long)) for short, long in (
        ("sig_x", "sigma_x"), ("sig_y", "sigma_y"), ("theta", "theta")))
    if item.get("isotropic") or kind == "iso":
        across, turn = along, 0.0
    make = plateau_kernel if kind == "plateau" else gaussian_kernel
    return make(side, (along, across), turn, item.get("beta", 1.0))


def blur_kernels(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    items = case["config"].get("items") or case["config"]["kernels"]
    # GPEN's records are in the items' order, GFP-GAN's have the items' names.
    names = [item.get("name", record["name"])
             for item, record in zip(items, case["outputs"], strict=True)]
    return compare_all(case, case["outputs"], {name: blur_kernel(item)
                                               for name, item in zip(names, items, strict=True)})


SOURCE = "yangxy/GPEN"
CASES = [
    (SOURCE, "upfirdn2d", filters),
    (SOURCE, "gpen_losses", losses),
    (SOURCE, "gpen_r1", r1),
    (SOURCE, "gpen_path_length", path_length),
    (SOURCE, "gpen_id_loss", identity),
    (SOURCE, "gpen_train_loop", train_loop),
    (SOURCE, "gpen_blur_kernels", blur_kernels),
    ("TencentARC/GFPGAN", "blur_kernel", blur_kernels),
    *((SOURCE, name, network) for name in BUILD),
]

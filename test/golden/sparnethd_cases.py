"""How the golden cases of SPARNetHD are built: discriminator, perceptual features, iterations."""
from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.base_model import BaseModel
from models.losses.perceptual import feature_l1
from models.networks.patch_discriminator import MultiScaleDiscriminator
from models.networks.pretrained.vgg import VGGFeatures
from models.ops.spectral import apply_spectral_norm
from models.sparnethd_model import VGG_LAYERS, SPARNetHDModel
from tools.golden import (
    Check,
    batches,
    check_keys,
    compare_all,
    fill,
    make_input,
    require,
    run_network,
)


def discriminator(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    config = case["config"]
    network = MultiScaleDiscriminator(
        num_scales=config["num_D"], n_layers=config["n_layers_D"], norm=config["Dnorm"],
        in_channels=config.get("input_ch", 3), base_channels=config.get("base_ch", 64))
    if config.get("spectral_norm", True):
        apply_spectral_norm(network)

    def published_order(result: tuple[list[Tensor], list[list[Tensor]]]) -> dict[str, Tensor]:
        """Per scale the score, then the features."""
        values = [value for score, features in zip(*result, strict=True)
                  for value in (score, *features)]
        return dict(zip([record["name"] for record in case["outputs"]], values, strict=False))
    require(config, model="sparnethd", forward_kwargs={"return_feat": True})    # ours always does
    return run_network(case | {"config": {}}, network, device, folder, published_order)


def perceptual(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    network = VGGFeatures("vgg19", VGG_LAYERS, resize=True)
    checks = check_keys(case, network)
    fill(network)
    network.to(device)
    with torch.no_grad():
        fake, real = (network(make_input(**entry).to(device)) for entry in case["inputs"])
    config = case["config"]
    loss = config["lambda_pcp"] * feature_l1(fake, real, config["weights"])
    values = {f"feat{i}": value for i, value in enumerate(fake)}
    values |= {record["name"]: loss for record in case["outputs"] if not record["shape"]}
    return checks + compare_all(case, case["outputs"], values)


# ---- training ------------------------------------------------------------------------------------

def filled_model(config: dict[str, Any], device: torch.device) -> SPARNetHDModel:
    """The model as newtrain.py runs it, in fp32, every network filled by its own key names."""
    require(config, optimizer="Adam", betas=[config["beta1"], 0.99], eps=1e-8, precision="fp32")
    common = {
        "is_train": True, "model": "sparnethd", "verbose": False, "pretrain_model_path": None,
        "max_channels": 512, "ndf": 64, "vgg_weights": "random", "init_type": "default",
        "init_gain": 0.02, "memory_format": "contiguous", "opt_level": "O0", "loss_scale": None,
        "amp_backend": "auto", "amp_dtype": "auto", "optimizer": "auto", "master_init": "rounded",
        "keep_fp32": "safe", "grad_clip": 0.0, "lr_policy": "constant", "n_epochs": 10,
        "n_epochs_decay": 10, "lr_decay_epochs": 50, "sync_bn": False, "checkpointing": False,
        "batch_size": 1, "lr": config["g_lr"], "g_lr": None, "ema_decay": 0.999}
    model = SPARNetHDModel(Namespace(**{**common, **config}), device)
    for name in ("G", "D", "VGG"):
        fill(model.unwrapped[name])
    model.unwrapped["H"].load_state_dict(model.unwrapped["G"].state_dict())
    model.setup()
    model.train()
    return model


def values_of(model: BaseModel, nets: dict[str, nn.Module], suffix: str) -> dict[str, Tensor]:
    """State-dict values by recorded name: net:key, with a suffix or without."""
    return {f"{label}:{key}{suffix}": value.clone() for label, network in nets.items()
            for key, value in network.state_dict().items()}


def iterations(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    config = case["config"]
    model = filled_model(config, device)
    nets = {f"net{name}": model.unwrapped[name] for name in ("G", "H", "D")}
    named = {**nets, "vgg19": model.unwrapped["VGG"]}
    checks = check_keys(case, nets["netG"])
    for label, keys in case.get("state_dicts", {}).items():
        checks += check_keys({"state_dict": keys}, named[label])
    given = batches(case, device, model.memory_format)
    values: dict[str, Tensor] = {}
    forwards: list[Tensor] = []
    hook = model.unwrapped["G"].register_forward_hook(
        lambda _, args, result: forwards.append(result.detach().clone()))
    for step in range(1, config["steps"] + 1):
        model.start_step(step, 10 ** 6, 10 ** 6)
        batch = next(given)
        found = model.run_step(batch)
        values |= {f"loss_{name}_step{step}": loss for name, loss in found.items()}
        values[f"sr_step{step}"] = forwards[-1]
        # The published forward of H is its power iteration, which ours has done: eval repeats it.
        model.unwrapped["H"].eval()
        with torch.no_grad():
            values[f"ema_sr_step{step}"] = model.unwrapped["H"](batch["lq"])
        model.unwrapped["H"].train()
        if step == 1:
            values |= {f"grad_{name}:{key}": p.grad.clone() for name in "GD"
                       for key, p in model.unwrapped[name].named_parameters()}
        values |= values_of(model, nets, f" after step{step}")
    hook.remove()
    values |= values_of(model, nets, "")
    return (checks + compare_all(case, case["outputs"], values)
            + compare_all(case, case.get("records", []), values))


SOURCE = "chaofengc/Face-SPARNet"
CASES = [
    (SOURCE, "multi-scale discriminator*", discriminator),
    (SOURCE, "VGG19*", perceptual),
    (SOURCE, "*training*", iterations, {"model": "sparnethd"}),
]

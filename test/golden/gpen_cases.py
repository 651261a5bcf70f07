"""How the golden cases of GPEN are built: StyleGAN2's operators, networks, losses, regularisers."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.losses.gan import fake_term, generator_term, real_term
from models.networks.gpen import FullGenerator
from models.networks.style_ops import fir_kernel, upfirdn2d
from models.networks.stylegan2 import Discriminator, Generator, ModulatedConv2d, StyledConv
from utils.golden import Check, check_keys, compare_all, make_input, run_network, set_weights


class FlatGenerator(Generator):
    """A Generator that takes its inputs in the recorded order: codes, mean w, noises."""

    def forward(self, *inputs: Tensor, **options: Any) -> tuple[Tensor, Tensor | None]:
        first = len(inputs) - self.num_noises
        codes, noise = list(inputs[:first]), list(inputs[first:])
        if options.get("truncation", 1) < 1:
            options["truncation_latent"] = codes.pop()
        return super().forward(codes, noise=noise, **options)


def modulated(config: dict[str, Any]) -> nn.Module:
    samples = [name for name in ("up", "down") if config.get(f"{name}sample")]
    return ModulatedConv2d(config["in_channel"], config["out_channel"], config["kernel_size"],
                           config["style_dim"], demodulate=config.get("demodulate", True),
                           sample=samples[0] if samples else "none")


def styled(config: dict[str, Any]) -> nn.Module:
    return StyledConv(config["in_channel"], config["out_channel"], config["style_dim"],
                      up=config.get("upsample", False), isconcat=config["isconcat"])


BUILD: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
    "modulated_conv2d": modulated, "styled_conv": styled,
    "gpen_full_generator": lambda config: FullGenerator(**config),
    "gpen_generator": lambda config: FlatGenerator(**config),
    "gpen_discriminator": lambda config: Discriminator(**config)}


def network(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    """A network of BUILD; a case without outputs is about keys and their order only."""
    build = BUILD[case["network"]]
    if not case["outputs"]:
        with torch.device("meta"):
            return checked_order(case, build(case["config"]))
    built = build(case["config"])
    return checked_order(case, built) + run_network(case, built, device, folder)


def checked_order(case: dict[str, Any], built: nn.Module) -> list[Check]:
    """Keys and shapes, and that they come in the recorded order: optimisers count on it."""
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
    x = {entry["name"].rsplit(".", 1)[-1]: make_input(**entry).to(device)
         for entry in case["inputs"]}
    adversarial = generator_term(x["fake_pred"], "logistic")
    pixel = F.smooth_l1_loss(x["fake"], x["real"])
    return compare_all(case, case["outputs"], {
        "d_logistic": real_term(x["real_pred"], "logistic") + fake_term(x["fake_pred"], "logistic"),
        "g_adversarial": adversarial, "smooth_l1": pixel,
        "g_total_without_id": adversarial + case["config"]["smooth_l1_weight"] * pixel})


# ---- regularisers: gradients of gradients -------------------------------------------------------

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
    grad, = torch.autograd.grad(built(gt).sum(), gt, create_graph=True)
    value = grad.square().sum((1, 2, 3)).mean()
    loss = config["r1"] / 2 * value * config["d_reg_every"]
    return checks + compare_all(case, case["outputs"],
                                {"r1": value, **with_gradients(loss, built, case)})


def path_length(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    config = case["config"]
    built = FullGenerator(**config["generator"])
    checks = checked_order(case, built)
    built, (lq, noise) = filled(case, built, device, folder)
    restored, latents = built(lq, return_latents=True)
    pixels = restored.shape[2] * restored.shape[3]
    grad, = torch.autograd.grad((restored * noise / pixels ** 0.5).sum(), latents,
                                create_graph=True)
    lengths = grad.square().sum(2).mean(1).sqrt()
    mean = torch.lerp(lengths.new_tensor(config["mean_path_length"]), lengths.mean(),
                      config["decay"])
    penalty = (lengths - mean).square().mean()
    loss = config["path_regularize"] * config["g_reg_every"] * penalty
    return checks + compare_all(case, case["outputs"], {
        "penalty": penalty, "mean_path_length": mean, "path_lengths": lengths,
        **with_gradients(loss, built, case)})


CASES = [
    ("gpen*", "upfirdn2d", filters),
    ("gpen*", "gpen_losses", losses),
    ("gpen*", "gpen_r1", r1),
    ("gpen*", "gpen_path_length", path_length),
    *(("gpen*", name, network) for name in BUILD),
]

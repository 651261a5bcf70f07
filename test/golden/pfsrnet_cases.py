"""How the golden cases of PFSRNet are built: networks, losses, metrics, reductions.

Some need the published landmark network, which is not part of the project, and are skipped without.
"""
from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metrics import ms_ssim
from models.losses.gan import gradient_norms, gradient_penalty, wasserstein_loss
from models.losses.landmark import attention_loss, attention_map, heatmap_loss, normalized_maps
from models.losses.style import feature_mse
from models.networks.fan import FAN, landmark_network
from models.networks.pfsrnet import Discriminator, Generator
from models.networks.pretrained.fan_teacher import FAN2D
from models.pfsrnet_model import perceptual_network
from tools.golden import (
    Check,
    check_keys,
    compare_all,
    fill,
    make_input,
    run_network,
    weight_file,
    without_effect,
)
from utils.images.resize import CELEBA_CROP, bilinear, center_crop

# ---- networks ------------------------------------------------------------------------------------

def arguments(case: dict[str, Any]) -> list[Any]:
    """Those after the image, by position: they have other names here."""
    call = case.get("call", [])
    names = ("step", "alpha")
    return [call[name] for name in names if name in call] if isinstance(call, dict) else call


def forward(case: dict[str, Any], network: nn.Module, device: torch.device, folder: Path,
            ) -> list[Check]:
    """Outputs, buffers after a forward in train mode, and what is derived from the maps."""
    buffers = case.get("buffers_after", [])
    case = case | {"call": arguments(case), "buffers_after": []}

    def named(out: Any) -> dict[str, Tensor]:
        if isinstance(out, list):
            return {f"heatmap{index}": maps for index, maps in enumerate(out)}
        state = network.state_dict()
        found = {"out": out, "channel_max": attention_map(out)}
        return found | {f"buffer:{key}": state[key] for key in buffers}
    return run_network(case, network, device, folder, named)


def generator(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    return forward(case, Generator(), device, folder)


def student(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    return forward(case, FAN(), device, folder)


def teacher(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    return forward(case, FAN2D(num_modules=case["config"]["num_modules"]), device, folder)


def discriminator(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    network = Discriminator()
    checks = check_keys(case, network)
    fill(network, case.get("keep", ()), case.get("gain"))
    network.to(device)
    x, = (make_input(**entry).to(device).requires_grad_() for entry in case["inputs"])
    stage = arguments(case)
    out = network(x, *stage)
    gradient, = torch.autograd.grad(out.sum(), x)
    norms = gradient_norms(lambda images: network(images, *stage), x)
    return checks + compare_all(case, case["outputs"], {
        "out": out, "grad_input": gradient, "grad_norm": norms})


# ---- losses --------------------------------------------------------------------------------------

def losses(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    """The terms as the model has them; values named upstream keep a slip and are left out, but
    where both agree."""
    size, count, images = case["size"], case["n"], case["images"]
    shape, stage, weights = (count, 3, size, size), (case["step"], case["alpha"]), case[
        "loss_weights"]
    landmarks_from = weight_file(case, folder) if weights["att"] or weights["hm"] else None
    without_effect(case, "weights")
    other = make_input(images["other"], shape).to(device).requires_grad_()
    gt = make_input(images["target"], shape).to(device)
    fraction = make_input(images["eps"], (count, 1, 1, 1), 0, 1).to(device)
    restored = 0.8 * gt + 0.2 * other
    network = Discriminator()
    fill(network, gain=case.get("gain"))
    network.to(device)

    def logits_of(x: Tensor) -> Tensor:
        return network(x, *stage)

    values, maps = perceptual_terms(restored, gt, device), {}
    values |= {"pixel_l1": F.l1_loss(restored, gt), "g_adv": -logits_of(restored).mean()}
    total = (weights["pixel"] * values["pixel_l1"] + weights["adv"] * values["g_adv"]
             + weights["perc"] * values["perceptual"])
    if landmarks_from:
        found, maps = landmark_terms(landmarks_from, restored, gt, device)
        values |= found
        total = (total + weights["att"] * found["attention_eval"]
                 + weights["hm"] * found["heatmap_eval_fixed"])
    else:
        values["g_total_upstream"] = total
    values["g_total_port"] = total
    gradient, = torch.autograd.grad(total, other)
    values |= discriminator_terms(logits_of, restored.detach(), gt, fraction)
    grads = dict(zip([name for name, _ in network.named_parameters()], torch.autograd.grad(
        values["d_total"], list(network.parameters()), allow_unused=True), strict=True))
    norms = gradient_norms(logits_of, fraction * gt + (1 - fraction) * restored)
    tensors = {**maps, "grad_fake_port": gradient, "gp_norms": norms,
               **{f"d_grad:{name}": grad for name, grad in grads.items() if grad is not None}}
    records = [scalar(name, value) for name, value in case["values"].items() if name in values
               or not name.endswith("upstream")]
    return compare_all(case, records, values) + compare_all(case, case["tensors"], tensors)


def scalar(name: str, value: float) -> dict[str, Any]:
    return {"name": name, "shape": [], "absmax": abs(value), "samples": [[0, value]]}


def perceptual_terms(restored: Tensor, gt: Tensor, device: torch.device) -> dict[str, Tensor]:
    vgg = perceptual_network("random")
    fill(vgg)
    vgg.to(device)
    restored_features, gt_features = vgg(restored), vgg(gt)
    names = ("relu1_2", "relu2_2", "relu3_3", "relu4_3")
    found = {f"perceptual_{name}": F.mse_loss(a, b)
             for name, a, b in zip(names, restored_features, gt_features, strict=True)}
    return found | {"perceptual": feature_mse(restored_features, gt_features)}


def landmark_terms(weights: Path, restored: Tensor, gt: Tensor, device: torch.device,
                   ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Heatmap and attention terms, and maps, with the network in either mode."""
    values = {}
    for mode in ("train", "eval"):
        # Fresh each time, since running statistics change in train mode.
        network = landmark_network(weights).to(device).train(mode == "train")
        restored_maps, gt_maps = (normalized_maps(network(0.5 * x + 0.5)) for x in (restored, gt))
        attention = attention_map(gt_maps)
        values[f"attention_{mode}"] = attention_loss(restored, gt, attention)
    values["heatmap_eval_fixed"] = heatmap_loss(restored_maps, gt_maps)
    return values, {"attention_map_eval": attention, "target_heatmap_eval": gt_maps}


def discriminator_terms(logits_of: Callable[[Tensor], Tensor], restored: Tensor, gt: Tensor,
                        fraction: Tensor) -> dict[str, Tensor]:
    real, fake = logits_of(gt), logits_of(restored)
    penalties = {kind: gradient_penalty(logits_of, restored, gt, fraction, kind)
                 for kind in ("two_sided", "one_sided_mean")}
    return {"d_real_mean": real.mean(), "d_real_sq_mean": real.square().mean(),
            "d_fake_mean": fake.mean(), "gp_two_sided": penalties["two_sided"],
            "gp_mean_one_sided": penalties["one_sided_mean"],
            "d_total": wasserstein_loss(real, fake) + 10 * penalties["two_sided"]}


# ---- metrics and reductions ----------------------------------------------------------------------

def image_pair(item: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Restored image and target of an item, by the case's rule."""
    shape = (item["n"], 3, item["size"], item["size"])
    small = (*shape[:2], item["size"] // 8, item["size"] // 8)
    base = make_input(f"{item['name']}_base", small, item["base_low"], item["base_high"]).double()
    base = base.repeat_interleave(8, 2).repeat_interleave(8, 3)
    gt = base + make_input(f"{item['name']}_fine", shape, -0.08, 0.08)
    noise = make_input(f"{item['name']}_noise", shape, -item["amp"], item["amp"])
    growth = torch.linspace(0.5, 1.5, item["n"], dtype=torch.float64)
    return gt + noise * growth.view(-1, 1, 1, 1), gt


def metrics(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    checks = []
    for item in case["items"]:
        restored, gt = image_pair(item)
        factors = ms_ssim.scale_factors(restored, gt).mean(dim=(1, 2))
        found = {
            "psnr_upstream_batch": ms_ssim.batch_psnr(restored, gt),
            "psnr_per_image": ms_ssim.psnr(restored, gt),
            "psnr_mean_of_images": ms_ssim.psnr(restored, gt).mean(),
            "psnr_clamped_batch": ms_ssim.batch_psnr(restored.clamp(0, 1), gt.clamp(0, 1)),
            "ssim_upstream": ms_ssim.published_ssim(restored, gt),
            "ssim_fixed_range1": ms_ssim.ssim(restored, gt).mean(),
            "ssim_per_image_range1": ms_ssim.ssim(restored, gt),
            "msssim_upstream": ms_ssim.published_ms_ssim(restored, gt),
            "msssim_standard_range1": ms_ssim.standard_product(factors)}
        records = [{"name": name, "shape": list(np.shape(value)), "absmax": np.abs(value).max(),
                    "samples": list(enumerate(np.ravel(value)))}
                   for name, value in item["values"].items()]
        checks += compare_all(case, records, found, f"{item['name']} ")
        checks += compare_all(case, [item["pred"], item["target"]],
                              {"pred": restored, "target": gt}, f"{item['name']} ")
    return checks


def resize(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    checks = []
    for item in case["items"]:
        image = make_input(item["name"], item["shape"], 0, 256).floor().numpy().astype(np.uint8)
        without_effect(item, "first")       # the outputs' sides say it
        digests = {"input": (item["input_sha256"], image)}
        if item["crop178"]:
            image = center_crop(image, CELEBA_CROP)
        for record in item["outputs"]:
            side = record["shape"][0]
            image = image if image.shape[0] == side else bilinear(image, side, side)
            digests[record["name"]] = (record["sha256"], image)
            # The digest is of all bytes.
            without_effect(record, "mean", "std", "absmax", "samples")
        checks += [Check(f"{item['name']} {name}", float(hashlib.sha256(
            np.ascontiguousarray(found).tobytes()).hexdigest() != expected), 0.0)
            for name, (expected, found) in digests.items()]
    return checks


SOURCE = "Progressive-Face-Super-Resolution"      # of DeokyunKim and a fork
CASES = [
    (SOURCE, "pfsrnet.Generator", generator),
    (SOURCE, "pfsrnet.Discriminator", discriminator),
    (SOURCE, "pfsrnet.DistilledFAN", student),
    ("1adrianb/face-alignment", "pfsrnet.FAN2D", teacher),
    (SOURCE, "losses", losses),
    (SOURCE, "metrics", metrics),
    (SOURCE, "resize", resize),
]

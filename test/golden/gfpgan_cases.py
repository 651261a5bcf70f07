"""How the golden cases of GFP-GAN are built: networks, crops, losses, data, training steps."""
from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from data.blur import gaussian_kernel
from data.color_jitter import FUNCTIONS
from data.gfpgan_degradation import blurred, noisy, quantize, shifted, shrunk
from models.base_model import BaseModel
from models.gfpgan_model import COMPONENTS, VGG_WEIGHTS, GFPGANModel
from models.losses.gan import fake_term, generator_term, real_term
from models.losses.perceptual import feature_l1, pyramid_losses
from models.losses.regularizers import r1_penalty
from models.losses.style import gram, gram_l1
from models.networks.gfpgan import GFPGAN
from models.networks.gfpgan_convert import bilinear_to_clean
from models.networks.gfpgan_decoder import Decoder
from models.networks.gfpgan_discriminators import (
    FacialComponentDiscriminator,
    StyleGAN2Discriminator,
)
from models.networks.pretrained.arcface import ArcFace
from models.networks.pretrained.vgg import BLOCKS, VGGFeatures
from models.ops.roi_align import roi_align
from tools.golden import (
    Check,
    Inputs,
    check_keys,
    compare_all,
    fill,
    make_input,
    require,
    run_network,
    set_weights,
    value_for,
    without_effect,
)
from utils import face_parts

ARCHS = {"GFPGANv1": "original", "GFPGANBilinear": "bilinear", "GFPGANv1Clean": "clean",
         "StyleGAN2Generator": "original", "StyleGAN2GeneratorClean": "clean"}
# Upstream's arguments, and what they are called here.
NAMES = {"out_size": "size", "num_style_feat": "style_dim", "resample_kernel": "taps"}
# Freezing is the model's business, and discriminators always filter with [1, 3, 3, 1].
ELSEWHERE = ("fix_decoder", "type")


def settings(config: dict[str, Any]) -> dict[str, Any]:
    return {NAMES.get(key, key): value for key, value in config.items() if key not in ELSEWHERE}


def build(network: str, config: dict[str, Any]) -> nn.Module:
    """A network of a case, by upstream's name and arguments."""
    config = settings(config)
    if network == "StyleGAN2Discriminator":
        require(config, taps=[1, 3, 3, 1])
        config.pop("taps", None)
        return StyleGAN2Discriminator(**config)
    if network == "FacialComponentDiscriminator":
        return FacialComponentDiscriminator()
    if network == "ResNetArcFace":
        require(config, block="IRBlock")
        return ArcFace(tuple(config["layers"]), use_se=config["use_se"])
    kind = Decoder if network.startswith("StyleGAN2") else GFPGAN
    return kind(arch=ARCHS[network], **config)


def checked_order(case: dict[str, Any], built: nn.Module,
                  recorded: str = "state_dict") -> list[Check]:
    """Keys and shapes, and that they come in the recorded order: optimizers count on it."""
    expected = [key for key, _ in case[recorded]]
    wrong = sum(a != b for a, b in zip(expected, built.state_dict(), strict=False))
    return [*check_keys(case | {"state_dict": case[recorded]}, built),
            Check("order of the state dict", float(wrong), 0.0)]


def images_of(result: tuple[Tensor, list[Tensor]]) -> dict[str, Tensor]:
    image, rgbs = result
    return {"image": image, **{f"rgb_{rgb.shape[2]}": rgb for rgb in rgbs}}


def network(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    built = build(case["network"], case["config"])
    checks = checked_order(case, built)
    return checks + run_network(case, built, device, folder,
                                images_of if isinstance(built, GFPGAN) else None)


def component_discriminator(case: dict[str, Any], device: torch.device, folder: Path,
                            ) -> list[Check]:
    built = FacialComponentDiscriminator()
    return checked_order(case, built) + run_network(
        case, built, device, folder, lambda result: {
            "logits": result[0], "feat0": result[1][0], "feat1": result[1][1]})


@torch.no_grad()
def decoder(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    """Plain generation: one code, two mixed and truncated, a latent."""
    built = build(case["network"], case["config"])
    checks = checked_order(case, built)
    set_weights(case, built, folder)
    built.to(device)
    z1, z2, mean = (make_input(**entry).to(device) for entry in case["inputs"])
    require(case, call={})      # the four calls below are the document's
    image, latent = built([z1], return_latents=True)
    mixed, _ = built([z1, z2], truncation=0.7, truncation_latent=mean, inject_index=3)
    direct, _ = built([0.5 * latent], input_is_latent=True)
    return checks + compare_all(case, case["outputs"], {
        "image": image, "latent": latent, "mixed_truncated": mixed, "from_latent": direct})


@torch.no_grad()
def conversion(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    source = build("GFPGANBilinear", case["config"])
    clean = build("GFPGANv1Clean", case["config"])
    checks = checked_order(case, source) + checked_order(case, clean, "clean_state_dict")
    set_weights(case, source, folder)
    before = {key: value.clone() for key, value in source.state_dict().items()}
    clean.load_state_dict(bilinear_to_clean(source.state_dict()))
    touched = sum(not torch.equal(value, source.state_dict()[key])
                  for key, value in before.items())
    x, = (make_input(**entry).to(device) for entry in case["inputs"])
    require(case, call={"randomize_noise": False})
    values = images_of(clean.to(device)(x, return_rgb=True))
    values |= {f"converted:{key}": value for key, value in clean.state_dict().items()}
    return [*checks, Check("source entries changed", float(touched), 0.0),
            *compare_all(case, case["outputs"], values)]


def crops(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    config, values = case["config"], {}
    require(config, spatial_scale=1.0)
    entry, = case["inputs"]
    table = torch.tensor(config["boxes"], dtype=torch.float64, device=device)
    for ratio, aligned in config["variants"]:
        x = make_input(**entry).to(device).requires_grad_()
        out = roi_align(x, table[:, 1:], config["output_size"], index=table[:, 0].long(),
                        sampling_ratio=ratio, aligned=aligned)
        weight = make_input("gfp.roi.w", out.shape).to(device)
        (out * weight).sum().backward()
        name = f"ratio{ratio}_{'aligned' if aligned else 'legacy'}"
        values |= {name: out, f"grad_input_{name}": x.grad}
    return compare_all(case, case["outputs"], values)


# ---- losses --------------------------------------------------------------------------------------

def vgg_names() -> dict[str, int]:
    """Upstream's names of VGG19's convolutions, and their places in `features`."""
    names, place = {}, 0
    for block, count in enumerate(BLOCKS["vgg19"], 1):
        for index in range(1, count + 1):
            names[f"conv{block}_{index}"] = place
            place += 2
        place += 1
    return names


@torch.no_grad()
def filled_vgg(vgg: VGGFeatures) -> VGGFeatures:
    """Filled by upstream's names of its layers."""
    for name, place in vgg_names().items():
        for kind, tensor in vgg.features[place].named_parameters():
            value = value_for(f"vgg.vgg_net.{name}.{kind}", tensor.shape)
            tensor.copy_(torch.from_numpy(np.asarray(value, np.float32)))
    return vgg


def perceptual(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    config, places = case["config"], vgg_names()
    require(config, vgg_type="vgg19", use_input_norm=True, range_norm=True, criterion="l1")
    # The means that the original keeps as buffers are constants here.
    without_effect(case, "state_dict", "keep")
    layers = dict(config["layer_weights"].items())
    weights = tuple(layers.values())
    vgg = filled_vgg(VGGFeatures("vgg19", [places[name] for name in layers])).to(device)
    x, gt = (make_input(**entry).to(device) for entry in case["inputs"])
    x.requires_grad_()
    features, gt_features = vgg(x), vgg(gt)
    parts = {"percep": config["perceptual_weight"] * feature_l1(features, gt_features, weights),
             "style": config["style_weight"] * gram_l1(features, gt_features, weights)}
    grad, = torch.autograd.grad(sum(parts.values()), x, retain_graph=True)
    values = {name: loss[None] for name, loss in parts.items()} | {"grad_x": grad}
    for name, mine, other, weight in zip(layers, features, gt_features, weights, strict=True):
        values |= {f"feat:{name}": mine, f"gram:{name}": gram(mine),
                   f"percep:{name}": feature_l1([mine], [other], [weight])[None]}
    return compare_all(case, case["outputs"], values)


def adversarial(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    logits = Inputs(case, device)
    require(case["config"], real_label_val=1.0, fake_label_val=0.0)
    weight, values = case["config"]["loss_weight"], {}
    for record in case["outputs"]:
        mode, which, target, side = record["name"].split(":")
        ours, x = {"wgan_softplus": "logistic"}.get(mode, mode), logits[which]
        if side == "d":
            value = (real_term if target == "real" else fake_term)(x, ours)
        elif target == "real":
            value = weight * generator_term(x, ours)
        else:       # the generator's loss on images that should look made, which nobody minimizes
            value = weight * fake_term(x, ours)
        values[record["name"]] = value[None]
    return compare_all(case, case["outputs"], values)


def regularized(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    discriminator = build("StyleGAN2Discriminator", case["config"])
    checks = checked_order(case, discriminator)
    set_weights(case, discriminator, folder)
    discriminator.to(device)
    gt, = (make_input(**entry).to(device).requires_grad_() for entry in case["inputs"])
    logits = discriminator(gt)
    penalty = r1_penalty(logits, gt)
    loss = case["r1_reg_weight"] / 2 * case["net_d_reg_every"] * penalty
    loss.backward()
    values = {"pred": logits, "r1_penalty": penalty[None], "l_d_r1": loss[None]}
    values |= {f"grad:{name}": weight.grad for name, weight in discriminator.named_parameters()}
    return checks + compare_all(case, case["outputs"], values)


# ---- data ----------------------------------------------------------------------------------------

def degradation(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    """Every step but JPEG, whose bytes depend on the library's version."""
    config = case["config"]
    image, noise = (make_input(**entry).numpy() for entry in case["inputs"])
    kernel = config["kernel"]
    sigmas, theta = (kernel["sigma_x"], kernel["sigma_y"]), kernel["theta"]
    if kernel["isotropic"]:
        sigmas, theta = (sigmas[0], sigmas[0]), 0.0
    blur = gaussian_kernel(kernel["size"], sigmas, theta)
    require(config, gray=False)
    small = shrunk(blurred(image, blur), config["downsample"])
    noised = noisy(small, noise[:small.shape[0], :small.shape[1]], config["noise_sigma"])
    back = cv2.resize(noised, (config["width"], config["height"]), interpolation=cv2.INTER_LINEAR)
    jittered = shifted(back, np.array(config["jitter_bgr"]))
    tensor = quantize(jittered)[..., ::-1].transpose(2, 0, 1) / 127.5 - 1
    values = {"blur_down": small, "noisy": noised, "back": back, "jitter": jittered,
              "tensor": np.ascontiguousarray(tensor)}
    return compare_all(case, case["outputs"], {k: torch.from_numpy(v) for k, v in values.items()})


def jitter(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    image, = (make_input(**entry).numpy().transpose(1, 2, 0) for entry in case["inputs"])
    values = {}
    for name in case["config"]["order"]:
        image = FUNCTIONS[name](image, case["config"][name])
        values[name] = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    return compare_all(case, case["outputs"], values)


def parts_of_case(entry: dict[str, list[float]]) -> Tensor:
    return torch.tensor([entry[part] for part in face_parts.PARTS], dtype=torch.float64)


def boxes(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    config = case["config"]
    table = {name: parts_of_case(entry) for name, entry in config["components"].items()}
    parts = table[f"{config['index']:08d}"]
    values = {}
    for suffix, given in (("flip", face_parts.mirrored_parts(parts, config["out_size"])),
                          ("plain", parts)):
        found = face_parts.boxes_of_parts(given, config["eye_enlarge_ratio"])
        values |= {f"{part}_{suffix}": box
                   for part, box in zip(face_parts.PARTS, found, strict=True)}
    return compare_all(case, case["outputs"], values)


def landmarks(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    values = {}
    config = case["config"]
    for name, points in zip(config["order"], config["landmarks"], strict=True):
        points = torch.tensor(points, dtype=torch.float64) * config["scale"]
        found = face_parts.parts_of_landmarks(points, face_parts.REFERENCE)
        values |= {f"{name}:{part}": row
                   for part, row in zip(face_parts.PARTS, found, strict=True)}
    return compare_all(case, case["outputs"], values)


# ---- training ------------------------------------------------------------------------------------

# What newtrain.py would set, in fp32, besides what a case says.
COMMON = {
    "is_train": True, "verbose": False, "pretrain_model_path": None, "memory_format": "contiguous",
    "opt_level": "O0", "loss_scale": None, "amp_backend": "auto", "amp_dtype": "auto",
    "optimizer": "auto", "master_init": "rounded", "keep_fp32": "safe", "grad_clip": 0.0,
    "lr_policy": "constant", "n_epochs": 10, "n_epochs_decay": 10, "lr_decay_epochs": 50,
    "sync_bn": False, "checkpointing": False, "batch_size": 2, "lr": 2e-3, "beta1": 0.0,
    "preset": "1", "g_lr": None, "d_lr": None, "component_lr": None, "d_init_steps": None,
    "lr_gamma": 0.5, "decoder_weights": "random", "vgg_weights": "random", "id_weights": "random",
    "randomize_noise": False, "stddev_group": 4, "component_channels": 64,
    "eye_enlarge_ratio": 1.4, "ema_decay": 0.5 ** (32 / 10000)}
LAYER_NAMES = ("conv1_2", "conv2_2", "conv3_4", "conv4_4", "conv5_4")      # of VGG_LAYERS
LOGS = {"Pix": "l_g_pix", "PCP": "l_g_percep", "Style": "l_g_style", "G": "l_g_gan",
        "CompStyle": "l_g_comp_style_loss", "ID": "l_identity", "D": "l_d", "R1": "l_d_r1",
        **{f"G_{part}": f"l_g_gan_{part}" for part in COMPONENTS},
        **{name: f"l_d_{part}" for part, name in COMPONENTS.items()}}
NETWORKS = {"net_g": "G", "net_d": "D",
            **{f"net_d_{part}": name for part, name in COMPONENTS.items()}}


def check_options(options: dict[str, Any]) -> None:
    """Upstream's options that are no flag here, or change nothing in one step.

    Raises:
        ValueError: one has another value than our code.
    """
    train, g, d = options["train"], options["network_g"], options["network_d"]
    without_effect(options, "num_gpu", "manual_seed", "is_train", "dist", "val")
    require(g, type="GFPGANv1", resample_kernel=[1, 3, 3, 1], lr_mlp=0.01, input_is_latent=True,
            different_w=True, sft_half=True)
    require(d, type="StyleGAN2Discriminator", out_size=g["out_size"], narrow=g["narrow"],
            resample_kernel=[1, 3, 3, 1])
    for part in COMPONENTS:
        require(options.get(f"network_d_{part}", {}), type="FacialComponentDiscriminator")
    require(options.get("network_identity", {}), type="ResNetArcFace", block="IRBlock",
            layers=[2, 2, 2, 2], use_se=False)
    # The first step's gradients depend on no learning rate.
    without_effect(train, "total_iter", "warmup_iter", "optim_g", "optim_d", "optim_component")
    for name in ("optim_g", "optim_d", "optim_component"):
        require(train.get(name, {}), type="Adam")
        without_effect(train.get(name, {}), "lr")
    require(train["scheduler"], type="MultiStepLR")
    require(train["pixel_opt"], type="L1Loss", reduction="mean")
    require(train.get("L1_opt", {}), type="L1Loss", loss_weight=1, reduction="mean")
    require(train["perceptual_opt"], type="PerceptualLoss", vgg_type="vgg19", use_input_norm=True,
            range_norm=True, criterion="l1",
            layer_weights=dict(zip(LAYER_NAMES, VGG_WEIGHTS, strict=True)))
    require(train["gan_opt"], type="GANLoss", gan_type="wgan_softplus")
    require(train.get("gan_component_opt", {}), type="GANLoss", gan_type="vanilla",
            real_label_val=1.0, fake_label_val=0.0)


def model_options(options: dict[str, Any]) -> Namespace:
    """Our flags for upstream's options."""
    check_options(options)
    train, g, d = options["train"], options["network_g"], options["network_d"]
    components = "network_d_left_eye" in options
    return Namespace(**{
        **COMMON, "model": "gfpgan", "load_size": g["out_size"], "style_dim": g["num_style_feat"],
        "channel_multiplier": g["channel_multiplier"], "narrow": g["narrow"],
        "num_mlp": g["num_mlp"], "fix_decoder": g["fix_decoder"],
        "D_channel_multiplier": d["channel_multiplier"],
        "lambda_pix": train["pixel_opt"]["loss_weight"],
        "lambda_pyramid": train["pyramid_loss_weight"],
        "remove_pyramid": train["remove_pyramid_loss"],
        "lambda_pcp": train["perceptual_opt"]["perceptual_weight"],
        "lambda_style": train["perceptual_opt"]["style_weight"],
        "lambda_g": train["gan_opt"]["loss_weight"], "lambda_r1": train["r1_reg_weight"],
        "lambda_component": train["gan_component_opt"]["loss_weight"] if components else 0.0,
        "lambda_comp_style": train["comp_style_weight"] if components else 0.0,
        "lambda_id": train["identity_weight"] if components else 0.0,
        "d_iters": train["net_d_iters"], "d_init_steps": train["net_d_init_iters"],
        "lr_gamma": train["scheduler"]["gamma"], "r1_every": train["net_d_reg_every"],
        "lr_milestones": train["scheduler"]["milestones"]})


def filled_model(case: dict[str, Any], device: torch.device) -> tuple[BaseModel, list[Check]]:
    """The model as newtrain.py runs it, networks filled as the case says."""
    model, checks = GFPGANModel(model_options(case["config"]["options"]), device), []
    gains = case.get("gain", {})
    for name, letter in NETWORKS.items():
        if letter not in model.unwrapped:
            continue
        keys = case.get("state_dicts", {}).get(name, [])
        checks += check_keys({"state_dict": keys}, model.unwrapped[letter])
        is_component = letter in COMPONENTS.values()
        fill(model.unwrapped[letter], case.get("keep", ()),
             gains.get("net_d_left_eye" if is_component and name not in gains else name))
    # The document's rule, which makes the three differ.
    for letter, factor in (("D_right_eye", 0.9), ("D_mouth", 1.1)):
        network = model.unwrapped.get(letter)
        for tensor in network.state_dict().values() if network else ():
            tensor.mul_(factor)
    if "ID" in model.unwrapped:
        fill(model.unwrapped["ID"])
    filled_vgg(model.unwrapped["VGG"])
    model.setup()
    model.train()
    return model, checks


def training_step(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    config = case["config"]
    model, checks = filled_model(case, device)
    lq, gt = (make_input(**entry).to(device) for entry in case["inputs"])
    batch = {"lq": lq, "gt": gt}
    if config["boxes"]:
        batch["boxes"] = torch.tensor([config["boxes"][f"loc_{part}"]       # (B, 3, 4)
                                       for part in face_parts.PARTS], device=device).transpose(0, 1)
    made: list[tuple[Tensor, list[Tensor]]] = []
    logits: list[Tensor] = []
    model.unwrapped["G"].register_forward_hook(lambda _, args, result: made.append(result))
    model.unwrapped["D"].register_forward_hook(
        lambda _, args, result: logits.append(result.detach()))
    model.start_step(config["iteration"], 10 ** 6, 10 ** 6)
    losses = model.run_step(batch)
    (restored, rgbs), = made
    values = {LOGS[name]: loss[None] for name, loss in losses.items() if name in LOGS}
    values |= {f"l_p_{rgb.shape[2]}": loss[None]
               for rgb, loss in zip(rgbs, pyramid_losses(rgbs, gt), strict=True)}
    if "Pyramid" in losses:
        total = sum(value for name, value in values.items() if name.startswith("l_p_"))
        weighted = config["options"]["train"]["pyramid_loss_weight"] * total
        checks.append(Check("sum of the pyramid",
                            float((losses["Pyramid"] - weighted).abs().detach()), 1e-5))
    # D sees the restored image for G's loss, then the target, then the restored one again.
    values |= {"real_score": logits[1].mean()[None], "fake_score": logits[2].mean()[None],
               "output": restored}
    for name, letter in NETWORKS.items():
        if letter in model.unwrapped:
            values |= {f"grad:{name}:{key}": weight.grad
                       for key, weight in model.unwrapped[letter].named_parameters()}
    if config["boxes"]:
        for part, (restored_crop, gt_crop) in model._crops(batch, restored).items():
            values |= {f"roi:{part}_out": restored_crop, f"roi:{part}_gt": gt_crop}
    return checks + compare_all(case, case["outputs"], values)


SOURCE = "TencentARC/GFPGAN"
CASES = [
    (SOURCE, "PerceptualLoss", perceptual),
    (SOURCE, "GANLoss", adversarial),
    (SOURCE, "r1_penalty", regularized),
    (SOURCE, "degradation_chain", degradation),
    (SOURCE, "color_jitter", jitter),
    (SOURCE, "component_boxes", boxes),
    (SOURCE, "parse_landmark", landmarks),
    (SOURCE, "GFPGANModel.optimize_parameters", training_step),
    *((SOURCE, name, network) for name in (
        "GFPGANv1", "GFPGANBilinear", "GFPGANv1Clean", "StyleGAN2Discriminator",
        "ResNetArcFace")),
    (SOURCE, "StyleGAN2Generator*", decoder),
    (SOURCE, "FacialComponentDiscriminator", component_discriminator),
    (SOURCE, "convert_bilinear_to_clean", conversion),
    ("pytorch/vision", "roi_align", crops),
]

"""How the golden cases of SPARNet are built: network, losses and metrics, training steps."""
from __future__ import annotations

import zlib
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import spectral_norm

from engine import device as devices
from metrics.psnr_ssim import psnr, ssim, truncated_luma
from models.losses.gan import (
    discriminator_loss,
    fake_term,
    feature_matching_loss,
    generator_loss,
    generator_term,
    real_term,
)
from models.networks.sparnet import SPARNet
from models.sparnet_model import SPARNetModel
from tools.golden import (
    Check,
    Inputs,
    batches,
    check_keys,
    compare_all,
    fill,
    make_input,
    require,
    run_network,
    without_effect,
)
from utils.images.convert import to_image
from utils.images.resize import bicubic

PLANS = {"sparnet": {}, "sparnethd": {"size": 512, "feat_size": 32, "max_channels": 512}}


def build(config: dict[str, Any]) -> SPARNet:
    # They only say how the data set makes its images.
    without_effect(config, "scale_factor", "load_size")
    network = SPARNet(
        res_depth=config.get("res_depth", 10), att_name=config.get("att_name", "spar"),
        norm=config.get("Gnorm", "bn"), bottleneck_size=config.get("bottleneck_size", 4),
        **PLANS[config.get("model", "sparnet")])
    if config.get("spectral_norm"):
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                spectral_norm(module)
    return network


def network(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    return run_network(case, build(case["config"]), device, folder,
                       memory_format=devices.memory_format(device))


# ---- training ------------------------------------------------------------------------------------

def filled_model(config: dict[str, Any], device: torch.device) -> SPARNetModel:
    """The model as newtrain.py runs it, in fp32."""
    opt = Namespace(
        is_train=True, model="sparnet", verbose=False, pretrain_model_path=None,
        res_depth=config.get("res_depth", 10), att_name=config.get("att_name", "spar"),
        Gnorm=config.get("Gnorm", "bn"), bottleneck_size=config.get("bottleneck_size", 4),
        load_size=config.get("load_size", 128), lambda_pix=config.get("lambda_pix", 1.0),
        lr=config.get("lr", 2e-4), beta1=config.get("beta1", 0.9),
        init_type="normal", init_gain=0.02, memory_format="auto", opt_level="O0", loss_scale=None,
        amp_backend="auto", amp_dtype="auto", optimizer="auto", master_init="rounded",
        keep_fp32="safe", grad_clip=0.0, lr_policy="constant", n_epochs=10, n_epochs_decay=10,
        lr_decay_epochs=50, sync_bn=False, checkpointing=False, batch_size=1 << 20)
    model = SPARNetModel(opt, device)
    fill(model.unwrapped["G"])
    model.setup()
    model.train()
    return model


def train_step(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    config = case["config"]
    require(config, optimizer="Adam", betas=[config["beta1"], 0.99], eps=1e-8, weight_decay=0.0,
            precision="fp32")
    without_effect(config, "scale_factor")
    model = filled_model(config, device)
    net = model.unwrapped["G"]
    start = {key: value.clone() for key, value in net.state_dict().items()}
    checks = check_keys(case, net)
    losses, grads, sr = {}, {}, {}
    given = batches(case, device, model.memory_format)
    for step in range(1, config["steps"] + 1):
        hook = net.register_forward_hook(lambda _, args, result, name=f"sr_step{step}": sr.update(
            {name: result.detach().clone()}))
        model.start_step(step, 10 ** 6, 10 ** 6)
        losses[f"loss_Pix_step{step}"] = model.run_step(next(given))["Pix"]
        hook.remove()
        if f"grads_step{step}" in case:
            grads[f"grads_step{step}"] = {k: p.grad.clone() for k, p in net.named_parameters()}
    after = net.state_dict()
    moments = model.precision.steps["G"].optimizer.state
    values = {
        "outputs": losses, **grads, "params_after": after, "buffers_after": after,
        "param_deltas": {key: after[key] - start[key] for key, _ in net.named_parameters()},
        "adam_exp_avg": {k: moments[p]["exp_avg"] for k, p in net.named_parameters()},
        "adam_exp_avg_sq": {k: moments[p]["exp_avg_sq"] for k, p in net.named_parameters()}}
    checks += compare_all(case, [case[name] for name in sr if name in case], sr)
    for group, actual in values.items():
        prefix = "" if group == "outputs" else f"{group} "
        checks += compare_all(case, case.get(group, []), actual, prefix)
    return checks


# ---- losses, metrics, resizing ------------------------------------------------------------------

def losses(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    config = case["config"]
    x = Inputs(case, device)
    scales = range(config["num_D"])
    real, fake = ([x[f"{kind}_score{i}"] for i in scales] for kind in ("real", "fake"))

    real_features, fake_features = ([x.series(f"{kind}_feat{i}_") for i in scales]
                                    for kind in ("real", "fake"))
    pixel = F.l1_loss(x["sr"], x["hr"])
    without_effect(config, "lambda_pcp")        # no record has perceptual features
    values = {
        **{f"fm_scale{i}": feature_matching_loss([real_features[i]], [fake_features[i]])
           for i in scales},
        "loss_FM": config["lambda_fm"] * feature_matching_loss(real_features, fake_features),
        "loss_Pix_sparnet": config["lambda_pix_sparnet"] * pixel,
        "loss_Pix_sparnethd": config["lambda_pix_sparnethd"] * pixel}
    for mode in {record["name"].split(".")[0] for record in case["outputs"]
                 if "." in record["name"]}:
        for i in scales:
            values |= {f"{mode}.d_real_scale{i}": real_term(real[i], mode),
                       f"{mode}.d_fake_scale{i}": fake_term(fake[i], mode),
                       f"{mode}.g_scale{i}": generator_term(fake[i], mode)}
        values.update({
            f"{mode}.loss_D": discriminator_loss(real, fake, mode),
            f"{mode}.loss_G": config["lambda_g"] * generator_loss(fake, mode)})
    checks = compare_all(case, case["outputs"], values)
    for index, entry in enumerate(case.get("metrics", [])):
        checks += metric(entry, f"metric {index} ")
    for entry in case.get("resize", {}).get("cases", []):
        checks += resize(case, entry)
    return checks


def metric_images(entry: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Target and test image as the model in the case describes them."""
    if "gt_input" not in entry:
        blocks = np.random.RandomState(zlib.crc32(b"metric_int_gt")).randint(0, 256, (8, 6, 3))
        gt = blocks.repeat(8, axis=0).repeat(8, axis=1)
        noise = np.random.RandomState(zlib.crc32(b"metric_int_noise")).randint(-25, 26, gt.shape)
        return gt.astype(np.uint8), np.clip(gt + noise, 0, 255).astype(np.uint8)
    noise = make_input(**entry["noise_input"])
    gt = F.interpolate(make_input(**entry["gt_input"])[None], size=noise.shape[1:],
                       mode="bilinear", align_corners=False)[0]
    test = (gt + entry["noise_gain"] * noise).clamp(-1, 1)
    return to_image(gt, "truncate"), to_image(test, "truncate")


def metric(entry: dict[str, Any], prefix: str) -> list[Check]:
    gt, test = metric_images(entry)
    gt_y, test_y = truncated_luma(gt), truncated_luma(test)
    values = {"gt_uint8_sum": int(gt.sum()), "test_uint8_sum": int(test.sum()),
              "gt_y_sum": gt_y.sum(), "test_y_sum": test_y.sum(),
              "psnr_y": psnr(gt_y, test_y), "ssim_y": ssim(gt_y, test_y),
              "psnr_rgb": psnr(gt, test)}
    return [Check(prefix + name, abs(values[name] - entry[name]), 1e-9 * abs(entry[name]))
            for name in values if name in entry]


def resize(case: dict[str, Any], entry: dict[str, Any]) -> list[Check]:
    state = np.random.RandomState(zlib.crc32(entry["name"].encode()))
    source = state.randint(0, 256, entry["source_shape"]).astype(np.uint8)
    result = bicubic(source, *entry["target"])
    sums = [("source_sum", source), ("result_sum", result)]
    # The mean is a float64 sum in another order; the pixels themselves are compared exactly.
    exact = {key: entry[key] for key in ("name", "shape", "absmax", "samples")}
    exact["tolerance"] = entry.get("tolerance", 0.0)
    without_effect(entry, "mean", "std")
    return [*compare_all(case, [exact], {entry["name"]: result.astype(np.float64)}, "resize "),
            *(Check(f"resize {entry['name']} {name}", abs(int(image.sum()) - entry[name]), 0.0)
              for name, image in sums if name in entry)]


SOURCE = "chaofengc/Face-SPARNet"
CASES = [
    (SOURCE, "losses", losses),
    (SOURCE, "*training*", train_step, {"model": "sparnet"}),
    (SOURCE, "SPARNet* generator*", network),
]

"""How the golden cases of the degradations are built: every piece with its draws fixed."""
from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from data.blind_degradation import add_values, quality_of
from data.blur import box_blur, gaussian_blur, median_blur, motion_blur, motion_kernel, odd
from data.ffhq_dataset import gray
from tools.golden import Check, compare_all, make_input, require, without_effect

INTERPOLATIONS = {"nearest": cv2.INTER_NEAREST, "linear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA,
                  "cubic": cv2.INTER_CUBIC}


def noise_image() -> np.ndarray:
    """The test image as the case's rule gives it."""
    coarse = make_input("deg_image", (1, 3, 8, 8), 0, 256)[0].permute(1, 2, 0).floor().numpy()
    texture = make_input("deg_texture", (1, 3, 64, 64), 0, 40)[0].permute(1, 2, 0).floor().numpy()
    image = coarse.astype(np.uint8).repeat(8, axis=0).repeat(8, axis=1) + texture - 20
    return np.clip(image, 0, 255).astype(np.uint8)


def pieces(config: dict[str, Any], names: list[str]) -> dict[str, np.ndarray]:
    image = noise_image()
    made = {"image": image, "gray": gray(image)}
    for index, draw in enumerate(config["motion"]):
        draws = (draw["k"], draw["angle"], draw["direction"])
        made[f"motion_kernel{index}"] = motion_kernel(*draws)
        made[f"motion_blur{index}"] = motion_blur(image, *draws)
    blurs = {"gaussian": (gaussian_blur, float), "average": (box_blur, int),
             "median": (median_blur, int)}
    for name in names:
        kind, _, value = name.partition("_")
        if kind in blurs:
            blur, number = blurs[kind]
            made[name] = blur(image, number(value))
    small = (config["small"],) * 2
    for kind, code in INTERPOLATIONS.items():
        made[f"resize_{kind}"] = cv2.resize(image, small, interpolation=code)
        made[f"resize_back_{kind}"] = cv2.resize(made[f"resize_{kind}"], (64, 64),
                                                 interpolation=cv2.INTER_CUBIC)
    state = np.random.RandomState(zlib.crc32(b"deg_noise"))
    noise = state.normal(0, 12.5, (64, 64, 3)).astype(np.float32)
    made["noise_color"] = add_values(image, noise)
    made["noise_gray"] = add_values(image, noise[..., :1])
    return made


def blind(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    config = case["config"]
    require(config, size=[64, 64])
    image, = case["inputs"]
    without_effect(image, "name")       # its rule is noise_image
    made = {name: value.astype(np.float64) for name, value in pieces(
        config, [record["name"] for record in case["outputs"]]).items()}
    checks = compare_all(case, case["outputs"], made)
    for sigma, side in config["gaussian_sigma_to_kernel"].items():
        # An impulse shows the kernel's side.
        impulse = np.zeros((99, 99, 3), np.float32)
        impulse[49, 49] = 1
        found = int((gaussian_blur(impulse, float(sigma))[49, :, 0] > 0).sum())
        checks.append(Check(f"side of sigma {sigma}", abs(found - odd(side)), 0.0))
    for compression, quality in config["jpeg_compression_to_quality"].items():
        checks.append(Check(f"quality of compression {compression}",
                            abs(quality_of(float(compression)) - quality), 0.0))
    return checks


CASES = [("chaofengc/PSFRGAN", "imgaug_degradation", blind)]

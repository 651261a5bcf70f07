"""How the golden cases of finding and aligning faces are built."""
from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from faces import align
from faces.nms import nms
from faces.paste import frame_mask, parsing_mask, paste, upscale
from models.networks.pretrained.retinaface import RetinaFace, anchors, decode_boxes, decode_points
from models.networks.pretrained.rrdbnet import RRDBNet
from tools.golden import Check, compare_all, make_input, require, run_network

# A record's name says which labels it was made from.
DISC = re.compile(r"postprocess of disc centre \((\d+),(\d+)\) radius (\d+) \(strict\)")


def detector(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    network = RetinaFace(case["config"].get("network_name", "resnet50"))
    return run_network(case, network, device, folder)


def detector_with_boxes(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    height, width = case["config"]["image_size"]
    gain = case["config"]["input_gain"]
    priors = anchors(height, width, device)

    def named(result: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        boxes, scores, points = result
        return {"loc": boxes, "conf": scores, "landm": points, "priors": priors,
                "boxes": decode_boxes(boxes[0], priors), "points": decode_points(points[0], priors)}

    class Amplified(RetinaFace):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return super().forward(gain * x)
    return run_network(case, Amplified(), device, folder, named)


def background(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    config = case["config"]
    require(config, num_in_ch=3, num_out_ch=3)
    return run_network(case, RRDBNet(config["scale"], config["num_feat"], config["num_block"],
                                     config["num_grow_ch"]), device, folder)


def suppression(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    x, = (make_input(**entry).numpy() for entry in case["inputs"])
    a, b, c, d, scores = x.T
    boxes = np.stack([50 * a, 50 * b, 50 * a + 20 + 30 * c, 50 * b + 20 + 30 * d], axis=1)
    keep = nms(boxes, scores, case["config"]["threshold"])
    return compare_all(case, case["outputs"], {"keep": torch.tensor(keep, dtype=torch.float64)})


def alignment_gpen(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    found = {}
    for index, item in enumerate(case["config"]["items"]):
        reference = align.template("gpen", item["size"])
        forward = align.similarity(np.array(item["landmarks"]), reference)
        found |= {f"{index} reference": reference, f"{index} forward": forward,
                  f"{index} inverse": align.inverse(forward)}
    return compare_all(case, case["outputs"], found)


def alignment_psfrgan(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    config = case["config"]
    reference = align.template("psfrgan", config["size"])
    published = np.array(config["template_1024"]) / config["template_scale"]
    same = Check("template", float(np.abs(reference - published).max()), 1e-9)
    found = {f"matrix{index}": align.similarity(np.array(points), reference)
             for index, points in enumerate(config["landmarks"])}
    return [same, *compare_all(case, case["outputs"], found)]


def random_image(name: str, height: int, width: int) -> np.ndarray:
    """The cases' image of this name: smooth random colors, uint8 BGR."""
    coarse = make_input(name, (1, 3, 10, 12), 0, 255)
    fine = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)
    return fine[0].clamp(0, 255).round().permute(1, 2, 0).numpy().astype(np.uint8)


def named_image(text: str) -> np.ndarray:
    """From such as `gfp.scene 320x420`."""
    name, size = text.split()
    return random_image(name, *(int(side) for side in size.split("x")))


def regions() -> np.ndarray:
    labels = np.zeros((512, 512), np.uint8)
    cv2.ellipse(labels, (256, 256), (170, 213), 0, 0, 360, 1, -1)
    labels[226:286, 248:296] = 10
    labels[:60] = 17
    labels[-50:] = 16
    return labels


def photograph(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    config = case["config"]
    scale, size = config["upscale"], config["face_size"]
    scene = named_image(config["image"])
    mask = parsing_mask(regions(), size) if config["use_parse"] else None
    found: dict[str, Any] = {}
    result = upscale(scene, scale)
    for index, (points, restored) in enumerate(zip(config["landmarks"], config["restored"],
                                                   strict=True)):
        matrix = align.robust_similarity(np.array(points), align.template("ffhq", size))
        back = align.inverse(matrix) * scale
        found |= {f"affine{index}": matrix, f"inverse{index}": back.copy()}
        back[:, 2] += scale / 2     # as published; ours is to_upscaled
        found |= {f"inverse_offset{index}": back,
                  f"cropped{index}": align.crop(scene[..., ::-1], matrix, size)[..., ::-1]}
        result = paste(result, named_image(restored), back, mask,
                       edge=2 * scale)
    found["pasted"] = result
    return compare_all(case, case["outputs"], {name: np.ascontiguousarray(value, np.float64)
                                               for name, value in found.items()})


def paste_masks(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    size = case["config"]["size"]
    require(case["config"], thres=26, gaussian=[101, 101, 4], passes=2)
    rows, columns = np.mgrid[:size, :size]
    found = {"static mask": frame_mask(size),
             "postprocess of ones": parsing_mask(np.ones((size, size), int), size, "gpen")}
    for record in case["outputs"]:
        disc = DISC.fullmatch(record["name"])
        if disc:
            x, y, radius = map(int, disc.groups())
            inside = (columns - x) ** 2 + (rows - y) ** 2 < radius ** 2
            found[record["name"]] = parsing_mask(inside.astype(int), size, "gpen")
    return compare_all(case, case["outputs"], found)


GPEN = "yangxy/GPEN"
CASES = [
    ("xinntao/facexlib", "RetinaFace", detector),
    ("xinntao/facexlib", "face_align_paste", photograph),
    ("chaofengc/PSFRGAN", "similarity_transform", alignment_psfrgan),
    (GPEN, "retinaface_r50", detector_with_boxes),
    (GPEN, "rrdbnet", background),
    (GPEN, "nms", suppression),
    (GPEN, "gpen_align", alignment_gpen),
    (GPEN, "gpen_paste_mask", paste_masks),
]

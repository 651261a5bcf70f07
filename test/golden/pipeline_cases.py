"""How the golden cases of kind `pipeline` are built: from an image's file to the result's, with the
network replaced by one that notes its inputs and gives recorded numbers."""
from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import data
import inference
import models
from data.labels import color_map
from faces.align import template
from faces.detect import Face
from faces.photograph import align_crop
from faces.restorer import FaceRestorer
from options.enhance_options import EnhanceOptions
from tools.golden import Check, compare_all, make_input, without_effect
from utils.images.deep import read_layers
from utils.images.io import read_image, write_image

# The recorded settings that are flags of another name; step 3 is where PFSRNet's weights end.
FLAGS = {"version": "preset", "in_size": "load_size", "size": "load_size", "step": None,
         "variants": None}
NEEDED = {"psfrgan": ["--parse_weights", "random"]}
GIVES_TUPLE = ("gfpgan", "gpen")        # the image, then what training needs
GRAY_LEVEL = "1 grey level"
# What an item holds besides records of values.
NOT_RECORDS = ("image", "variant", "output", "parse_output", "photo", "landmarks", "matrix")
# What the cases record without a tolerance.
UNLISTED = {"network_parse_labels": 0, "crop": 1e-6, "face": GRAY_LEVEL, "parse_colours": 0}
MEAN_LIMIT = 0.01       # the other rounding moves the mean by a third of a gray level


FORMULA = ("width", "height", "mode", "phase", "rectangles")


def formula_image(*, width: int, height: int, mode: str, phase: float,
                  rectangles: list[list[int]]) -> np.ndarray:
    """The test image as the case's `image_formula` gives it, uint8 (H, W, C) or (H, W)."""
    y, x, c = np.ogrid[:height, :width, :{"L": 1, "RGB": 3, "RGBA": 4}[mode]]
    waves = (0.11 * (c + 1) * x / (width / 128) + 0.07 * (c + 2) * y / (height / 128) + c + phase)
    image = np.rint(127.5 + 127.5 * np.sin(waves)).astype(np.uint8)
    for x0, y0, x1, y1, *color in rectangles:
        image[y0:y1, x0:x1, :3] = color[:min(3, image.shape[2])]
    return image[..., 0] if mode == "L" else image


class Published:
    """Stands in for a model's networks: notes what they are given, returns the item's numbers."""

    def __init__(self, item: dict[str, Any], as_tuple: bool, device: torch.device) -> None:
        self.item, self.as_tuple, self.device = item, as_tuple, device
        self.inputs: dict[str, Tensor] = {}

    def generator(self, x: Tensor, *more: Any) -> Tensor | tuple[Tensor]:
        self.inputs["network_input"] = x
        if "network_parse_map" in self.item:
            self.inputs["network_parse_map"] = more[0]
        made = make_input(**self.item["output"]).to(self.device)
        return (made,) if self.as_tuple else made

    def parser(self, x: Tensor) -> tuple[Tensor]:
        self.inputs["parse_input"] = x
        return (make_input(**self.item["parse_output"]).to(self.device),)


def open_restorer(case: dict[str, Any], variant: str | None, device: torch.device) -> FaceRestorer:
    """The model as enhance.py opens it by default, its networks without memory."""
    config = {**case["config"], **case["config"].get("variants", {}).get(variant, {})}
    without_effect(case["config"], "step", "variants")
    flags = {FLAGS.get(key, key): value for key, value in config.items()}
    flags.pop(None, None)
    opt = EnhanceOptions(models, data, "golden").parse([
        "--model", case["network"], "--pretrain_model_path", "published.pth", "--input", "image",
        *NEEDED.get(case["network"], []),
        *(word for key, value in flags.items() for word in (f"--{key}", str(value)))])
    with torch.device("meta"):
        model = models.find(case["network"])(opt, torch.device("meta"))
    return FaceRestorer(model, device, inference.rounding_of(opt))


def with_inputs(restorer: FaceRestorer, item: dict[str, Any],
                restore: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `restore` makes while the networks give the item's numbers, and what they are given."""
    networks = Published(item, restorer.model.opt.model in GIVES_TUPLE, restorer.device)
    restorer.model.networks = {"G": networks.generator, "P": networks.parser}
    found = {**restore(), **networks.inputs}
    if "network_parse_map" in found:
        labels = found["network_parse_map"].argmax(dim=1)
        colors = color_map(labels[0].cpu().numpy())
        found |= {"network_parse_labels": labels, "saved_parse": colors, "parse_colours": colors}
    return found


def aligned(restorer: FaceRestorer, image: np.ndarray) -> dict[str, Any]:
    """enhance.py's way of an image of one face, from file to file."""
    with tempfile.TemporaryDirectory() as folder:
        source, saved = Path(folder) / "image.png", Path(folder) / "saved.png"
        Image.fromarray(image).save(source)
        face = restorer.preprocess(read_layers(source).srgb())
        write_image(saved, restorer.restore([face])[0])
        return {"saved": read_image(saved), "saved_lq": face, "saved_crop": face}


def photograph(restorer: FaceRestorer, image: np.ndarray,
               landmarks: list[list[float]]) -> dict[str, Any]:
    """enhance.py --photos up to the restored face, with the points that PSFR-GAN's detector gives.
    """
    restorer.model.opt.template = "psfrgan"
    settings = inference.paste_settings(restorer.model.opt)
    points = np.array(landmarks, np.float32)
    face = Face(np.concatenate([points.min(axis=0), points.max(axis=0)]), points, 1.0)
    (matrix,), crops = align_crop(image, [face], settings)
    return {"matrix": matrix, "crop": crops[0], "face": restorer.restore_crops(crops)[0]}


def of_photograph(restorer: FaceRestorer, case: dict[str, Any], photo: dict[str, Any],
                  image: np.ndarray, prefix: str) -> list[Check]:
    found = with_inputs(restorer, photo, partial(photograph, restorer, image, photo["landmarks"]))
    error = np.abs(found["matrix"] - photo["matrix"]).max()
    return [Check(f"{prefix}matrix", error / np.abs(photo["matrix"]).max(), 1e-6),
            *compared(case, photo, found, prefix)]


def compared(case: dict[str, Any], item: dict[str, Any], found: dict[str, Any],
             prefix: str) -> list[Check]:
    """Every record of the item, with the case's tolerance of its name."""
    records, checks = [], []
    # The names of the original's files, and sizes of what it shows beside the result.
    without_effect(item, "files", "comparison_size")
    for field in item:
        if field in (*NOT_RECORDS, "files", "comparison_size"):
            continue
        record = item[field]
        # Of the file; its bytes depend on the library's version.
        without_effect(record, "file_mode", "file_size", "crc32", "uint8_crc32", "dtype")
        limit = {**UNLISTED, **case["tolerances"]}[record["name"]]
        limit = 1 / record["absmax"] if limit == GRAY_LEVEL else limit
        records.append(record | {"tolerance": limit})
        if field in ("saved", "face"):      # one level hides how bytes are made
            checks.append(Check(f"{prefix}mean of {record['name']}, gray levels",
                                abs(found[record["name"]].mean() - record["mean"]), MEAN_LIMIT))
    values = {name: value if isinstance(value, Tensor) else np.asarray(value, np.float64)
              for name, value in found.items()}
    return checks + compare_all(case, records, values, prefix)


def template_check(case: dict[str, Any]) -> list[Check]:
    """Cases with photographs carry the points they are aligned to."""
    if "photo_template" not in case:
        return []
    given = case["photo_template"]
    without_effect(given, "template_scale")     # the matrices show it
    points = np.array(given["points_1024"])
    return [Check("template", float(np.abs(points - template("psfrgan", 1024)).max()), 1e-9)]


def pipeline(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    checks, restorers = template_check(case), {}
    for item in case["items"]:
        variant = item.get("variant")
        if variant not in restorers:
            restorers[variant] = open_restorer(case, variant, device)
        restorer = restorers[variant]
        prefix = f"{variant or ''} {item['image']['id']} ".lstrip()
        image = formula_image(**{key: item["image"][key] for key in FORMULA})
        checks.append(Check(f"{prefix}image", float(
            zlib.crc32(image.tobytes()) != item["image"]["crc32"]), 0.0))
        found = with_inputs(restorer, item, partial(aligned, restorer, image))
        checks += compared(case, item, found, prefix)
        if "photo" in item:
            checks += of_photograph(restorer, case, item["photo"], image, f"{prefix}photo ")
    return checks


# Of any source: the network is the name of our model.
CASES = [("", "pipeline", pipeline)]

"""Smaller graphs: python -m tools.quantize --onnx FACE.onnx --calibration LOW_QUALITY_IMAGES

Writes FACE_fp16.onnx, FACE_int8.onnx, and FACE_table.md and .json, which compare both with the
float32 graph, and with targets where --gt has them. Needs requirements-export.txt.
"""
from __future__ import annotations

import os

# Before torch: an installed torch_npu must not be loaded on machines without a usable NPU.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

from options.quantize_options import parse

# Parsed before the imports that take seconds, so that --help answers at once.
if __name__ == "__main__":
    options = parse()

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import models
from engine import entry
from export import check_packages
from metrics.psnr_ssim import psnr, ssim
from utils.files import to_json, write_text
from utils.images.convert import to_image, to_tensor
from utils.images.io import list_images, read_image, warn_left_out
from utils.text import counted

COLUMNS = ("graph", "MiB", "PSNR to fp32", "SSIM to fp32", "PSNR to target", "SSIM to target")


def quantize(opt: Namespace) -> int:
    """Write graphs and table; returns the exit status."""
    entry.set_up_logging()
    check_packages()
    # Only now: the packages they need are an extra.
    import onnx

    from export import metadata, smaller
    path = Path(opt.onnx)
    if not path.is_file():
        raise ValueError(f"--onnx {path} does not exist")
    model = onnx.load(path)
    about = metadata.metadata(model)
    if about.get("producer") != "FaceZoo" or about.get("precision") != "fp32":
        raise ValueError(f"--onnx {path} must be a float32 graph of export_onnx.py, got "
                         f"precision {about.get('precision', 'not stated')}")
    preprocessing = Preprocessing(json.loads(about["options"]))
    batch, *_, side = metadata.shape_of(model.graph.input[0])
    images = list_images(opt.lq or opt.calibration)
    *_, height, width = metadata.shape_of(model.graph.output[0])
    if opt.gt:      # refused now, not after graphs were written
        targets = {path.stem: path for path in list_images(opt.gt)}
        for image in images:
            target_of(image, targets, (height, width, 3))
    warn_left_out(opt.calibration)
    calibration = [preprocessing.tensor(file)
                   for file in list_images(opt.calibration)[:opt.max_calibration]]
    inputs = [np.repeat(x, batch if isinstance(batch, int) else 1, axis=0) for x in calibration]
    half, _ = smaller.checked_half(model, side)
    paths = {"fp32": path}
    for precision, made in (("fp16", half),
                            ("int8", smaller.quantize(model, inputs, opt.keep_float))):
        onnx.helper.set_model_props(made, {**about, "precision": precision})
        paths[precision] = path.with_name(f"{path.stem}_{precision}.onnx")
        metadata.save(made, paths[precision])
    graphs = compare(paths, preprocessing, images, opt.gt)
    text = f"{preprocessing.opt.model}, {counted(len(images), 'image')}\n\n{markdown(graphs)}"
    target = path.with_name(f"{path.stem}_table.md")
    write_text(target, text)
    write_text(target.with_suffix(".json"), to_json(
        {"model": preprocessing.opt.model, "pictures": len(images), "graphs": graphs}) + "\n")
    print(text + f"\nwrote this table to {target}")
    return 0


class Preprocessing:
    """The preprocessing of a graph's model, from the options in its metadata."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.opt = Namespace(**options)
        self.preprocess = models.find(options["model"]).preprocess

    def image(self, path: Path) -> np.ndarray:
        """The image as the network takes it, uint8."""
        return self.preprocess(read_image(path), self.opt)

    def tensor(self, path: Path) -> np.ndarray:
        """The same as float32 (1, 3, H, W)."""
        return to_tensor(self.image(path)).numpy()


def compare(paths: dict[str, Path], preprocessing: Preprocessing, images: list[Path],
            gt: str | None) -> dict[str, dict[str, Any]]:
    """Size in bytes of each graph, and its PSNR and SSIM against the float32 graph ("fp32") and,
    where there are targets, against them ("gt"): means over the images in RGB.

    Raises:
        ValueError: a target is missing or has another size.
    """
    targets = {path.stem: path for path in list_images(gt)} if gt else {}
    restored = {name: restore_all(path, preprocessing, images) for name, path in paths.items()}
    found: dict[str, dict[str, Any]] = {}
    for name, path in paths.items():
        found[name] = {"bytes": path.stat().st_size,
                       "fp32": scores(restored[name], restored["fp32"])}
        if gt:
            found[name]["gt"] = scores(restored[name], [
                target_of(source, targets, size.shape)
                for source, size in zip(images, restored[name], strict=True)])
    return found


def markdown(graphs: dict[str, dict[str, Any]]) -> str:
    """The table of `compare`, a row per graph."""
    lines = [COLUMNS, ("---", *["---:"] * (len(COLUMNS) - 1))]
    for name, graph in graphs.items():
        numbers = [f"{graph[key][metric]:.{digits}f}" if key in graph else ""
                   for key in ("fp32", "gt") for metric, digits in (("psnr", 2), ("ssim", 4))]
        lines.append((name, f"{graph['bytes'] / 2 ** 20:.2f}", *numbers))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def target_of(path: Path, targets: dict[str, Path], shape: tuple[int, ...]) -> np.ndarray:
    if path.stem not in targets:
        raise ValueError(f"--gt has no target for {path.name}")
    image = read_image(targets[path.stem])
    if image.shape != shape:
        raise ValueError(f"--gt {targets[path.stem]} must be {shape[1]}x{shape[0]} like its "
                         f"result, got {image.shape[1]}x{image.shape[0]}")
    return image


def restore_all(path: Path, preprocessing: Preprocessing, images: list[Path]) -> list[np.ndarray]:
    """The output of a graph for each image, uint8."""
    from export.engine import OnnxModel
    engine = OnnxModel(path, preprocessing.preprocess, preprocessing.opt, torch.device("cpu"))
    return [to_image(engine.restore(torch.from_numpy(preprocessing.tensor(source))))[0]
            for source in images]


def scores(restored: list[np.ndarray], reference: list[np.ndarray]) -> dict[str, float]:
    """Mean PSNR in dB and mean SSIM."""
    pairs = list(zip(restored, reference, strict=True))
    return {name: float(np.mean([metric(*pair) for pair in pairs]))
            for name, metric in (("psnr", psnr), ("ssim", ssim))}


if __name__ == "__main__":
    sys.exit(entry.run(quantize, options, "tools.quantize"))

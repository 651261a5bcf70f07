"""Restore pictures: python enhance.py --pretrain_model_path FILE --input PATH --output DIR

A picture of any size is brought to the network's by the recipe's own preprocessing.
"""
from __future__ import annotations

import os

# Before torch: an installed torch_npu must not be loaded on machines without a usable NPU.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

import logging
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import data
import models
from options.test_options import EnhanceOptions
from utils import device as devices
from utils import entry
from utils.image import BadImage, find_images, image_grid, read_image, to_image, write_image

logger = logging.getLogger("facezoo")
WRITABLE = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
SOME_FAILED = 1     # exit status when some inputs could not be restored, all others are done


def output_paths(root: Path, inputs: list[Path], folder: Path, ext: str) -> list[Path]:
    """Where each result goes: the input's path below `root`, with the new extension.

    Inputs that differ in their extension only keep it in front of the new one.
    """
    def target(path: Path, keep: bool) -> Path:
        relative = path.relative_to(root)
        if ext == "same" and relative.suffix.lower() in WRITABLE:
            return folder / relative
        name = f"{relative.name if keep else relative.stem}.{'png' if ext == 'same' else ext}"
        return folder / relative.with_name(name)
    shared = Counter(target(path, False) for path in inputs)
    return [target(path, shared[target(path, False)] > 1) for path in inputs]


def strip_path(output: Path, folder: Path) -> Path:
    """Where input and result side by side go, below `folder`/compare."""
    relative = output.relative_to(folder)
    name = relative.name if relative.suffix == ".png" else f"{relative.name}.png"
    return folder / "compare" / relative.with_name(name)


def refuse_overwriting(inputs: list[Path], written: list[Path]) -> None:
    """Raise ValueError if something to be written is an input."""
    originals = {path.resolve() for path in inputs}
    clash = next((path for path in written if path.resolve() in originals), None)
    if clash is not None:
        raise ValueError(f"--output would overwrite the input {clash}; choose another folder")


def restore_batch(model: Any, images: list[np.ndarray], device: torch.device,
                  rounding: str) -> np.ndarray:
    """Restore preprocessed pictures, uint8 (size, size, 3) in and out."""
    batch = torch.from_numpy(np.stack(images)).to(device)
    with torch.inference_mode():
        restored = model.restore(model.prepare({"lq": batch})["lq"])
    return to_image(restored, rounding)


def aspect(image: np.ndarray) -> float:
    """Width over height, to two digits."""
    return round(image.shape[1] / image.shape[0], 2)


def batches(paths: list[Path], outputs: list[Path], size: int) -> Iterator[list]:
    pairs = list(zip(paths, outputs, strict=True))
    for first in range(0, len(pairs), size):
        yield pairs[first:first + size]


def enhance(opt: Namespace) -> int:
    """Restore every input; returns the exit status."""
    entry.set_up_logging()
    root, inputs = find_images(opt.input)
    folder = Path(opt.output)
    outputs = output_paths(root, inputs, folder, opt.ext)
    strips = [strip_path(path, folder) for path in outputs] if opt.compare else []
    refuse_overwriting(inputs, outputs + strips)
    device = entry.open_device(opt)
    devices.seed_everything(opt.seed, device)
    model, _ = models.load_trained(opt, device)
    degrade = data.create_degradation(opt.degradation, vars(opt)) if opt.simulate_lq else None
    failed, done, distorted = [], 0, 0
    with tqdm(total=len(inputs), unit="picture", disable=not sys.stderr.isatty()) as bar:
        for pairs in batches(inputs, outputs, opt.batch_size):
            images, targets = [], []
            for index, (path, target) in enumerate(pairs, done):
                try:
                    original = read_image(path)
                except BadImage as error:
                    failed.append(str(error))
                    continue
                image = model.preprocess(original)
                distorted += aspect(original) != aspect(image)
                if degrade:
                    image = degrade(image, np.random.default_rng([opt.seed, 0, index]))
                images.append(image)
                targets.append(target)
            restored = restore_batch(model, images, device, opt.rounding) if images else ()
            for image, result, target in zip(images, restored, targets, strict=True):
                write_image(target, result)
                if opt.compare:
                    strip = image_grid([[image, result]], labels=["input", "restored"])
                    write_image(strip_path(target, folder), strip)
            done += len(pairs)
            bar.update(len(pairs))
    print(f"{len(inputs) - len(failed)} of {len(inputs)} pictures restored, results in {folder}")
    if distorted:
        print(f"{distorted} of them had another aspect ratio and were squeezed to "
              f"{opt.load_size}x{opt.load_size}; crop the faces first for natural results")
    for message in failed:
        print(f"not restored: {message}", file=sys.stderr)
    return SOME_FAILED if failed else 0


if __name__ == "__main__":
    options = EnhanceOptions(models, data, "enhance.py").parse()
    sys.exit(entry.run(enhance, options, "enhance.py"))

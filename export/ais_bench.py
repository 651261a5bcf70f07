"""Images as the raw float files that ais_bench reads, and back."""
from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from metrics.psnr_ssim import psnr
from utils.files import write_atomically
from utils.images.convert import to_image, to_tensor
from utils.images.io import find_images, list_images, read_image, write_image


def to_bins(source: str | Path, folder: Path,
            preprocess: Callable[[np.ndarray], np.ndarray]) -> list[Path]:
    """Write every image as float32 (3, H, W), little-endian, in [-1, 1].

    Args:
        source: image, folder or pattern.
        preprocess: from an image of any size to the network's.

    Raises:
        ValueError: two images would have one name.
    """
    _, paths = find_images(source)
    targets = [folder / f"{path.stem}.bin" for path in paths]
    twice = next((name for name in targets if targets.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"--to_bin must name images that differ in more than folder and "
                         f"extension, got several for {twice.name}; rename them")
    for path, target in zip(paths, targets, strict=True):
        values = to_tensor(preprocess(read_image(path)))[0].numpy().astype("<f4").tobytes()
        write_atomically(target, lambda file, values=values: file.write(values) and None)
    return targets


def from_bins(source: str | Path, folder: Path) -> dict[str, Path]:
    """Write every result of ais_bench, .bin or .npy, as a PNG; by the input's name.

    ais_bench adds the number of the output to the name: first_0.bin is the restored `first`, and
    first_1.bin, a second output, is left out.

    Raises:
        ValueError: no results, or some that are no square RGB images.
    """
    names: dict[str, Path] = {}
    for path in sorted(Path(source).glob("*")):
        if path.suffix not in (".bin", ".npy"):
            continue
        match = re.fullmatch(r"(.+?)(?:_(\d+))?", path.stem)
        if match[2] in (None, "0"):
            names[match[1]] = path
    if not names:
        raise ValueError(f"--from_bin must have .bin or .npy files, got none in {source}")
    return {name: _image(path, folder / f"{name}.png") for name, path in names.items()}


def _image(path: Path, target: Path) -> Path:
    values = (np.load(path, allow_pickle=False) if path.suffix == ".npy"
              else np.fromfile(path, "<f4")).astype(np.float32).ravel()
    side = round((values.size / 3) ** 0.5)
    if not side or 3 * side * side != values.size:
        raise ValueError(f"{path} must hold one square RGB image, got {values.size} numbers; "
                         f"run ais_bench with --batchsize 1")
    write_image(target, to_image(torch.from_numpy(values.reshape(3, side, side))))
    return target


def mean_psnr(restored: dict[str, Path], gt: str | Path) -> float:
    """Mean over the images of PSNR in RGB, against targets of the same names.

    Raises:
        ValueError: a target is missing or has another size.
    """
    targets = {path.stem: path for path in list_images(gt)}
    values = []
    for name, path in restored.items():
        if name not in targets:
            raise ValueError(f"--gt {gt} has no target for {name}")
        image, target = read_image(path), read_image(targets[name])
        if image.shape != target.shape:
            raise ValueError(f"{path} must have its target's size, "
                             f"{target.shape[1]}x{target.shape[0]}, got "
                             f"{image.shape[1]}x{image.shape[0]}")
        values.append(psnr(image, target))
    return float(np.mean(values))

"""Measure a restoring function, next to its own input, on a loader with targets."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metrics.psnr_ssim import Protocol
from utils.images.convert import to_image
from utils.images.resize import bicubic

Measure = Callable[[dict[str, Any], Tensor], dict[str, list[float]]]


@dataclass
class Row:
    """One picture's numbers: values[method][protocol] = {"psnr": dB, "ssim": 0..1}, and what the
    recipe measures besides, by name. measured[method] holds what --metrics asks for, by name;
    `digests` the SHA-256 of the images that were compared, by what they are of."""
    path: str
    values: dict[str, dict[str, dict[str, float]]]
    further: dict[str, float] = field(default_factory=dict)
    measured: dict[str, dict[str, float]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)


def compare(path: str, gt: np.ndarray, candidates: dict[str, dict[str, np.ndarray]],
            protocols: Iterable[Protocol]) -> Row:
    """Measure each candidate against the target.

    Args:
        gt: uint8 RGB (H, W, 3).
        candidates: per method such a picture for each rounding ("round", "truncate") of the
            protocols; files have one for both.
    """
    return Row(path, {method: {p.name: p.measure(made[p.rounding], gt) for p in protocols}
                      for method, made in candidates.items()})


def evaluate_loader(restore: Callable[[Tensor], Tensor], batches: Iterable[dict[str, Any]],
                    protocols: list[Protocol], measure: Measure | None = None
                    ) -> Iterator[tuple[Row, dict[str, np.ndarray]]]:
    """Restore every batch and measure result and input against the targets.

    Args:
        restore: from lq (B, 3, H, W) in [-1, 1] to pictures of the same kind.
        batches: dicts with "lq", "gt" on the device and "path".
        measure: further numbers of each picture, from the batch and the restored pictures.

    Yields:
        A row and the pictures "lq", "restored", "gt" (uint8) for each sample, in order.
    """
    for batch in batches:
        with torch.inference_mode():
            restored = restore(batch["lq"]).float()
            further = measure(batch, restored) if measure else {}
        names = {p.rounding for p in protocols} | {"round"}
        made = {rounding: to_image(restored, rounding) for rounding in names}
        gt = to_image(batch["gt"])
        lq = [enlarged(image, *gt.shape[1:3]) for image in to_image(batch["lq"])]
        for i, path in enumerate(batch["path"]):
            candidates = {"bicubic": dict.fromkeys(names, lq[i]),
                          "restored": {rounding: images[i] for rounding, images in made.items()}}
            pictures = {"lq": lq[i], "restored": made["round"][i], "gt": gt[i]}
            row = compare(path, gt[i], candidates, protocols)
            row.further = {name: values[i] for name, values in further.items()}
            yield row, pictures


def enlarged(lq: np.ndarray, height: int, width: int) -> np.ndarray:
    """A picture at the target's size; networks that enlarge by themselves get smaller ones."""
    return lq if lq.shape[:2] == (height, width) else bicubic(lq, height, width)


def means(rows: list[Row]) -> dict[str, dict[str, dict[str, float]]]:
    """Mean over pictures, in the layout of `Row.values`; infinite PSNRs (equal pictures) stay."""
    if not rows:
        return {}
    return {method: {protocol: {key: math.fsum(row.values[method][protocol][key] for row in rows)
                                / len(rows) for key in numbers}
                     for protocol, numbers in protocols.items()}
            for method, protocols in rows[0].values.items()}


def further_means(rows: list[Row]) -> dict[str, float]:
    """Mean over pictures of what the recipe measured besides."""
    names = rows[0].further if rows else ()
    return {name: math.fsum(row.further[name] for row in rows) / len(rows) for name in names}


def measured_means(rows: list[Row]) -> dict[str, dict[str, float]]:
    """Mean over pictures of what --metrics asked for, by method and name."""
    methods = rows[0].measured if rows else {}
    return {method: {name: math.fsum(row.measured[method][name] for row in rows) / len(rows)
                     for name in numbers} for method, numbers in methods.items()}

"""Measure a restoring function, next to its own input, on a loader with targets."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metrics.psnr_ssim import Protocol
from utils.image import to_image


@dataclass
class Row:
    """One picture's numbers: values[method][protocol] = {"psnr": dB, "ssim": 0..1}."""
    path: str
    values: dict[str, dict[str, dict[str, float]]]


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
                    protocols: list[Protocol]) -> Iterator[tuple[Row, dict[str, np.ndarray]]]:
    """Restore every batch and measure result and input against the targets.

    Args:
        restore: from lq (B, 3, H, W) in [-1, 1] to pictures of the same kind.
        batches: dicts with "lq", "gt" on the device and "path".

    Yields:
        A row and the pictures "lq", "restored", "gt" (uint8) for each sample, in order.
    """
    for batch in batches:
        with torch.inference_mode():
            restored = restore(batch["lq"]).float()
        names = {p.rounding for p in protocols} | {"round"}
        made = {rounding: to_image(restored, rounding) for rounding in names}
        lq, gt = to_image(batch["lq"]), to_image(batch["gt"])
        for i, path in enumerate(batch["path"]):
            candidates = {"bicubic": dict.fromkeys(names, lq[i]),
                          "restored": {rounding: images[i] for rounding, images in made.items()}}
            pictures = {"lq": lq[i], "restored": made["round"][i], "gt": gt[i]}
            yield compare(path, gt[i], candidates, protocols), pictures


def means(rows: list[Row]) -> dict[str, dict[str, dict[str, float]]]:
    """Mean over pictures, in the layout of `Row.values`; infinite PSNRs (equal pictures) stay."""
    if not rows:
        return {}
    return {method: {protocol: {key: math.fsum(row.values[method][protocol][key] for row in rows)
                                / len(rows) for key in numbers}
                     for protocol, numbers in protocols.items()}
            for method, protocols in rows[0].values.items()}

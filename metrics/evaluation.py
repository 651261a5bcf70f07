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
# Where a metric comes from that follows no protocol: the model, or --metrics.
MODEL, CHOSEN = "model", "chosen"


@dataclass(frozen=True)
class Column:
    """What a number says.

    Attributes:
        method: whose images were measured: "restored", "bicubic", now and then "target".
        metric: "psnr" in dB, "ssim" up to 1, or what another metric is called.
        source: name of the protocol that PSNR and SSIM follow; MODEL for the extra metrics of the
            model, which are those of "restored"; CHOSEN for those of --metrics.
    """
    method: str
    metric: str
    source: str = CHOSEN

    @property
    def label(self) -> str:
        """Its name in per_image.csv."""
        if self.source == MODEL:
            return self.metric
        named = () if self.source == CHOSEN else (self.source,)
        return "_".join((self.method, *named, self.metric))

    @property
    def title(self) -> str:
        """Its name in report.html, where the method is told in another way."""
        plain = self.source in (MODEL, CHOSEN)
        return self.metric if plain else f"{self.metric.upper()} {self.source}"


# A table of numbers: those of an image, their means, or those of the whole set.
Numbers = dict[Column, float]


@dataclass
class Row:
    """One sample's numbers, and the SHA-256 of the images that were compared."""
    path: str
    numbers: Numbers
    digests: dict[str, str] = field(default_factory=dict)


def compare(path: str, gt: np.ndarray, candidates: dict[str, dict[str, np.ndarray]],
            protocols: Iterable[Protocol]) -> Row:
    """Measure each candidate against the target.

    Args:
        gt: uint8 RGB (H, W, 3).
        candidates: per method such an image for each rounding ("round", "truncate") of the
            protocols; files have one for both.
    """
    return Row(path, {Column(method, metric, protocol.name): value
                      for method, made in candidates.items() for protocol in protocols
                      for metric, value in protocol.measure(made[protocol.rounding], gt).items()})


def evaluate_loader(restore: Callable[[Tensor], Tensor], batches: Iterable[dict[str, Any]],
                    protocols: list[Protocol], measure: Measure | None = None
                    ) -> Iterator[tuple[Row, dict[str, np.ndarray]]]:
    """Restore every batch and measure result and input against the targets.

    Args:
        restore: from lq (B, 3, H, W) in [-1, 1] to images of the same kind.
        batches: dicts with "lq", "gt" on the device and "path".
        measure: the model's extra metrics of each image, from the batch and the restored images.

    Yields:
        A row and the images "lq", "restored", "gt" (uint8) for each sample, in order.
    """
    for batch in batches:
        with torch.inference_mode():
            restored = restore(batch["lq"]).float()
            extra = measure(batch, restored) if measure else {}
        names = {p.rounding for p in protocols} | {"round"}
        made = {rounding: to_image(restored, rounding) for rounding in names}
        gt = to_image(batch["gt"])
        lq = [upscale_to(image, *gt.shape[1:3]) for image in to_image(batch["lq"])]
        for i, path in enumerate(batch["path"]):
            candidates = {"bicubic": dict.fromkeys(names, lq[i]),
                          "restored": {rounding: images[i] for rounding, images in made.items()}}
            images = {"lq": lq[i], "restored": made["round"][i], "gt": gt[i]}
            row = compare(path, gt[i], candidates, protocols)
            row.numbers |= {Column("restored", metric, MODEL): values[i]
                            for metric, values in extra.items()}
            yield row, images


def upscale_to(lq: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image at the target's size; networks that upscale by themselves get smaller ones."""
    return lq if lq.shape[:2] == (height, width) else bicubic(lq, height, width)


def means(rows: list[Row]) -> Numbers:
    """Mean over samples of each column; infinite PSNRs (equal images) stay."""
    return {column: math.fsum(row.numbers[column] for row in rows) / len(rows)
            for column in (rows[0].numbers if rows else ())}


def extra_metrics(numbers: Numbers) -> dict[str, float]:
    """The model's extra metrics, by name."""
    return {column.metric: value for column, value in numbers.items() if column.source == MODEL}


def by_method(numbers: Numbers) -> dict[str, dict[str, float]]:
    """All numbers by method and title."""
    found: dict[str, dict[str, float]] = {}
    for column, value in numbers.items():
        found.setdefault(column.method, {})[column.title] = value
    return found

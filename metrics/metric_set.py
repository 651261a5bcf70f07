"""What evaluate.py measures besides PSNR and SSIM, chosen with --metrics.

All of it is measured on 8-bit images, as a file would hold them, so that a network and the folder
of its results get the same numbers.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metrics.evaluation import Column, Numbers
from metrics.extra_metrics import (
    Metric,
    identity_metric,
    landmark_metric,
    lpips_metric,
    parsing_metric,
    structure_metric,
)
from metrics.frechet import (
    Moments,
    feature_network,
    features_of,
    frechet_distance,
    read_statistics,
)
from metrics.psnr_ssim import pooled_psnr
from utils.files import sha256
from utils.images.convert import to_tensor
from utils.text import counted

# By the name --metrics takes: the flag of its weights, and how it is measured.
METRICS = {
    "ms_ssim": (None, "MS-SSIM over RGB, five scales"),
    "psnr_pooled": (None, "PSNR of RGB, squared errors of all images pooled first"),
    "lpips": ("--lpips_weights", "LPIPS, mean over images, lower is better"),
    "fid": ("--fid_weights", "Frechet distance of features between the set and its targets, or "
                             "the statistics of --fid_stats; lower is better"),
    "id": ("--arcface_weights", "cosine and angle of ArcFace's vectors of result and target"),
    "landmarks": ("--landmark_weights", "mean distance between 68 landmarks seen in the result and "
                                        "in the target, in pixels and in distances of the eyes' "
                                        "outer corners"),
    "iou": ("--parsing_weights", "mean intersection over union of the regions a parsing network "
                                 "sees in the result and in the target"),
}
METRIC_MAKERS: dict[str, Callable[[Any, torch.device], Metric]] = {
    "lpips": lpips_metric, "id": identity_metric, "landmarks": landmark_metric,
    "iou": parsing_metric}


@dataclass
class Frechet:
    """Moments of each method's features, and what they are compared with.

    Attributes:
        name: of the number, e.g. "fid".
        reference: mean and covariance of a file, or None for those of the targets.
    """
    name: str
    network: Callable[[Tensor], Tensor]
    reference: tuple[np.ndarray, np.ndarray] | None
    moments: dict[str, Moments] = field(default_factory=dict)

    def add(self, methods: Sequence[str], images: Tensor) -> None:
        """Take one image of each method."""
        for method, features in zip(methods, features_of(self.network, images), strict=True):
            self.moments.setdefault(method, Moments()).add(features)

    def distances(self) -> Numbers:
        """Each method's distance; the targets' own, too, where the reference is a file."""
        found = {method: moments.result() for method, moments in self.moments.items()}
        reference = self.reference or found.pop("target")
        return {Column(method, self.name): frechet_distance(*one, *reference)
                for method, one in found.items()}

    def size(self) -> tuple[int, int]:
        """Number of images, and of dimensions."""
        one = next(iter(self.moments.values()))
        return one.count, one.mean.size


@dataclass
class SetState:
    """What the metrics of a whole set have to remember of its images; can be pickled.

    Attributes:
        errors: by method, mean squared error and number of values of each image.
        moments: by method, of the features.
    """
    errors: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    moments: dict[str, Moments] = field(default_factory=dict)

    def merge(self, other: SetState) -> None:
        """Take what another process has seen."""
        for method, errors in other.errors.items():
            self.errors.setdefault(method, []).extend(errors)
        for method, moments in other.moments.items():
            self.moments.setdefault(method, Moments()).merge(moments)


class MetricSet:
    """MetricSet images one after the other, and in the end the set.

    Args:
        metrics: give numbers of each image.
        frechet: gathers features, or None.
        pooled: whether to pool squared errors, too.
    """

    def __init__(self, metrics: Iterable[Metric], frechet: Frechet | None, pooled: bool,
                 device: torch.device) -> None:
        self.metrics, self.frechet = list(metrics), frechet
        self.pooled, self.device = pooled, device
        self.errors: dict[str, list[tuple[float, int]]] = {}

    def of(self, images: dict[str, np.ndarray]) -> Numbers:
        """Numbers of an image, those of the input before those of the result.

        Args:
            images: uint8 RGB of the same size, "restored", "gt" and, if there is one, "lq",
                which counts as bicubic.
        """
        methods = {"bicubic": "lq", "restored": "restored"}
        methods = {method: key for method, key in methods.items() if key in images}
        if self.pooled:
            self._pool(images, methods)
        if not (self.metrics or self.frechet):
            return {}
        found: dict[str, list[float]] = {}
        stacked = np.stack([images[key] for key in (*methods.values(), "gt")])
        with torch.inference_mode():
            batch = to_tensor(torch.from_numpy(stacked).to(self.device))
            for metric in self.metrics:
                found |= metric(batch[:-1], batch[-1:])
            if self.frechet:
                self.frechet.add([*methods, "target"], batch)
        return {Column(method, name): values[at] for at, method in enumerate(methods)
                for name, values in found.items()}

    def _pool(self, images: dict[str, np.ndarray], methods: dict[str, str]) -> None:
        gt = images["gt"].astype(np.float64)
        for method, key in methods.items():
            error = float(np.mean((images[key] - gt) ** 2))
            self.errors.setdefault(method, []).append((error, gt.size))

    @property
    def state(self) -> SetState:
        """What was seen so far; set it to go on from what several processes have seen."""
        return SetState(self.errors, self.frechet.moments if self.frechet else {})

    @state.setter
    def state(self, state: SetState) -> None:
        self.errors = state.errors
        if self.frechet:
            self.frechet.moments = state.moments

    def of_the_set(self) -> tuple[Numbers, dict[str, str]]:
        """Numbers of all images together, and what to know about them, by metric."""
        found: Numbers = {Column(method, "psnr_pooled"): pooled_psnr(errors)
                          for method, errors in self.errors.items()}
        if not self.frechet:
            return found, {}
        try:
            found |= self.frechet.distances()
        except ValueError as error:
            return found, {"fid": f"FID was left out: {error}"}
        count, dimensions = self.frechet.size()
        if count > dimensions:
            return found, {}
        return found, {"fid": f"FID is too high, since {counted(count, 'image')} are too few for "
                              f"{dimensions} dimensions; compare it only between sets of the same "
                              "number of images"}


def create(names: Iterable[str], weights: dict[str, Any], fid_stats: str | None,
           device: torch.device) -> tuple[MetricSet, dict[str, Any], dict[str, str]]:
    """What the names ask for, as far as their weights are given.

    Args:
        names: keys of METRICS.
        weights: by such a name the file, or None; for lpips a list of files.
        fid_stats: statistics to compare features with, or None for the targets'.

    Returns:
        The measures, how each is measured and with which files, and what was left out and why, the
        last two by metric.

    Raises:
        FileNotFoundError, ValueError: a file that is given does not fit.
    """
    metrics: list[Metric] = []
    frechet, described, remarks = None, {}, {}
    for name in dict.fromkeys(names):
        flag, text = METRICS[name]
        given = weights.get(name)
        if flag and not given:
            remarks[name] = f"the metric was left out; it needs {flag} FILE"
            continue
        if name == "fid":
            number, network, dimensions = feature_network(given)
            reference = read_statistics(fid_stats) if fid_stats else None
            if reference and reference[0].size != dimensions:
                raise ValueError(f"--fid_stats must have {dimensions} dimensions as the network "
                                 f"of --fid_weights, got {reference[0].size} in {fid_stats}")
            frechet = Frechet(number, network.to(device), reference)
            text = f"{number}: {text}"
        elif name != "psnr_pooled":
            metrics.append(METRIC_MAKERS[name](given, device) if name in METRIC_MAKERS
                           else structure_metric)
        files = given if isinstance(given, list) else [given] if given else []
        files = [*files, fid_stats] if name == "fid" and fid_stats else files
        described[name] = {"text": text, "files": {str(file): sha256(file)
                                                   for file in files}}
    pooled = "psnr_pooled" in described
    return MetricSet(metrics, frechet, pooled, device), described, remarks

"""RetinaFace as a detector, and what its weight file does not tell about it."""
from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine import checkpoint
from faces import trial
from faces.face import SMALL_THRESHOLD, Face, downscale_to
from faces.nms import nms
from models.networks.pretrained.retinaface import (
    ANCHORS,
    KNOWN_ANCHORS,
    MEAN_BGR,
    Anchors,
    RetinaFace,
    Variant,
    anchors,
    decode_boxes,
    decode_points,
)

OVERLAP = 0.4       # of two boxes that are one face
LEAD = 0.05         # in mean score, which Pytorch_Retinaface's activation and colors start with
logger = logging.getLogger("facezoo")


class RetinaFaceDetector:
    """RetinaFace with published weights, ResNet-50 or MobileNet 0.25, told apart by their names.

    Args:
        longest: images with a longer side are looked at in a reduced copy.
        table: the anchors, see `faces.detect.create`.

    Attributes:
        variant: what the file does not tell: as published for a file known by its digest, else as
            found by `find_variant`.
    """

    def __init__(self, weights: str | Path, device: torch.device, threshold: float | None = None,
                 longest: int = 1500, table: Anchors | None = None) -> None:
        self.device, self.longest = device, longest
        state = checkpoint.unwrap(checkpoint.read(weights), weights)
        small = any(key.startswith("body.stage1.") for key in state)
        self.network = RetinaFace("mobile0.25" if small else "resnet50")
        self.threshold = (SMALL_THRESHOLD if small else 0.97) if threshold is None else threshold
        checkpoint.check_match(state, self.network.state_dict(), weights)
        self.network.load_state_dict(state)
        self.network.eval()
        self.variant = (Variant() if table is None and not trial.needed(weights)
                        else find_variant(self.network, weights, table))
        self.network.set_plain_relu(self.variant.plain_relu)
        self.network.to(device)

    def __call__(self, image: np.ndarray) -> list[Face]:
        image, scale = downscale_to(image, self.longest)
        raw = _run(self.network, image, self.variant.rgb, self.device)
        return _decode(raw, image.shape, self.variant.anchors, self.threshold, scale)


def find_variant(network: RetinaFace, path: str | Path, table: Anchors | None = None) -> Variant:
    """The variant with which a network finds the drawn faces of faces/trial.py best.

    Costs a run on a small image where Pytorch_Retinaface's activation and colors find all of them
    with scores of 0.95, else four runs, and two with ResNet-50.

    Args:
        network: on the CPU, so that the same file is taken for the same variant on every device;
            whether its ReLUs are leaky is changed.
        path: its file, for messages.
        table: the anchors if they are known. Then no network is refused, and one that does not find
            the faces is taken for Pytorch_Retinaface's in all but the anchors.

    Raises:
        ValueError: with no known anchors are the faces found.
    """
    outcomes = {}
    for variant, outcome in _tries(network, KNOWN_ANCHORS if table is None else (table,)):
        outcomes[variant] = outcome
        if _rank(variant, outcome) >= (True, len(trial.PORTRAITS), 1.0):
            break                       # no other one can be better
    best = max(outcomes, key=lambda variant: _rank(variant, outcomes[variant]))
    if not outcomes[best].passed and table is not None:
        return Variant(table)
    if not outcomes[best].passed:
        raise ValueError(trial.refusal(path, "RetinaFace", outcomes[best]) + "; if it has other "
                         f"anchors than {' or '.join(map(written, KNOWN_ANCHORS))}, give them by "
                         "--detector_anchors")
    if best != Variant(table or ANCHORS):
        logger.info("%s: it finds drawn faces with anchors of %s pixels%s%s, which are used", path,
                    written(best.anchors), ", plain ReLUs" if best.plain_relu else "",
                    ", RGB images" if best.rgb else "")
    return best


def _tries(network: RetinaFace, tables: tuple[Anchors, ...]
           ) -> Iterator[tuple[Variant, trial.Outcome]]:
    """What each variant finds, the published ones first."""
    image = trial.sheet().image
    for plain_relu in (False, True) if network.slope else (False,):
        network.set_plain_relu(plain_relu)
        for rgb in (False, True):
            raw = _run(network, image, rgb, torch.device("cpu"))
            for table in tables:
                faces = _decode(raw, image.shape, table, trial.MIN_SCORE)
                yield Variant(table, plain_relu, rgb), trial.compare(faces)


def _rank(variant: Variant, outcome: trial.Outcome) -> tuple[bool, int, float]:
    published = variant == Variant(variant.anchors)
    return (outcome.passed, outcome.found - outcome.others,
            outcome.score + (LEAD if published else 0))


def written(table: Anchors) -> str:
    """Anchors as --detector_anchors takes them."""
    return "/".join(",".join(map(str, sizes)) for sizes in table)


@torch.inference_mode()
def _run(network: RetinaFace, image: np.ndarray, rgb: bool, device: torch.device
         ) -> tuple[Tensor, Tensor, Tensor]:
    pixels = np.ascontiguousarray(image if rgb else image[..., ::-1])
    x = torch.from_numpy(pixels).to(device).float()
    return network((x - x.new_tensor(MEAN_BGR)).permute(2, 0, 1)[None])


@torch.inference_mode()
def _decode(raw: tuple[Tensor, Tensor, Tensor], shape: tuple[int, ...], table: Anchors,
            threshold: float, scale: float = 1.0) -> list[Face]:
    """Faces in an image whose copy of this shape, `scale` times as large, the network has seen."""
    (boxes, scores, points), (height, width), device = raw, shape[:2], raw[0].device
    priors = anchors(height, width, device, table)
    sides = torch.tensor([width, height], device=device)
    corners = (decode_boxes(boxes[0], priors).view(-1, 2, 2) * sides).flatten(1)
    marks = decode_points(points[0], priors).view(-1, 5, 2) * sides
    score = scores[0, :, 1].cpu().numpy()
    sure = score > threshold
    corners, marks = corners.cpu().numpy()[sure] / scale, marks.cpu().numpy()[sure] / scale
    score = score[sure]
    return [Face(corners[i], marks[i], float(score[i])) for i in nms(corners, score, OVERLAP)]

"""Find faces in photographs, behind one interface.

    detector = create("auto", weights=None, device=device)
    for face in detector(image):
        ...
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from faces import align, trial
from faces.face import SMALL_THRESHOLD, Face, downscale_to
from faces.retinaface import RetinaFaceDetector
from models.networks.pretrained.retinaface import Anchors
from utils.files import parse_json

KINDS = ("auto", "retinaface", "yunet", "cascade")


Detector = Callable[[np.ndarray], list[Face]]


def create(kind: str = "auto", weights: str | Path | None = None, *,
           device: torch.device | None = None, threshold: float | None = None,
           longest: int | None = None, anchors: Anchors | None = None) -> Detector:
    """A function from a uint8 RGB (H, W, 3) image to its faces, the surest first.

    Args:
        kind: one of KINDS; auto takes what the weight file is for, without one OpenCV's cascades.
        weights: RetinaFace's published file, or YuNet's ONNX file.
        threshold: minimum score; None takes 0.97 for RetinaFace's ResNet-50, its published value,
            and 0.6 for its MobileNet and for YuNet, whose published 0.97 and 0.9 miss real faces.
        longest: longer side, in pixels, of the copy that faces are looked for in; each detector's
            own where None.
        anchors: RetinaFace's, two sides in pixels for each of its strides 8, 16 and 32; None takes
            those with which it finds the drawn faces of faces/trial.py.

    Raises:
        ValueError: unknown kind, a missing or unneeded file, a file that does not fit or does not
            find the drawn faces, anchors without RetinaFace.
    """
    if kind not in KINDS:
        raise ValueError(f"--detector must be one of {', '.join(KINDS)}, got {kind!r}")
    if kind == "auto":
        kind = ("cascade" if weights is None
                else "yunet" if Path(weights).suffix == ".onnx" else "retinaface")
    if anchors and kind != "retinaface":
        raise ValueError(f"--detector_anchors is for RetinaFace, got the detector {kind}")
    if kind == "cascade":
        if weights is not None:
            raise ValueError("--detector cascade comes with OpenCV and takes no --detector_weights")
        return CascadeDetector(longest or 1000)
    if weights is None:
        raise ValueError(f"--detector {kind} needs --detector_weights FILE")
    if kind == "yunet":
        return YuNetDetector(weights, threshold, longest or 1500)
    return RetinaFaceDetector(weights, device or torch.device("cpu"), threshold, longest or 1500,
                              anchors)


class YuNetDetector:
    """OpenCV's YuNet from its published ONNX file."""

    def __init__(self, weights: str | Path, threshold: float | None = None,
                 longest: int = 1500) -> None:
        if not Path(weights).is_file():
            raise ValueError(f"--detector_weights: {weights} does not exist")
        self.longest = longest
        try:
            self.network = cv2.FaceDetectorYN.create(str(weights), "", (320, 320), trial.MIN_SCORE)
            outcome = trial.compare(self(trial.sheet().image)) if trial.needed(weights) else None
        except cv2.error as error:
            raise ValueError(f"--detector_weights {weights}: OpenCV cannot read it as a YuNet "
                             f"network ({' '.join(str(error).split())})") from error
        if outcome and not outcome.passed:
            raise ValueError(trial.refusal(weights, "YuNet", outcome))
        self.network.setScoreThreshold(SMALL_THRESHOLD if threshold is None else threshold)

    def __call__(self, image: np.ndarray) -> list[Face]:
        image, scale = downscale_to(image, self.longest)
        self.network.setInputSize(image.shape[1::-1])
        _, rows = self.network.detect(np.ascontiguousarray(image[..., ::-1]))
        return [self._face(row, scale) for row in (() if rows is None else rows)]

    @staticmethod
    def _face(row: np.ndarray, scale: float) -> Face:
        x, y, width, height = row[:4] / scale
        points = row[4:14].reshape(5, 2) / scale
        # Its points start with the right eye, which is on the image's left.
        return Face(np.array([x, y, x + width, y + height], np.float32), points, float(row[14]))


class CascadeDetector:
    """The cascades that come with OpenCV: nothing to download, frontal faces only.

    The eyes are looked for where they usually are and taken from there if found; nose and mouth
    follow from the eyes by the FFHQ template.

    Args:
        longest: images with a longer side are looked at in a reduced copy.
    """
    # Where the eyes are in a box, as a fraction of its side: measured on aligned faces.
    eyes = np.array([[0.317, 0.388], [0.686, 0.388]])
    reach = 0.13        # how far from there an eye is believed, as a fraction of the box's side
    neighbors = 5

    def __init__(self, longest: int = 1000) -> None:
        self.longest = longest
        self.faces, self.eye = (
            cv2.CascadeClassifier(f"{cv2.data.haarcascades}haarcascade_{name}.xml")
            for name in ("frontalface_alt2", "eye"))

    def __call__(self, image: np.ndarray) -> list[Face]:
        image, scale = downscale_to(image, self.longest)
        plain = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        # In front of a large even ground the spread levels leave nothing of a face.
        for gray in (cv2.equalizeHist(plain), plain):
            min_size = max(20, min(*gray.shape, 1000) // 25)
            boxes, _, scores = self.faces.detectMultiScale3(
                gray, 1.08, self.neighbors, minSize=(min_size, min_size), outputRejectLevels=True)
            if len(boxes):
                break
        found = [Face(np.array([x, y, x + side, y + side], np.float32) / scale,
                      (self._points(gray, x, y, side) / scale).astype(np.float32), float(score))
                 for (x, y, side, _), score in zip(boxes, np.ravel(scores), strict=True)]
        return sorted(found, key=lambda face: -face.score)

    def locate(self, image: np.ndarray, box: np.ndarray) -> np.ndarray:
        """Points (5, 2) of a face whose box was marked by hand, forehead to chin.

        A face that the cascade finds there gives them; else they stand where the box has them.
        """
        low, high = np.asarray(box[:2], np.float64), np.asarray(box[2:], np.float64)
        margin = 0.4 * (high - low)
        left, top = np.floor((low - margin).clip(min=0)).astype(int)
        right, bottom = np.ceil(high + margin).astype(int)
        part, scale = downscale_to(image[top:bottom, left:right], 400)
        low, high = (low - (left, top)) * scale, (high - (left, top)) * scale
        middle, side = (low + high) / 2, float((high - low).mean())
        near = [face for face in self(part)
                if np.linalg.norm((face.box[:2] + face.box[2:]) / 2 - middle) < 0.3 * side
                and 0.5 * side < face.side < 1.6 * side]
        if near:
            return (near[0].points / scale + (left, top)).astype(np.float32)
        gray = cv2.equalizeHist(cv2.cvtColor(part, cv2.COLOR_RGB2GRAY))
        x, y = np.rint(middle - side / 2).astype(int)
        return (self._points(gray, x, y, round(side)) / scale + (left, top)).astype(np.float32)

    def _points(self, gray: np.ndarray, x: int, y: int, side: int) -> np.ndarray:
        eyes = np.array([self._eye(gray, np.array([x, y]) + side * place, side)
                         for place in self.eyes])
        template = align.template("ffhq", 512)
        matrix = align.similarity(template[:2], eyes)
        return template @ matrix[:, :2].T + matrix[:, 2]

    def _eye(self, gray: np.ndarray, expected: np.ndarray, side: int) -> np.ndarray:
        """Center of the eye nearest to where one is expected; that place if none is near."""
        window = 0.22 * side
        left, top = np.maximum(expected - window, 0).astype(int)
        right, bottom = (expected + window).astype(int)
        part = gray[top:bottom, left:right]
        if min(part.shape, default=0) < 20:
            return expected
        found = self.eye.detectMultiScale(part, 1.05, 3, minSize=(max(12, side // 8),) * 2)
        centers = [np.array([left + x + w / 2, top + y + h / 2]) for x, y, w, h in found]
        near = [c for c in centers if np.linalg.norm(c - expected) < self.reach * side]
        return min(near, key=lambda c: np.linalg.norm(c - expected), default=expected)


def read_faces(path: str | Path) -> dict[str, list[Face]]:
    """Faces that were marked by hand, by image name.

    The file is JSON: {"NAME": [{"points": [[x, y] x 5], "box": [x1, y1, x2, y2]}, ...]}; either may
    be left out. A face without points has none until `with_points` has seen the image.

    Raises:
        ValueError: not such a file.
    """
    try:
        table: dict[str, list[dict[str, Any]]] = parse_json(
            Path(path).read_text(encoding="utf-8-sig"))
        return {name: [_marked(entry) for entry in entries] for name, entries in table.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"--faces {path} must hold JSON {{NAME: [{{\"points\": five [x, y], "
                         f"\"box\": [x1, y1, x2, y2]}}]}} with points or a box, got "
                         f"{type(error).__name__}: {error}") from error


def _marked(entry: dict[str, Any]) -> Face:
    if "points" not in entry and "box" not in entry:
        raise ValueError(f"a face needs points or a box, got {entry}")
    points = np.array(entry.get("points", np.zeros((0, 2))), np.float32)
    if "points" in entry and points.shape != (5, 2):
        raise ValueError(f"points must have shape (5, 2), got {points.shape}")
    box = np.array(entry["box"] if "box" in entry
                   else [*points.min(axis=0), *points.max(axis=0)], np.float32)
    if box.shape != (4,):
        raise ValueError(f"a box must have shape (4,), got {box.shape}")
    if not (np.isfinite(points).all() and np.isfinite(box).all()):
        raise ValueError("points and boxes must be finite numbers")
    if "box" in entry and not (box[2:] > box[:2]).all():
        raise ValueError(f"a box must be x1, y1, x2, y2 with x1 < x2 and y1 < y2, "
                         f"got {box.tolist()}")
    return Face(box, points, 1.0)


def with_points(faces: list[Face], image: np.ndarray) -> list[Face]:
    """Faces marked by hand, with points where only a box was given; see `locate`.

    Args:
        image: the image they are in, uint8 RGB (H, W, 3); a box outside it marks no face.
    """
    size = np.array(image.shape[1::-1])
    faces = [face for face in faces
             if len(face.points) or ((face.box[:2] < size) & (face.box[2:] > 0)).all()]
    if all(len(face.points) for face in faces):
        return faces
    cascade = CascadeDetector()
    return [face if len(face.points) else replace(face, points=cascade.locate(image, face.box))
            for face in faces]


def select(faces: list[Face], shape: tuple[int, ...], *, min_size: float = 0,
           max_faces: int | None = None, only_center: bool = False) -> list[Face]:
    """Leave out faces.

    Args:
        shape: (H, W) of the photograph.
        min_size: smallest shorter side of a box, in pixels.
        max_faces: so many of the largest are kept.
        only_center: of those large enough keep the one nearest to the middle of the photograph,
            whatever `max_faces` says.

    Returns:
        The rest, in the order given.
    """
    kept = [face for face in faces if face.side >= min_size]
    if only_center and kept:
        middle = np.array([shape[1], shape[0]]) / 2
        return [min(kept, key=lambda f: np.linalg.norm((f.box[:2] + f.box[2:]) / 2 - middle))]
    if max_faces is not None and len(kept) > max_faces:
        largest = sorted(kept, key=lambda face: -face.side)[:max_faces]
        kept = [face for face in kept if any(face is each for each in largest)]
    return kept

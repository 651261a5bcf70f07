"""A face in a photograph, and the copy of the photograph in which it is looked for."""
from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

SMALL_THRESHOLD = 0.6       # of small networks, see docs/photographs.md


@dataclass
class Face:
    """A face in a photograph.

    Attributes:
        box: float32 (4,), corners x1, y1, x2, y2 in pixels.
        points: float32 (5, 2): eyes (left and right of the image), nose, corners of the mouth.
        score: how sure the detector is; comparable within one detector only.
    """
    box: np.ndarray
    points: np.ndarray
    score: float

    @property
    def side(self) -> float:
        """The shorter side of the box, in pixels."""
        return float(min(self.box[2] - self.box[0], self.box[3] - self.box[1]))


def downscale_to(image: np.ndarray, longest: int) -> tuple[np.ndarray, float]:
    """The image with its longer side at most `longest`, and the factor that took."""
    scale = min(1.0, longest / max(image.shape[:2]))
    if scale == 1:
        return image, 1.0
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA), scale

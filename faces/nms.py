"""Non-maximum suppression."""
from __future__ import annotations

import numpy as np


def nms(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    """Indices of the boxes to keep, the best first: none overlaps a better one too much.

    Args:
        boxes: (N, 4) corners x1, y1, x2, y2 in pixels, both inside the box, so that a side is
            x2 - x1 + 1 long, as in the published detectors.
        scores: (N,).
        threshold: largest intersection over union.
    """
    x1, y1, x2, y2 = boxes.T
    areas = (x2 - x1 + 1) * (y2 - y1 + 1)
    order, keep = scores.argsort()[::-1], []
    while order.size:
        best, rest = order[0], order[1:]
        keep.append(int(best))
        width = np.minimum(x2[best], x2[rest]) - np.maximum(x1[best], x1[rest]) + 1
        height = np.minimum(y2[best], y2[rest]) - np.maximum(y1[best], y1[rest]) + 1
        shared = width.clip(min=0) * height.clip(min=0)
        order = rest[shared / (areas[best] + areas[rest] - shared) <= threshold]
    return keep

"""The 19 regions of a face as CelebAMask-HQ numbers them, and maps of them on disk."""
from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from utils.images.io import BadImage, read_image

# CelebAMask-HQ order. Which side its l_ is was not to be found; here it is the left of the image,
# as in the project's five points and component boxes.
LABELS = (
    "background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear",
    "mouth", "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
)
NUM_LABELS = len(LABELS)
# What is seen of each in a colored map, RGB, as chaofengc/PSFRGAN writes them.
COLORS = np.array([
    (0, 0, 0), (204, 0, 0), (76, 153, 0), (204, 204, 0), (51, 51, 255), (204, 0, 204),
    (0, 255, 255), (255, 204, 204), (102, 51, 0), (255, 0, 0), (102, 204, 0), (255, 255, 0),
    (0, 0, 153), (0, 0, 204), (255, 51, 153), (0, 204, 204), (0, 51, 0), (255, 153, 51),
    (0, 204, 0)], np.uint8)
# Labels that change places in a mirror: eyes, brows, ears. An ear ring has no side.
SWAPS = ((4, 5), (6, 7), (8, 9))


def color_map(labels: np.ndarray) -> np.ndarray:
    """Label map (H, W) as a uint8 RGB image (H, W, 3)."""
    return COLORS[labels]


def read_label_map(path: str | Path, size: int | None = None) -> np.ndarray:
    """Label map of a file, uint8 (H, W): gray levels 0 to 18, or the colors of `color_map`.

    Args:
        size: side of the square it is resized to, by the nearest label.

    Raises:
        BadImage: unreadable, or a level or color that is no label, as after JPEG or resizing.
    """
    labels = _decode(path, read_image(path))
    return labels if size is None else cv2.resize(labels, (size, size),
                                                  interpolation=cv2.INTER_NEAREST)


def mirrored(labels: np.ndarray) -> np.ndarray:
    """A label map of the mirrored face: flipped, left and right names exchanged."""
    names = np.arange(NUM_LABELS, dtype=np.uint8)
    for one, other in SWAPS:
        names[[one, other]] = other, one
    return np.ascontiguousarray(names[labels[:, ::-1]])


def _decode(path: str | Path, image: np.ndarray) -> np.ndarray:
    gray = image[..., 0]
    if (image == gray[..., None]).all():
        if gray.max(initial=0) >= NUM_LABELS:
            raise BadImage(f"{path}: gray levels must be labels from 0 to {NUM_LABELS - 1}, got "
                           f"{gray.max()}")
        return np.ascontiguousarray(gray)
    codes = _codes(image)
    known = np.sort(_codes(COLORS))
    order = np.argsort(_codes(COLORS))
    place = np.searchsorted(known, codes).clip(max=NUM_LABELS - 1)
    wrong = known[place] != codes
    if wrong.any():
        raise BadImage(f"{path}: colors must be those of labels, got "
                       f"{tuple(map(int, image[wrong][0]))}")
    return order[place].astype(np.uint8)


def _codes(colors: np.ndarray) -> np.ndarray:
    """One number for each color (..., 3)."""
    return colors.astype(np.int32) @ np.array([65536, 256, 1], np.int32)

"""Put restored faces back into the photograph they were cut from."""
from __future__ import annotations

import cv2
import numpy as np

from utils.images.errors import ImageError

# Regions of data.labels.LABELS that a parsing mask leaves to the photograph.
NOT_FACE = {"facexlib": (0, 14, 16, 17, 18), "gpen": (0, 14, 18)}
# (pixels of the frame that is kept out, sigma of the blur, frame before the blur), for 512 pixels.
_MASKS = {"facexlib": (10, 11, False), "gpen": (26, 4, True)}
_BLUR_SIZE = 101


def upscale(photo: np.ndarray, scale: float) -> np.ndarray:
    """The photograph (H, W, ...) at `scale` times its size, see `size_at`; Lanczos."""
    return photo if scale == 1 else cv2.resize(photo, size_at(scale, photo.shape),
                                               interpolation=cv2.INTER_LANCZOS4)


def size_at(scale: float, shape: tuple[int, ...]) -> tuple[int, int]:
    """Width and height of a photograph of shape (H, W, ...) times `scale`, rounded down.

    Raises:
        ImageError: nothing would be left of it.
    """
    height, width = shape[:2]
    wide, high = int(width * scale), int(height * scale)
    if not (wide and high):
        raise ImageError(f"upscale {scale:g} is too small for an image of {width} x {height} "
                         "pixels")
    return wide, high


def to_upscaled(matrix: np.ndarray, scale: float) -> np.ndarray:
    """A transform from crop to photograph, turned into one to the photograph of `upscale`.

    Pixel centers are what is scaled: x becomes scale (x + 1/2) - 1/2. The published tools shift
    by scale / 2 instead, half a pixel too far.
    """
    moved = matrix * scale
    moved[:, 2] += (scale - 1) / 2
    return moved


def paste(photo: np.ndarray, face: np.ndarray, matrix: np.ndarray,
          mask: np.ndarray | None = None, strength: float = 1.0, edge: int = 2,
          crop: np.ndarray | None = None) -> np.ndarray:
    """The photograph with a face over it; pixels that the mask does not reach stay as they are.

    Args:
        photo: uint8 or uint16 RGB (H, W, 3), not changed.
        face: RGB (S, S, 3), 0..255, uint8 or float.
        matrix: (2, 3) from the face's pixels to the photograph's.
        mask: (S, S) in 0..1, how much of the face is taken; None takes all but its edge, feathered
            in proportion to the face's size.
        strength: 1 for the face, 0 for the photograph, or between.
        edge: pixels along the face's edge that are left out where there is no mask; twice the scale
            of `upscale`, as published.
        crop: what the face was before it was restored, of the same size. Given, only the change is
            pasted: what restoring leaves alone stays bit for bit, and so does detail that is too
            fine for the crop. None replaces the photograph's pixels, as the published tools do.

    Returns:
        As the photograph.

    Source: the order of steps is xinntao/facexlib's; only the rectangle around the face is touched.
    """
    result = photo.copy()
    paste_into(result, face, matrix, mask, strength, edge, crop)
    return result


def paste_into(photo: np.ndarray, face: np.ndarray, matrix: np.ndarray,
               mask: np.ndarray | None = None, strength: float = 1.0, edge: int = 2,
               crop: np.ndarray | None = None) -> None:
    """As `paste`, but the photograph given is changed: time and memory are the face's alone."""
    rows, columns = _reach(matrix, face.shape[0], photo.shape)
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    local = matrix.astype(np.float64)
    local[:, 2] -= (columns.start, rows.start)
    size = (columns.stop - columns.start, rows.stop - rows.start)
    # Beyond its edge the face goes on, so that nothing dark seeps in where the weight is small.
    moved = face.astype(np.float32) - (0 if crop is None else crop.astype(np.float32))
    warped = cv2.warpAffine(moved, local, size, flags=cv2.INTER_LINEAR,
                            borderMode=cv2.BORDER_REPLICATE)
    if mask is None:
        weight = _feathered(local, face.shape[0], size, edge)
    else:
        weight = _warp(mask.astype(np.float32), local, size)
    weight = weight.clip(0, 1)[..., None] * strength
    part = photo[rows, columns]
    white = np.iinfo(part.dtype).max
    warped *= white / 255       # 8 bits in 16: 0..255 becomes 0..65535
    under = part.astype(np.float32)
    change = warped - under if crop is None else warped
    mixed = np.rint(under + weight * change).clip(0, white).astype(part.dtype)
    photo[rows, columns] = np.where(weight > 0, mixed, part)


def parsing_mask(labels: np.ndarray, size: int, kind: str = "facexlib") -> np.ndarray:
    """How much of a face is taken, from the map of its regions.

    Args:
        labels: (512, 512) integers, of the restored face.
        size: side of the face.
        kind: facexlib or gpen, which differ in the regions and in the softness of the edge.

    Returns:
        float32 (size, size), 0..1.
    """
    frame, _, early = _MASKS[kind]
    mask = (~np.isin(labels, NOT_FACE[kind])).astype(np.float32)
    if early:
        _clear_frame(mask, frame)
    mask = _soften(mask, kind)
    if not early:
        _clear_frame(mask, frame)
    return cv2.resize(mask, (size, size))


def frame_mask(size: int = 512) -> np.ndarray:
    """A soft square, float32 (size, size), as GPEN has it for faces without a map of regions."""
    mask = np.zeros((size, size), np.float32)
    frame = _MASKS["gpen"][0]
    mask[frame:size - frame + 1, frame:size - frame + 1] = 1
    return _soften(mask, "gpen")


def _soften(mask: np.ndarray, kind: str) -> np.ndarray:
    sigma = _MASKS[kind][1]
    for _ in range(2):
        mask = cv2.GaussianBlur(mask, (_BLUR_SIZE, _BLUR_SIZE), sigma)
    return mask


def _clear_frame(mask: np.ndarray, width: int) -> None:
    mask[:width] = mask[-width:] = 0
    mask[:, :width] = mask[:, -width:] = 0


def _reach(matrix: np.ndarray, size: int, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns of the photograph that the warped face can touch."""
    corners = np.array([(-1, -1, 1), (size, -1, 1), (-1, size, 1), (size, size, 1)]) @ matrix.T
    low = np.floor(corners.min(axis=0)).astype(int) - 2
    high = np.ceil(corners.max(axis=0)).astype(int) + 3
    return (slice(max(0, low[1]), min(shape[0], high[1])),
            slice(max(0, low[0]), min(shape[1], high[0])))


def _feathered(matrix: np.ndarray, side: int, size: tuple[int, int], edge: int) -> np.ndarray:
    """Weight of a face without a mask: 1 inside, falling to 0 over a tenth of its side."""
    inside = _warp(np.ones((side, side), np.float32), matrix, size)
    inside = cv2.erode(inside, np.ones((edge, edge), np.uint8))
    feather = max(1, int(np.sqrt(inside.sum())) // 20)
    core = cv2.erode(inside, np.ones((2 * feather, 2 * feather), np.uint8))
    return cv2.GaussianBlur(core, (2 * feather + 1, 2 * feather + 1), 0)


def _warp(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR)

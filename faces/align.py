"""Five-point alignment: templates, similarity transforms, crops."""
from __future__ import annotations

import cv2
import numpy as np

# Eyes (left and right of the image), nose, corners of the mouth, in pixels of a square of `side`.
# ffhq: xinntao/facexlib; arcface: deepinsight/insightface.
TEMPLATES: dict[str, tuple[int, np.ndarray]] = {
    "ffhq": (512, np.array([[192.98138, 239.94708], [318.90277, 240.1936], [256.63416, 314.01935],
                            [201.26117, 371.41043], [313.08905, 371.15118]])),
    "arcface": (112, np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366],
                               [41.5493, 92.3655], [70.7299, 92.2041]])),
}
# yangxy/GPEN: the 96 x 112 ArcFace points made square by 8 pixels and padded by a quarter, 28.
TEMPLATES["gpen"] = (168, TEMPLATES["arcface"][1] + 28)
# chaofengc/PSFRGAN: outer and inner corner of the eye on the image's right, of the one on its
# left, base of the nose, as dlib's five-point predictor gives them.
TEMPLATES["psfrgan"] = (1024, np.array([
    [686.77227723, 488.62376238], [586.77227723, 493.59405941], [337.91089109, 488.38613861],
    [437.95049505, 493.51485149], [513.58415842, 678.5049505]]))
# Around what a crop shows beyond the photograph, RGB, as facexlib has it.
BORDER = (132, 133, 135)


def template(name: str, size: int) -> np.ndarray:
    """Points (5, 2) of a template, for a crop of size x size pixels.

    Raises:
        ValueError: no such template.
    """
    if name not in TEMPLATES:
        raise ValueError(f"template must be one of {', '.join(TEMPLATES)}, got {name!r}")
    side, points = TEMPLATES[name]
    return points * (size / side)


def similarity(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The rotation, scaling and shift that takes `points` nearest to `target`, in least squares.

    Args:
        points, target: (N, 2), with two different points or more.

    Returns:
        float64 (2, 3), never a reflection.

    Raises:
        ValueError: all points are the same.

    Source: Umeyama, IEEE TPAMI 13(4), 1991; in the plane the solution is a complex division.
    """
    points, target = np.asarray(points, np.float64), np.asarray(target, np.float64)
    center, goal = points.mean(axis=0), target.mean(axis=0)
    source = (points - center) @ (1, 1j)
    spread = float((np.abs(source) ** 2).sum())
    if not spread > 0:
        raise ValueError("a similarity transform needs two different points, got one")
    factor = (np.conj(source) * ((target - goal) @ (1, 1j))).sum() / spread
    linear = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    return np.column_stack([linear, goal - linear @ center])


def robust_similarity(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """As `similarity`, but points that do not fit the others are left out: facexlib's alignment.

    OpenCV's least median of squares, whose random choices are the same on every call. Where it
    finds nothing, the result is `similarity`.
    """
    found, _ = cv2.estimateAffinePartial2D(np.asarray(points, np.float32),
                                           np.asarray(target, np.float32), method=cv2.LMEDS)
    return similarity(points, target) if found is None else found


def inverse(matrix: np.ndarray) -> np.ndarray:
    """The affine transform (2, 3) that undoes another."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.column_stack([linear, -linear @ matrix[:, 2]])


def crop(image: np.ndarray, matrix: np.ndarray, size: int, smooth: bool = False) -> np.ndarray:
    """The square that a transform from the image to it cuts out, bilinear.

    Args:
        image: uint8 RGB (H, W, 3).
        matrix: (2, 3), image to crop, e.g. from `similarity`.
        smooth: reduce faces that are more than twice as large as the crop by means over areas
            first; published tools skip pixels, which turns fine detail into noise.

    Returns:
        uint8 (size, size, 3); BORDER beyond the image.
    """
    step = int(1 / np.sqrt(np.linalg.det(matrix[:, :2]))) if smooth else 1
    if step > 1:
        image, matrix = _reduced(image, matrix, size, step)
    return cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR,
                          borderMode=cv2.BORDER_CONSTANT, borderValue=BORDER)


def crop_bicubic(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """The square that a transform from the image to it cuts out, bicubic and not rounded.

    Values are those of scikit-image's `warp` of order 3; OpenCV's bicubic filter is another one.

    Args:
        image: uint8 RGB (H, W, 3).
        matrix: (2, 3), image to crop, e.g. from `similarity`.

    Returns:
        float32 (size, size, 3), gray levels in the image's range; 0 beyond the image.
    """
    across, down = inverse(matrix) @ _pixels(size)
    left, top = np.floor(across), np.floor(down)
    horizontal, vertical = _cubic_weights(across - left), _cubic_weights(down - top)
    height, width = image.shape[:2]
    columns, rows = (place.astype(int).clip(-3, side + 1)   # of the second of four pixels
                     for place, side in ((left, width), (top, height)))
    # Only what the crop sees: a photograph in float64 may take gigabytes.
    x, y = max(0, columns.min() - 1), max(0, rows.min() - 1)
    seen = image[y:max(y, rows.max() + 3), x:max(x, columns.max() + 3)]
    padded = np.pad(seen, ((4, 4), (4, 4), (0, 0))).astype(np.float64)
    columns, rows = columns - x + 3, rows - y + 3           # of the first of four, in `padded`
    result = np.zeros((size * size, 3))
    for i in range(4):
        result += vertical[i] * sum(horizontal[j] * padded[rows + i, columns + j] for j in range(4))
    clipped = np.where(result == 0, 0, result.clip(image.min(), image.max()))
    return clipped.reshape(size, size, 3).astype(np.float32)


def _pixels(size: int) -> np.ndarray:
    """Homogeneous x, y, 1 of a square's pixels in order, (3, size * size)."""
    y, x = np.mgrid[:size, :size].reshape(2, -1)
    return np.stack([x, y, np.ones_like(x)])


def _cubic_weights(t: np.ndarray) -> np.ndarray:
    """Weights (4, N, 1) of the four pixels around a place `t` behind the second one, a = -0.5."""
    return np.stack([((1 - t / 2) * t - 0.5) * t, (1.5 * t - 2.5) * t * t + 1,
                     ((2 - 1.5 * t) * t + 0.5) * t, (t - 1) * t * t / 2])[..., None]


def as_bytes(crop: np.ndarray) -> np.ndarray:
    """A crop with its gray levels rounded to uint8; one of uint8 as it is."""
    return crop if crop.dtype == np.uint8 else np.rint(crop).astype(np.uint8)


def _reduced(image: np.ndarray, matrix: np.ndarray, size: int,
             step: int) -> tuple[np.ndarray, np.ndarray]:
    """What a crop sees of an image, `step` times smaller, and the transform from there."""
    back = inverse(matrix)
    corners = np.array([(0, 0, 1), (size, 0, 1), (0, size, 1), (size, size, 1)]) @ back.T
    low = np.floor(corners.min(axis=0) - 2 * step).astype(int).clip(min=0)
    high = np.ceil(corners.max(axis=0) + 3 * step).astype(int).clip(max=image.shape[1::-1])
    width, height = (high - low) // step
    if width < 1 or height < 1:
        return image, matrix
    part = image[low[1]:low[1] + height * step, low[0]:low[0] + width * step]
    part = cv2.resize(part, (int(width), int(height)), interpolation=cv2.INTER_AREA)
    # Pixel q of the part is the mean around step q + (step - 1) / 2 behind its corner.
    linear = matrix[:, :2] * step
    return part, np.column_stack([linear, matrix[:, :2] @ (low + (step - 1) / 2) + matrix[:, 2]])

"""Where every part of a synthetic portrait lies; nothing here touches a pixel.

Coordinates are units of the image side: x to the right from 0 to 1, y downwards from 0 to 1.
Points of the head in three dimensions have x = 0 in the middle of the face, z to the camera.
"Left" always means the left of the image, and comes first where an array holds both sides.
"""
from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from data.synthetic.traits import Traits

# The 512 px five-point template of the published restorers (eyes, nose tip, mouth corners) / 512.
TEMPLATE5 = np.array(
    [[0.37692, 0.46865], [0.62286, 0.46913], [0.50124, 0.61332], [0.39309, 0.72541],
     [0.61150, 0.72491]]
)

_TARGET_CENTER = complex(*TEMPLATE5.mean(0))
_TARGET = (TEMPLATE5 @ [1, 1j] - _TARGET_CENTER).tolist()
_FIVE = np.zeros((5, 68))
_FIVE[0, 36:42] = _FIVE[1, 42:48] = 1 / 6
_FIVE[[2, 3, 4], [30, 48, 54]] = 1

# Mean head, left half where it is symmetric: x, y, z. Outline from the crown to the chin.
_OUTLINE = np.array(
    [[0.000, 0.045, -0.10], [-0.125, 0.068, -0.10], [-0.218, 0.140, -0.10], [-0.262, 0.240, -0.09],
     [-0.272, 0.350, -0.08], [-0.266, 0.465, -0.08], [-0.252, 0.590, -0.07], [-0.217, 0.715, -0.04],
     [-0.152, 0.815, 0.00], [-0.078, 0.875, 0.03], [0.000, 0.894, 0.04]]
)
_EAR = np.array(
    [[-0.250, 0.455, -0.12], [-0.274, 0.432, -0.12], [-0.302, 0.436, -0.12], [-0.316, 0.470, -0.12],
     [-0.312, 0.520, -0.12], [-0.298, 0.560, -0.12], [-0.284, 0.592, -0.12], [-0.266, 0.598, -0.12],
     [-0.248, 0.575, -0.12]]
)
_BROW = np.array(
    [[-0.200, 0.402, 0.00], [-0.170, 0.383, 0.03], [-0.130, 0.376, 0.05], [-0.086, 0.381, 0.06],
     [-0.044, 0.392, 0.065]]
)
_NOSE = np.array(
    [[0.0, 0.462, 0.070], [0.0, 0.513, 0.090], [0.0, 0.562, 0.115], [0.0, 0.613, 0.140],
     [-0.050, 0.648, 0.065], [-0.027, 0.659, 0.080], [0.0, 0.665, 0.090], [0.027, 0.659, 0.080],
     [0.050, 0.648, 0.065]]
)
_EYE_CENTER = np.array([-0.123, 0.471, 0.03])
# From the outer corner over the upper lid, relative to the center.
_EYE = np.array(
    [[-0.051, 0.003, -0.02], [-0.020, -0.019, 0.0], [0.018, -0.020, 0.0], [0.050, 0.007, 0.0],
     [0.018, 0.017, 0.0], [-0.018, 0.017, 0.0]]
)
_MOUTH = np.array(
    [[-0.110, 0.726, 0.035], [-0.068, 0.711, 0.060], [-0.026, 0.702, 0.075], [0.0, 0.706, 0.078],
     [0.026, 0.702, 0.075], [0.068, 0.711, 0.060], [0.110, 0.726, 0.035], [0.070, 0.747, 0.060],
     [0.032, 0.760, 0.072], [0.0, 0.763, 0.075], [-0.032, 0.760, 0.072], [-0.070, 0.747, 0.060],
     [-0.098, 0.726, 0.040], [-0.034, 0.728, 0.070], [0.0, 0.730, 0.072], [0.034, 0.728, 0.070],
     [0.098, 0.726, 0.040], [0.034, 0.728, 0.070], [0.0, 0.730, 0.072], [-0.034, 0.728, 0.070]]
)
_LIP_LINE = 0.728
_RIGHT_EYE_ORDER = [3, 2, 1, 0, 5, 4]       # iBUG counts both eyes clockwise from their left corner

# Points of the head: the 68 landmarks in iBUG order (300-W), 20 of the outline, 9 of each ear.
POINTS = 106
_MIRROR = np.array([-1.0, 1.0, 1.0])


def mirrored(points: np.ndarray) -> np.ndarray:
    """The same points on the other side of the face, in the same order."""
    return points * _MIRROR[: points.shape[-1]]


@lru_cache(maxsize=64)
def _spline_matrix(count: int, samples: int, closed: bool) -> np.ndarray:
    """(samples, count) weights of a Catmull-Rom spline through `count` points."""
    span = count if closed else count - 1
    t = np.arange(samples) * span / (samples if closed else samples - 1)
    start = np.minimum(t.astype(int), span - 1)
    u = (t - start)[:, None]
    weights = 0.5 * np.concatenate([-u + 2 * u**2 - u**3, 2 - 5 * u**2 + 3 * u**3,
                                    u + 4 * u**2 - 3 * u**3, u**3 - u**2], axis=1)
    matrix = np.zeros((samples, count))
    for k in range(4):
        column = start + k - 1
        column = column % count if closed else np.clip(column, 0, count - 1)
        np.add.at(matrix, (np.arange(samples), column), weights[:, k])
    return matrix


def spline(points: np.ndarray, samples: int, closed: bool = False) -> np.ndarray:
    """(..., samples, D) points of a smooth curve through `points` (..., P, D), ends included."""
    return _spline_matrix(points.shape[-2], samples, closed) @ points


def _assemble(outline: np.ndarray, ear: np.ndarray, brow: np.ndarray, nose: np.ndarray,
              eye: np.ndarray, mouth: np.ndarray) -> np.ndarray:
    """(106, 3) points of the head from its left half."""
    skull = np.concatenate([outline, mirrored(outline[1:-1])[::-1]])
    return np.concatenate([
        spline(skull, 20 * 16, closed=True)[80:241:10], brow, mirrored(brow)[::-1], nose,
        eye, mirrored(eye)[_RIGHT_EYE_ORDER], mouth, skull, ear, mirrored(ear),
    ])


@lru_cache(maxsize=1)
def _model() -> tuple[np.ndarray, np.ndarray]:
    """Mean head (106, 3) and the directions (20, 318) in which _weights moves it."""
    parts = {"outline": _OUTLINE, "ear": _EAR, "brow": _BROW, "nose": _NOSE, "eye": _EYE,
             "mouth": _MOUTH}
    x_only, y_only, z_only = np.eye(3)
    low = np.clip((_OUTLINE[:, 1:2] - 0.45) / 0.3, 0, 1)
    chin = np.clip((_OUTLINE[:, 1:2] - 0.55) / 0.33, 0, 1) * y_only
    lids = _EYE * np.array([0, 1, 1, 0, 1, 1])[:, None] * y_only
    bend = (_MOUTH[:, :1] / 0.11) ** 2
    height = _MOUTH[:, 1:2] - _LIP_LINE
    rows = np.arange(20)
    upper, lower = np.isin(rows, range(1, 6))[:, None], np.isin(rows, range(7, 12))[:, None]
    gap = np.zeros((20, 1))
    gap[[19, 18, 17], 0] = gap[[11, 9, 7], 0] = 0.028, 0.04, 0.028
    gap[[10, 8], 0] = 0.036
    lift = np.zeros((20, 1))
    lift[[13, 14, 15], 0] = lift[[2, 3, 4], 0] = -0.012
    along_brow = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])[:, None]
    moves = [
        {"outline": _OUTLINE * x_only, "ear": _EAR * x_only},                       # face width
        {"outline": _OUTLINE * low * x_only},                                       # jaw width
        {"outline": chin, "mouth": 0.3 * np.ones((20, 1)) * y_only},                # longer chin
        {"brow": np.ones((5, 1)) * y_only},                                         # lower brows
        {"brow": np.array([[0], [-0.6], [-1], [-0.5], [0.2]]) * y_only},            # arch
        {"brow": along_brow * y_only},                                              # angry brows
        {"eye": np.ones((6, 1)) * -x_only, "brow": 2 * _BROW * x_only},             # eyes apart
        {"nose": np.array([[0], [0.3], [0.6], [1], [1], [1], [1], [1], [1]]) * y_only,
         "mouth": 0.5 * np.ones((20, 1)) * y_only},                                 # longer nose
        {"nose": _NOSE * x_only},                                                   # wider nose
        {"nose": 0.25 * _NOSE * z_only * np.isin(np.arange(9), [1, 2, 3])[:, None]},   # higher nose
        {"eye": _EYE * x_only + lids},                                              # larger eyes
        {"eye": lids},                                                              # wider open
        {"eye": _EYE[:, :1] * y_only},                                              # slant
        {"mouth": _MOUTH * x_only},                                                 # wider mouth
        {"mouth": upper * height * y_only},                                         # fuller lips
        {"mouth": lower * height * y_only},
        {"mouth": -0.024 * (bend - 0.25) * y_only},                                 # smile
        {"mouth": gap * y_only, "outline": 0.03 * chin},                            # open mouth
        {"mouth": lift * y_only},                                                   # laugh
        {"ear": (_EAR - [-0.262, 0.47, 0]) * (x_only + y_only)},                    # larger ears
    ]
    still = {name: np.zeros_like(part) for name, part in parts.items()}
    directions = np.stack([_assemble(**{**still, **move}).ravel() for move in moves])
    mean = _assemble(**{**parts, "eye": _EYE + _EYE_CENTER})
    return mean, directions


def _weights(traits: Traits) -> list[float]:
    """How far to go in each direction of _model."""
    smile = max(traits.smile, 0.0)
    thin = 1 - 0.3 * smile
    narrow = traits.openness * traits.eye_height * (1 - 0.25 * smile)
    return [
        traits.face_width - 1, traits.jaw_width - 1, traits.chin,
        traits.brow_height - 0.022 * traits.brow_raise, traits.brow_arch, traits.brow_tilt,
        traits.spacing, traits.nose_length, traits.nose_width - 1, traits.nose_height - 1,
        traits.eye_size - 1, max(narrow, 0.12) - 1, traits.slant,
        traits.mouth_width * (1 + 0.16 * traits.smile) - 1,
        min(max(traits.upper_lip * thin, 0.35), 1.6) - 1,
        min(max(traits.lower_lip * thin, 0.45), 1.5) - 1,
        traits.smile, traits.mouth_open, traits.mouth_open * smile, traits.ear_size - 1,
    ]


def head_points(traits: Traits) -> np.ndarray:
    """(106, 3) points of the unposed head: 68 landmarks in iBUG order, outline, ears."""
    mean, directions = _model()
    return mean + (np.array(_weights(traits)) @ directions).reshape(mean.shape)


def five_points(landmarks68: np.ndarray) -> np.ndarray:
    """(5, D) eye centers, nose tip and mouth corners out of (68, D) landmarks."""
    return _FIVE @ landmarks68


class Pose:
    """Turns points of the head into image coordinates: rotation, then alignment as in FFHQ."""

    def __init__(self, traits: Traits, points: np.ndarray) -> None:
        cy, sy = math.cos(traits.yaw), math.sin(traits.yaw)
        cp, sp = math.cos(traits.pitch), math.sin(traits.pitch)
        turn = np.array([[cy, 0.0, sy], [-sy * sp, cp, cy * sp]])
        given = [complex(*point) for point in (five_points(points[:68]) @ turn.T).tolist()]
        center = sum(given) / 5
        given = [point - center for point in given]
        # Least-squares similarity in complex numbers, then the aligner's own error on top.
        fit = sum(a.conjugate() * b for a, b in zip(given, _TARGET, strict=True))
        fit /= sum(abs(a) ** 2 for a in given)
        fit *= traits.zoom * complex(math.cos(traits.roll), math.sin(traits.roll))
        rotate = np.array([[fit.real, -fit.imag], [fit.imag, fit.real]])
        self.matrix = (rotate @ turn).T
        offset = _TARGET_CENTER + traits.shift - fit * center
        self.offset = np.array([offset.real, offset.imag])

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """(..., 3) points of the head to (..., 2) image coordinates."""
        return points @ self.matrix + self.offset


def ellipse(center, radius_x: float, radius_y: float, turn: float = 0.0, power: float = 1.0,
            samples: int = 20) -> np.ndarray:
    """(samples, 2) outline of an ellipse; `power` below 1 makes it squarer."""
    circle = _circle(samples, power) * (radius_x, radius_y)
    if turn:
        cos, sin = np.cos(turn), np.sin(turn)
        circle = circle @ np.array([[cos, sin], [-sin, cos]])
    return circle + center


@lru_cache(maxsize=32)
def _circle(samples: int, power: float) -> np.ndarray:
    angle = np.arange(samples) * (2 * np.pi / samples)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.sign(circle) * np.abs(circle) ** power

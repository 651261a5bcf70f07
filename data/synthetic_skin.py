"""Light on the skin of a synthetic portrait, on a small grid.

Everything here is smooth, so a grid of 56 x 56 cells holds it: the face is an ellipsoid plus a sum
of Gaussians (nose, cheeks, sockets, lips, chin), whose slopes are exact and cost a matrix product.
"""
from __future__ import annotations

import cv2
import numpy as np

from data.synthetic_hair import beard_ribbons
from data.synthetic_shapes import POINTS
from data.synthetic_traits import Light, Traits

_GRID = 56
_AXIS = ((np.arange(_GRID) + 0.5) / _GRID).astype(np.float32)
_NECK_TOP = 0.625           # the neck's map starts here; a whole number of cells
_NECK_ROUND = np.clip((0.94 - _AXIS[int(_NECK_TOP * _GRID):, None]) / 0.07, 0, 1)

_CHEEKS = ({2: 0.4, 31: 0.25, 41: 0.2, 48: 0.15}, {14: 0.4, 35: 0.25, 46: 0.2, 54: 0.15})
_EYES = (dict.fromkeys(range(36, 42), 1 / 6), dict.fromkeys(range(42, 48), 1 / 6))
_CHIN, _BELOW_LIP = {57: 0.28, 8: 0.72}, {57: 0.8, 8: 0.2}
# Gaussians on the face: weights of the points of the head that give the middle, an offset down, the
# deviation across and down. First what stands out or lies back, with the height of each.
_RELIEF = (
    ({30: 1}, 0, 0.026, 0.024, 0.034), ({28: 1}, 0, 0.020, 0.050, 0.020),              # nose
    ({27: 1}, 0, 0.022, 0.050, 0.010), ({31: 1}, 0, 0.018, 0.016, 0.012),
    ({35: 1}, 0, 0.018, 0.016, 0.012), (_CHEEKS[0], 0, 0.070, 0.055, 0.024),
    (_CHEEKS[1], 0, 0.070, 0.055, 0.024), (_EYES[0], -0.012, 0.050, 0.034, -0.024),    # sockets
    (_EYES[1], -0.012, 0.050, 0.034, -0.024), (_EYES[0], 0, 0.036, 0.022, 0.010),      # eyeballs
    (_EYES[1], 0, 0.036, 0.022, 0.010), ({18: 0.5, 20: 0.5}, 0, 0.060, 0.020, 0.010),  # brow ridges
    ({23: 0.5, 25: 0.5}, 0, 0.060, 0.020, 0.010),
    ({21: 0.32, 22: 0.32, 68: 0.36}, 0, 0.110, 0.060, 0.012),                          # forehead
    ({51: 1}, 0.01, 0.055, 0.014, 0.007), ({57: 0.5, 66: 0.5}, 0, 0.045, 0.016, 0.011),   # lips
    (_BELOW_LIP, 0, 0.055, 0.014, -0.008), (_CHIN, 0, 0.055, 0.034, 0.022),
    ({33: 0.5, 51: 0.5}, 0, 0.012, 0.018, -0.003),                                     # philtrum
)
# Then the hollows that see little light, with their depth; the first is the shadow of the nose.
_HOLLOWS = (
    ({33: 1}, 0.012, 0.036, 0.013, 0.42), (_EYES[0], -0.016, 0.050, 0.026, 0.20),
    (_EYES[1], -0.016, 0.050, 0.026, 0.20), ({39: 1}, 0, 0.018, 0.030, 0.20),
    ({42: 1}, 0, 0.018, 0.030, 0.20), (_BELOW_LIP, 0, 0.050, 0.013, 0.16),
    ({48: 1}, 0, 0.013, 0.013, 0.14), ({54: 1}, 0, 0.013, 0.013, 0.14),
)
# Then the tints, with the amount of red, of make-up or of tiredness in _albedo.
_TINTS = (
    (_CHEEKS[0], 0, 0.060, 0.045, 1.0), (_CHEEKS[1], 0, 0.060, 0.045, 1.0),
    ({30: 1}, 0, 0.030, 0.030, 0.8), (_CHIN, 0, 0.050, 0.030, 0.5),
    (_EYES[0], -0.008, 0.050, 0.022, 1.0), (_EYES[1], -0.008, 0.050, 0.022, 1.0),
    ({41: 1}, 0.02, 0.040, 0.014, 1.0), ({46: 1}, 0.02, 0.040, 0.014, 1.0),
)
_SPOTS = _RELIEF + _HOLLOWS + _TINTS
_MIDDLES = np.array([[weights.get(k, 0.0) for k in range(POINTS)] for weights, *_ in _SPOTS])
_DOWN = np.array([[0.0, spot[1]] for spot in _SPOTS])
_WIDTHS = np.array([spot[2:4] for spot in _SPOTS], np.float32).T[..., None]       # (2, K, 1)
_STRENGTH = np.array([[spot[4]] for spot in _SPOTS], np.float32)
_A, _B = len(_RELIEF), len(_RELIEF) + len(_HOLLOWS)


def skin_map(traits: Traits, light: Light, points: np.ndarray,
             hair: list[np.ndarray]) -> np.ndarray:
    """(56, 56, 3) uint8 colour of the skin of the head, light included, over the whole picture.

    Args:
        points: (106, 2) points of the head in units of the picture side.
        hair: (P, 2) outlines of what throws its shadow on the forehead.
    """
    middles = _MIDDLES @ points + _DOWN
    middles[_A] -= 0.015 * light.direction[:2] / max(light.direction[2], 0.4)
    offset = (_AXIS - middles.T[..., None].astype(np.float32)) / _WIDTHS
    # Cut off before float32 loses its normal form, which would make each product slow.
    columns, rows = np.exp(np.maximum(-0.5 * offset * offset, -30))
    strength = _STRENGTH.copy()
    strength[:5] *= traits.nose_height
    strength[5:7] *= 1 + 0.5 * traits.smile
    rows *= strength
    slopes = -offset[:, :_A] / _WIDTHS[:, :_A]
    slope_x = rows[:_A].T @ (slopes[0] * columns[:_A])
    slope_y = (slopes[1] * rows[:_A]).T @ columns[:_A]
    _add_ellipsoid(slope_x, slope_y, (points[73] + points[83]) / 2, traits.face_width)
    hollow = np.minimum(rows[_A:_B].T @ columns[_A:_B], 1)
    lit, mirror = _light(light, slope_x, slope_y, hollow, _shadow_map(light, hair))
    lit *= _albedo(traits, points, columns[_B:], rows[_B:])
    lit += light.gloss * mirror
    return _picture(lit)


def neck_map(traits: Traits, light: Light, outline: np.ndarray, middle: float,
             half: float) -> tuple[np.ndarray, float]:
    """Colour of neck and shoulders, (21, 56, 3) uint8, and the height at which that map starts.

    Args:
        outline: (P, 2) of the head, which throws its shadow on the neck.
        middle: x of the neck's axis.
        half: half the neck's width.
    """
    x, _, z = light.direction.tolist()
    across = np.minimum(np.maximum((_AXIS - middle) * (1 / (1.25 * half)), -1), 1)
    facing = np.maximum(across * x + np.sqrt(1.1 - across * across) * z, 0)
    # The cylinder of the neck turns over into shoulders, which face the camera.
    facing = z + _NECK_ROUND * (facing - z)
    cover = np.zeros((_GRID, _GRID), np.uint8)
    _cover(cover, outline, -0.05 * x, 0.045)
    shade = 1 - _soften(cover)[int(_NECK_TOP * _GRID):] * np.float32(0.62 / 255)
    lit = np.stack([facing * shade, 0.35 + 0.65 * shade], axis=2)
    colours = 0.95 * traits.skin * np.stack([light.key, light.ambient])
    return np.minimum(lit @ colours.astype(np.float32), 255).astype(np.uint8), _NECK_TOP


def _planes(colour: np.ndarray) -> np.ndarray:
    """(3, 1, 1) float32, to be multiplied with planes: numpy is slow on a last axis of three."""
    return colour.astype(np.float32)[:, None, None]


def _picture(planes: np.ndarray) -> np.ndarray:
    return cv2.merge(list(np.minimum(planes, 255).astype(np.uint8)))


def _cover(mask: np.ndarray, outline: np.ndarray, right: float = 0.0,
           down: float = 0.0) -> None:
    """Fill an outline, moved by (right, down), on a mask of grid size; units of the side."""
    points = (outline * (16 * _GRID) - 7.5).astype(np.int32)
    offset = (int(16 * _GRID * right), int(16 * _GRID * down))
    cv2.fillPoly(mask, [points], 255, cv2.LINE_8, 4, offset)


def _soften(mask: np.ndarray) -> np.ndarray:
    return cv2.blur(cv2.blur(mask, (3, 3)), (3, 3))


def _add_ellipsoid(slope_x: np.ndarray, slope_y: np.ndarray, middle: np.ndarray,
                   face_width: float) -> None:
    """Add the slopes of the head's ground shape, in place."""
    x, y = middle.tolist()
    across, down = (_AXIS - x) * (1 / (0.31 * face_width)), (_AXIS - y)[:, None] * (1 / 0.47)
    flat = np.maximum((1 - across * across) - down * down, 0.12)
    flat = 1 / np.sqrt(flat, out=flat)
    slope_x -= across * flat
    slope_y -= 0.55 * down * flat


def _light(light: Light, slope_x: np.ndarray, slope_y: np.ndarray, hollow: np.ndarray,
           shadow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Light that falls on the skin (3, GRID, GRID) and that is mirrored (GRID, GRID)."""
    steep = 1 / np.sqrt(1 + slope_x * slope_x + slope_y * slope_y)
    x, y, z = light.direction.tolist()
    tilt = slope_x * x + slope_y * y
    facing = np.maximum((z - tilt) * steep, 0)
    facing *= (1 - hollow) * shadow
    open_sky = (1 - 0.7 * hollow) * (0.4 + 0.6 * shadow)
    lit = facing * _planes(light.key) + open_sky * _planes(light.ambient)
    lit *= 1.22 - 0.22 * lit                # film does not burn out at once
    norm = (x * x + y * y + (z + 1) ** 2) ** 0.5
    mirror = np.maximum((z + 1 - tilt) * steep * (1 / norm), 0.1)
    for _ in range(4):
        mirror *= mirror
    return lit, mirror * shadow


def _shadow_map(light: Light, hair: list[np.ndarray]) -> np.ndarray:
    """(GRID, GRID) share of the lamp's light that passes the hair."""
    cover = np.zeros((_GRID, _GRID), np.uint8)
    x, y, z = light.direction.tolist()
    fall = 0.03 / max(z, 0.4)
    for outline in hair:
        _cover(cover, outline, -fall * x, 0.012 - fall * y)
    return 1 - _soften(cover) * np.float32(0.55 / 255)


def _albedo(traits: Traits, points: np.ndarray, columns: np.ndarray,
            rows: np.ndarray) -> np.ndarray:
    """(3, GRID, GRID) colour of the skin before light: redder cheeks and nose, shaven chin."""
    red, tired = traits.skin * [0.0, -0.13, -0.11], -0.05 * traits.skin
    lid = 0.6 * traits.makeup * (np.array([120.0, 80.0, 110.0]) - traits.skin)
    tints = np.stack([red, red, red, red, lid, lid, tired, tired], 1).astype(np.float32)
    colour = (tints[:, None] * rows.T) @ columns
    colour += _planes(traits.skin)
    if traits.beard > 0.2:
        cover = np.zeros((_GRID, _GRID), np.uint8)
        for ribbon in beard_ribbons(points, traits):
            _cover(cover, ribbon.outline())
        strength = 0.75 if traits.beard > 0.55 else 0.45 * traits.beard
        mix = cv2.blur(cover, (3, 3)) * np.float32(strength / 255)
        colour += mix * (_planes(np.minimum(0.8 * traits.hair, 0.8 * traits.skin)) - colour)
    return colour

"""Light on the skin of a synthetic portrait, on a small grid over the part that is seen.

Everything here is smooth, so cells of a fiftieth of the image hold it: the face is an ellipsoid
plus a sum of Gaussians (nose, cheeks, sockets, lips, chin), whose slopes are exact and cost a
matrix product.
"""
from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from data.synthetic.hair import beard_ribbons
from data.synthetic.shapes import POINTS
from data.synthetic.traits import Light, Traits

Window = tuple[slice, slice]                        # rows and columns of the canvas
_FACE_CELLS, _NECK_CELLS = (48, 32), (18, 32)       # rows and columns of the maps

_CHEEKS = ({2: 0.4, 31: 0.25, 41: 0.2, 48: 0.15}, {14: 0.4, 35: 0.25, 46: 0.2, 54: 0.15})
_EYES = (dict.fromkeys(range(36, 42), 1 / 6), dict.fromkeys(range(42, 48), 1 / 6))
_CHIN, _BELOW_LIP = {57: 0.28, 8: 0.72}, {57: 0.8, 8: 0.2}
# Gaussians on the face: weights of the points of the head that give the middle, an offset down, the
# standard deviation across and down. First what stands out or lies back, with the height of each.
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


class _Grid:
    """Cells over a window of the canvas.

    Attributes:
        x, y: (columns,) and (rows,) float32 middles of the cells in units of the canvas side.
    """

    def __init__(self, window: Window, side: int, cells: tuple[int, int]) -> None:
        rows, columns = window
        tall, wide = (rows.stop - rows.start) / side, (columns.stop - columns.start) / side
        self._corner, self._cells = (columns.start / side, rows.start / side), cells
        self._scale = (16 * cells[1] / wide, 16 * cells[0] / tall)
        self.x = _axis(cells[1]) * np.float32(wide) + np.float32(self._corner[0])
        self.y = _axis(cells[0]) * np.float32(tall) + np.float32(self._corner[1])

    def cover(self, outlines: list[np.ndarray], right: float = 0.0,
              down: float = 0.0) -> np.ndarray:
        """(rows, columns) uint8: 255 inside (P, 2) outlines moved by (right, down), soft edges."""
        mask = np.zeros(self._cells, np.uint8)
        offset = (int(right * self._scale[0]), int(down * self._scale[1]))
        for outline in outlines:
            points = ((outline - self._corner) * self._scale - 7.5).astype(np.int32)
            cv2.fillPoly(mask, [points], 255, cv2.LINE_8, 4, offset)
        return cv2.blur(mask, (5, 5))


@lru_cache(maxsize=4)
def _axis(cells: int) -> np.ndarray:
    """(cells,) float32 middles of cells that divide [0, 1]."""
    return ((np.arange(cells) + 0.5) / cells).astype(np.float32)


def skin_map(traits: Traits, light: Light, points: np.ndarray, hair: list[np.ndarray],
             window: Window, side: int) -> np.ndarray:
    """(48, 32, 3) uint8 color of the skin of the head, light included, over a window.

    Args:
        points: (106, 2) points of the head in units of the canvas side.
        hair: (P, 2) outlines of what throws its shadow on the forehead.
        window: of a canvas with this `side`.
    """
    grid = _Grid(window, side, _FACE_CELLS)
    middles = _MIDDLES @ points + _DOWN
    x, y, z = light.direction.tolist()
    middles[_A] -= (0.015 * x / max(z, 0.4), 0.015 * y / max(z, 0.4))
    middles = middles.astype(np.float32)
    strength = _STRENGTH.copy()
    strength[:5] *= traits.nose_height
    strength[5:7] *= 1 + 0.5 * traits.smile
    columns, across = _bells(grid.x, middles[:, 0, None], _WIDTHS[0])
    rows, down = _bells(grid.y, middles[:, 1, None], _WIDTHS[1])
    rows *= strength
    slope_x = rows[:_A].T @ (across * columns[:_A])
    slope_y = (down * rows[:_A]).T @ columns[:_A]
    _add_ellipsoid(grid, slope_x, slope_y, (points[73] + points[83]) / 2, traits.face_width)
    hollow = np.minimum(rows[_A:_B].T @ columns[_A:_B], 1)
    lit, mirror = _light(light, slope_x, slope_y, hollow, _shadow_map(grid, light, hair))
    lit *= _albedo(grid, traits, points, columns[_B:], rows[_B:])
    mirror *= np.float32(light.gloss)
    lit += mirror
    pixels = np.minimum(lit, 255, out=lit).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def _bells(axis: np.ndarray, middles: np.ndarray,
           widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bell curves (K, N) along an axis, and for the relief the factors (_A, N) of their slopes."""
    offset = (axis - middles) / widths
    slopes = offset[:_A] / -widths[:_A]
    offset *= offset
    offset *= np.float32(-0.5)
    # Cut off before float32 loses its normal form, which would make each product slow.
    np.maximum(offset, np.float32(-30), out=offset)
    return np.exp(offset, out=offset), slopes


def neck_map(traits: Traits, light: Light, outline: np.ndarray, middle: float, half: float,
             window: Window, side: int) -> np.ndarray:
    """(18, 32, 3) uint8 color of neck and shoulders, light included, over a window.

    Args:
        outline: (P, 2) of the head, which throws its shadow on the neck.
        middle: x of the neck's axis.
        half: half the neck's width.
        window: of a canvas with this `side`.
    """
    grid = _Grid(window, side, _NECK_CELLS)
    x, _, z = light.direction.tolist()
    across = np.minimum(np.maximum((grid.x - middle) * (1 / (1.25 * half)), -1), 1)
    facing = np.maximum(across * x + np.sqrt(1.1 - across * across) * z, 0)
    # The cylinder of the neck turns over into shoulders, which face the camera.
    upright = np.minimum(np.maximum((0.94 - grid.y[:, None]) * (1 / 0.07), 0), 1)
    facing = z + upright * (facing - z)
    shade = 1 - grid.cover([outline], -0.05 * x, 0.045) * np.float32(0.62 / 255)
    color = (0.95 * traits.skin).astype(np.float32)
    lit = (facing * shade)[..., None] * (color * light.key.astype(np.float32))
    lit += (0.35 + 0.65 * shade)[..., None] * (color * light.ambient.astype(np.float32))
    return np.minimum(lit, 255, out=lit).astype(np.uint8)


def _planes(color: np.ndarray) -> np.ndarray:
    """(3, 1, 1) float32, to be multiplied with planes: numpy is slow on a last axis of three."""
    return color.astype(np.float32)[:, None, None]


def _add_ellipsoid(grid: _Grid, slope_x: np.ndarray, slope_y: np.ndarray, middle: np.ndarray,
                   face_width: float) -> None:
    """Add the slopes of the head's ground shape, in place."""
    x, y = middle.tolist()
    across = (grid.x - x) * (1 / (0.31 * face_width))
    down = (grid.y - y)[:, None] * (1 / 0.47)
    flat = np.maximum((1 - across * across) - down * down, 0.12)
    flat = 1 / np.sqrt(flat, out=flat)
    slope_x -= across * flat
    slope_y -= 0.55 * down * flat


def _light(light: Light, slope_x: np.ndarray, slope_y: np.ndarray, hollow: np.ndarray,
           shadow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Light that falls on the skin (3, rows, columns) and that is mirrored (rows, columns)."""
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


def _shadow_map(grid: _Grid, light: Light, hair: list[np.ndarray]) -> np.ndarray:
    """(rows, columns) fraction of the lamp's light that passes the hair."""
    x, y, z = light.direction.tolist()
    fall = 0.03 / max(z, 0.4)
    return 1 - grid.cover(hair, -fall * x, 0.012 - fall * y) * np.float32(0.55 / 255)


def _albedo(grid: _Grid, traits: Traits, points: np.ndarray, columns: np.ndarray,
            rows: np.ndarray) -> np.ndarray:
    """(3, rows, columns) color of the skin before light: redder cheeks and nose, shaven chin."""
    red, tired = traits.skin * [0.0, -0.13, -0.11], -0.05 * traits.skin
    lid = 0.6 * traits.makeup * (np.array([120.0, 80.0, 110.0]) - traits.skin)
    tints = np.array([red, red, red, red, lid, lid, tired, tired], np.float32)
    color = (tints.T[:, None] * rows.T) @ columns
    color += _planes(traits.skin)
    if traits.beard > 0.2:
        cover = grid.cover([ribbon.outline() for ribbon in beard_ribbons(points, traits)])
        strength = 0.75 if traits.beard > 0.55 else 0.45 * traits.beard
        mix = cover * np.float32(strength / 255)
        color += mix * (_planes(np.minimum(0.8 * traits.hair, 0.8 * traits.skin)) - color)
    return color

"""Every line drawn on the head of a synthetic portrait, placed by one matrix.

A line is a smooth curve through points of the head, shifted by a fixed amount. All of them are
placed and turned into OpenCV's fixed-point coordinates together: one conversion costs as much for
ten points as for a thousand.
"""
from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from data.synthetic.shapes import POINTS, ellipse, spline

SHIFT = 4               # fractional bits of OpenCV's coordinates
_SIDES = (-1.0, 1.0)


class _Contour(NamedTuple):
    """(P, POINTS) weights of the points of the head, then shifts (P, 2).

    brow: shift per unit of Traits.brow_width.
    """

    weights: np.ndarray
    shift: np.ndarray | float = 0.0
    brow: np.ndarray | float = 0.0


class _Plan(NamedTuple):
    matrix: np.ndarray              # (U, POINTS) float32, each row once
    rows: np.ndarray                # (N,) which row of the matrix a drawn point takes
    shift: np.ndarray               # (N, 2) float32
    brow: np.ndarray                # (N, 2) float32
    spans: dict[str, tuple[int, int, int]]      # first, last + 1, number of contours
    parts: dict[str, list[slice]]               # of each contour


class Lines:
    """The lines of one head, `lines["nose"]` and so on, as lists of (P, 2) int32 for OpenCV.

    Where a line has two sides, the left of the image comes first; both run from the outer end
    (eyes, brows) or from the top (ears, nose).

    Args:
        points: (106, 2) placed points of the head in units of the side.
        brow_width: Traits.brow_width.
        side: of the canvas in pixels.

    Attributes:
        places: (N, 2) float32 in units of the side, the same points before rounding.
    """

    def __init__(self, points: np.ndarray, brow_width: float, side: int) -> None:
        self._plan = plan = _plan()
        dense = plan.matrix @ points.astype(np.float32)
        self.places = dense.take(plan.rows, 0) + (plan.shift + np.float32(brow_width) * plan.brow)
        self._fixed = (self.places * ((1 << SHIFT) * side) - 7.5).astype(np.int32)

    def __getitem__(self, name: str) -> list[np.ndarray]:
        fixed = self._fixed
        return [fixed[part] for part in self._plan.parts[name]]

    def placed(self, name: str) -> np.ndarray:
        """(K, P, 2) float32 in units of the side."""
        start, stop, count = self._plan.spans[name]
        return self.places[start:stop].reshape(count, -1, 2)


@lru_cache(maxsize=1)
def _plan() -> _Plan:
    lines = {**_skull_lines(), **_eye_lines(), **_brow_lines(), **_nose_lines(), **_mouth_lines()}
    contours = [contour for line in lines.values() for contour in line]
    weights = np.concatenate([contour.weights for contour in contours]).astype(np.float32)
    matrix, rows = np.unique(weights, axis=0, return_inverse=True)
    shift, brow = (
        np.concatenate([np.broadcast_to(getattr(contour, name), (len(contour.weights), 2))
                        for contour in contours]).astype(np.float32)
        for name in ("shift", "brow"))
    spans, parts, start = {}, {}, 0
    for name, line in lines.items():
        stop = start + sum(len(contour.weights) for contour in line)
        spans[name] = (start, stop, len(line))
        ends = range(start, stop + 1, (stop - start) // len(line))
        parts[name] = [slice(*part) for part in pairwise(ends)]
        start = stop
    return _Plan(matrix, rows.reshape(-1), shift, brow, spans, parts)


def _pick(columns: Iterable[int]) -> np.ndarray:
    return np.eye(POINTS)[list(columns)]


def _smooth(columns: Iterable[int], samples: int, closed: bool = False) -> np.ndarray:
    return spline(_pick(columns), samples, closed)


def _middle(*columns: int) -> np.ndarray:
    return _pick(columns).mean(0, keepdims=True)


def _loop(start: np.ndarray, back: np.ndarray, shift_start=(0, 0), shift_back=(0, 0)) -> _Contour:
    """A closed contour: along one curve, back along another of the same direction."""
    shift = np.concatenate([np.broadcast_to(shift_start, (len(start), 2)),
                            np.broadcast_to(shift_back, (len(back), 2))[::-1]])
    return _Contour(np.concatenate([start, back[::-1]]), shift)


def _round(center: np.ndarray, radius_x: float, radius_y: float, shift=(0, 0)) -> _Contour:
    circle = ellipse(shift, radius_x, radius_y, samples=12)
    return _Contour(center.repeat(12, axis=0), circle)


def _skull_lines() -> dict[str, list[_Contour]]:
    ears = [_smooth(range(88, 97), 30, closed=True), _smooth(range(97, 106), 30, closed=True)]
    lines = {"outline": [_Contour(_smooth(range(68, 88), 96, closed=True))],
             "ears": [_Contour(ear) for ear in ears], "hollows": [], "folds": [], "rims": []}
    for ear, side in zip(ears, _SIDES, strict=True):
        middle = ear.mean(0)
        hollow = middle + 0.66 * (ear - middle)
        shift = np.array([-0.004 * side, -0.006])
        lines["hollows"].append(_Contour(hollow, shift))
        lines["folds"].append(_Contour(hollow[4:22], shift))
        lines["rims"].append(_Contour((middle + 0.88 * (ear - middle))[6:20]))
    return lines


def _eye_lines() -> dict[str, list[_Contour]]:
    lines = {name: [] for name in ("eyes", "lid_shadows", "lids", "creases", "lower_lids",
                                   "lower_rims", "bags", "lashes", "irises", "corners")}
    bend = np.linspace(-1, 1, 15)[:, None] ** 2 * [0, 0.006]
    edge = np.sin(np.linspace(0.12, np.pi - 0.12, 15))[:, None] * [0, 1]
    growth = np.linspace(1.0, 0.25, 9)[:, None]
    for eye, side in (((36, 37, 38, 39, 40, 41), -1), ((45, 44, 43, 42, 47, 46), 1)):
        upper, lower = _smooth(eye[:4], 15), _smooth((*eye[3:], eye[0]), 15)
        lines["eyes"].append(_Contour(np.concatenate([upper, lower])))
        lines["lid_shadows"].append(_loop(upper, upper, (0, -0.01), (0, 0.006)))
        lines["lids"].append(_loop(upper, upper, -0.006 * edge, 0.0035 * edge))
        lines["creases"].append(_Contour(upper, bend - [0, 0.018]))
        lines["lower_lids"].append(_Contour(lower[1:-1]))
        lines["lower_rims"].append(_Contour(lower[1:-1], np.array([0, 0.004])))
        lines["bags"].append(_Contour(lower[2:13], [0, 0.022] - 1.5 * bend[2:13]))
        lean = 0.013 * growth * np.concatenate([side * (growth - 0.4), 0.4 * growth - 1.2], 1)
        # One line: out along each lash and back, on along the edge of the lid.
        out = np.array([[0], [1], [0]])
        lines["lashes"].append(_Contour(upper[[2, 3, 4, 6, 7, 8, 10, 11, 13]].repeat(3, axis=0),
                                        (lean[:, None] * out).reshape(-1, 2)))
        lines["irises"].append(_Contour(_middle(*eye), np.array([0, -0.002])))
        lines["corners"].append(_Contour(lower[:1]))
    return lines


def _brow_lines() -> dict[str, list[_Contour]]:
    lines = {"brows": [], "dark_hairs": [], "brow_hairs": []}
    rng = np.random.default_rng(3)
    along, across = rng.random((2, 40))
    along.sort()
    dense = np.linspace(0, 1, 161)
    thick = np.interp(dense, [0, 0.55, 0.85, 1], [0.25, 0.9, 1.0, 0.75])[:, None] * [0, 0.0105]
    step = (160 * along).astype(int)
    for brow, side in (((17, 18, 19, 20, 21), -1), ((26, 25, 24, 23, 22), 1)):
        middle = _smooth(brow, 161)
        loop = _loop(middle[::10], middle[::10])
        edge = np.concatenate([-thick[::10], thick[::10][::-1]])
        lines["brows"].append(loop._replace(brow=edge))
        lean = np.stack([side * np.ones(40), 0.3 - 1.2 * along], 1)
        lean *= (0.008 + 0.0065 * across)[:, None]
        across_brow = (2 * across[:, None] - 1) * thick[step]
        for k in range(0, 40, 2):           # two hairs, joined at their tips
            roots, tips = [k, k, k + 1, k + 1], np.array([[0], [1], [1], [0]])
            hairs = _Contour(middle[step[roots]], tips * lean[roots], across_brow[roots])
            lines["brow_hairs" if k % 3 else "dark_hairs"].append(hairs)
    return lines


def _nose_lines() -> dict[str, list[_Contour]]:
    base, bridge = _smooth(range(31, 36), 13), _pick((27, 28, 29))
    half = (_pick([35]) - _pick([31])) / 2
    spread = np.array([[0.32], [0.4], [0.75]]) * half
    outline = np.concatenate([bridge - spread, base[:1], base, base[-1:], (bridge + spread)[::-1]])
    shift = np.zeros((len(outline), 2))
    shift[3], shift[-4] = (-0.009, -0.014), (0.009, -0.014)
    edge = spline(np.array([[0.001, -0.034], [0.010, -0.024], [0.011, -0.008], [0.001, 0.002]]), 9)
    lines = {"nose": [_Contour(outline, shift)], "nose_base": [_Contour(base)], "wings": [],
             "nostrils": [], "nose_shine": [_round(_pick([30]), 0.009, 0.006, (0, -0.010))]}
    circle = ellipse(0, 1, 1, samples=12)
    for wing, inner, side in ((31, 32, -1), (35, 34, 1)):
        lines["wings"].append(_Contour(_pick([wing] * 9), edge * [side, 1]))
        center = 0.55 * _pick([inner]) + 0.45 * _pick([wing])
        hole = center + 0.29 * circle[:, :1] * half
        lift = 0.0072 * circle[:, 1] + side * 0.0045 * circle[:, 0] - 0.006
        lines["nostrils"].append(_Contour(hole, lift[:, None] * [0, 1]))
    return lines


def _mouth_lines() -> dict[str, list[_Contour]]:
    top, bottom = _smooth(range(48, 55), 25), _smooth((48, 59, 58, 57, 56, 55, 54), 25)
    inner_top, inner_bottom = _smooth(range(60, 65), 17), _smooth((60, 67, 66, 65, 64), 17)
    roots, ends = inner_bottom[3:14], bottom[np.linspace(4, 20, 11).astype(int)]
    deep = np.random.default_rng(5).uniform(0.4, 0.8, (11, 1))
    creases = np.stack([roots + 0.15 * (ends - roots), roots + deep * (ends - roots)], 1)
    laugh = []
    for wing, corner, side in ((31, 48, -1), (35, 54, 1)):
        shift = np.array([[side * 0.012, -0.010], [side * 0.030, -0.014], [side * 0.024, -0.006]])
        ends = np.concatenate([_pick([wing]), _middle(wing, corner), _pick([corner])])
        laugh.append(_Contour(spline(ends, 9), spline(shift, 9)))
    return {
        "upper_lip": [_loop(top, inner_top)], "lower_lip": [_loop(bottom, inner_bottom)],
        "lip_shadow": [_Contour(bottom[6:19], np.array([0, 0.004]))],
        "lip_creases": [_Contour(crease) for crease in creases],
        "lip_shine": [_round(_middle(57, 66), 0.026, 0.0045, (0, -0.001))],
        "mouth": [_loop(inner_top, inner_bottom)], "mouth_bottom": [_Contour(inner_bottom)],
        "mouth_line": [_Contour(np.concatenate([_pick([48]), inner_top, _pick([54])]))],
        "laugh": laugh,
    }

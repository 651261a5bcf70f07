"""The face of a synthetic portrait: skin, nose, mouth, eyes and brows.

The `tint_` functions collect what multiplies the skin, paint_skin lays it down, the others paint
what is opaque.
"""
from __future__ import annotations

import cv2
import numpy as np

from data.synthetic_canvas import (
    FLIP,
    L_BROW,
    L_EYE,
    L_LIP,
    MOUTH,
    NOSE,
    R_BROW,
    R_EYE,
    SIDES,
    U_LIP,
    Scene,
)
from data.synthetic_hair import Ribbon
from data.synthetic_shapes import brush, ellipse, spline
from data.synthetic_skin import skin_map

# Factors for the skin, redder in deeper hollows.
_NOSTRIL, _WING = np.array([0.34, 0.26, 0.25]), np.array([0.74, 0.68, 0.66])
_CREASE, _SOFT = np.array([0.68, 0.60, 0.58]), np.array([0.86, 0.81, 0.80])
_WING_EDGE = spline(
    np.array([[0.001, -0.034], [0.010, -0.024], [0.011, -0.008], [0.001, 0.002]]) * FLIP, 9)
_BRIDGE = np.array([[0.32, 0], [0.4, 0], [0.75, 0]])
_CREASE_ENDS = np.linspace(4, 20, 11).astype(int)
_LID_RIM = np.sin(np.linspace(0.12, np.pi - 0.12, 15))[:, None] * [0, 1]
_LID_BEND = np.linspace(-1, 1, 15)[:, None] ** 2 * [0, 0.006]
_BROW_PROFILE = np.interp(np.linspace(0, 1, 16), [0, 0.55, 0.85, 1], [0.25, 0.9, 1.0, 0.75])
_LAUGH = np.array([[0.012, -0.010], [0.024, -0.006]]) * FLIP
_FROWN = np.array([[[-0.1, y, 0.02], [0.0, y + 0.008, 0.03], [0.1, y, 0.02]]
                   for y in (0.27, 0.30, 0.33)])
_TEETH = np.array([-0.66, -0.52, -0.36, -0.19, 0.0, 0.19, 0.36, 0.52, 0.66])
_TEETH_EDGE = np.linspace(-0.82, 0.82, 15)
_LASH_GROWTH = np.linspace(1.0, 0.25, 9)[:, None]


def tint_nose(scene: Scene) -> None:
    """Wings, nostrils, lower edge and the light on the tip."""
    canvas, mark, base = scene.canvas, scene.points, scene.curves.nose_base
    wide = float(mark[35, 0] - mark[31, 0]) / 2
    spread = _BRIDGE * wide
    shape = np.concatenate([mark[27:30] - spread, base[:1] - [0.009, 0.014], base,
                            base[-1:] + [0.009, -0.014], (mark[27:30] + spread)[::-1]])
    canvas.mark(canvas.fixed(shape), NOSE)
    wings = mark[[31, 35], None]
    canvas.tint_lines(wings + _WING_EDGE, _WING, 0.008)
    canvas.tint_lines(base, _WING, 0.004)
    hole = 0.55 * mark[[32, 34], None] + 0.45 * wings - [0, 0.006]
    canvas.tint_fill(hole + ellipse(0, 0.30 * wide, 0.0075, turn=0.3) * FLIP, _NOSTRIL)
    x, _, _ = scene.light.direction.tolist()
    shine = ellipse(mark[30] + [0.012 * x, -0.010], 0.009, 0.006, samples=10)
    canvas.tint_fill(shine, np.full(3, 1 + 0.006 * scene.light.gloss))


def tint_lips(scene: Scene) -> None:
    """Colour, creases and shine of the lips."""
    canvas, mark, traits, curves = scene.canvas, scene.points, scene.traits, scene.curves
    top, bottom = curves.upper_lip, curves.lower_lip
    canvas.tint_lines(bottom[6:19] + [0, 0.004], _SOFT, 0.005)
    canvas.tint_fill(np.concatenate([top, curves.mouth_top[::-1]]), 0.86 * traits.lips, U_LIP)
    canvas.tint_fill(np.concatenate([bottom, curves.mouth_bottom[::-1]]), traits.lips, L_LIP)
    roots, ends = curves.mouth_bottom[3:14], bottom[_CREASE_ENDS]
    deep = scene.dice.rng.uniform(0.4, 0.8, (11, 1))
    creases = np.stack([roots + 0.15 * (ends - roots), roots + deep * (ends - roots)], 1)
    canvas.tint_lines(creases, 0.86 * traits.lips)
    x, _, _ = scene.light.direction.tolist()
    lower = (mark[57] + mark[66]) / 2 + [0.006 * x, -0.001]
    shine = ellipse(lower, 0.026, 0.16 * float(mark[57, 1] - mark[66, 1]) + 0.001)
    canvas.tint_fill(shine, traits.lips * (1.08 + 0.004 * scene.light.gloss + 0.25 * traits.makeup))


def tint_eyes(scene: Scene) -> None:
    """Crease of the lid, rim and bag below the eye, ground of the brows."""
    canvas, traits, curves = scene.canvas, scene.traits, scene.curves
    crease = curves.upper_lids - [0, 0.017 * traits.eye_height] + _LID_BEND
    canvas.tint_lines(crease, _CREASE, 0.004)
    lower = curves.lower_lids
    canvas.tint_lines(lower[:, 1:-1] + [0, 0.004], np.array([1.08, 0.96, 0.95]), 0.005)
    bag = lower[:, 2:13] + [0, 0.022] - 1.5 * _LID_BEND[2:13]
    canvas.tint_lines(bag, 1 - (1 - _SOFT) * (0.35 + 0.9 * traits.age), 0.004)
    ground = np.minimum(0.75 * traits.hair / traits.skin, 0.7)
    canvas.tint_fill(_brow_outlines(scene), 1 - 0.62 * (1 - ground), (L_BROW, R_BROW))


def _brow_outlines(scene: Scene) -> np.ndarray:
    """(2, 32, 2): upper edge of the brows from the outer end, then the lower edge back."""
    half = 0.0105 * scene.traits.brow_width * _BROW_PROFILE[:, None] * [0, 1]
    middle = scene.curves.brows
    return np.concatenate([middle - half, (middle + half)[:, ::-1]], 1)


def tint_folds(scene: Scene) -> None:
    """Lines of expression and age, freckles."""
    canvas, mark, traits = scene.canvas, scene.points, scene.traits
    laugh = 0.25 + 0.5 * max(traits.smile, 0) + 0.45 * traits.age
    ends = mark[[[31, 48], [35, 54]]] + _LAUGH
    middle = ends.mean(1, keepdims=True) + SIDES * [0.012, 0] - [0, 0.006]
    curves = spline(np.concatenate([ends[:, :1], middle, ends[:, 1:]], 1), 9)
    canvas.tint_lines(curves, 1 - laugh * (1 - _SOFT), 0.006)
    if traits.age > 0.5 or traits.brow_raise > 0.4:
        lines = spline(scene.pose(_FROWN), 9)
        canvas.tint_lines(lines, 1 - 0.7 * traits.age * (1 - _SOFT), 0.004)
    if traits.freckles:
        spots = np.array([0.0, 0.58, 0.06]) + scene.dice.rng.normal(0, [0.10, 0.035, 0.0], (70, 3))
        dots = scene.pose(spots)[:, None] + ellipse(0, 0.0028, 0.0028, samples=6)
        canvas.tint_fill(dots, np.array([0.82, 0.72, 0.66]))


def paint_skin(scene: Scene, ribbons: list[Ribbon]) -> None:
    """The head: light from the small map times the tint layer."""
    small = skin_map(scene.traits, scene.light, scene.points, ribbons)
    side = (scene.canvas.side, scene.canvas.side)
    skin = cv2.resize(small, side, interpolation=cv2.INTER_CUBIC)
    scene.canvas.lay_skin(skin, scene.curves.outline)


def paint_mouth(scene: Scene) -> None:
    """The line between the lips, or what an open mouth shows."""
    canvas, mark, traits = scene.canvas, scene.points, scene.traits
    top, bottom = scene.curves.mouth_top, scene.curves.mouth_bottom
    lit = np.minimum(0.5 * scene.light.key + 0.8 * scene.light.ambient, 1.0)
    lip = traits.skin * traits.lips * lit
    if traits.mouth_open > 0:
        opening = np.concatenate([top, bottom])
        with canvas.clip(opening):
            _paint_teeth(scene, opening, lit)
        canvas.lines(bottom, 0.6 * lip, 0.002)
    canvas.lines(np.concatenate([mark[48:49], top, mark[54:55]]), 0.3 * lip, 0.004)


def _paint_teeth(scene: Scene, opening: np.ndarray, lit: np.ndarray) -> None:
    canvas, mark, traits = scene.canvas, scene.points, scene.traits
    wide, middle = float(mark[54, 0] - mark[48, 0]) / 2, mark[62]
    canvas.fill(opening, np.array([62.0, 18, 20]), MOUTH)
    canvas.fill(ellipse(mark[66] + [0, 0.004], 0.55 * wide, 0.014), np.array([150.0, 70, 74]))
    enamel = np.array([236.0, 228, 212]) * lit
    x = _TEETH_EDGE
    edge = middle + np.stack([x * wide, 0.024 - (0.012 + 0.024 * traits.smile) * x**2], 1)
    canvas.fill(np.concatenate([opening[:17] - [0, 0.01], edge[::-1]]), enamel)
    low = middle + np.stack([_TEETH * wide, 0.026 - (0.012 + 0.024 * traits.smile) * _TEETH**2], 1)
    canvas.lines(np.stack([low - [0, 0.02], low], 1), 0.66 * enamel, 0.002)
    canvas.lines(edge, 0.6 * enamel, 0.002)
    canvas.glaze(brush(opening[:17], 0.02), 0.55, blur=0.003)


def paint_eyes(scene: Scene) -> None:
    """Eyeballs inside the lids, then edges of the lids and lashes; both eyes in one go."""
    canvas, traits, light = scene.canvas, scene.traits, scene.light
    upper, lower = scene.curves.upper_lids, scene.curves.lower_lids
    opening = np.concatenate([upper, lower], 1)
    lit = np.minimum(0.5 * light.key + 0.75 * light.ambient, 1.1)
    at = scene.points[36:48].reshape(2, 6, 2).mean(1, keepdims=True) + [
        0.013 * traits.gaze[0] + 0.012 * traits.yaw, 0.006 * traits.gaze[1] - 0.002]
    with canvas.clip(opening):
        canvas.fill(opening, np.array([226.0, 218, 212]) * lit, (L_EYE, R_EYE))
        corner = lower[:, :1] + ellipse(0, 0.010, 0.008, samples=10)
        canvas.fill(corner, np.array([206.0, 140, 134]) * lit)
        _paint_irises(scene, at, lit)
        lid_shadow = np.concatenate([upper - [0, 0.01], upper[:, ::-1] + [0, 0.006]], 1)
        canvas.glaze(lid_shadow, 0.5, blur=0.004)
        x, y, _ = light.direction.tolist()
        glint = ellipse([0.010 * x, 0.009 * y], 0.0048, 0.0052, samples=10)
        canvas.fill(at + glint, np.array([252.0, 252, 255]))
    canvas.lines(lower[:, 1:-1], 0.5 * traits.skin * lit * [1, 0.9, 0.88], 0.002)
    lash = np.minimum(0.25 * traits.hair, 0.25 * traits.skin * lit) * (1 - 0.5 * traits.makeup)
    rim = _LID_RIM * (0.0045 + 0.003 * traits.makeup)
    canvas.fill(np.concatenate([upper - rim, upper[:, ::-1] + 0.6 * rim], 1), lash)
    roots = upper[:, [2, 3, 4, 6, 7, 8, 10, 11, 13]]
    lean = np.concatenate([_LASH_GROWTH - 0.4, 0.4 * _LASH_GROWTH - 1.2], 1) * FLIP
    tips = roots + (0.008 + 0.008 * traits.feminine) * _LASH_GROWTH * lean
    canvas.lines(np.stack([roots, tips], 2).reshape(18, 2, 2), lash)


def _paint_irises(scene: Scene, at: np.ndarray, lit: np.ndarray) -> None:
    """Ring, iris, fibres and pupil round the points `at` (2, 1, 2)."""
    canvas, traits = scene.canvas, scene.traits
    radius = 0.0225 * traits.eye_size ** 0.5
    colour, disc = traits.iris * lit, ellipse(0, radius, radius)
    canvas.fill(at + disc, 0.42 * colour)
    canvas.fill(at + 0.86 * disc, colour)
    canvas.fill(at + [0, 0.25 * radius] + 0.58 * disc, 1.3 * colour + 6)
    ray = ellipse(0, radius, radius, samples=16)
    fibres = np.stack([at + 0.42 * ray, at + 0.82 * ray], 2)
    canvas.lines(fibres[:, ::2].reshape(16, 2, 2), 0.7 * colour)
    canvas.lines(fibres[:, 1::2].reshape(16, 2, 2), 1.45 * colour + 10)
    canvas.fill(at + 0.40 * disc, np.array([10.0, 8, 8]))


def paint_brows(scene: Scene) -> None:
    """Hairs of the brows; their ground is in the tint layer already."""
    canvas, traits = scene.canvas, scene.traits
    outlines = _brow_outlines(scene)
    upper, lower = outlines[:, :16], outlines[:, :15:-1]
    lit = 0.6 * scene.light.key + 0.6 * scene.light.ambient
    colour = np.minimum(0.7 * traits.hair, 0.55 * traits.skin) * lit
    along, across = scene.dice.rng.random((2, 40))
    step = (along * 16).astype(int)
    roots = upper[:, step]
    roots = roots + across[:, None] * (lower[:, step] - roots)
    lean = np.stack([0 * along + 1, 0.3 - 1.2 * along], 1) * FLIP
    lean *= (0.008 + 0.0065 * across)[:, None]
    hairs = np.stack([roots, roots + lean], 2)
    canvas.lines(hairs[:, :26].reshape(-1, 2, 2), colour, smooth=False)
    canvas.lines(hairs[:, 26:].reshape(-1, 2, 2), 0.65 * colour, smooth=False)

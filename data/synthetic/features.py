"""The face of a synthetic portrait: skin, nose, mouth, eyes and brows.

tint_face collects what multiplies the skin, paint_skin lays it down, the others paint what is
opaque.
"""
from __future__ import annotations

import numpy as np

from data.synthetic.canvas import (
    L_BROW,
    L_EYE,
    L_LIP,
    MOUTH,
    NOSE,
    R_BROW,
    R_EYE,
    SKIN,
    U_LIP,
    Scene,
)
from data.synthetic.shapes import ellipse, spline
from data.synthetic.skin import skin_map

# Factors for the skin, redder in deeper hollows.
_NOSTRIL, _WING = np.array([0.34, 0.26, 0.25]), np.array([0.74, 0.68, 0.66])
_CREASE, _SOFT = np.array([0.68, 0.60, 0.58]), np.array([0.86, 0.81, 0.80])
_RIM, _FRECKLE = np.array([1.08, 0.96, 0.95]), np.array([0.82, 0.72, 0.66])
_FROWN = np.array([[[-0.1, y, 0.02], [0.0, y + 0.008, 0.03], [0.1, y, 0.02]]
                   for y in (0.27, 0.30, 0.33)])
# Colors in white light.
_EYEBALL, _EYE_CORNER = np.array([226.0, 218, 212]), np.array([206.0, 140, 134])
_PUPIL, _GLINT = np.array([10.0, 8, 8]), np.array([252.0, 252, 255])
_THROAT, _TONGUE = np.array([62.0, 18, 20]), np.array([150.0, 70, 74])
_ENAMEL = np.array([236.0, 228, 212])
_TEETH = np.array([-0.66, -0.52, -0.36, -0.19, 0.0, 0.19, 0.36, 0.52, 0.66])
_TEETH_EDGE = np.linspace(-0.82, 0.82, 15)
# Fibers of the iris: two stars.
_FIBERS = ellipse(0, 1, 1, samples=16)[:, None] * [[0.42], [0.82]]
_FIBERS = np.stack([_FIBERS[::2], _FIBERS[1::2]]).reshape(2, 1, 16, 2)


def tint_face(scene: Scene) -> None:
    """Everything on the face that is skin of another color, with its labels."""
    canvas, traits, lines = scene.canvas, scene.traits, scene.lines
    canvas.mark(lines["outline"], SKIN)
    canvas.mark(lines["nose"], NOSE)
    canvas.tint_lines(lines["wings"], _WING, 0.008)
    canvas.tint_lines(lines["nose_base"], _WING, 0.004)
    canvas.tint_fill(lines["nostrils"], _NOSTRIL)
    canvas.tint_fill(lines["nose_shine"], (1 + 0.006 * scene.light.gloss) * np.ones(3))
    laugh = 0.25 + 0.5 * max(traits.smile, 0) + 0.45 * traits.age
    canvas.tint_lines(lines["laugh"], 1 - laugh * (1 - _SOFT), 0.006)
    canvas.tint_lines(lines["lip_shadow"], _SOFT, 0.005)
    canvas.tint_fill(lines["upper_lip"], 0.86 * traits.lips, U_LIP)
    canvas.tint_fill(lines["lower_lip"], traits.lips, L_LIP)
    canvas.tint_lines(lines["lip_creases"], 0.86 * traits.lips)
    shine = 1.08 + 0.004 * scene.light.gloss + 0.25 * traits.makeup
    canvas.tint_fill(lines["lip_shine"], shine * traits.lips)
    canvas.tint_lines(lines["creases"], _CREASE, 0.004)
    canvas.tint_lines(lines["lower_rims"], _RIM, 0.005)
    canvas.tint_lines(lines["bags"], 1 - (0.35 + 0.9 * traits.age) * (1 - _SOFT), 0.004)
    ground = np.minimum(0.75 * traits.hair / traits.skin, 0.7)
    canvas.tint_fill(lines["brows"], 0.38 + 0.62 * ground, (L_BROW, R_BROW))
    if traits.age > 0.5 or traits.brow_raise > 0.4:
        frown = spline(scene.pose(_FROWN), 9)
        canvas.tint_lines(frown, 1 - 0.7 * traits.age * (1 - _SOFT), 0.004)
    if traits.freckles:
        spots = np.array([0.0, 0.58, 0.06]) + scene.dice.rng.normal(0, [0.10, 0.035, 0.0], (70, 3))
        dots = scene.pose(spots)[:, None] + ellipse(0, 0.0028, 0.0028, samples=6)
        canvas.tint_fill(dots, _FRECKLE)


def paint_skin(scene: Scene, hair: list[np.ndarray]) -> None:
    """The head: light from the small map times the tint layer."""
    canvas, outline = scene.canvas, scene.lines["outline"]
    window = canvas.window(outline, 0)
    small = skin_map(scene.traits, scene.light, scene.points, hair, window, canvas.side)
    canvas.lay_skin(small, outline, window)


def paint_mouth(scene: Scene) -> None:
    """The line between the lips, or what an open mouth shows."""
    canvas, traits, lines = scene.canvas, scene.traits, scene.lines
    lit = np.minimum(0.5 * scene.light.key + 0.8 * scene.light.ambient, 1.0)
    lip = traits.skin * traits.lips * lit
    if traits.mouth_open > 0:
        with canvas.clip(lines["mouth"]):
            canvas.fill(lines["mouth"], _THROAT, MOUTH)
            _paint_teeth(scene, _ENAMEL * lit)
        canvas.lines(lines["mouth_bottom"], 0.6 * lip, 0.002)
    canvas.lines(lines["mouth_line"], 0.3 * lip, 0.004)


def _paint_teeth(scene: Scene, enamel: np.ndarray) -> None:
    """Tongue and the upper row of teeth; what leaves the mouth is clipped by the caller."""
    canvas, mark = scene.canvas, scene.points
    wide, middle = float(mark[54, 0] - mark[48, 0]) / 2, mark[62]
    canvas.fill(ellipse(mark[66] + [0, 0.004], 0.55 * wide, 0.014), _TONGUE)
    bow = 0.012 + 0.024 * scene.traits.smile
    edge = middle + np.stack([_TEETH_EDGE * wide, 0.024 - bow * _TEETH_EDGE**2], 1)
    top = scene.lines.placed("mouth")[0, :17]
    canvas.fill(np.concatenate([top - [0, 0.01], edge[::-1]]), enamel)
    low = middle + np.stack([_TEETH * wide, 0.026 - bow * _TEETH**2], 1)
    canvas.lines(np.stack([low - [0, 0.02], low], 1), 0.66 * enamel)
    canvas.lines(edge, 0.6 * enamel, 0.002)
    canvas.glaze(np.concatenate([top - [0, 0.01], top[::-1] + [0, 0.005]]), 0.55, blur=0.003)


def paint_eyes(scene: Scene) -> None:
    """Eyeballs inside the lids, then edges of the lids and lashes."""
    canvas, traits, light, lines = scene.canvas, scene.traits, scene.light, scene.lines
    lit = np.minimum(0.5 * light.key + 0.75 * light.ambient, 1.1)
    gaze = (0.013 * traits.gaze[0] + 0.012 * traits.yaw, 0.006 * traits.gaze[1])
    with canvas.clip(lines["eyes"]):
        canvas.fill(lines["eyes"], _EYEBALL * lit, (L_EYE, R_EYE), smooth=False)
        canvas.discs(lines["corners"], 0.009, _EYE_CORNER * lit)
        _paint_irises(scene, gaze, traits.iris * lit)
        canvas.glaze(lines["lid_shadows"], 0.5, blur=0.004)
        x, y, _ = light.direction.tolist()
        canvas.discs(lines["irises"], 0.005, _GLINT, (gaze[0] + 0.010 * x, gaze[1] + 0.009 * y))
    lid = traits.skin * lit
    canvas.lines(lines["lower_lids"], 0.45 * lid)
    lash = np.minimum(0.25 * traits.hair, 0.25 * lid) * (1 - 0.5 * traits.makeup)
    canvas.fill(lines["lids"], lash)
    canvas.hairs(lines["lashes"], lash.tolist())


def _paint_irises(scene: Scene, gaze: tuple[float, float], color: np.ndarray) -> None:
    """Ring, iris, lighter lower half, fibers and pupil."""
    canvas, at = scene.canvas, scene.lines["irises"]
    radius = 0.0225 * scene.traits.eye_size ** 0.5
    canvas.discs(at, radius, 0.42 * color, gaze)
    canvas.discs(at, 0.86 * radius, color, gaze)
    canvas.discs(at, 0.58 * radius, 1.3 * color + 6, (gaze[0], gaze[1] + 0.25 * radius))
    stars = scene.lines.placed("irises") + (gaze + radius * _FIBERS)
    fibers = canvas.fixed(stars.reshape(4, 16, 2))
    canvas.hairs(fibers[:2], (0.7 * color).tolist())
    canvas.hairs(fibers[2:], (1.55 * color).tolist())
    canvas.discs(at, 0.40 * radius, _PUPIL, gaze)


def paint_brows(scene: Scene) -> None:
    """Hairs of the brows; their ground is in the tint layer already."""
    canvas, traits = scene.canvas, scene.traits
    lit = 0.6 * scene.light.key + 0.6 * scene.light.ambient
    color = np.minimum(0.7 * traits.hair, 0.55 * traits.skin) * lit
    canvas.hairs(scene.lines["dark_hairs"], (0.65 * color).tolist())
    canvas.hairs(scene.lines["brow_hairs"], color.tolist())

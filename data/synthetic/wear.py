"""Neck, ears and all that people wear in a synthetic portrait."""
from __future__ import annotations

import numpy as np

from data.synthetic.canvas import (
    CLOTH,
    EAR_RING,
    EYE_G,
    FLIP,
    HAT,
    L_EAR,
    L_EYE,
    NECK,
    NECK_L,
    R_BROW,
    R_EAR,
    SIDES,
    Scene,
)
from data.synthetic.shapes import Pose, ellipse, mirrored, spline
from data.synthetic.skin import neck_map
from data.synthetic.traits import Dice, Traits, any_color

_EAR_RED, _HOLLOW = np.array([1.0, 0.9, 0.88]), np.array([0.74, 0.66, 0.64])
_STRIPE = np.stack([np.linspace(-0.1, 1.1, 9), 0.12 * np.linspace(-0.6, 0.6, 9) ** 2], 1)
_STITCHES = np.stack([np.arange(70) * 0.015, 0.006 * (np.arange(70) % 2)], 1)
_BONES = np.array([[0.17, 0.970], [0.1, 0.985], [0.02, 1.0]]) * FLIP
# Height of the collar at the side of the neck and in front.
_COLLARS = {"high": (0.86, 0.90), "crew": (0.905, 0.985), "shirt": (0.895, 1.04),
            "vee": (0.91, 1.1)}


def paint_body(scene: Scene) -> None:
    """Neck, shoulders, clothes and necklace."""
    canvas, traits, dice = scene.canvas, scene.traits, scene.dice
    x, _ = scene.pose(np.array([0.0, 0.75, -0.1])).tolist()
    middle = 0.6 * x + 0.2
    drop, lean = dice.bell(0.04) - 0.02, dice.bell(0.05)
    half = 0.165 * traits.neck_width * traits.face_width
    # Shoulders are drawn where they are bare.
    shoulder = ([[0.34, 0.965 + drop], [0.56, 1.04 + drop], [0.56, 1.3]]
                if traits.collar == "bare" else [[half + 0.05, 0.93 + drop], [half + 0.05, 1.3]])
    neck = np.array([[half * 0.97, 0.70], [half * 0.97, 0.86 + drop / 2],
                     [half + 0.02, 0.915 + drop], *shoulder])
    neck = canvas.fixed(_lean(np.concatenate([neck * [-1, 1], neck[::-1]]), lean, middle))
    window = canvas.window(neck, 0)
    head = scene.lines.placed("outline")[0]
    canvas.paste(neck, neck_map(traits, scene.light, head, middle, half, window, canvas.side),
                 window)
    canvas.mark(neck, NECK)
    bones = _lean(_BONES, lean, middle, drop)
    lit = 0.4 * scene.light.key + 0.7 * scene.light.ambient
    canvas.lines(bones, 0.72 * traits.skin * lit, 0.004)
    if traits.collar != "bare":
        _paint_cloth(scene, middle, half, drop, lean)
    if traits.necklace:
        _paint_necklace(scene, middle, half, drop)


def _lean(points: np.ndarray, lean: float, middle: float, drop: float = 0.0) -> np.ndarray:
    """Points of the body, x from its axis, put in place with one shoulder lower."""
    return points @ np.array([[1.0, lean], [0.0, 1.0]]) + [middle, drop]


def _paint_cloth(scene: Scene, middle: float, half: float, drop: float, lean: float) -> None:
    canvas, dice, traits = scene.canvas, scene.dice, scene.traits
    color = any_color(dice) * (0.7 + 0.3 * scene.light.key)
    edge, low = _COLLARS[traits.collar]
    side = np.array([[half + 0.004, edge], [half + 0.05, 0.925], [0.36, 0.96], [0.57, 1.035],
                     [0.57, 1.3]])
    front = np.array([[half + 0.004, edge], [half * 0.7, edge + 0.6 * (low - edge)], [0.0, low],
                      [-half * 0.7, edge + 0.6 * (low - edge)], [-half - 0.004, edge]])
    cloth = np.concatenate([side, side[::-1] * [-1, 1], spline(front[::-1], 16)])
    cloth = _lean(cloth, lean, middle, drop)
    opening = cloth[10:]
    with canvas.clip(cloth):
        canvas.fill(cloth, color, CLOTH, smooth=False)
        _paint_pattern(scene, any_color(dice), float(cloth[:, 1].min()))
        x, bow = dice.uniform(), dice.bell(0.2)
        fold = spline(np.array([[x, 0.9], [x + bow, 0.96], [x + 2 * bow, 1.04]]), 7)
        canvas.lines(fold, 0.78 * color, 0.006)
    canvas.lines(opening, 0.62 * color, 0.006, CLOTH)
    canvas.lines(opening + [0, 0.009], 1.15 * color, 0.003)
    if traits.collar == "shirt":
        flap = np.array([[half, 0.875], [half + 0.03, 0.93], [half * 0.75, 1.02], [0.01, 0.99]])
        flaps = (flap + [0, drop]) * FLIP + [middle, 0]
        canvas.fill(flaps, 1.12 * color, CLOTH)
        canvas.lines(flaps, 0.6 * color, 0.003, closed=True)


def _paint_pattern(scene: Scene, color: np.ndarray, top: float) -> None:
    """Stripes, knitting, dots or nothing from the height `top` to the lower edge."""
    canvas, dice = scene.canvas, scene.dice
    kind, step = dice.pick({"plain": 4, "stripes": 2, "knit": 2, "dots": 1}), dice.uniform()
    if kind == "stripes":
        step = 0.012 + 0.023 * step
        rows = np.arange(top + 0.004, 1.02, step)[:, None, None] * [0, 1]
        canvas.lines(rows + _STRIPE, color, 0.35 * step, smooth=False)
    elif kind == "knit":
        rows = np.arange(top + 0.004, 1.0, 0.015)[:, None, None] * [0, 1]
        canvas.lines(rows + _STITCHES, 0.5 * color, smooth=False)
    elif kind == "dots":
        step = 0.02 + 0.015 * step
        x, y = np.meshgrid(np.arange(0, 1, 2 * step), np.arange(top + 0.01, 1, step))
        x = x + step * (np.arange(len(x)) % 2)[:, None]
        centers = np.stack([x, y], -1).reshape(-1, 1, 2)
        dot = ellipse(0, 0.25 * step, 0.25 * step, samples=6)
        canvas.fill(centers + dot, color, smooth=False)


def _paint_necklace(scene: Scene, middle: float, half: float, drop: float) -> None:
    canvas, dice = scene.canvas, scene.dice
    low = dice.uniform(0.955, 1.03)
    x = np.linspace(-1, 1, 25)
    curve = np.stack([middle + half * 1.04 * x, low + drop - (low - 0.90) * np.abs(x) ** 2.2], 1)
    if scene.traits.necklace == "chain":
        metal = _metal(dice)
        canvas.lines(curve + [0, 0.003], 0.45 * metal, 0.006, NECK_L)
        canvas.lines(curve, metal, 0.003)
        canvas.fill(ellipse(curve[12] + [0, 0.012], 0.008, 0.012), metal, NECK_L)
    else:
        bead = any_color(dice, 60, 245)
        canvas.fill(curve[:, None] + ellipse(0, 0.0105, 0.0105, samples=10), 0.75 * bead, NECK_L)
        canvas.fill(curve[:, None] + ellipse(-0.003, 0.004, 0.004, samples=6), 1.3 * bead)


def _metal(dice: Dice) -> np.ndarray:
    return np.array([218.0, 180, 98]) if dice.chance(0.5) else np.array([208.0, 210, 216])


def paint_ears(scene: Scene) -> None:
    """Both ears and what hangs on them; the head will hide what lies behind it."""
    canvas, light, lines = scene.canvas, scene.light, scene.lines
    color = scene.traits.skin * _EAR_RED * (0.45 * light.key + 0.9 * light.ambient)
    canvas.fill(lines["ears"], color, (L_EAR, R_EAR), smooth=False)
    canvas.fill(lines["hollows"], _HOLLOW * color)
    canvas.lines(lines["folds"], 0.56 * color)
    canvas.lines(lines["rims"], 1.12 * color)
    if scene.traits.earring:
        _paint_earrings(scene, lines.placed("ears"))


def _paint_earrings(scene: Scene, outlines: np.ndarray) -> None:
    canvas, dice = scene.canvas, scene.dice
    lowest = outlines[:, :, 1].argmax(1)
    lobe = outlines[[0, 1], lowest][:, None] + SIDES * [0.006, 0] - [0, 0.010]
    metal = _metal(dice)
    if scene.traits.earring == "hoop":
        ring = lobe + ellipse([0, 0.028], 0.018, 0.028)
        canvas.lines(ring, 0.7 * metal, 0.009, EAR_RING, closed=True)
        canvas.lines(ring[:, 12:20], 1.2 * metal, 0.004)
        return
    if scene.traits.earring == "drop":
        stone = any_color(dice, 40, 240)
        canvas.lines(lobe + np.array([[0, 0], [0, 0.05]]), metal, 0.004, EAR_RING)
        canvas.fill(lobe + ellipse([0, 0.055], 0.012, 0.022), stone, EAR_RING)
        canvas.fill(lobe + ellipse([-0.003, 0.048], 0.004, 0.006, samples=8), 1.6 * stone + 40)
    canvas.fill(lobe + ellipse(0, 0.009, 0.009, samples=12), metal, EAR_RING)
    canvas.fill(lobe + ellipse(-0.002, 0.003, 0.003, samples=8), 1.3 * metal)


def _lenses(traits: Traits, pose: Pose, width: float, height: float, power: float) -> np.ndarray:
    """(2, 32, 2) closed outlines of the glasses; each starts at the nose, mirroring the other."""
    flat = ellipse([-0.123 - traits.spacing, 0.482], width, height, power=power, samples=32)
    left = np.concatenate([flat, np.full((32, 1), 0.06)], axis=1)
    return pose(np.stack([left, mirrored(left)]))


def _hat_outlines(traits: Traits, pose: Pose) -> dict[str, np.ndarray]:
    """Closed outlines "dome", "band" and, for a cap or a brimmed hat, "brim"."""
    low = np.array([[-0.288, 0.315, -0.09], [-0.2, 0.272, -0.01], [0.0, 0.25, 0.05],
                    [0.2, 0.272, -0.01], [0.288, 0.315, -0.09]])
    tall = {"beanie": 0.0, "cap": 0.03, "brim": -0.02}[traits.hat]
    top = np.array([[0.305, 0.20, -0.1], [0.265, 0.05 + tall, -0.1], [0.14, -0.05 + tall, -0.1],
                    [0.0, -0.075 + tall, -0.1]])
    scale = [traits.face_width * (1.0 + traits.volume), 1, 1]
    low, top = low * scale, np.concatenate([top, mirrored(top[:-1])[::-1]]) * scale
    rim = spline(low, 24)
    arch = spline(np.concatenate([low[-1:], top, low[:1]]), 40)
    outlines = {"dome": pose(np.concatenate([rim, arch])),
                "band": pose(np.concatenate([rim, rim[::-1] - [0, 0.055, 0]]))}
    if traits.hat == "cap":
        edge = np.array([[0.235, 0.298, 0.02], [0.16, 0.325, 0.15], [0.0, 0.335, 0.19]])
        edge = spline(np.concatenate([edge, mirrored(edge[:-1])[::-1]]), 24)
        outlines["brim"] = pose(np.concatenate([rim[3:21], edge]))
    if traits.hat == "brim":
        angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        x, y = np.cos(angle), np.sin(angle)
        ring = np.stack([0.47 * x, 0.235 + 0.07 * y, 0.3 * y], 1)
        outlines["brim"] = pose(ring)
    return outlines


def paint_glasses(scene: Scene) -> None:
    """Spectacles; clear glass keeps the labels of eyes and brows, dark glass hides them."""
    canvas, traits, dice = scene.canvas, scene.traits, scene.dice
    if not traits.glasses:
        return
    dark = traits.glasses == "dark"
    glass = _lenses(traits, scene.pose, dice.uniform(0.076, 0.092), dice.uniform(0.048, 0.066),
                   dice.uniform(0.45, 1.0))
    frame = any_color(dice, 10, 200) * (0.3 if dice.chance(0.6) else 0.9)
    thick = dice.uniform(0.005, 0.014)
    below = canvas.labels.copy()
    canvas.mark(glass, EYE_G)
    if not dark:
        seen = (below >= L_EYE) & (below <= R_BROW)
        canvas.labels[seen] = below[seen]
    else:
        canvas.glaze(glass, dice.uniform(0.12, 0.3))
    middle = glass.mean(1, keepdims=True)
    glint = middle + 0.75 * (glass[:, [18, 22, 2, 30]] - middle) * [0.7, 1]
    canvas.glaze(glint, 1.9 if dark else 1.15, blur=0.006)
    hinge = scene.pose(np.array([[-0.275 * traits.face_width, 0.465, -0.1],
                                 [0.275 * traits.face_width, 0.465, -0.1]]))
    canvas.lines(np.stack([glass[:, 16], hinge], 1), 0.8 * frame, thick, EYE_G)
    canvas.glaze(np.concatenate([glass, glass[:, ::-1] + [0, 0.008]], 1), 0.75, blur=0.003)
    canvas.lines(glass, frame, thick, EYE_G, closed=True)
    canvas.lines(glass[:, 17:28] - [0, 0.2 * thick], 1.35 * frame + 25, 0.25 * thick)
    left, right = glass[0, 0], glass[1, 0]
    bridge = np.stack([left, (left + right) / 2 - [0, 0.012], right])
    canvas.lines(spline(bridge, 9), frame, thick, EYE_G)


def paint_hat(scene: Scene) -> None:
    """A woolen hat, a cap or a brimmed hat, over the hair."""
    canvas, traits, dice = scene.canvas, scene.traits, scene.dice
    if not traits.hat:
        return
    color, accent = any_color(dice, 25, 225), any_color(dice, 20, 235)
    shapes = _hat_outlines(traits, scene.pose)
    dome, band = shapes["dome"], shapes["band"]
    if traits.hat == "brim":
        canvas.fill(shapes["brim"], 0.8 * color, HAT)
    with canvas.clip(dome):
        canvas.fill(dome, 0.8 * color, HAT, smooth=False)
        middle = dome.mean(0)
        bright = middle + 0.72 * (dome - middle) + [0.10, 0.06] * scene.light.direction[:2]
        canvas.glaze(bright, 1.35, blur=0.05)
        if traits.hat == "beanie":
            base = spline(band[:24], 30)
            top = middle + (base - middle) * [0.7, 0] - [0, 0.25]
            canvas.lines(np.stack([base, top], 1), 0.55 * color, 0.006)
        else:
            crown = dome[24:].mean(0) - [0, 0.1]
            base = band[[4, 9, 15, 20]]
            top = np.broadcast_to(crown, base.shape)
            seams = np.stack([top, (top + base) / 2 - [0, 0.02], base], 1)
            canvas.lines(spline(seams, 9), 0.55 * color, 0.003)
    canvas.fill(band, accent if traits.hat == "brim" else 0.85 * color, HAT)
    if traits.hat == "beanie":
        canvas.lines(np.stack([band[:24], band[24:][::-1]], 1), 0.5 * color, 0.006)
    if traits.hat == "cap":
        canvas.fill(shapes["brim"], 0.72 * accent, HAT)
        canvas.lines(shapes["brim"][19:-1], 1.25 * accent, 0.003)
    canvas.lines(band[:24], 0.45 * color, 0.004)

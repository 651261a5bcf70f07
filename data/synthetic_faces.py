"""Synthetic portraits: a picture, its parsing map and its landmarks, drawn from a number alone.

The data set that needs no download. `render_face(index)` paints one stylised but detailed portrait
with OpenCV; picture, labels and landmarks come from the same outlines, so they agree by construction.
Smooth light comes from data.synthetic_skin; what is sharp is drawn here at twice the final size or
more and averaged down.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from data.synthetic_shapes import (
    Curves,
    Pose,
    Ribbon,
    beard_ribbons,
    brush,
    ellipse,
    five_points,
    hair_ribbons,
    hat_outlines,
    head_curves,
    head_points,
    lenses,
    spline,
)
from data.synthetic_skin import neck_map, skin_map
from data.synthetic_traits import Dice, Light, Traits, any_colour, draw_light, draw_traits

MIN_SIZE = 16
# CelebAMask-HQ order. l_ is the left of the picture here: the project's five points and component
# boxes count from the left of the picture too.
LABELS = (
    "background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear",
    "mouth", "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
)
(BACKGROUND, SKIN, NOSE, EYE_G, L_EYE, R_EYE, L_BROW, R_BROW, L_EAR, R_EAR, MOUTH, U_LIP, L_LIP,
 HAIR, HAT, EAR_RING, NECK_L, NECK, CLOTH) = range(19)

_SHIFT = 4                                   # fractional bits of OpenCV's coordinates
_SIDES = np.array([-1.0, 1.0])[:, None, None]         # left and right, to go with (2, P, 2)
_FLIP = np.array([[[-1.0, 1.0]], [[1.0, 1.0]]])      # turns a right-hand shape into both sides
_ONE = 128                                   # this grey in the tint layer leaves the skin as it is


class Face(NamedTuple):
    """One synthetic portrait.

    image: (size, size, 3) uint8 RGB.
    labels: (size, size) uint8, an index into LABELS per pixel; l_ and r_ are sides of the picture.
    landmarks68: (68, 2) float32 x y in pixels, iBUG order; whole numbers are pixel centres.
    landmarks5: (5, 2) float32 x y; left eye, right eye, nose tip, left and right mouth corner,
        sides of the picture.
    """

    image: np.ndarray
    labels: np.ndarray
    landmarks68: np.ndarray
    landmarks5: np.ndarray


class Canvas:
    """A picture and its label map that are drawn together; points are in units of the side.

    `tint` is a second layer for the skin: soft strokes that will multiply it, 128 being one.
    """

    def __init__(self, side: int) -> None:
        self.side = side
        self.image = np.empty((side, side, 3), np.uint8)
        self.labels = np.zeros((side, side), np.uint8)
        self.tint = _pores(side).copy()

    def fixed(self, points: np.ndarray) -> list[np.ndarray]:
        """OpenCV's fixed-point coordinates of one curve (P, 2) or several (K, P, 2)."""
        points = (points * (16 * self.side) - 7.5).astype(np.int32, order="C")
        return [points] if points.ndim == 2 else list(points)

    def width(self, width: float) -> int:
        return max(1, round(width * self.side))

    def mark(self, outlines: np.ndarray, label: int | tuple[int, int]) -> None:
        """Write a label inside closed outlines; a pair of labels goes with a pair of outlines."""
        labels = label if isinstance(label, tuple) else (label,)
        fixed = self.fixed(outlines)
        for value, group in zip(labels, fixed if len(labels) > 1 else [fixed], strict=True):
            cv2.fillPoly(self.labels, group if len(labels) == 1 else [group], value, 8, _SHIFT)

    def fill(self, outlines: np.ndarray, colour: np.ndarray, label: int | None = None) -> None:
        """Fill closed outlines with one colour."""
        fixed = self.fixed(outlines)
        cv2.fillPoly(self.image, fixed, colour.tolist(), cv2.LINE_AA, _SHIFT)
        if label is not None:
            cv2.fillPoly(self.labels, fixed, label, cv2.LINE_8, _SHIFT)

    def lines(self, curves: np.ndarray, colour: np.ndarray, width: float = 0.0,
              label: int | None = None, smooth: bool = True, closed: bool = False) -> None:
        """Draw curves; `smooth` is slower and worth it where few lines stand alone."""
        fixed, thickness = self.fixed(curves), self.width(width)
        kind = cv2.LINE_AA if smooth else cv2.LINE_8
        cv2.polylines(self.image, fixed, closed, colour.tolist(), thickness, kind, _SHIFT)
        if label is not None:
            cv2.polylines(self.labels, fixed, closed, label, thickness, cv2.LINE_8, _SHIFT)

    def tint_fill(self, outlines: np.ndarray, factor: np.ndarray) -> None:
        """Multiply the skin by `factor` (3,) inside closed outlines; the later one wins."""
        cv2.fillPoly(self.tint, self.fixed(outlines), (_ONE * factor).tolist(), cv2.LINE_8, _SHIFT)

    def tint_lines(self, curves: np.ndarray, factor: np.ndarray, width: float = 0.0) -> None:
        """Multiply the skin by `factor` (3,) along curves; the later one wins."""
        cv2.polylines(self.tint, self.fixed(curves), False, (_ONE * factor).tolist(),
                      self.width(width), cv2.LINE_8, _SHIFT)

    def strands(self, pieces: np.ndarray, shades: np.ndarray, palette: np.ndarray) -> None:
        """Draw thin strands (S, P, 2), each in the colour palette[shades[i]].

        A strand is 1/256 of the side wide. Where the canvas can show it, it is a pair of hairs.
        """
        if self.side >= 512:
            along = pieces[:, -1] - pieces[:, 0]
            normal = along[:, ::-1] * [-1, 1] / (np.hypot(*along.T)[:, None] + 1e-9)
            apart = normal[:, None] * np.linspace(0.3, 1.5, pieces.shape[1])[:, None] / 1024
            pieces = np.concatenate([pieces - apart, pieces + apart])
            shades = np.concatenate([shades, np.maximum(shades - 1, 0)])
        order = np.argsort(shades, kind="stable")
        fixed, thickness = self.fixed(pieces[order]), self.width(0.9 / 512)
        ends = np.searchsorted(shades[order], np.arange(len(palette)), side="right").tolist()
        for start, end, colour in zip([0, *ends], ends, palette.tolist(), strict=False):
            if end > start:
                cv2.polylines(self.image, fixed[start:end], False, colour, thickness, 8, _SHIFT)

    def paste(self, outline: np.ndarray, source: np.ndarray, label: int, top: int = 0) -> None:
        """Copy `source`, rows `top` and on of a canvas-sized picture, inside a closed outline."""
        fixed = self.fixed(outline)
        mask = np.zeros_like(self.labels)
        cv2.fillPoly(mask, fixed, 255, cv2.LINE_8, _SHIFT)
        cv2.copyTo(source, mask[top:], self.image[top:])
        cv2.fillPoly(self.labels, fixed, label, cv2.LINE_8, _SHIFT)

    def window(self, points: np.ndarray, margin: float = 0.01) -> tuple[slice, slice]:
        """Rows and columns of the smallest part that holds the points, never empty."""
        sides, points = [], points.reshape(-1, 2)
        for low, high in zip(points.min(0).tolist(), points.max(0).tolist(), strict=True):
            start = min(max(int((low - margin) * self.side), 0), self.side - 1)
            stop = min(max(int((high + margin) * self.side) + 1, start + 1), self.side)
            sides.append(slice(start, stop))
        return sides[1], sides[0]

    def cover(self, outlines: np.ndarray, window: tuple[slice, slice], ground: int,
              value: int) -> np.ndarray:
        """(h, w) uint8: `value` inside closed outlines and `ground` outside, within the window."""
        rows, columns = window
        mask = np.full((rows.stop - rows.start, columns.stop - columns.start), ground, np.uint8)
        points = outlines - np.array([columns.start, rows.start]) / self.side
        cv2.fillPoly(mask, self.fixed(points), value, cv2.LINE_8, _SHIFT)
        return mask

    @contextmanager
    def clip(self, outlines: np.ndarray) -> Iterator[None]:
        """Keep what is drawn inside the block only where it lies inside closed outlines."""
        window = self.window(outlines, 0.02)
        below = self.image[window].copy()
        yield
        cv2.copyTo(below, self.cover(outlines, window, 255, 0), self.image[window])

    def glaze(self, outlines: np.ndarray, factor: float, blur: float = 0.0) -> None:
        """Multiply what lies inside closed outlines by `factor`, below 2."""
        window = self.window(outlines, 2 * blur)
        mask = self.cover(outlines, window, _ONE, int(_ONE * factor))
        if blur:
            side = 2 * round(blur * self.side) + 1
            mask = cv2.blur(mask, (side, side))
        mask = cv2.cvtColor(mask, cv2.COLOR_GRAY2RGB)
        self.image[window] = cv2.multiply(self.image[window], mask, scale=1 / _ONE)


class Scene(NamedTuple):
    """One person in place: everything the painting functions share."""

    canvas: Canvas
    dice: Dice
    traits: Traits
    light: Light
    pose: Pose
    marks: np.ndarray          # (68, 2) landmarks in units of the side
    curves: Curves


def render_face(index: int, *, size: int = 128, seed: int = 0) -> Face:
    """Paint portrait number `index` of the collection `seed`.

    A pure function: the same bits on every call and in every process; no global generator is read.
    Another size gives the same picture resampled, up to the sensor's noise.

    Args:
        index: number of the person, at least 0.
        size: side of the picture in pixels, at least 16.
        seed: number of the collection, at least 0.

    Raises:
        ValueError: an argument is below its limit.
    """
    for name, value, least in (("index", index, 0), ("size", size, MIN_SIZE), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    dice = Dice(seed, index)
    traits, light = draw_traits(dice), draw_light(dice)
    points = head_points(traits)
    pose = Pose(traits, points)
    placed = pose(points)
    # At least twice the size: that averages the edges smooth.
    factor = max(2, -(-256 // size))
    scene = Scene(Canvas(factor * size), dice, traits, light, pose, placed[:68], head_curves(placed))
    _paint(scene)
    image = cv2.resize(scene.canvas.image, (size, size), interpolation=cv2.INTER_AREA)
    labels = np.ascontiguousarray(scene.canvas.labels[factor // 2 :: factor, factor // 2 :: factor])
    pixels = (scene.marks * size - 0.5).astype(np.float32)
    return Face(_photograph(image, dice), labels, pixels, five_points(pixels))


def _paint(scene: Scene) -> None:
    """Everything, from the wall behind to the hat."""
    ribbons = hair_ribbons(scene.traits, scene.pose)
    _paint_background(scene)
    _paint_back_hair(scene)
    _paint_body(scene)
    _paint_ears(scene)
    _tint_nose(scene)
    _tint_lips(scene)
    _tint_eyes(scene)
    _tint_folds(scene)
    _paint_skin(scene, ribbons)
    _paint_mouth(scene)
    _paint_eyes(scene)
    _paint_brows(scene)
    _paint_beard(scene)
    _paint_glasses(scene)
    _paint_hair(scene, ribbons)
    _paint_hat(scene)


@lru_cache(maxsize=8)
def _pores(side: int) -> np.ndarray:
    """(side, side, 3) uint8 mottled noise around _ONE, the ground of the tint layer."""
    rng = np.random.default_rng(7)
    fine = 0.4 * rng.normal(0, 1, (512, 512, 3)) + rng.normal(0, 1, (512, 512, 1))
    mottled = cv2.GaussianBlur(fine, (0, 0), 1.0) + 1.5 * cv2.GaussianBlur(fine, (0, 0), 3.0)
    tile = np.clip(_ONE + 2.2 * mottled / mottled.std(), 0, 255).astype(np.float32)
    return np.rint(cv2.resize(tile, (side, side), interpolation=cv2.INTER_AREA)).astype(np.uint8)


@lru_cache(maxsize=4)
def _sensor_noise(side: int) -> np.ndarray:
    """(side, side, 3) uint8 white noise around 128, deviation 32, half of it grey."""
    rng = np.random.default_rng(11)
    noise = rng.normal(0, 0.7, (side, side, 3)) + rng.normal(0, 0.7, (side, side, 1))
    return np.clip(128 + 32 * noise, 0, 255).astype(np.uint8)


def _photograph(image: np.ndarray, dice: Dice) -> np.ndarray:
    """Exposure curve, at times a soft lens, a little noise."""
    gamma, contrast = 1 + dice.bell(0.15), 1.04 + dice.bell(0.12)
    curve = ((np.arange(256) / 255) ** gamma - 0.5) * contrast + 0.5
    image = cv2.LUT(image, cv2.convertScaleAbs(np.maximum(255 * curve, 0)))
    softness = 0.0025 * dice.uniform() * image.shape[0] if dice.chance(0.5) else 0.0
    if softness > 0.25:
        image = cv2.GaussianBlur(image, (0, 0), softness)
    noise = _sensor_noise(image.shape[0])[:: 1 if dice.chance(0.5) else -1]
    amount = 0.08 * dice.uniform()
    return cv2.addWeighted(image, 1.0, noise, amount, -128 * amount)


def _paint_background(scene: Scene) -> None:
    """Wall, gradient or scenery out of focus, seldom with boards or bricks in focus."""
    dice, canvas, cells = scene.dice, scene.canvas, 64
    first, second = any_colour(dice), any_colour(dice)
    ramp = np.linspace(0, 1 / 1.6, cells, dtype=np.float32)
    mix = dice.uniform() * ramp[:, None] + dice.uniform() * ramp
    small = cv2.merge([(a + mix * (b - a)).astype(np.uint8)
                       for a, b in zip(first.tolist(), second.tolist(), strict=True)])
    count = max(int(dice.uniform(-6, 16)), 0)
    draws = dice.rng.uniform(10, 245, (count, 8))
    draws[:, :3] += 0.5 * (draws[:, 3:4] - draws[:, :3])       # most things are not gaudy
    for red, green, blue, _, x, y, wide, tall in draws.tolist():
        at, colour = (int(x / 4), int(y / 4)), (red, green, blue)
        if count % 3 == 0:
            cv2.circle(small, at, int(wide / 24) + 1, colour, -1)
        elif count % 3 == 1:
            cv2.rectangle(small, at, (at[0] + int(wide / 12), at[1] + int(tall / 5)), colour, -1)
        else:
            cv2.line(small, at, (at[0] + int(wide / 4 - 32), at[1] + int(tall / 4)), colour, 2)
    blur = 2 * int(dice.uniform(1, 5)) + 1
    small = cv2.blur(cv2.blur(small, (blur, blur)), (blur, blur))
    side = (canvas.side, canvas.side)
    cv2.resize(small, side, dst=canvas.image, interpolation=cv2.INTER_CUBIC)
    if dice.chance(0.25):
        _paint_wall(scene, first)


def _paint_wall(scene: Scene, colour: np.ndarray) -> None:
    dice, canvas = scene.dice, scene.canvas
    step, lean, upright = dice.uniform(0.05, 0.14), dice.bell(0.15), dice.chance(0.4)
    at = np.arange(-0.2, 1.2, step)
    colour, width = colour * dice.uniform(0.5, 0.8), dice.uniform(0.003, 0.008)
    rows = np.stack([np.stack([0 * at - 0.1, at], 1), np.stack([0 * at + 1.1, at + lean], 1)], 1)
    canvas.lines(rows[..., ::-1] if upright else rows, colour, width)
    if not upright and dice.chance(0.6):
        x, y = np.meshgrid(np.arange(-0.2, 1.2, 2 * step), at)
        x = x + step * (np.arange(len(at)) % 2)[:, None]
        top = np.stack([x, y + lean * x], -1).reshape(-1, 2)
        canvas.lines(np.stack([top, top + [0, step]], 1), colour, width)


def _paint_body(scene: Scene) -> None:
    """Neck, shoulders, clothes and necklace."""
    canvas, traits, dice = scene.canvas, scene.traits, scene.dice
    x, _ = scene.pose(np.array([0.0, 0.75, -0.1])).tolist()
    middle = 0.6 * x + 0.2
    drop, lean = dice.bell(0.03), dice.bell(0.05)
    half = 0.165 * traits.neck_width * traits.face_width
    neck = np.array([[half * 0.97, 0.70], [half * 0.97, 0.86 + drop / 2],
                     [half + 0.02, 0.915 + drop], [0.34, 0.965 + drop], [0.56, 1.04 + drop],
                     [0.56, 1.3]])
    neck = np.concatenate([neck * [-1, 1], neck[::-1]])
    skin, start = neck_map(traits, scene.light, scene.curves.outline, middle, half)
    top = round(start * canvas.side)
    large = cv2.resize(skin, (canvas.side, canvas.side - top), interpolation=cv2.INTER_CUBIC)
    canvas.paste(_lean(neck, lean, middle), large, NECK, top)
    bone = _lean((_BONE + [0, drop]) * _FLIP, lean, middle)
    canvas.lines(bone, 0.72 * traits.skin * (0.4 * scene.light.key + 0.7 * scene.light.ambient), 0.004)
    if traits.collar != "bare":
        _paint_cloth(scene, middle, half, drop, lean)
    if traits.necklace:
        _paint_necklace(scene, middle, half, drop)


def _lean(points: np.ndarray, lean: float, middle: float) -> np.ndarray:
    """Points of the body, x from its axis, put in place with one shoulder lower."""
    return points @ np.array([[1.0, lean], [0.0, 1.0]]) + [middle, 0.0]


_BONE = np.array([[0.17, 0.970], [0.1, 0.985], [0.02, 1.0]])
# Height of the collar at the side of the neck and in front.
_COLLARS = {"high": (0.86, 0.90), "crew": (0.905, 0.985), "shirt": (0.895, 1.04), "vee": (0.91, 1.1)}


def _paint_cloth(scene: Scene, middle: float, half: float, drop: float, lean: float) -> None:
    canvas, dice, traits = scene.canvas, scene.dice, scene.traits
    colour = any_colour(dice) * (0.7 + 0.3 * scene.light.key)
    edge, low = _COLLARS[traits.collar]
    side = np.array([[half + 0.004, edge], [half + 0.05, 0.925], [0.36, 0.96], [0.57, 1.035],
                     [0.57, 1.3]])
    front = np.array([[half + 0.004, edge], [half * 0.7, edge + 0.6 * (low - edge)], [0.0, low],
                      [-half * 0.7, edge + 0.6 * (low - edge)], [-half - 0.004, edge]])
    opening = _lean(spline(front, 16) + [0, drop], lean, middle)
    cloth = np.concatenate([side, side[::-1] * [-1, 1], spline(front, 16)[::-1]]) + [0, drop]
    cloth = _lean(cloth, lean, middle)
    canvas.mark(cloth, CLOTH)
    with canvas.clip(cloth):
        canvas.fill(cloth, colour)
        _paint_pattern(scene, any_colour(dice), float(cloth[:, 1].min()))
        x, bow = dice.uniform(), dice.bell(0.2)
        fold = np.array([[x, 0.9], [x + bow, 0.96], [x + 2 * bow, 1.04]])
        canvas.glaze(brush(spline(fold, 7), 0.06), 0.82, blur=0.016)
    canvas.lines(opening, 0.62 * colour, 0.006, CLOTH)
    canvas.lines(opening + [0, 0.009], 1.15 * colour, 0.003)
    if traits.collar == "shirt":
        flap = np.array([[half, 0.875], [half + 0.03, 0.93], [half * 0.75, 1.02], [0.01, 0.99]])
        flaps = (flap + [0, drop]) * _FLIP + [middle, 0]
        canvas.fill(flaps, 1.12 * colour, CLOTH)
        canvas.lines(flaps, 0.6 * colour, 0.003, closed=True)


def _paint_pattern(scene: Scene, colour: np.ndarray, top: float) -> None:
    """Stripes, knitting, dots or nothing from the height `top` to the lower edge."""
    canvas, dice = scene.canvas, scene.dice
    kind = dice.pick({"plain": 4, "stripes": 2, "knit": 2, "dots": 1})
    step = dice.uniform(0.012, 0.035)
    if kind == "stripes":
        x, y = np.meshgrid(np.linspace(-0.1, 1.1, 13), np.arange(top + 0.004, 1.02, step))
        canvas.lines(np.stack([x, y + 0.12 * (x - 0.5) ** 2], -1), colour, 0.35 * step, smooth=False)
    elif kind == "knit":
        x, y = np.meshgrid(np.arange(86) * 0.012, np.arange(top + 0.004, 1.0, 0.014))
        y = y + 0.005 * (np.arange(86) % 2)
        canvas.lines(np.stack([x, y], -1), 0.5 * colour, 0.002, smooth=False)
    elif kind == "dots":
        x, y = np.meshgrid(np.arange(0, 1, 2 * step), np.arange(top + 0.01, 1, step))
        x = x + step * (np.arange(len(x)) % 2)[:, None]
        centres = np.stack([x, y], -1).reshape(-1, 1, 2)
        canvas.fill(centres + ellipse(0, 0.25 * step, 0.25 * step, samples=8), colour)


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
        bead = any_colour(dice, 60, 245)
        canvas.fill(curve[:, None] + ellipse(0, 0.0105, 0.0105, samples=10), 0.75 * bead, NECK_L)
        canvas.fill(curve[:, None] + ellipse(-0.003, 0.004, 0.004, samples=6), 1.3 * bead)


def _metal(dice: Dice) -> np.ndarray:
    return np.array([218.0, 180, 98]) if dice.chance(0.5) else np.array([208.0, 210, 216])


def _paint_ears(scene: Scene) -> None:
    """Both ears and what hangs on them; the head will hide what lies behind it."""
    canvas, traits, light = scene.canvas, scene.traits, scene.light
    outlines = scene.curves.ears
    canvas.mark(outlines, (L_EAR, R_EAR))
    middle = outlines.mean(1, keepdims=True)
    hollow = middle + (outlines - middle) * [0.62, 0.72] + _SIDES * [-0.004, 0] - [0, 0.006]
    colour = traits.skin * [1.0, 0.9, 0.88] * (0.45 * light.key + 0.9 * light.ambient)
    canvas.fill(outlines, colour)
    canvas.fill(hollow, colour * [0.74, 0.66, 0.64])
    canvas.lines(hollow[:, 4:22], 0.56 * colour, 0.004)
    canvas.lines(middle + 0.88 * (outlines[:, 6:20] - middle), 1.12 * colour, 0.004)
    if traits.earring:
        _paint_earrings(scene, outlines)


def _paint_earrings(scene: Scene, outlines: np.ndarray) -> None:
    canvas, dice = scene.canvas, scene.dice
    lowest = outlines[:, :, 1].argmax(1)
    lobe = outlines[[0, 1], lowest][:, None] + _SIDES * [0.006, 0] - [0, 0.010]
    metal = _metal(dice)
    if scene.traits.earring == "hoop":
        ring = lobe + ellipse([0, 0.028], 0.018, 0.028)
        canvas.lines(ring, 0.7 * metal, 0.009, EAR_RING, closed=True)
        canvas.lines(ring[:, 12:20], 1.2 * metal, 0.004)
        return
    if scene.traits.earring == "drop":
        stone = any_colour(dice, 40, 240)
        canvas.lines(lobe + np.array([[0, 0], [0, 0.05]]), metal, 0.004, EAR_RING)
        canvas.fill(lobe + ellipse([0, 0.055], 0.012, 0.022), stone, EAR_RING)
        canvas.fill(lobe + ellipse([-0.003, 0.048], 0.004, 0.006, samples=8), 1.6 * stone + 40)
    canvas.fill(lobe + ellipse(0, 0.009, 0.009, samples=12), metal, EAR_RING)
    canvas.fill(lobe + ellipse(-0.002, 0.003, 0.003, samples=8), 1.3 * metal)


# Factors for the skin, redder in deeper hollows.
_NOSTRIL, _WING = np.array([0.34, 0.26, 0.25]), np.array([0.74, 0.68, 0.66])
_CREASE, _SOFT = np.array([0.68, 0.60, 0.58]), np.array([0.86, 0.81, 0.80])
_WING_EDGE = spline(np.array([[0.001, -0.034], [0.010, -0.024], [0.011, -0.008], [0.001, 0.002]]) * _FLIP, 9)
_CREASE_ENDS = np.linspace(4, 20, 11).astype(int)
_LID_BEND = np.linspace(-1, 1, 15)[:, None] ** 2 * [0, 0.006]
_BROW_PROFILE = np.interp(np.linspace(0, 1, 16), [0, 0.55, 0.85, 1], [0.25, 0.9, 1.0, 0.75])[:, None] * [0, 1]
_LAUGH = np.array([[0.012, -0.010], [0.024, -0.006]]) * _FLIP
_FROWN = np.array([[[-0.1, y, 0.02], [0.0, y + 0.008, 0.03], [0.1, y, 0.02]] for y in (0.27, 0.30, 0.33)])
_TEETH = np.array([-0.66, -0.52, -0.36, -0.19, 0.0, 0.19, 0.36, 0.52, 0.66])
_TEETH_EDGE = np.linspace(-0.82, 0.82, 15)
_LASH_GROWTH = np.linspace(1.0, 0.25, 9)[:, None]
_STRAND = np.linspace(0, 1, 5)


def _tint_nose(scene: Scene) -> None:
    """Wings, nostrils, lower edge and the light on the tip."""
    canvas, mark = scene.canvas, scene.marks
    wide = float(mark[35, 0] - mark[31, 0]) / 2
    wings = mark[[31, 35], None]
    canvas.tint_lines(wings + _WING_EDGE, _WING, 0.008)
    canvas.tint_lines(scene.curves.nose_base, _WING, 0.004)
    hole = 0.55 * mark[[32, 34], None] + 0.45 * wings - [0, 0.006]
    canvas.tint_fill(hole + ellipse(0, 0.30 * wide, 0.0075, turn=0.3) * _FLIP, _NOSTRIL)
    x, _, _ = scene.light.direction.tolist()
    shine = ellipse(mark[30] + [0.012 * x, -0.010], 0.009, 0.006, samples=10)
    canvas.tint_fill(shine, np.full(3, 1 + 0.006 * scene.light.gloss))


def _tint_lips(scene: Scene) -> None:
    canvas, mark, traits, curves = scene.canvas, scene.marks, scene.traits, scene.curves
    top, bottom = curves.upper_lip, curves.lower_lip
    canvas.tint_lines(bottom[6:19] + [0, 0.004], _SOFT, 0.005)
    canvas.tint_fill(np.concatenate([top, curves.mouth_top[::-1]]), 0.86 * traits.lips)
    canvas.tint_fill(np.concatenate([bottom, curves.mouth_bottom[::-1]]), traits.lips)
    roots, ends = curves.mouth_bottom[3:14], bottom[_CREASE_ENDS]
    deep = scene.dice.rng.uniform(0.4, 0.8, (11, 1))
    creases = np.stack([roots + 0.15 * (ends - roots), roots + deep * (ends - roots)], 1)
    canvas.tint_lines(creases, 0.86 * traits.lips)
    x, _, _ = scene.light.direction.tolist()
    lower = (mark[57] + mark[66]) / 2 + [0.006 * x, -0.001]
    shine = ellipse(lower, 0.026, 0.16 * float(mark[57, 1] - mark[66, 1]) + 0.001)
    canvas.tint_fill(shine, traits.lips * (1.08 + 0.004 * scene.light.gloss + 0.25 * traits.makeup))


def _tint_eyes(scene: Scene) -> None:
    """Crease of the lid, rim and bag below the eye, ground of the brows."""
    canvas, traits, curves = scene.canvas, scene.traits, scene.curves
    canvas.tint_lines(curves.upper_lids - [0, 0.017 * traits.eye_height] + _LID_BEND, _CREASE, 0.004)
    lower = curves.lower_lids
    canvas.tint_lines(lower[:, 1:-1] + [0, 0.004], np.array([1.08, 0.96, 0.95]), 0.005)
    bag = lower[:, 2:13] + [0, 0.022] - 1.5 * _LID_BEND[2:13]
    canvas.tint_lines(bag, 1 - (1 - _SOFT) * (0.35 + 0.9 * traits.age), 0.004)
    ground = np.minimum(0.75 * traits.hair / traits.skin, 0.7)
    canvas.tint_fill(_brow_outlines(scene), 1 - 0.62 * (1 - ground))


def _brow_outlines(scene: Scene) -> np.ndarray:
    """(2, 32, 2): upper edge of the brows from the outer end, then the lower edge back."""
    upper = scene.curves.brows
    lower = upper + 0.021 * scene.traits.brow_width * _BROW_PROFILE
    return np.concatenate([upper, lower[:, ::-1]], 1) - [0, 0.010 * scene.traits.brow_width]


def _tint_folds(scene: Scene) -> None:
    """Lines of expression and age, freckles."""
    canvas, mark, traits = scene.canvas, scene.marks, scene.traits
    laugh = 0.25 + 0.5 * max(traits.smile, 0) + 0.45 * traits.age
    ends = mark[[[31, 48], [35, 54]]] + _LAUGH
    middle = ends.mean(1, keepdims=True) + _SIDES * [0.012, 0] - [0, 0.006]
    curves = spline(np.concatenate([ends[:, :1], middle, ends[:, 1:]], 1), 9)
    canvas.tint_lines(curves, 1 - laugh * (1 - _SOFT), 0.006)
    if traits.age > 0.5 or traits.brow_raise > 0.4:
        lines = spline(scene.pose(_FROWN), 9)
        canvas.tint_lines(lines, 1 - 0.7 * traits.age * (1 - _SOFT), 0.004)
    if traits.freckles:
        spots = np.array([0.0, 0.58, 0.06]) + scene.dice.rng.normal(0, [0.10, 0.035, 0.0], (70, 3))
        dots = scene.pose(spots)[:, None] + ellipse(0, 0.0028, 0.0028, samples=6)
        canvas.tint_fill(dots, np.array([0.82, 0.72, 0.66]))


def _paint_skin(scene: Scene, ribbons: list[Ribbon]) -> None:
    """The head: light from the small map times the tint layer; labels of nose and lips."""
    canvas, mark, curves = scene.canvas, scene.marks, scene.curves
    small = skin_map(scene.traits, scene.light, scene.pose, mark, ribbons)
    skin = cv2.resize(small, (canvas.side, canvas.side), interpolation=cv2.INTER_CUBIC)
    soft = 2 * (canvas.side // 256) + 1
    tint = cv2.blur(canvas.tint, (soft, soft))
    canvas.paste(curves.outline, cv2.multiply(skin, tint, scale=1 / _ONE), SKIN)
    wide = (mark[35] - mark[31])[0] / 2
    spread = np.array([[0.32, 0], [0.4, 0], [0.75, 0]]) * wide
    nose = np.concatenate([mark[27:30] - spread, mark[31:32] - [0.009, 0.014], curves.nose_base,
                           mark[35:36] + [0.009, -0.014], mark[29:26:-1] + spread[::-1]])
    canvas.mark(nose, NOSE)
    canvas.mark(np.concatenate([curves.upper_lip, curves.mouth_top[::-1]]), U_LIP)
    canvas.mark(np.concatenate([curves.lower_lip, curves.mouth_bottom[::-1]]), L_LIP)


def _paint_mouth(scene: Scene) -> None:
    """The line between the lips, or what an open mouth shows."""
    canvas, mark, traits = scene.canvas, scene.marks, scene.traits
    top, bottom = scene.curves.mouth_top, scene.curves.mouth_bottom
    lit = np.minimum(0.5 * scene.light.key + 0.8 * scene.light.ambient, 1.0)
    lip = traits.skin * traits.lips * lit
    if traits.mouth_open > 0:
        opening = np.concatenate([top, bottom])
        canvas.mark(opening, MOUTH)
        with canvas.clip(opening):
            _paint_teeth(scene, opening, lit)
        canvas.lines(bottom, 0.6 * lip, 0.002)
    canvas.lines(np.concatenate([mark[48:49], top, mark[54:55]]), 0.3 * lip, 0.004)


def _paint_teeth(scene: Scene, opening: np.ndarray, lit: np.ndarray) -> None:
    canvas, mark, traits = scene.canvas, scene.marks, scene.traits
    wide, middle = float(mark[54, 0] - mark[48, 0]) / 2, mark[62]
    canvas.fill(opening, np.array([62.0, 18, 20]))
    canvas.fill(ellipse(mark[66] + [0, 0.004], 0.55 * wide, 0.014), np.array([150.0, 70, 74]))
    enamel = np.array([236.0, 228, 212]) * lit
    x = _TEETH_EDGE
    edge = middle + np.stack([x * wide, 0.024 - (0.012 + 0.024 * traits.smile) * x**2], 1)
    canvas.fill(np.concatenate([opening[:17] - [0, 0.01], edge[::-1]]), enamel)
    low = middle + np.stack([_TEETH * wide, 0.026 - (0.012 + 0.024 * traits.smile) * _TEETH**2], 1)
    canvas.lines(np.stack([low - [0, 0.02], low], 1), 0.66 * enamel, 0.002)
    canvas.lines(edge, 0.6 * enamel, 0.002)
    canvas.glaze(brush(opening[:17], 0.02), 0.55, blur=0.003)


def _paint_eyes(scene: Scene) -> None:
    """Eyeballs inside the lids, then edges of the lids and lashes; both eyes in one go."""
    canvas, traits, light = scene.canvas, scene.traits, scene.light
    upper, lower = scene.curves.upper_lids, scene.curves.lower_lids
    opening = np.concatenate([upper, lower], 1)
    lit = np.minimum(0.5 * light.key + 0.75 * light.ambient, 1.1)
    canvas.mark(opening, (L_EYE, R_EYE))
    at = five_points(scene.marks)[:2, None] + [
        0.013 * traits.gaze[0] + 0.012 * traits.yaw, 0.006 * traits.gaze[1] - 0.002]
    with canvas.clip(opening):
        canvas.fill(opening, np.array([226.0, 218, 212]) * lit)
        canvas.fill(lower[:, :1] + ellipse(0, 0.010, 0.008, samples=10), np.array([206.0, 140, 134]) * lit)
        _paint_irises(scene, at, lit)
        lid_shadow = np.concatenate([upper - [0, 0.01], upper[:, ::-1] + [0, 0.006]], 1)
        canvas.glaze(lid_shadow, 0.5, blur=0.004)
        x, y, _ = light.direction.tolist()
        glint = ellipse([0.010 * x, 0.009 * y], 0.0048, 0.0052, samples=10)
        canvas.fill(at + glint, np.array([252.0, 252, 255]))
    canvas.lines(lower[:, 1:-1], 0.5 * traits.skin * lit * [1, 0.9, 0.88], 0.002)
    lash = np.minimum(0.25 * traits.hair, 0.25 * traits.skin * lit) * (1 - 0.5 * traits.makeup)
    canvas.fill(brush(upper - [0, 0.001], 0.009 + 0.006 * traits.makeup), lash)
    roots = upper[:, [2, 3, 4, 6, 7, 8, 10, 11, 13]]
    lean = np.concatenate([_LASH_GROWTH - 0.4, 0.4 * _LASH_GROWTH - 1.2], 1) * _FLIP
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


def _paint_brows(scene: Scene) -> None:
    """Hairs of the brows; their ground is in the tint layer already."""
    canvas, traits = scene.canvas, scene.traits
    outlines = _brow_outlines(scene)
    canvas.mark(outlines, (L_BROW, R_BROW))
    upper, lower = outlines[:, :16], outlines[:, :15:-1]
    lit = 0.6 * scene.light.key + 0.6 * scene.light.ambient
    colour = np.minimum(0.7 * traits.hair, 0.55 * traits.skin) * lit
    along, across = scene.dice.rng.random((2, 40))
    step = (along * 16).astype(int)
    roots = upper[:, step]
    roots = roots + across[:, None] * (lower[:, step] - roots)
    lean = np.stack([np.ones(40), 0.3 - 1.2 * along], 1) * (0.008 + 0.0065 * across)[:, None] * _FLIP
    hairs = np.stack([roots, roots + lean], 2)
    canvas.lines(hairs[:, :26].reshape(-1, 2, 2), colour)
    canvas.lines(hairs[:, 26:].reshape(-1, 2, 2), 0.65 * colour)


def _paint_back_hair(scene: Scene) -> None:
    """Long hair behind neck and shoulders."""
    if scene.traits.style not in ("long", "bob"):
        return
    left, right = hair_ribbons(scene.traits, scene.pose, whole=True)
    behind = Ribbon(left.outer, right.outer)
    scene.canvas.fill(behind.outline(), 0.6 * scene.traits.hair * (0.2 * scene.light.key + 0.7 * scene.light.ambient), HAIR)
    _paint_strands(scene, [behind], 90, 0.5)


def _paint_hair(scene: Scene, ribbons: list[Ribbon]) -> None:
    traits, canvas, rng = scene.traits, scene.canvas, scene.dice.rng
    colour = 0.7 * traits.hair * (0.45 * scene.light.key + 0.7 * scene.light.ambient)
    for ribbon in ribbons:
        outline = ribbon.outline(0.05 * rng.random(16))
        if traits.style == "curly":
            outward = outline - scene.pose(np.array([0.0, 0.4, -0.05]))
            outline = outline + 0.05 * (rng.random((len(outline), 1)) - 0.3) * outward
        canvas.fill(outline, colour, HAIR)
    if ribbons:
        _paint_strands(scene, ribbons, 180 * len(ribbons), 1.0)


def _paint_strands(scene: Scene, ribbons: list[Ribbon], count: int, level: float) -> None:
    """Strands that follow ribbons, lit like a ball, with a band of sheen and tone per lock."""
    traits, light, rng = scene.traits, scene.light, scene.dice.rng
    curves = np.stack([np.stack(ribbon) for ribbon in ribbons])            # (R, 2, 65, 2)
    along, across, chance, length = rng.random((4, count))
    which = np.arange(count) * len(ribbons) // count
    lock = rng.random((len(ribbons), 24))[which, (across * 24).astype(int)]
    reach = _STRAND * (0.06 + 0.16 * length[:, None])
    if traits.style in ("tied", "buzz"):
        t, s = np.broadcast_to(along[:, None], reach.shape), across[:, None] + reach - 0.05
    else:
        t = along[:, None] * 0.94 + reach - 0.03
        gap = curves[:, 1, 32] - curves[:, 0, 32]
        swing = 0.010 * traits.wave / np.hypot(*gap.T)
        wave = swing[which, None] * t * np.sin(25 * t + 5 * lock[:, None])
        s = across[:, None] + wave + 0.15 * (chance[:, None] - 0.5) * reach
    step = np.minimum(np.maximum(t * 64, 0), 64).astype(int)
    inner, outer = curves[which[:, None], 0, step], curves[which[:, None], 1, step]
    paths = inner + np.minimum(np.maximum(s, -0.03), 1.03)[..., None] * (outer - inner)
    if traits.style == "curly":
        angle = 6.3 * chance[:, None] + 4 * _STRAND
        size = 0.006 + 0.010 * length[:, None, None]
        paths = paths[:, :1] + size * np.stack([np.cos(angle), np.sin(angle)], -1)
    middle = paths[:, 2] - scene.pose(np.array([0.0, 0.38, -0.05]))
    facing = middle @ (light.direction[:2] / [0.36, 0.5]) + 0.55 * light.direction[2]
    sheen = np.exp(-(((along - 0.30) / 0.09) ** 2)) * (0.4 + 0.6 * lock)
    shade = 0.2 + 0.5 * facing + 0.45 * lock + 0.5 * chance + 0.7 * sheen
    shades = np.minimum(np.maximum((level * shade - 0.35) * 5.5, 0), 7).astype(int)
    steps = np.linspace(0.35, 1.8, 8)[:, None]
    palette = traits.hair * steps * (0.55 * light.key + 0.5 * light.ambient)
    scene.canvas.strands(paths, shades, palette + 65 * np.maximum(steps - 0.8, 0) * light.key)


def _paint_beard(scene: Scene) -> None:
    """Hairs of stubble or beard; the label stays skin, as in CelebAMask-HQ."""
    traits, canvas, rng, light = scene.traits, scene.canvas, scene.dice.rng, scene.light
    if traits.beard < 0.2:
        return
    full = traits.beard > 0.55
    lit = 0.6 * light.key + 0.5 * light.ambient
    colour = 0.8 * traits.hair if full else 0.2 * traits.hair + 0.5 * traits.skin
    grow, most = (0.45, 4) if full else (0.05, 2)
    for ribbon, count in zip(beard_ribbons(scene.marks, traits), (240, 80), strict=True):
        along, across, length, chance = rng.random((4, count))
        reach = _STRAND[::2] * grow * (0.5 + length[:, None])
        swirl = along[:, None] + 0.02 * (chance[:, None] - 0.5) * np.arange(3) * (grow + 0.3)
        # Roots thin out towards the cheeks.
        paths = ribbon.at(swirl, across[:, None] ** 0.7 + reach - 0.2 * grow)
        palette = colour * lit * np.array([[0.55], [0.9], [1.3], [1.7]])
        canvas.strands(paths, (most * chance).astype(int), palette)


def _paint_glasses(scene: Scene) -> None:
    """Spectacles; clear glass keeps the labels of eyes and brows, dark glass hides them."""
    canvas, traits, dice = scene.canvas, scene.traits, scene.dice
    if not traits.glasses:
        return
    dark = traits.glasses == "dark"
    glass = lenses(traits, scene.pose, dice.uniform(0.076, 0.092), dice.uniform(0.048, 0.066),
                   dice.uniform(0.45, 1.0))
    frame = any_colour(dice, 10, 200) * (0.3 if dice.chance(0.6) else 0.9)
    thick = dice.uniform(0.005, 0.014)
    inside = np.zeros_like(canvas.labels)
    cv2.fillPoly(inside, canvas.fixed(glass), 1, cv2.LINE_8, _SHIFT)
    if not dark:
        inside[(canvas.labels >= L_EYE) & (canvas.labels <= R_BROW)] = 0
    canvas.labels[inside.astype(bool)] = EYE_G
    if dark:
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


def _paint_hat(scene: Scene) -> None:
    canvas, traits, dice = scene.canvas, scene.traits, scene.dice
    if not traits.hat:
        return
    colour, accent = any_colour(dice, 25, 225), any_colour(dice, 20, 235)
    shapes = hat_outlines(traits, scene.pose)
    dome, band = shapes["dome"], shapes["band"]
    if traits.hat == "brim":
        canvas.fill(shapes["brim"], 0.8 * colour, HAT)
    canvas.mark(dome, HAT)
    with canvas.clip(dome):
        canvas.fill(dome, 0.8 * colour)
        middle = dome.mean(0)
        bright = middle + 0.72 * (dome - middle) + [0.10, 0.06] * scene.light.direction[:2]
        canvas.glaze(bright, 1.35, blur=0.05)
        if traits.hat == "beanie":
            base = spline(band[:24], 30)
            top = middle + (base - middle) * [0.7, 0] - [0, 0.25]
            canvas.lines(np.stack([base, top], 1), 0.55 * colour, 0.006)
        else:
            crown = dome[24:].mean(0) - [0, 0.1]
            base = band[[4, 9, 15, 20]]
            seams = np.stack([np.broadcast_to(crown, base.shape), (crown + base) / 2 - [0, 0.02], base], 1)
            canvas.lines(spline(seams, 9), 0.55 * colour, 0.003)
    canvas.fill(band, accent if traits.hat == "brim" else 0.85 * colour, HAT)
    if traits.hat == "beanie":
        canvas.lines(np.stack([band[:24], band[24:][::-1]], 1), 0.5 * colour, 0.006)
    if traits.hat == "cap":
        canvas.fill(shapes["brim"], 0.72 * accent, HAT)
        canvas.lines(shapes["brim"][19:-1], 1.25 * accent, 0.003)
    canvas.lines(band[:24], 0.45 * colour, 0.004)

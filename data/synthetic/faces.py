"""Synthetic portraits: an image, its parsing map and its landmarks, made from a seed alone.

A dataset that needs no download. `render_face(index)` paints one stylized but detailed portrait
with OpenCV; image, labels and landmarks come from the same outlines, so they agree by
construction. traits.py draws the person at random, shapes.py places the parts of the
head, skin.py computes soft light on a small grid; what is sharp is drawn at twice the final
size or more and averaged down.
"""
from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from data.labels import LABELS
from data.synthetic import features, hair, wear
from data.synthetic.canvas import Canvas, Scene
from data.synthetic.lines import Lines
from data.synthetic.shapes import Pose, five_points, head_points
from data.synthetic.traits import Dice, any_color, draw_light, draw_traits

__all__ = ["LABELS", "Face", "render_face"]

MIN_SIZE = 16
_LEVELS = np.arange(256) / 255


class Face(NamedTuple):
    """One synthetic portrait.

    image: (size, size, 3) uint8 RGB.
    labels: (size, size) uint8, an index into LABELS per pixel; l_ and r_ are sides of the image.
    landmarks68: (68, 2) float32 x y in pixels, iBUG order; whole numbers are pixel centers.
    landmarks5: (5, 2) float32 x y; left eye, right eye, nose tip, left and right mouth corner,
        sides of the image.
    """

    image: np.ndarray
    labels: np.ndarray
    landmarks68: np.ndarray
    landmarks5: np.ndarray


def render_face(index: int, *, size: int = 128, seed: int = 0) -> Face:
    """Paint portrait number `index` of the collection `seed`.

    A pure function: the same bits on every call and in every process; no global generator is read.
    Another size gives the same image resampled, up to the sensor's noise.

    Args:
        index: number of the person, at least 0.
        size: side of the image in pixels, at least 16.
        seed: number of the collection, at least 0.

    Raises:
        ValueError: an argument is below its limit.
    """
    for name, value, minimum in (("index", index, 0), ("size", size, MIN_SIZE), ("seed", seed, 0)):
        if value < minimum:
            raise ValueError(f"{name} must be at least {minimum}, got {value}")
    dice = Dice(seed, index)
    traits, light = draw_traits(dice), draw_light(dice)
    points = head_points(traits)
    pose = Pose(traits, points)
    placed = pose(points)
    # At least twice the size: that averages the edges smooth.
    factor = max(2, -(-192 // size))
    canvas = Canvas(factor * size)
    lines = Lines(placed, traits.brow_width, canvas.side)
    scene = Scene(canvas, dice, traits, light, pose, placed, lines)
    _paint(scene)
    image = cv2.resize(canvas.image, (size, size), interpolation=cv2.INTER_AREA)
    labels = np.ascontiguousarray(canvas.labels[factor // 2::factor, factor // 2::factor])
    pixels = (placed[:68] * size - 0.5).astype(np.float32)
    five = five_points(pixels).astype(np.float32)
    return Face(_photograph(image, dice), labels, pixels, five)


def _paint(scene: Scene) -> None:
    """Everything, from the wall behind to the hat."""
    ribbons = hair.hair_ribbons(scene.traits, scene.pose)
    outlines = hair.hair_outlines(ribbons, scene.traits)
    _paint_background(scene)
    hair.paint_back_hair(scene, ribbons)
    wear.paint_body(scene)
    if not hair.hides_ears(scene.traits):
        wear.paint_ears(scene)
    features.tint_face(scene)
    features.paint_skin(scene, outlines)
    features.paint_mouth(scene)
    features.paint_eyes(scene)
    features.paint_brows(scene)
    hair.paint_beard(scene)
    wear.paint_glasses(scene)
    hair.paint_hair(scene, ribbons, outlines)
    wear.paint_hat(scene)


def _paint_background(scene: Scene) -> None:
    """Wall, gradient or scenery out of focus, seldom with boards or bricks in focus."""
    dice, canvas = scene.dice, scene.canvas
    first, second = any_color(dice), any_color(dice)
    mix = dice.rng.random((2, 2, 1)) * 0.8
    small = cv2.resize((first + mix * (second - first)).astype(np.uint8), (64, 64))
    count = max(int(dice.uniform(-6, 16)), 0)
    draws = dice.rng.uniform(10, 245, (count, 8))
    draws[:, :3] += 0.5 * (draws[:, 3:4] - draws[:, :3])       # most things are not gaudy
    for red, green, blue, _, x, y, wide, tall in draws.tolist():
        at, color = (int(x / 4), int(y / 4)), (red, green, blue)
        if count % 3 == 0:
            cv2.circle(small, at, int(wide / 24) + 1, color, -1)
        elif count % 3 == 1:
            cv2.rectangle(small, at, (at[0] + int(wide / 12), at[1] + int(tall / 5)), color, -1)
        else:
            cv2.line(small, at, (at[0] + int(wide / 4 - 32), at[1] + int(tall / 4)), color, 2)
    blur = 2 * int(dice.uniform(1, 5)) + 1
    small = cv2.blur(cv2.blur(small, (blur, blur)), (blur, blur))
    side = (canvas.side, canvas.side)
    cv2.resize(small, side, dst=canvas.image, interpolation=cv2.INTER_LINEAR)
    if dice.chance(0.25):
        _paint_wall(scene, first)


def _paint_wall(scene: Scene, color: np.ndarray) -> None:
    """Joints of boards or of bricks."""
    dice, canvas = scene.dice, scene.canvas
    step, lean, upright = dice.uniform(0.05, 0.14), dice.bell(0.15), dice.chance(0.4)
    at = np.arange(-0.2, 1.2, step)
    color, width = color * dice.uniform(0.5, 0.8), dice.uniform(0.003, 0.008)
    rows = np.stack([np.stack([0 * at - 0.1, at], 1), np.stack([0 * at + 1.1, at + lean], 1)], 1)
    canvas.lines(rows[..., ::-1] if upright else rows, color, width, smooth=False)
    if not upright and dice.chance(0.6):
        x, y = np.meshgrid(np.arange(-0.2, 1.2, 2 * step), at)
        x = x + step * (np.arange(len(at)) % 2)[:, None]
        top = np.stack([x, y + lean * x], -1).reshape(-1, 2)
        canvas.lines(np.stack([top, top + [0, step]], 1), color, width, smooth=False)


@lru_cache(maxsize=4)
def _sensor_noise(side: int) -> np.ndarray:
    """(2, side, side, 3) uint8 white noise around 128, standard deviation 32, half of it gray.

    The second is the first upside down.
    """
    rng = np.random.default_rng(11)
    noise = rng.normal(0, 0.7, (side, side, 3)) + rng.normal(0, 0.7, (side, side, 1))
    return np.clip(128 + 32 * np.stack([noise, noise[::-1]]), 0, 255).astype(np.uint8)


def _photograph(image: np.ndarray, dice: Dice) -> np.ndarray:
    """Exposure curve, at times a soft lens, a little noise."""
    gamma, contrast = 1 + dice.bell(0.15), 1.1 + dice.bell(0.15)
    curve = (_LEVELS ** gamma - 0.5) * contrast + 0.5
    image = cv2.LUT(image, (255 * np.minimum(np.maximum(curve, 0), 1) + 0.5).astype(np.uint8))
    softness = 0.0035 * dice.uniform() * image.shape[0] if dice.chance(0.6) else 0.0
    if softness > 0.25:
        image = cv2.GaussianBlur(image, (0, 0), softness)
    noise = _sensor_noise(image.shape[0])[0 if dice.chance(0.5) else 1]
    amount = 0.08 * dice.uniform()
    return cv2.addWeighted(image, 1.0, noise, amount, -128 * amount, dst=image)

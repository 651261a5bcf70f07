"""What the painters of a synthetic portrait have in common: labels, the canvas, the scene."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from data.labels import LABELS
from data.synthetic.lines import SHIFT as _SHIFT
from data.synthetic.lines import Lines
from data.synthetic.shapes import Pose
from data.synthetic.traits import Dice, Light, Traits

(BACKGROUND, SKIN, NOSE, EYE_G, L_EYE, R_EYE, L_BROW, R_BROW, L_EAR, R_EAR, MOUTH, U_LIP, L_LIP,
 HAIR, HAT, EAR_RING, NECK_L, NECK, CLOTH) = range(len(LABELS))

SIDES = np.array([-1.0, 1.0])[:, None, None]        # left and right, for (2, P, 2) points
FLIP = np.array([[[-1.0, 1.0]], [[1.0, 1.0]]])      # makes both sides out of a right-hand shape
_ONE = 128              # this gray in the tint layer leaves the skin as it is

Points = np.ndarray | list[np.ndarray]
Window = tuple[slice, slice]        # rows and columns


@lru_cache(maxsize=8)
def _pores(side: int) -> np.ndarray:
    """(side, side, 3) uint8 mottled noise around _ONE, the ground of the tint layer."""
    rng = np.random.default_rng(7)
    fine = 0.4 * rng.normal(0, 1, (512, 512, 3)) + rng.normal(0, 1, (512, 512, 1))
    mottled = cv2.GaussianBlur(fine, (0, 0), 1.0) + 1.5 * cv2.GaussianBlur(fine, (0, 0), 3.0)
    tile = np.clip(_ONE + 2.2 * mottled / mottled.std(), 0, 255).astype(np.float32)
    return np.rint(cv2.resize(tile, (side, side), interpolation=cv2.INTER_AREA)).astype(np.uint8)


class Canvas:
    """An image and its label map that are drawn together; points are in units of the side.

    Args:
        side: of the square image, in pixels.

    Attributes:
        image: (side, side, 3) uint8 RGB; a background must be painted first.
        labels: (side, side) uint8.
        tint: (side, side, 3) uint8, what will multiply the skin; 128 stands for one.
    """

    def __init__(self, side: int) -> None:
        self.side = side
        self.image = np.empty((side, side, 3), np.uint8)
        self.labels = np.zeros((side, side), np.uint8)
        self.tint = _pores(side).copy()

    def fixed(self, points: Points) -> list[np.ndarray]:
        """OpenCV's fixed-point coordinates of one curve (P, 2) or several (K, P, 2).

        All drawing methods take such points or what this method returns.
        """
        if isinstance(points, list):
            return points
        points = points * (self.side << _SHIFT)
        points -= 7.5
        points = points.astype(np.int32, order="C")
        return [points] if points.ndim == 2 else list(points)

    def _stroke(self, target: np.ndarray, fixed: list[np.ndarray], color: list[float] | int,
                width: float, smooth: bool = False, closed: bool = False) -> None:
        """Draw curves `width` wide, in units of the side, rounded so that all sizes agree."""
        # OpenCV draws thickness 1 one pixel wide, 2 three, 3 and 4 five, and so on.
        steps = 2 * (round(256 * width) // 2) + 1
        wide = steps * self.side / 256
        if wide < 1.5:
            kind = cv2.LINE_AA if smooth else cv2.LINE_8
            cv2.polylines(target, fixed, closed, color, 1, kind, _SHIFT)
        elif wide < 2.5:
            for half in (-(1 << _SHIFT) // 2, (1 << _SHIFT) // 2):
                moved = [curve + half for curve in fixed]
                cv2.polylines(target, moved, closed, color, 1, cv2.LINE_8, _SHIFT)
        else:
            thickness = 2 * round((wide - 1) / 2)
            cv2.polylines(target, fixed, closed, color, thickness, cv2.LINE_8, _SHIFT)

    def mark(self, outlines: Points, label: int | tuple[int, ...] | None) -> None:
        """Write a label inside closed outlines; several labels go with as many outlines."""
        fixed = self.fixed(outlines)
        if isinstance(label, tuple):
            for value, outline in zip(label, fixed, strict=True):
                cv2.fillPoly(self.labels, [outline], value, cv2.LINE_8, _SHIFT)
        elif label is not None:
            cv2.fillPoly(self.labels, fixed, label, cv2.LINE_8, _SHIFT)

    def fill(self, outlines: Points, color: np.ndarray,
             label: int | tuple[int, ...] | None = None, smooth: bool = True) -> None:
        """Fill closed outlines with one color; `smooth` is for what is small."""
        fixed, kind = self.fixed(outlines), cv2.LINE_AA if smooth else cv2.LINE_8
        cv2.fillPoly(self.image, fixed, color.tolist(), kind, _SHIFT)
        self.mark(fixed, label)

    def lines(self, curves: Points, color: np.ndarray, width: float = 0.0,
              label: int | None = None, smooth: bool = True, closed: bool = False) -> None:
        """Draw curves; `smooth` is slower and worth it where few thin lines stand alone."""
        fixed = self.fixed(curves)
        self._stroke(self.image, fixed, color.tolist(), width, smooth, closed)
        if label is not None:
            self._stroke(self.labels, fixed, label, width, closed=closed)

    def discs(self, centers: list[np.ndarray], radius: float, color: np.ndarray,
              shift: tuple[float, float] = (0.0, 0.0)) -> None:
        """Fill circles round fixed-point centers (1, 2), moved by `shift` in units of the side."""
        unit = self.side << _SHIFT
        size, right, down = round(radius * unit), round(shift[0] * unit), round(shift[1] * unit)
        color = color.tolist()
        for center in centers:
            x, y = center[0].tolist()
            cv2.circle(self.image, (x + right, y + down), size, color, -1, cv2.LINE_AA, _SHIFT)

    def tint_fill(self, outlines: Points, factor: np.ndarray,
                  label: int | tuple[int, ...] | None = None) -> None:
        """Multiply the skin by `factor` (3,) inside closed outlines; the later one wins."""
        fixed = self.fixed(outlines)
        cv2.fillPoly(self.tint, fixed, (_ONE * factor).tolist(), cv2.LINE_8, _SHIFT)
        self.mark(fixed, label)

    def tint_lines(self, curves: Points, factor: np.ndarray, width: float = 0.0) -> None:
        """Multiply the skin by `factor` (3,) along curves; the later one wins."""
        self._stroke(self.tint, self.fixed(curves), (_ONE * factor).tolist(), width)

    def hairs(self, curves: Points, color: list[float]) -> None:
        """Draw curves 1/256 of the side wide, less where the canvas can show it."""
        thickness = max(1, round(self.side / 512))
        cv2.polylines(self.image, self.fixed(curves), False, color, thickness, 8, _SHIFT)

    def strands(self, pieces: np.ndarray, shades: np.ndarray, palette: np.ndarray) -> None:
        """Draw thin strands (S, P, 2), each in the color palette[shades[i]].

        A strand is 1/256 of the side wide. Where the canvas can show it, it is a pair of hairs.
        """
        if self.side >= 512:
            along = pieces[:, pieces.shape[1] // 2] - pieces[:, 0]
            normal = along[:, ::-1] * [-1, 1] / (np.hypot(*along.T)[:, None] + 1e-9)
            apart = normal[:, None] * np.linspace(0.3, 1.5, pieces.shape[1])[:, None] / 1024
            pieces = np.concatenate([pieces - apart, pieces + apart])
            shades = np.concatenate([shades, np.maximum(shades, 1) - 1])
        # Sorting bytes is a matter of counting.
        order = np.argsort(shades.astype(np.uint8), kind="stable")
        fixed = self.fixed(pieces.take(order, 0))
        ends = np.bincount(shades, minlength=len(palette)).cumsum().tolist()
        for start, end, color in zip([0, *ends], ends, palette.tolist(), strict=False):
            if end > start:
                self.hairs(fixed[start:end], color)

    def window(self, fixed: list[np.ndarray], margin: float) -> Window:
        """Rows and columns of the smallest part that holds fixed-point curves, never empty."""
        x, y, wide, tall = cv2.boundingRect(fixed[0] if len(fixed) == 1 else np.concatenate(fixed))
        spare, end = int(margin * self.side) + 1, self.side
        top = min(max((y >> _SHIFT) - spare, 0), end - 1)
        left = min(max((x >> _SHIFT) - spare, 0), end - 1)
        bottom = min(max((y + tall >> _SHIFT) + spare, top + 1), end)
        right = min(max((x + wide >> _SHIFT) + spare, left + 1), end)
        return slice(top, bottom), slice(left, right)

    def cover(self, fixed: list[np.ndarray], window: Window, ground: int,
              value: int) -> np.ndarray:
        """(h, w) uint8: `value` inside closed outlines and `ground` outside, within the window."""
        rows, columns = window
        mask = np.empty((rows.stop - rows.start, columns.stop - columns.start), np.uint8)
        mask.fill(ground)
        origin = (-columns.start << _SHIFT, -rows.start << _SHIFT)
        cv2.fillPoly(mask, fixed, value, cv2.LINE_8, _SHIFT, origin)
        return mask

    def paste(self, outline: Points, small: np.ndarray, window: Window) -> None:
        """Copy an image, enlarged to fill the window, inside a closed outline."""
        part = self.image[window]
        large = cv2.resize(small, part.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        cv2.copyTo(large, self.cover(self.fixed(outline), window, 0, 255), part)

    @contextmanager
    def clip(self, outlines: Points) -> Iterator[None]:
        """Keep what is drawn inside the block only where it lies inside closed outlines."""
        fixed = self.fixed(outlines)
        window = self.window(fixed, 0.02)
        below = self.image[window].copy()
        yield
        cv2.copyTo(below, self.cover(fixed, window, 255, 0), self.image[window])

    def lay_skin(self, small: np.ndarray, outline: Points, window: Window) -> None:
        """Copy skin, enlarged to fill the window and multiplied by `tint`, inside an outline."""
        part, soft = self.image[window], 2 * (self.side // 256) + 1
        tint = cv2.blur(self.tint[window], (soft, soft))
        kind = cv2.INTER_LINEAR if self.side <= 256 else cv2.INTER_CUBIC
        skin = cv2.resize(small, part.shape[1::-1], interpolation=kind)
        cv2.multiply(skin, tint, dst=skin, scale=1 / _ONE)
        cv2.copyTo(skin, self.cover(self.fixed(outline), window, 0, 255), part)

    def glaze(self, outlines: Points, factor: float, blur: float = 0.0) -> None:
        """Multiply what lies inside closed outlines by `factor`, below 2."""
        fixed = self.fixed(outlines)
        window = self.window(fixed, 2 * blur)
        mask = self.cover(fixed, window, _ONE, int(_ONE * factor))
        if blur:
            side = 2 * round(blur * self.side) + 1
            mask = cv2.blur(mask, (side, side))
        part = self.image[window]
        cv2.multiply(part, cv2.cvtColor(mask, cv2.COLOR_GRAY2RGB), dst=part, scale=1 / _ONE)


class Scene(NamedTuple):
    """One person in place: everything the painting functions have in common.

    points: (106, 2) of the head in units of the side, the 68 landmarks first.
    """

    canvas: Canvas
    dice: Dice
    traits: Traits
    light: Light
    pose: Pose
    points: np.ndarray
    lines: Lines

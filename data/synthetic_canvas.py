"""What the painters of a synthetic portrait share: labels, the canvas, the scene."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from data.synthetic_lines import SHIFT as _SHIFT
from data.synthetic_lines import Lines
from data.synthetic_shapes import Pose
from data.synthetic_traits import Dice, Light, Traits

# CelebAMask-HQ order. Which side its l_ is was not to be found; here it is the left of the picture,
# as in the project's five points and component boxes.
LABELS = (
    "background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear",
    "mouth", "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
)
(BACKGROUND, SKIN, NOSE, EYE_G, L_EYE, R_EYE, L_BROW, R_BROW, L_EAR, R_EAR, MOUTH, U_LIP, L_LIP,
 HAIR, HAT, EAR_RING, NECK_L, NECK, CLOTH) = range(19)

SIDES = np.array([-1.0, 1.0])[:, None, None]        # left and right, for (2, P, 2) points
FLIP = np.array([[[-1.0, 1.0]], [[1.0, 1.0]]])      # makes both sides out of a right-hand shape
_ONE = 128              # this grey in the tint layer leaves the skin as it is

Points = np.ndarray | list[np.ndarray]


@lru_cache(maxsize=8)
def _pores(side: int) -> np.ndarray:
    """(side, side, 3) uint8 mottled noise around _ONE, the ground of the tint layer."""
    rng = np.random.default_rng(7)
    fine = 0.4 * rng.normal(0, 1, (512, 512, 3)) + rng.normal(0, 1, (512, 512, 1))
    mottled = cv2.GaussianBlur(fine, (0, 0), 1.0) + 1.5 * cv2.GaussianBlur(fine, (0, 0), 3.0)
    tile = np.clip(_ONE + 2.2 * mottled / mottled.std(), 0, 255).astype(np.float32)
    return np.rint(cv2.resize(tile, (side, side), interpolation=cv2.INTER_AREA)).astype(np.uint8)


class Canvas:
    """A picture and its label map that are drawn together; points are in units of the side.

    Args:
        side: of the square picture, in pixels.

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
        points = (points * (self.side << _SHIFT) - 7.5).astype(np.int32, order="C")
        return [points] if points.ndim == 2 else list(points)

    def _stroke(self, target: np.ndarray, fixed: list[np.ndarray], colour: list[float] | int,
                width: float, smooth: bool = False, closed: bool = False) -> None:
        """Draw curves `width` wide, in units of the side, rounded so that all sizes agree."""
        # OpenCV draws thickness 1 one pixel wide, 2 three, 3 and 4 five, and so on.
        steps = 2 * (round(256 * width) // 2) + 1
        wide = steps * self.side / 256
        if wide < 1.5:
            kind = cv2.LINE_AA if smooth else cv2.LINE_8
            cv2.polylines(target, fixed, closed, colour, 1, kind, _SHIFT)
        elif wide < 2.5:
            for half in (-(1 << _SHIFT) // 2, (1 << _SHIFT) // 2):
                moved = [curve + half for curve in fixed]
                cv2.polylines(target, moved, closed, colour, 1, cv2.LINE_8, _SHIFT)
        else:
            thickness = 2 * round((wide - 1) / 2)
            cv2.polylines(target, fixed, closed, colour, thickness, cv2.LINE_8, _SHIFT)

    def mark(self, outlines: Points, label: int | tuple[int, ...] | None) -> None:
        """Write a label inside closed outlines; several labels go with as many outlines."""
        fixed = self.fixed(outlines)
        if isinstance(label, tuple):
            for value, outline in zip(label, fixed, strict=True):
                cv2.fillPoly(self.labels, [outline], value, cv2.LINE_8, _SHIFT)
        elif label is not None:
            cv2.fillPoly(self.labels, fixed, label, cv2.LINE_8, _SHIFT)

    def fill(self, outlines: Points, colour: np.ndarray,
             label: int | tuple[int, ...] | None = None, smooth: bool = True) -> None:
        """Fill closed outlines with one colour; `smooth` is for what is small."""
        fixed, kind = self.fixed(outlines), cv2.LINE_AA if smooth else cv2.LINE_8
        cv2.fillPoly(self.image, fixed, colour.tolist(), kind, _SHIFT)
        self.mark(fixed, label)

    def lines(self, curves: Points, colour: np.ndarray, width: float = 0.0,
              label: int | None = None, smooth: bool = True, closed: bool = False) -> None:
        """Draw curves; `smooth` is slower and worth it where few thin lines stand alone."""
        fixed = self.fixed(curves)
        self._stroke(self.image, fixed, colour.tolist(), width, smooth, closed)
        if label is not None:
            self._stroke(self.labels, fixed, label, width, closed=closed)

    def discs(self, centres: list[np.ndarray], radius: float, colour: np.ndarray,
              shift: tuple[float, float] = (0.0, 0.0)) -> None:
        """Fill circles round fixed-point centres (1, 2), moved by `shift` in units of the side."""
        unit = self.side << _SHIFT
        size, right, down = round(radius * unit), round(shift[0] * unit), round(shift[1] * unit)
        colour = colour.tolist()
        for centre in centres:
            x, y = centre[0].tolist()
            cv2.circle(self.image, (x + right, y + down), size, colour, -1, cv2.LINE_AA, _SHIFT)

    def tint_fill(self, outlines: Points, factor: np.ndarray,
                  label: int | tuple[int, ...] | None = None) -> None:
        """Multiply the skin by `factor` (3,) inside closed outlines; the later one wins."""
        fixed = self.fixed(outlines)
        cv2.fillPoly(self.tint, fixed, (_ONE * factor).tolist(), cv2.LINE_8, _SHIFT)
        self.mark(fixed, label)

    def tint_lines(self, curves: Points, factor: np.ndarray, width: float = 0.0) -> None:
        """Multiply the skin by `factor` (3,) along curves; the later one wins."""
        self._stroke(self.tint, self.fixed(curves), (_ONE * factor).tolist(), width)

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
        fixed = self.fixed(pieces[np.argsort(shades, kind="stable")])
        thickness = max(1, round(self.side / 512))
        ends = np.bincount(shades, minlength=len(palette)).cumsum().tolist()
        for start, end, colour in zip([0, *ends], ends, palette.tolist(), strict=False):
            if end > start:
                cv2.polylines(self.image, fixed[start:end], False, colour, thickness, 8, _SHIFT)

    def window(self, fixed: list[np.ndarray], margin: float) -> tuple[slice, slice]:
        """Rows and columns of the smallest part that holds fixed-point curves, never empty."""
        x, y, wide, tall = cv2.boundingRect(fixed[0] if len(fixed) == 1 else np.concatenate(fixed))
        spare = int(margin * self.side) + 1
        sides = []
        for start, length in ((y, tall), (x, wide)):
            low = min(max((start >> _SHIFT) - spare, 0), self.side - 1)
            high = min(max((start + length >> _SHIFT) + spare, low + 1), self.side)
            sides.append(slice(low, high))
        return sides[0], sides[1]

    def cover(self, fixed: list[np.ndarray], window: tuple[slice, slice], ground: int,
              value: int) -> np.ndarray:
        """(h, w) uint8: `value` inside closed outlines and `ground` outside, within the window."""
        rows, columns = window
        mask = np.full((rows.stop - rows.start, columns.stop - columns.start), ground, np.uint8)
        origin = (-columns.start << _SHIFT, -rows.start << _SHIFT)
        cv2.fillPoly(mask, fixed, value, cv2.LINE_8, _SHIFT, origin)
        return mask

    def paste(self, outline: Points, source: np.ndarray, top: int = 0) -> None:
        """Copy `source`, rows `top` and on of a canvas-sized picture, inside a closed outline."""
        fixed = self.fixed(outline)
        rows, columns = self.window(fixed, 0)
        rows = slice(max(rows.start, top), rows.stop)
        mask = self.cover(fixed, (rows, columns), 0, 255)
        part = slice(rows.start - top, rows.stop - top)
        cv2.copyTo(source[part, columns], mask, self.image[rows, columns])

    @contextmanager
    def clip(self, outlines: Points) -> Iterator[None]:
        """Keep what is drawn inside the block only where it lies inside closed outlines."""
        fixed = self.fixed(outlines)
        window = self.window(fixed, 0.02)
        below = self.image[window].copy()
        yield
        cv2.copyTo(below, self.cover(fixed, window, 255, 0), self.image[window])

    def lay_skin(self, skin: np.ndarray, outline: Points) -> None:
        """Copy a canvas-sized picture of skin, multiplied by `tint`, inside a closed outline."""
        fixed, soft = self.fixed(outline), 2 * (self.side // 256) + 1
        window = self.window(fixed, 0)
        tint = cv2.blur(self.tint[window], (soft, soft))
        skin = cv2.multiply(skin[window], tint, dst=tint, scale=1 / _ONE)
        cv2.copyTo(skin, self.cover(fixed, window, 0, 255), self.image[window])

    def glaze(self, outlines: Points, factor: float, blur: float = 0.0) -> None:
        """Multiply what lies inside closed outlines by `factor`, below 2."""
        fixed = self.fixed(outlines)
        window = self.window(fixed, 2 * blur)
        mask = self.cover(fixed, window, _ONE, int(_ONE * factor))
        if blur:
            side = 2 * round(blur * self.side) + 1
            mask = cv2.blur(mask, (side, side))
        mask = cv2.cvtColor(mask, cv2.COLOR_GRAY2RGB)
        self.image[window] = cv2.multiply(self.image[window], mask, scale=1 / _ONE)


class Scene(NamedTuple):
    """One person in place: everything the painting functions share.

    points: (106, 2) of the head in units of the side, the 68 landmarks first.
    """

    canvas: Canvas
    dice: Dice
    traits: Traits
    light: Light
    pose: Pose
    points: np.ndarray
    lines: Lines

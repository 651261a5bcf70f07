"""Hair and beard of a synthetic portrait: where they grow, and their strands."""
from __future__ import annotations

from typing import NamedTuple

import numpy as np

from data.synthetic_canvas import HAIR, Scene
from data.synthetic_shapes import Pose, mirrored, spline
from data.synthetic_traits import Traits

_PUFF_X = np.array([0, 0.5, 0.8, 1, 1, 1, 1.1, 1.2, 1.3])
_PUFF_Y = np.array([0.9, 1, 0.6, 0.2, 0, 0, 0, 0, 0])
_HAIR_INNER = np.array(
    [[0.0, 0.0, 0.03], [0.11, 0.012, 0.03], [0.195, 0.075, 0.0], [0.242, 0.37, -0.05],
     [0.258, 0.47, -0.08], [0.252, 0.60, -0.08], [0.245, 0.74, -0.06], [0.24, 0.90, -0.06],
     [0.235, 1.10, -0.06]]
)
_HAIR_OUTER = np.array(
    [[0.0, 0.035, -0.1], [0.14, 0.055, -0.1], [0.237, 0.13, -0.1], [0.282, 0.25, -0.1],
     [0.293, 0.40, -0.09], [0.298, 0.56, -0.09], [0.304, 0.72, -0.09], [0.312, 0.89, -0.09],
     [0.32, 1.10, -0.09]]
)
# What is left on a receding head: a wreath round the ears.
_WREATH_INNER = np.array([[0.255, 0.22, -0.07], [0.252, 0.26, -0.06], [0.25, 0.31, -0.06]])
_WREATH_OUTER = np.array([[0.268, 0.18, -0.09], [0.277, 0.21, -0.09], [0.286, 0.25, -0.09]])
_STRAND = np.linspace(0, 1, 5, dtype=np.float32)
_HAIR_SHADES = np.linspace(0.35, 1.8, 8)[:, None]
_HAIR_SHINE = 65 * np.maximum(_HAIR_SHADES - 0.8, 0)
_SKULL_CENTRE = np.array([0.0, 0.38, -0.05])


class Ribbon(NamedTuple):
    """A band of hair between two curves (65, 2) that run the way it lies, roots first."""

    inner: np.ndarray
    outer: np.ndarray

    def at(self, along: np.ndarray, across: np.ndarray) -> np.ndarray:
        """(..., 2) points at `along` in [0, 1] from root to tip, `across` from inner to outer."""
        step = np.minimum(np.maximum(along * 64, 0), 64).astype(int)
        inner = self.inner[step]
        return inner + across[..., None] * (self.outer[step] - inner)

    def outline(self, tips: np.ndarray | None = None) -> np.ndarray:
        """Closed outline; its end is cut back by `tips` (T,), fractions of the length."""
        if tips is None:
            return np.concatenate([self.inner, self.outer[::-1]])
        keep = 65 - int(64 * tips.max())
        end = self.at(1 - tips, np.arange(len(tips)) / (len(tips) - 1))
        return np.concatenate([self.inner[:keep], end, self.outer[:keep][::-1]])


def hair_ribbons(traits: Traits, pose: Pose, whole: bool = False) -> list[Ribbon]:
    """The hair in front of the head, back to front; empty for a bald head.

    Args:
        whole: also what is tucked behind the ears, without bangs.
    """
    if traits.style == "bald":
        return []
    end = 4.3 if traits.tucked and not whole else traits.hair_length
    curves = np.stack([curve for side in (-1, 1) for curve in _side_hair(traits, side, end)])
    dense = pose(spline(curves, 65))
    # The hair ends at control point number `end`.
    t = np.arange(65) * (end / 8)
    low = np.minimum(t.astype(int), 63)
    cut = dense[:, low] + (t - low)[:, None] * (dense[:, low + 1] - dense[:, low])
    ribbons = [Ribbon(cut[0], cut[1]), Ribbon(cut[2], cut[3])]
    if traits.bangs and not whole:
        low, wide = 0.365 + 0.5 * traits.brow_height, 0.245 * traits.face_width
        left = np.array([[-0.12, 0.06 - traits.volume, -0.08], [-0.21, 0.16, 0.0],
                         [-wide, 0.28, 0.0], [-wide, low + 0.02, -0.01]])
        ribbons.append(Ribbon(*pose(spline(np.stack([left, mirrored(left)]), 65))))
    return ribbons


def _side_hair(traits: Traits, side: int, end: float) -> tuple[np.ndarray, np.ndarray]:
    """Inner and outer edge (9, 3) of the hair from the parting over one side of the head."""
    inner, outer = _HAIR_INNER.copy(), _HAIR_OUTER.copy()
    # The parted hair lies deeper over the forehead on the wide side.
    sweep = traits.sweep if side * traits.part < 0 else 0.3 * traits.sweep
    inner[:3, 1] += [traits.hairline, traits.hairline + 0.6 * sweep, traits.hairline + sweep]
    inner[0, 0], outer[0, 0] = traits.part * side, 0.6 * traits.part * side
    if traits.style == "receding":
        inner[:3], outer[:3] = _WREATH_INNER, _WREATH_OUTER
    puff = traits.volume
    if end < 4.8:
        puff = puff * np.minimum(np.maximum((end + 0.4 - np.arange(9)) / 2, 0), 1)
    outer[:, 0] += puff * _PUFF_X
    outer[:, 1] -= puff * _PUFF_Y
    if end < 4.8:
        # Short hair closes on the sideburn in front of the ear.
        outer[4:] = inner[4:] + [0.012, 0, 0]
    scale = [side * traits.face_width, 1, 1]
    return inner * scale, outer * scale


def beard_ribbons(landmarks: np.ndarray, traits: Traits) -> list[Ribbon]:
    """Beard and moustache, each from the left of the picture to the right, roots at the inside."""
    jaw, mouth, nose = landmarks[:17], landmarks[48:60], landmarks[31:36]
    chin = jaw[8] - mouth[9]
    inner = np.stack([
        jaw[2] + [0.012, 0], jaw[3] + 0.2 * (mouth[0] - jaw[3]),
        jaw[4] + 0.45 * (mouth[0] - jaw[4]), mouth[0] + [-0.022, 0.012],
        mouth[11] + 0.28 * chin, mouth[9] + 0.25 * chin, mouth[7] + 0.28 * chin,
        mouth[6] + [0.022, 0.012], jaw[12] + 0.45 * (mouth[6] - jaw[12]),
        jaw[13] + 0.2 * (mouth[6] - jaw[13]), jaw[14] + [-0.012, 0],
    ])
    outer = jaw[[2, 3, 4, 5, 7, 8, 9, 11, 12, 13, 14]]
    outer = outer + (outer - nose[2]) * (0.12 * max(traits.beard - 0.4, 0))
    top = np.stack([mouth[0] + [-0.018, 0.008], nose[0] + 0.45 * (mouth[1] - nose[0]),
                    nose[2] + [0, 0.010], nose[4] + 0.45 * (mouth[5] - nose[4]),
                    mouth[6] + [0.018, 0.008]])
    low = mouth[[0, 1, 3, 5, 6]] + [[-0.008, 0.014], [0, 0], [0, 0], [0, 0], [0.008, 0.014]]
    return [Ribbon(spline(inner, 65), spline(outer, 65)), Ribbon(spline(top, 65), spline(low, 65))]


def paint_back_hair(scene: Scene, ribbons: list[Ribbon]) -> None:
    """Long hair behind neck and shoulders."""
    if scene.traits.style not in ("long", "bob"):
        return
    if scene.traits.tucked:
        ribbons = hair_ribbons(scene.traits, scene.pose, whole=True)
    left, right = ribbons[:2]
    behind = Ribbon(left.outer, right.outer)
    dim = 0.12 * scene.light.key + 0.42 * scene.light.ambient
    scene.canvas.fill(behind.outline(), scene.traits.hair * dim, HAIR, smooth=False)
    _paint_strands(scene, [behind], 70, 0.5)


def paint_hair(scene: Scene, ribbons: list[Ribbon]) -> None:
    """The hair in front of the head: a ground with ragged tips, then strands."""
    traits, canvas, rng = scene.traits, scene.canvas, scene.dice.rng
    colour = 0.7 * traits.hair * (0.45 * scene.light.key + 0.7 * scene.light.ambient)
    for ribbon in ribbons:
        outline = ribbon.outline(0.05 * rng.random(16))
        if traits.style == "curly":
            outward = outline - scene.pose(np.array([0.0, 0.4, -0.05]))
            outline = outline + 0.05 * (rng.random((len(outline), 1)) - 0.3) * outward
        canvas.fill(outline, colour, HAIR, smooth=False)
    if ribbons:
        _paint_strands(scene, ribbons, 170 * len(ribbons), 1.0)


def _paint_strands(scene: Scene, ribbons: list[Ribbon], count: int, level: float) -> None:
    """Strands that follow ribbons, lit like a ball, with a band of sheen and tone per lock."""
    traits, light, rng = scene.traits, scene.light, scene.dice.rng
    curves = np.array(ribbons, np.float32)                                 # (R, 2, 65, 2)
    along, across, chance, length = rng.random((4, count), np.float32)
    which = np.arange(count) * len(ribbons) // count
    lock = rng.random((len(ribbons), 24), np.float32)[which, (across * 24).astype(int)]
    reach = _STRAND * (0.06 + 0.16 * length[:, None])
    if traits.style in ("tied", "buzz"):
        t, s = np.broadcast_to(along[:, None], reach.shape), across[:, None] + reach - 0.05
    else:
        t = 0.94 * along[:, None] + reach - 0.03
        gap = curves[:, 1, 32] - curves[:, 0, 32]
        swing = (0.010 * traits.wave / np.hypot(gap[:, 0], gap[:, 1]))[which, None]
        s = across[:, None] + (0.15 * chance[:, None] - 0.075) * reach
        s += swing * t * np.sin(25 * t + 5 * lock[:, None])
    step = np.minimum(np.maximum(64 * t, 0), 64).astype(int) + 130 * which[:, None]
    curves = curves.reshape(-1, 2)
    inner, outer = curves.take(step, 0), curves.take(step + 65, 0)
    paths = inner + np.minimum(np.maximum(s, -0.03), 1.03)[..., None] * (outer - inner)
    if traits.style == "curly":
        angle = 6.3 * chance[:, None] + 4 * _STRAND
        size = 0.006 + 0.010 * length[:, None, None]
        paths = paths[:, :1] + size * np.stack([np.cos(angle), np.sin(angle)], -1)
    x, y, z = (light.direction / [0.36, 0.5, 1]).tolist()
    middle = paths[:, 2] - scene.pose(_SKULL_CENTRE).astype(np.float32)
    facing = x * middle[:, 0] + y * middle[:, 1] + 0.55 * z
    sheen = np.exp(-((along - 0.30) / 0.09) ** 2) * (0.4 + 0.6 * lock)
    shade = 0.2 + 0.5 * facing + 0.45 * lock + 0.5 * chance + 0.7 * sheen
    shades = np.minimum(np.maximum((level * shade - 0.35) * 5.5, 0), 7).astype(int)
    palette = traits.hair * _HAIR_SHADES * (0.55 * light.key + 0.5 * light.ambient)
    scene.canvas.strands(paths, shades, palette + _HAIR_SHINE * light.key)


def paint_beard(scene: Scene) -> None:
    """Hairs of stubble or beard; the label stays skin, as in CelebAMask-HQ."""
    traits, canvas, rng, light = scene.traits, scene.canvas, scene.dice.rng, scene.light
    if traits.beard < 0.2:
        return
    full = traits.beard > 0.55
    lit = 0.6 * light.key + 0.5 * light.ambient
    colour = 0.8 * traits.hair if full else 0.2 * traits.hair + 0.5 * traits.skin
    grow, most = (0.45, 4) if full else (0.05, 2)
    for ribbon, count in zip(beard_ribbons(scene.points, traits), (240, 80), strict=True):
        along, across, length, chance = rng.random((4, count))
        reach = _STRAND[::2] * grow * (0.5 + length[:, None])
        swirl = along[:, None] + 0.02 * (chance[:, None] - 0.5) * np.arange(3) * (grow + 0.3)
        # Roots thin out towards the cheeks.
        paths = ribbon.at(swirl, across[:, None] ** 0.7 + reach - 0.2 * grow)
        palette = colour * lit * np.array([[0.55], [0.9], [1.3], [1.7]])
        canvas.strands(paths, (most * chance).astype(int), palette)

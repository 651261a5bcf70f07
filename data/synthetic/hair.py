"""Hair and beard of a synthetic portrait: where they grow, and their strands."""
from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from data.synthetic.canvas import HAIR, Scene
from data.synthetic.shapes import Pose, mirrored, spline
from data.synthetic.traits import Traits

# Edges of the hair on the right side, from the parting down: at the forehead and in outline. The
# height of the first three points of the inner edge counts from the hairline.
_HAIR_EDGES = np.array([
    [[0.0, 0.0, 0.03], [0.11, 0.012, 0.03], [0.195, 0.075, 0.0], [0.242, 0.37, -0.05],
     [0.258, 0.47, -0.08], [0.252, 0.60, -0.08], [0.245, 0.74, -0.06], [0.24, 0.90, -0.06],
     [0.235, 1.10, -0.06]],
    [[0.0, 0.035, -0.1], [0.14, 0.055, -0.1], [0.237, 0.13, -0.1], [0.282, 0.25, -0.1],
     [0.293, 0.40, -0.09], [0.298, 0.56, -0.09], [0.304, 0.72, -0.09], [0.312, 0.89, -0.09],
     [0.32, 1.10, -0.09]],
])[None].repeat(2, axis=0)
# What is left of that on a receding head: a wreath round the ears.
_WREATH = np.array([
    [[0.254, 0.25, -0.07], [0.251, 0.28, -0.06], [0.248, 0.32, -0.06]],
    [[0.262, 0.22, -0.09], [0.267, 0.25, -0.09], [0.274, 0.29, -0.09]],
])
_SWEEP = np.array([0.0, 0.6, 1.0])
_LEVELS = np.arange(9.0)[:, None]
_PUFF = np.array([[0, -0.9, 0], [0.5, -1, 0], [0.8, -0.6, 0], [1, -0.2, 0], [1, 0, 0], [1, 0, 0],
                  [1.1, 0, 0], [1.2, 0, 0], [1.3, 0, 0]])
_STEPS = np.arange(65.0)
_HAIR_SHADES = np.linspace(0.35, 1.8, 8)[:, None]
_HAIR_SHINE = 65 * np.maximum(_HAIR_SHADES - 0.8, 0)
_CURL_TONES = np.array([-1.5, 0.0, 0.5, -0.5, -1.0])
_LAYOUTS, _COUNT = 24, 80
_FIRST_STEPS = 65 * np.arange(3)[:, None, None]
# A strand is two hairs, joined at their tips: out along the one, back along the other.
_BACK, _APART = [0, 1, 2, 3, 4, 3, 2, 1, 0], np.array([0, 0, 0, 0, 0, 0.25, 0.5, 0.75, 1])
_REACH = np.array([0, 0.5, 1, 0.5, 0])
_ROUND = np.array([1 / 0.36, 1 / 0.5, 1.0])
_SKULL_CENTER = np.array([0.0, 0.38, -0.05])


class Ribbon(NamedTuple):
    """A band of hair between two curves (65, 2) that run the way it lies, roots first."""

    inner: np.ndarray
    outer: np.ndarray

    def at(self, along: np.ndarray, across: np.ndarray) -> np.ndarray:
        """(..., 2) points at `along` in [0, 1] from root to tip, `across` from inner to outer."""
        step = np.minimum(np.maximum(along * 64, 0), 64).astype(int)
        inner = self.inner[step]
        return inner + across[..., None] * (self.outer[step] - inner)

    def outline(self) -> np.ndarray:
        """(66, 2) closed outline."""
        return np.concatenate([self.inner[::2], self.outer[::-2]])


def hair_ribbons(traits: Traits, pose: Pose, whole: bool = False) -> list[Ribbon]:
    """The hair in front of the head, back to front; empty for a bald head.

    Args:
        whole: also what is tucked behind the ears, without bangs.
    """
    if traits.style == "bald":
        return []
    end = 4.3 if traits.tucked and not whole else traits.hair_length
    dense = spline(pose(_hair_edges(traits, end)), 65)
    # The hair ends at control point number `end`.
    t = _STEPS * (end / 8)
    low = np.minimum(t.astype(int), 63)
    start = dense.take(low, 2)
    cut = start + (t - low)[:, None] * (dense.take(low + 1, 2) - start)
    ribbons = [Ribbon(*cut[0]), Ribbon(*cut[1])]
    if traits.bangs and not whole:
        low, wide = 0.365 + 0.5 * traits.brow_height, 0.245 * traits.face_width
        left = np.array([[-0.12, 0.06 - traits.volume, -0.08], [-0.21, 0.16, 0.0],
                         [-wide, 0.28, 0.0], [-wide, low + 0.02, -0.01]])
        ribbons.append(Ribbon(*pose(spline(np.stack([left, mirrored(left)]), 65))))
    return ribbons


def _hair_edges(traits: Traits, end: float) -> np.ndarray:
    """(2, 2, 9, 3): for both sides of the head the inner and the outer edge of the parted hair."""
    edges = _HAIR_EDGES.copy()
    inner, outer = edges[:, 0], edges[:, 1]
    # The parted hair lies deeper over the forehead on the wide side.
    sweep = traits.sweep * np.array([[0.3], [1.0]] if traits.part < 0 else [[1.0], [0.3]])
    inner[:, :3, 1] += traits.hairline + sweep * _SWEEP
    inner[0, 0, 0], inner[1, 0, 0] = -traits.part, traits.part
    outer[0, 0, 0], outer[1, 0, 0] = -0.6 * traits.part, 0.6 * traits.part
    if traits.style == "receding":
        edges[:, :, :3] = _WREATH
    puff = traits.volume * _PUFF
    if end < 4.8:
        puff = puff * np.minimum(np.maximum((end + 0.4 - _LEVELS) / 2, 0), 1)
    outer += puff
    if end < 4.8:
        # Short hair closes on the sideburn in front of the ear.
        outer[:, 4:] = inner[:, 4:] + [0.012, 0, 0]
    edges[..., 0] *= traits.face_width
    edges[0, ..., 0] *= -1
    return edges


def hair_outlines(ribbons: list[Ribbon], traits: Traits) -> list[np.ndarray]:
    """Closed outlines (P, 2) that cover the ribbons of hair_ribbons."""
    if traits.style in ("bald", "receding"):
        return [ribbon.outline() for ribbon in ribbons]
    left, right, *bangs = ribbons
    step = 1 if traits.style == "curly" else 2          # curls make each point a bump
    both = np.concatenate([left.inner[::step], left.outer[::-step],
                           right.outer[::step], right.inner[::-step]])
    return [both, *(ribbon.outline() for ribbon in bangs)]


def hides_ears(traits: Traits) -> bool:
    """Whether nothing of the ears can be seen."""
    return traits.style in ("long", "bob") and not traits.tucked


def beard_ribbons(landmarks: np.ndarray, traits: Traits) -> list[Ribbon]:
    """Beard and mustache, each from the left of the image to the right, roots at the inside."""
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
    _paint_strands(scene, [behind], 0.5)


def paint_hair(scene: Scene, ribbons: list[Ribbon], outlines: list[np.ndarray]) -> None:
    """The hair in front of the head: a ground, then strands."""
    traits, canvas = scene.traits, scene.canvas
    if not ribbons:
        return
    dim = 0.5 if traits.style == "curly" else 0.7
    color = dim * traits.hair * (0.45 * scene.light.key + 0.7 * scene.light.ambient)
    for outline in outlines:
        if traits.style == "curly":
            outward = outline - scene.pose(_SKULL_CENTER)
            bumps = scene.dice.rng.random((len(outline), 1)) - 0.3
            outline = outline + 0.05 * bumps * outward
        canvas.fill(outline, color, HAIR, smooth=False)
    _paint_strands(scene, ribbons, 1.0)


class _Strands(NamedTuple):
    """Layouts of strands on a ribbon, (L, _COUNT, 9) points or (L, _COUNT) values."""

    step: np.ndarray        # along the ribbon, 0 to 64
    across: np.ndarray      # 0 at the inner edge, 1 at the outer
    sway: np.ndarray        # how far a wave moves them, in units of the side
    tone: np.ndarray        # brightness: tone of the lock, of the strand, band of sheen
    curl: np.ndarray        # (..., 5, 2) the strand as an arc of a curl, in units of the side


@lru_cache(maxsize=2)
def _layouts(combed: bool) -> _Strands:
    """A stock of layouts, drawn once: most of the work on hair does not depend on the head.

    Args:
        combed: strands cross the ribbon instead of running along it.
    """
    rng = np.random.default_rng(13)
    shape = (_LAYOUTS + 2, _COUNT)              # three ribbons in a row, whatever the first
    along, across, chance, length = rng.random((4, *shape))
    locks = rng.random((len(across), 24))
    lock = np.take_along_axis(locks, (24 * across).astype(int), 1)
    reach = np.linspace(0, 1, 5)[_BACK] * (0.06 + 0.16 * length[..., None])
    apart = (0.02 + 0.05 * rng.random((*shape, 1))) * _APART
    t = 0.94 * along[..., None] + reach - 0.03
    s = across[..., None] + (0.15 * chance[..., None] - 0.075) * reach + apart
    sway = 0.010 * t * np.sin(25 * t + 5 * lock[..., None])
    if combed:
        t, s, sway = along[..., None] + 0.2 * apart, across[..., None] + reach - 0.05, 0 * sway
    sheen = np.exp(-((along - 0.30) / 0.09) ** 2) * (0.4 + 0.6 * lock)
    angle = 6.3 * chance[..., None] + np.linspace(0, 4, 5)
    curl = np.stack([np.cos(angle), np.sin(angle)], -1) * (0.006 + 0.010 * length[..., None, None])
    return _Strands((64 * np.clip(t, 0, 1)).astype(int), np.clip(s, -0.03, 1.03).astype(np.float32),
                    sway.astype(np.float32),
                    (0.45 * lock + 0.5 * chance + 0.7 * sheen).astype(np.float32),
                    curl.astype(np.float32))


def _paint_strands(scene: Scene, ribbons: list[Ribbon], level: float) -> None:
    """Strands that follow ribbons, lit like a ball."""
    traits, light = scene.traits, scene.light
    stock = _layouts(traits.style in ("tied", "buzz"))
    count = len(ribbons)
    first = int(scene.dice.uniform(0, _LAYOUTS))
    layout = slice(first, first + count)
    curves = np.array(ribbons, np.float32)                                 # (R, 2, 65, 2)
    curves[:, 1] -= curves[:, 0]
    wide = curves[:, 1, 32]
    swing = traits.wave / np.hypot(wide[:, 0], wide[:, 1])
    across = stock.across[layout] + swing[:, None, None] * stock.sway[layout]
    curves = np.concatenate([curves[:, 0], curves[:, 1]], -1).reshape(-1, 4)
    step = stock.step[layout] + _FIRST_STEPS[:count]
    inner_and_wide = curves.take(step, 0)                                  # (R, _COUNT, 9, 4)
    paths = inner_and_wide[..., 2:] * across[..., None]
    paths += inner_and_wide[..., :2]
    x, y, z = (light.direction * _ROUND).tolist()
    center = scene.pose(_SKULL_CENTER).tolist()
    # A ball's brightness is linear in the place on it.
    shade = paths[:, :, 2] @ np.array([2.75 * level * x, 2.75 * level * y], np.float32)
    shade += (5.5 * level) * stock.tone[layout]
    shade += 2.75 * level * (0.55 * z + 0.4 - x * center[0] - y * center[1]) - 1.925
    if traits.style == "curly":
        # Five curls of different tone along each strand instead of the strand.
        paths = paths[:, :, ::2, None] + stock.curl[layout][:, :, None]
        shade = shade[..., None] + _CURL_TONES
    shades = np.minimum(np.maximum(shade, 0), 7).astype(np.uint8)
    palette = traits.hair * _HAIR_SHADES * (0.55 * light.key + 0.5 * light.ambient)
    scene.canvas.strands(paths.reshape(-1, paths.shape[-2], 2), shades.reshape(-1),
                         palette + _HAIR_SHINE * light.key)


def paint_beard(scene: Scene) -> None:
    """Hairs of stubble or beard; the label stays skin, as in CelebAMask-HQ."""
    traits, canvas, rng, light = scene.traits, scene.canvas, scene.dice.rng, scene.light
    if traits.beard < 0.2:
        return
    full = traits.beard > 0.55
    lit = 0.6 * light.key + 0.5 * light.ambient
    color = 0.8 * traits.hair if full else 0.2 * traits.hair + 0.5 * traits.skin
    grow, num_shades = (0.45, 4) if full else (0.05, 2)
    palette = color * lit * np.array([[0.55], [0.9], [1.3], [1.7]])
    for ribbon, count in zip(beard_ribbons(scene.points, traits), (120, 40), strict=True):
        along, across, length, chance = rng.random((4, count, 1))
        swirl = along + 0.04 * (grow + 0.3) * (chance - 0.5) * _REACH + 0.03 * length * _APART[::2]
        # Roots thin out towards the cheeks.
        paths = ribbon.at(swirl, across ** 0.7 + grow * ((0.5 + length) * _REACH - 0.2))
        canvas.strands(paths, (num_shades * chance[:, 0]).astype(np.uint8), palette)

"""Light on the skin of a synthetic portrait, on a small grid.

Everything here is smooth, so a grid of 64 x 64 cells holds it: the face is an ellipsoid plus a sum of
Gaussians (nose, cheeks, sockets, lips, chin), whose slopes are exact and cost one matrix product each.
"""

import cv2
import numpy as np

from data.synthetic_shapes import Pose, Ribbon, beard_ribbons, five_points, mirrored
from data.synthetic_traits import Light, Traits

_GRID = 64
_AXIS = ((np.arange(_GRID) + 0.5) / _GRID).astype(np.float32)
_NECK_TOP = 0.625           # the neck's map starts here; a whole number of cells

# Height, then width across and down, of what stands out of the face; in the order of _anchors.
_RELIEF = np.array(
    [[0.034, 0.026, 0.024], [0.020, 0.020, 0.050], [0.010, 0.022, 0.050],   # nose: tip, bridge
     [0.012, 0.018, 0.016], [0.012, 0.018, 0.016],                          # nose: wings
     [0.024, 0.070, 0.055], [0.024, 0.070, 0.055],                          # cheeks
     [-0.024, 0.050, 0.034], [-0.024, 0.050, 0.034],                        # eye sockets
     [0.010, 0.036, 0.022], [0.010, 0.036, 0.022],                          # eyeballs
     [0.010, 0.060, 0.020], [0.010, 0.060, 0.020],                          # brow ridges
     [0.012, 0.110, 0.060], [0.007, 0.055, 0.014], [0.011, 0.045, 0.016],   # forehead, lips
     [-0.008, 0.055, 0.014], [0.022, 0.055, 0.034], [-0.003, 0.012, 0.018]],  # chin, philtrum
    dtype=np.float32,
)
# Depth, then width across and down, of the hollows that see little light; order of _hollows.
_HOLLOWS = np.array(
    [[0.42, 0.036, 0.013], [0.20, 0.050, 0.026], [0.20, 0.050, 0.026], [0.20, 0.018, 0.030],
     [0.20, 0.018, 0.030], [0.16, 0.050, 0.013], [0.18, 0.010, 0.010], [0.18, 0.010, 0.010]],
    dtype=np.float32,
)
# Width of the tints: cheeks, nose, chin, upper lids, below the eyes.
_TINTS = np.array(
    [[0.060, 0.045], [0.060, 0.045], [0.030, 0.030], [0.050, 0.030], [0.050, 0.022],
     [0.050, 0.022], [0.040, 0.014], [0.040, 0.014]], dtype=np.float32,
)


def skin_map(traits: Traits, light: Light, pose: Pose, landmarks: np.ndarray,
             hair: list[Ribbon]) -> np.ndarray:
    """(64, 64, 3) uint8 colour of the skin of the head, light included, over the whole picture.

    Args:
        landmarks: (68, 2) in units of the picture side.
        hair: what throws its shadow on the forehead.
    """
    anchors = _anchors(traits, pose, landmarks)
    slope_x, slope_y = _slopes(traits, pose, anchors)
    steep = 1 / np.sqrt(1 + slope_x * slope_x + slope_y * slope_y)
    facing = _towards(light.direction, slope_x, slope_y, steep)
    half = light.direction + [0, 0, 1]
    mirror = np.maximum(_towards(half / np.sqrt(half @ half), slope_x, slope_y, steep), 0.1)
    for _ in range(4):
        mirror *= mirror
    hollow = _hollow_map(light, anchors, landmarks)
    shadow = _shadow_map(light, hair)
    facing *= (1 - hollow) * shadow
    open_sky = (1 - 0.7 * hollow) * (0.4 + 0.6 * shadow)
    lit = facing * _planes(light.key) + open_sky * _planes(light.ambient)
    lit *= 1.22 - 0.22 * lit                # film does not burn out at once
    lit *= _albedo(traits, anchors, landmarks)
    lit += light.gloss * (mirror * shadow)
    return _picture(lit)


def neck_map(traits: Traits, light: Light, outline: np.ndarray, middle: float,
             half: float) -> tuple[np.ndarray, float]:
    """Colour of neck and shoulders, (24, 64, 3) uint8, and the height at which that map starts.

    Args:
        outline: (P, 2) of the head, which throws its shadow on the neck.
        middle: x of the neck's axis.
        half: half the neck's width.
    """
    across = (_AXIS - middle) / (1.25 * half)
    across = np.where(np.abs(across) > 1.04, 0.35 * np.sign(across), across)
    facing = across * light.direction[0] + np.sqrt(1.1 - across**2) * light.direction[2]
    cover = np.zeros((_GRID, _GRID), np.uint8)
    _cover(cover, outline + [-0.05 * light.direction[0], 0.045])
    first = int(_NECK_TOP * _GRID)
    shade = 1 - cv2.blur(cv2.blur(cover, (3, 3)), (3, 3))[first:] * np.float32(0.62 / 255)
    lit = np.maximum(facing, 0).astype(np.float32) * shade * _planes(light.key)
    lit += _planes(light.ambient) * (0.35 + 0.65 * shade)
    return _picture(lit * _planes(0.95 * traits.skin)), _NECK_TOP


def _planes(colour: np.ndarray) -> np.ndarray:
    """(3, 1, 1) float32, to be multiplied with planes: numpy is slow on a last axis of three."""
    return colour.astype(np.float32)[:, None, None]


def _picture(planes: np.ndarray) -> np.ndarray:
    np.minimum(planes, 255, out=planes)
    return cv2.merge(list(planes.astype(np.uint8)))


def _cover(mask: np.ndarray, outline: np.ndarray) -> None:
    """Fill an outline in units of the side on a mask of grid size."""
    points = (outline * (16 * _GRID) - 8).astype(np.int32)
    cv2.fillPoly(mask, [points], 255, cv2.LINE_8, 4)


def _gaussians(centres: np.ndarray, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Separable Gaussians on the grid: (K, GRID) along x and (K, GRID) along y."""
    offset = (_AXIS - centres.T[..., None].astype(np.float32)) / widths.T[..., None]
    # Cut off before float32 loses its normal form, which would make each product slow.
    return tuple(np.exp(np.maximum(-0.5 * offset * offset, -30)))


def _anchors(traits: Traits, pose: Pose, mark: np.ndarray) -> np.ndarray:
    """(19, 2) middles of the _RELIEF shapes."""
    cheek = np.array([-0.155 * traits.face_width, 0.59 - 0.012 * traits.smile, 0.02])
    placed = pose(np.stack([cheek, mirrored(cheek), [0.0, 0.27, 0.03]]))
    eyes = five_points(mark)[:2]
    brows = (mark[[18, 23]] + mark[[20, 25]]) / 2
    lip, chin = mark[57], mark[8]
    return np.concatenate([
        mark[[30, 28, 27, 31, 35]], placed[:2], eyes - [0, 0.012], eyes, brows, placed[2:],
        [mark[51] + [0, 0.01], (lip + mark[66]) / 2, lip + 0.2 * (chin - lip),
         lip + 0.72 * (chin - lip), (mark[33] + mark[51]) / 2],
    ])


def _slopes(traits: Traits, pose: Pose, anchors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slopes across and down of the face's surface on the grid: an ellipsoid plus _RELIEF."""
    heights, widths = _RELIEF[:, :1].copy(), _RELIEF[:, 1:]
    heights[:5] *= traits.nose_height
    heights[5:7] *= 1 + 0.5 * traits.smile
    columns, rows = _gaussians(anchors, widths)
    rows *= heights
    middle = anchors.astype(np.float32)
    slope_x = rows.T @ ((middle[:, :1] - _AXIS) / widths[:, :1] ** 2 * columns)
    slope_y = ((middle[:, 1:] - _AXIS) / widths[:, 1:] ** 2 * rows).T @ columns
    x, y = pose(np.array([0.0, 0.47, -0.05])).tolist()
    across, down = (_AXIS - x) / (0.31 * traits.face_width), ((_AXIS - y) / 0.47)[:, None]
    flat = 1 / np.sqrt(np.maximum(1 - across**2 - down**2, 0.12))
    return slope_x - across * flat, slope_y - 0.55 * down * flat


def _towards(direction: np.ndarray, slope_x: np.ndarray, slope_y: np.ndarray,
             steep: np.ndarray) -> np.ndarray:
    """Cosine, at least 0, between a direction and the surface's normal."""
    x, y, z = direction.tolist()
    return np.maximum((z - slope_x * x - slope_y * y) * steep, 0)


def _hollow_map(light: Light, anchors: np.ndarray, mark: np.ndarray) -> np.ndarray:
    """(GRID, GRID) share of the light that hollows keep from the skin: below nose and lip, eyes."""
    fall = 0.015 * light.direction[:2] / max(light.direction[2], 0.4)
    centres = np.concatenate([
        mark[[33]] + [0, 0.012] - fall, anchors[7:9] - [0, 0.004], mark[[39, 42]], anchors[16:17],
        mark[[48, 54]],
    ])
    columns, rows = _gaussians(centres, _HOLLOWS[:, 1:])
    return np.minimum((rows * _HOLLOWS[:, :1]).T @ columns, 1)


def _shadow_map(light: Light, hair: list[Ribbon]) -> np.ndarray:
    """(GRID, GRID) share of the lamp's light that passes the hair."""
    cover = np.zeros((_GRID, _GRID), np.uint8)
    fall = [0.0, 0.012] - 0.03 * light.direction[:2] / max(light.direction[2], 0.4)
    for ribbon in hair:
        _cover(cover, ribbon.outline() + fall)
    return 1 - cv2.blur(cv2.blur(cover, (3, 3)), (3, 3)) * np.float32(0.55 / 255)


def _albedo(traits: Traits, anchors: np.ndarray, mark: np.ndarray) -> np.ndarray:
    """(3, GRID, GRID) colour of the skin before light: redder cheeks and nose, shaven chin."""
    red = traits.skin * [0.0, -0.13, -0.11]
    lid = 0.6 * traits.makeup * (np.array([120.0, 80.0, 110.0]) - traits.skin)
    tired = -0.05 * traits.skin
    tints = np.stack([red, red, 0.8 * red, 0.5 * red, lid, lid, tired, tired]).astype(np.float32)
    centres = np.concatenate([anchors[[5, 6, 0, 17]], anchors[7:9] + [0, 0.004],
                              mark[[41, 46]] + [0, 0.02]])
    columns, rows = _gaussians(centres, _TINTS)
    colour = (tints.T[:, None, :] * rows.T) @ columns + _planes(traits.skin)
    if traits.beard > 0.2:
        cover = np.zeros((_GRID, _GRID), np.uint8)
        for ribbon in beard_ribbons(mark, traits):
            _cover(cover, ribbon.outline())
        strength = 0.75 if traits.beard > 0.55 else 0.45 * traits.beard
        mix = cv2.blur(cover, (3, 3)) * np.float32(strength / 255)
        colour += mix * (_planes(np.minimum(0.8 * traits.hair, 0.8 * traits.skin)) - colour)
    return colour

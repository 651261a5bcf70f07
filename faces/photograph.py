"""A whole photograph: find its faces, restore each, paste them back."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from faces import align
from faces.detect import Face
from faces.paste import paste_into, to_upscaled, upscale
from utils.images.color import ColorSpace
from utils.images.decode import eight_bits as eight_bits

# Aligned crops (N, S, S, 3), uint8 or gray levels in float32, to restored ones, uint8.
Restore = Callable[[np.ndarray], np.ndarray]
# Restored face (S, S, 3) to how much of it is taken, (S, S) in 0..1.
Mask = Callable[[np.ndarray], np.ndarray]
# Photograph (H, W, 3) and factor to the photograph of int(H factor) x int(W factor).
Upscale = Callable[[np.ndarray, float], np.ndarray]


@dataclass
class Settings:
    """How a photograph is treated.

    Attributes:
        size: side of the network's images.
        template: five-point template the network's faces are aligned to.
        crop_filter: how faces are sampled: `bilinear` as facexlib does, in bytes and with large
            faces reduced first; `bicubic` as PSFR-GAN and Face-SPARNet do, see `align`.
        robust_alignment: leave out points that do not fit the template, as facexlib does.
        scale: the result is so many times as large.
        strength: 0 keeps the crop, 1 takes the restored face.
        match_colors: give the restored face the crop's mean and spread of color.
        batch_size: faces at a time.
        keep_gray: a restored face becomes gray where its crop has no color.
        background: upscales what lies around the faces, see `faces.background`; None is Lanczos.
    """
    size: int = 512
    template: str = "ffhq"
    crop_filter: str = "bilinear"
    robust_alignment: bool = False
    scale: float = 1.0
    strength: float = 1.0
    match_colors: bool = False
    batch_size: int = 4
    keep_gray: bool = False
    background: Upscale | None = None


@dataclass
class Result:
    """What became of a photograph: the image, and of each face its crop and the restored one."""
    image: np.ndarray
    crops: list[np.ndarray]
    restored: list[np.ndarray]


def restore_photograph(photo: np.ndarray, faces: list[Face], restore: Restore,
                       settings: Settings, mask: Mask | None = None,
                       space: ColorSpace | None = None) -> Result:
    """Restore the given faces of a photograph.

    Args:
        photo: uint8 or uint16 RGB (H, W, 3); networks see 8 bits, what is around keeps its 16.
        mask: how much of each restored face is taken; None feathers its edge.
        space: of the photograph's colors, and of the result's; None is sRGB. Networks see sRGB.

    Returns:
        What is outside the faces is the photograph's, bit for bit where `scale` is 1 and no
        network makes the background.
    """
    matrices, crops = align_crop(photo, faces, settings, space)
    restored = restore_all(crops, restore, settings.batch_size)
    return Result(paste_back(photo, matrices, crops, restored, settings, mask, space),
                  [align.as_bytes(crop) for crop in crops], restored)


def align_crop(photo: np.ndarray, faces: list[Face], settings: Settings,
               space: ColorSpace | None = None) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Of each face the transform (2, 3) from photograph to crop, and the crop (S, S, 3) in sRGB.

    Crops are uint8; bicubic ones float32, unless their colors must be converted.
    """
    template = align.template(settings.template, settings.size)
    aligned = align.robust_similarity if settings.robust_alignment else align.similarity
    matrices = [aligned(face.points, template) for face in faces]
    photo = eight_bits(photo) if faces else photo
    crop = (align.crop_bicubic if settings.crop_filter == "bicubic"
            else partial(align.crop, smooth=True))
    crops = [crop(photo, matrix, settings.size) for matrix in matrices]
    return matrices, (crops if space is None
                      else [space.to_srgb(align.as_bytes(crop)) for crop in crops])


def restore_all(crops: list[np.ndarray], restore: Restore, batch_size: int) -> list[np.ndarray]:
    """Restored faces of aligned crops, so many at a time."""
    return [face for first in range(0, len(crops), batch_size)
            for face in restore(np.stack(crops[first:first + batch_size]))]


def paste_back(photo: np.ndarray, matrices: list[np.ndarray], crops: list[np.ndarray],
             restored: list[np.ndarray], settings: Settings, mask: Mask | None = None,
             space: ColorSpace | None = None) -> np.ndarray:
    """A copy of the photograph, upscaled by `scale`, with restored faces over what was cropped."""
    result = upscale_photograph(photo, settings, space)
    # A network's surroundings are no longer what the crop was cut from: a change does not fit them.
    whole = settings.background is not None
    for matrix, sampled, face in zip(matrices, crops, restored, strict=True):
        crop = align.as_bytes(sampled)
        if settings.match_colors:
            face = with_colors_of(face, crop)
        if settings.keep_gray and is_gray(crop):
            face = np.repeat(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
        back = to_upscaled(align.inverse(matrix), settings.scale)
        seen = mask(face) if mask else None
        if space is not None:
            # Both go the same way, so that what the network leaves alone is no change at all.
            face, crop = space.from_srgb(face), space.from_srgb(crop)
        paste_into(result, face, back, seen, settings.strength,
                   edge=max(2, round(2 * settings.scale)), crop=None if whole else crop)
    return result


def upscale_photograph(photo: np.ndarray, settings: Settings,
                       space: ColorSpace | None = None) -> np.ndarray:
    """A copy of the photograph at `scale` times its size."""
    if settings.background is not None:
        if space is None:
            return settings.background(photo, settings.scale)
        # Conversions are of 8 bits, and so is what the network makes of another space's colors.
        made = settings.background(space.to_srgb(eight_bits(photo)), settings.scale)
        return space.from_srgb(made)
    # One copy, however many faces: a huge photograph may have a hundred.
    return photo.copy() if settings.scale == 1 else upscale(photo, settings.scale)


def is_gray(image: np.ndarray) -> bool:
    """Whether a uint8 RGB image is without color, but for what JPEG adds."""
    return float((image.max(axis=2) - image.min(axis=2)).mean()) < 4


def with_colors_of(image: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The image with the other's mean and standard deviation of each channel, in CIE Lab.

    Source: Reinhard et al., Color Transfer between Images, IEEE CG&A 2001.
    """
    source, target = (cv2.cvtColor(x.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
                      for x in (image, other))
    axes = (0, 1)
    spread = source.std(axes)
    factor = np.where(spread > 1e-3, target.std(axes) / np.maximum(spread, 1e-3), 1)
    moved = (source - source.mean(axes)) * factor + target.mean(axes)
    back = cv2.cvtColor(moved.astype(np.float32), cv2.COLOR_LAB2RGB)
    return np.rint(back * 255).clip(0, 255).astype(np.uint8)

"""Color profiles: what networks see is sRGB, what is written has the profile of what was read."""
from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

_RGB, _CMYK, _GRAY = b"RGB ", b"CMYK", b"GRAY"
_EQUAL = 2      # gray levels up to which a profile counts as sRGB: versions of it differ so much
_GRID = 6       # colors to a side of the cube that is tried


class ColorSpace:
    """An RGB color space other than sRGB, given by an ICC profile.

    Raises:
        ValueError: the profile cannot be used, or is none of RGB colors.
    """

    def __init__(self, profile: bytes) -> None:
        self.profile = profile
        self._to = _transform(profile, "RGB")
        self._from = _transform(profile, "RGB", back=True)

    def to_srgb(self, image: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3) of this space as sRGB; colors that sRGB does not hold are clipped."""
        return _apply(self._to, image)

    def from_srgb(self, image: np.ndarray) -> np.ndarray:
        """uint8 sRGB (H, W, 3) as this space has it."""
        return _apply(self._from, image)


def is_rgb(profile: bytes) -> bool:
    """Whether an ICC profile is one of RGB colors, so that an RGB file may have it."""
    return profile[16:20] == _RGB and profile[36:40] == b"acsp"


@lru_cache(maxsize=8)
def color_space(profile: bytes | None) -> ColorSpace | None:
    """The space of a profile; None for sRGB, for no profile and for one that cannot be used."""
    if not profile or not is_rgb(profile):
        return None
    try:
        space = ColorSpace(profile)
    except ValueError:
        return None
    axis = np.linspace(0, 255, _GRID).astype(np.uint8)
    cube = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(1, -1, 3)
    change = np.abs(space.to_srgb(cube).astype(int) - cube).max()
    return None if change <= _EQUAL else space


def cmyk_to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """A CMYK image as sRGB: by its profile, or, without one that fits, by the complements."""
    if profile and profile[16:20] == _CMYK:
        try:
            return ImageCms.applyTransform(image, _transform(profile, "CMYK"))
        except (ValueError, ImageCms.PyCMSError):
            pass
    return image.convert("RGB")


def gray_to_srgb(gray: np.ndarray, profile: bytes | None) -> np.ndarray:
    """Gray levels uint8 or uint16 (...) as sRGB has them; as they are without a gray profile."""
    if not profile or profile[16:20] != _GRAY:
        return gray
    try:
        transform = _transform(profile, "L")
    except ValueError:
        return gray
    levels = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    curve = np.asarray(ImageCms.applyTransform(levels, transform))[0, :, 1]     # the green one
    if gray.dtype == np.uint8:
        return curve[gray]
    table = np.interp(np.arange(65536) / 257, np.arange(256), curve.astype(np.float64)) * 257
    return np.rint(table).astype(np.uint16)[gray]


def lab_to_srgb(image: Image.Image) -> Image.Image:
    """A CIE L*a*b* image (D50) as sRGB."""
    transform = ImageCms.buildTransform(ImageCms.createProfile("LAB"),
                                        ImageCms.createProfile("sRGB"), "LAB", "RGB")
    return ImageCms.applyTransform(image, transform)


def _transform(profile: bytes, mode: str, back: bool = False) -> ImageCms.ImageCmsTransform:
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        srgb = ImageCms.createProfile("sRGB")
        if back:
            return ImageCms.buildTransform(srgb, given, "RGB", mode,
                                           ImageCms.Intent.RELATIVE_COLORIMETRIC)
        return ImageCms.buildTransform(given, srgb, mode, "RGB",
                                       ImageCms.Intent.RELATIVE_COLORIMETRIC)
    except (OSError, ImageCms.PyCMSError) as error:
        raise ValueError(f"the color profile cannot be used ({error})") from error


def _apply(transform: ImageCms.ImageCmsTransform, image: np.ndarray) -> np.ndarray:
    return np.array(ImageCms.applyTransform(Image.fromarray(image), transform))

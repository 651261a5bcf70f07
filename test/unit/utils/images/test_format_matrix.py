"""Every format, mode, alpha, profile, orientation and animation, against independent readers."""
from __future__ import annotations

import io
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
import tifffile
from image_files import exif, profile
from PIL import Image, features

from utils.images.deep import decode_layers
from utils.images.io import decode_image
from utils.images.metadata import Metadata
from utils.images.resize import bicubic

PIXELS = bicubic(np.random.default_rng(0).integers(0, 256, (7, 6, 3), np.uint8), 43, 50)
PIXELS[0, 0], PIXELS[-1, -1] = 0, 255
ALPHA = np.ascontiguousarray(PIXELS[::-1, :, 1]) | 1
RGBA = np.dstack([PIXELS, ALPHA])
# Pillow's name: modes it writes, settings for little loss, and whether alpha, profile and EXIF fit.
PILLOW = {
    "JPEG": ("1 L RGB CMYK", {"quality": 98, "subsampling": 0}, "profile exif"),
    "PNG": ("1 L LA P RGB RGBA I;16", {}, "profile exif"),
    "WEBP": ("RGB RGBA", {"lossless": True}, "profile exif"),
    "TIFF": ("1 L LA P RGB RGBA CMYK YCbCr I;16 F", {}, "profile exif"),
    "GIF": ("1 L P", {}, ""), "BMP": ("1 L P RGB", {}, ""), "PPM": ("1 L RGB I", {}, ""),
    "JPEG2000": ("L LA RGB RGBA I;16", {}, ""), "AVIF": ("RGB RGBA", {"quality": 100,
                                                                      "subsampling": "4:4:4"},
                                                         "profile exif"),
    "ICO": ("RGB RGBA", {"sizes": [(50, 43)]}, ""), "PCX": ("1 L P RGB", {}, ""),
    "SGI": ("L RGB RGBA", {}, ""), "QOI": ("RGB RGBA", {}, "")}
LOSSY = {"JPEG": 8, "AVIF": 8}


def made(mode: str) -> Image.Image:
    image = Image.fromarray(RGBA)
    if mode == "I;16":
        return Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)
    if mode == "I":
        return Image.fromarray(PIXELS[..., 0].astype(np.int32) * 257)
    if mode == "F":
        return Image.fromarray(PIXELS[..., 0].astype(np.float32) / 255)
    if mode == "P":
        return image.convert("RGB").quantize(32)
    return image.convert("RGB").convert(mode) if mode in ("CMYK", "YCbCr") else image.convert(mode)


def expected(mode: str) -> np.ndarray:
    if mode in ("I;16", "I", "F"):
        return np.repeat(PIXELS[..., :1], 3, axis=2)
    return np.asarray(made(mode).convert("RGB"))


def saved(file_format: str, mode: str, **more: object) -> bytes:
    file = io.BytesIO()
    image = made(mode)
    image.save(file, file_format, **PILLOW[file_format][1], **more)
    return file.getvalue()


def needed(file_format: str) -> None:
    if not features.check({"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}.get(
            file_format, "zlib")):
        pytest.skip("this Pillow has no such codec")


def by_pillow() -> Iterator[tuple[str, str]]:
    for file_format, (modes, _, _) in PILLOW.items():
        yield from ((file_format, mode) for mode in modes.split())


@pytest.mark.parametrize("file_format, mode", by_pillow())
def test_what_pillow_writes(file_format: str, mode: str) -> None:
    needed(file_format)
    data = saved(file_format, mode)
    plain, layers = decode_image(data, "a"), decode_layers(data, "a")
    assert np.abs(plain.astype(int) - expected(mode)).max() <= LOSSY.get(file_format, 1)
    deep = layers.pixels
    assert np.array_equal(plain, deep if deep.dtype == np.uint8 else deep >> 8)
    assert (deep.dtype == np.uint16) == (mode in ("I;16", "I"))
    assert layers.notes == [] and layers.metadata == Metadata(dpi=layers.metadata.dpi)
    if mode in ("RGBA", "LA"):
        assert np.abs(layers.alpha.astype(int) - ALPHA).max() <= 1
    else:
        assert layers.alpha is None


@pytest.mark.parametrize("file_format, mode", by_pillow())
def test_opencv_sees_the_same(file_format: str, mode: str) -> None:
    """An independent reader, of what it reads at all and does not read otherwise on purpose."""
    needed(file_format)
    data = saved(file_format, mode)
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    # Clipped, by other formulas, multiplied by alpha.
    if found is None or mode in ("F", "CMYK", "YCbCr") or (file_format, mode) == ("TIFF", "RGBA"):
        pytest.skip("OpenCV does not read it, or otherwise")
    difference = np.abs(decode_image(data, "a").astype(int) - found[..., ::-1])
    assert difference.max() <= LOSSY.get(file_format, 1)


@pytest.mark.parametrize("file_format", [key for key, (_, _, more) in PILLOW.items() if more])
@pytest.mark.parametrize("number", range(1, 9))
def test_orientation_and_profile(file_format: str, number: int) -> None:
    needed(file_format)
    data = saved(file_format, "RGB", exif=exif(number, thumbnail=False), icc_profile=profile())
    layers = decode_layers(data, "a")
    upright = np.asarray(Image.fromarray(PIXELS).transpose(
        {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
         4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
         6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
         8: Image.Transpose.ROTATE_90}[number])) if number > 1 else PIXELS
    assert np.abs(layers.pixels.astype(int) - upright).max() <= LOSSY.get(file_format, 0)
    assert np.array_equal(decode_image(data, "a"), layers.pixels)
    assert layers.metadata.profile == profile() and layers.metadata.exif


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_of_an_animation_the_first_frame_is_read(file_format: str) -> None:
    needed(file_format)
    more = [Image.fromarray(255 - PIXELS), Image.fromarray(PIXELS // 2)]
    data = saved(file_format, "RGB", save_all=True, append_images=more)
    reference = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert np.abs(reference - PIXELS).mean() < 25       # a palette's
    for found in (decode_image(data, "a"), decode_layers(data, "a").pixels):
        assert np.array_equal(found, reference)


OPENCV = {".png": (1, 3, 4), ".tiff": (1, 3, 4), ".jp2": (1, 3, 4), ".webp": (3, 4), ".bmp": (
    1, 3, 4), ".ppm": (3,), ".pgm": (1,), ".jpg": (1, 3), ".pbm": ()}


@pytest.mark.parametrize("extension, channels, dtype", [
    (extension, number, dtype) for extension, numbers in OPENCV.items() for number in numbers
    for dtype in (np.uint8, np.uint16)
    if dtype == np.uint8 or extension in (".png", ".tiff", ".jp2", ".ppm", ".pgm")])
def test_what_opencv_writes(extension: str, channels: int, dtype: type) -> None:
    pixels = RGBA[..., [2, 1, 0, 3]][..., :channels] if channels > 1 else PIXELS[..., 0]
    pixels = np.ascontiguousarray(pixels.astype(dtype) * (257 if dtype == np.uint16 else 1))
    settings = {".jp2": [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000],
                ".webp": [cv2.IMWRITE_WEBP_QUALITY, 101],
                ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 100, cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
                         cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]}.get(extension, [])
    data = cv2.imencode(extension, pixels, settings)[1].tobytes()
    layers = decode_layers(data, "a")
    expected = PIXELS if channels > 1 else np.repeat(PIXELS[..., :1], 3, axis=2)
    tolerance = 8 if extension == ".jpg" else 2 if extension == ".jp2" else 0
    assert np.abs(decode_image(data, "a").astype(int) - expected).max() <= tolerance
    assert (layers.alpha is not None) == (channels == 4)
    deep = dtype == np.uint16 and extension != ".ppm"       # of which Pillow keeps 8 bits
    assert (layers.pixels.dtype == np.uint16) == deep


@pytest.mark.parametrize("settings", [
    {}, {"compression": "zlib"}, {"tile": (16, 16)}, {"rowsperstrip": 7}, {"byteorder": ">"},
    {"planarconfig": "separate"}, {"bigtiff": True},
    {"planarconfig": "separate", "tile": (32, 16), "byteorder": ">", "bigtiff": True}], ids=str)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [3, 4])
def test_what_tifffile_writes(channels: int, dtype: type, settings: dict) -> None:
    factor = {np.uint8: 1, np.uint16: 257, np.float32: 1 / 255}[dtype]
    samples = (RGBA[..., :channels] * np.float64(factor)).astype(dtype)
    if settings.get("planarconfig"):
        samples = np.moveaxis(samples, -1, 0)
    file = io.BytesIO()
    tifffile.imwrite(file, samples, photometric="rgb", metadata=None,
                     **({"extrasamples": ["unassalpha"]} if channels == 4 else {}), **settings)
    layers = decode_layers(file.getvalue(), "a")
    assert np.array_equal(decode_image(file.getvalue(), "a"), PIXELS)
    if dtype != np.float32:
        assert np.array_equal(layers.pixels, PIXELS.astype(dtype) * factor)
        assert channels == 3 or np.array_equal(layers.alpha, ALPHA.astype(dtype) * factor)

"""Profile, EXIF and resolution: kept in what is written, upright and without the thumbnail."""
from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from image_files import ADOBE_RGB, P3, exif, profile, to_srgb
from PIL import ExifTags, Image, ImageCms

from utils.images.color import color_space
from utils.images.deep import Layers, decode_layers, encode_layers, read_layers, write_layers
from utils.images.metadata import Metadata
from utils.images.resize import bicubic


def smooth(height: int = 48, width: int = 64) -> np.ndarray:
    return bicubic(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8), height, width)


def encoded(image: Image.Image, file_format: str, **settings: object) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **settings)
    return file.getvalue()


def photograph(file_format: str, orientation: int = 1, **settings: object) -> bytes:
    return encoded(Image.fromarray(smooth()), file_format, icc_profile=profile(),
                   exif=exif(orientation), **{"dpi": (300, 300), **settings})


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


# ---- what is kept --------------------------------------------------------------------------------

@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("source", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "tif"])
def test_profile_exif_and_resolution_are_kept(source: str, extension: str, deep: bool) -> None:
    layers = decode_layers(photograph(source), "a")
    if deep:
        layers.pixels = layers.pixels.astype(np.uint16) * 257
    image = Image.open(io.BytesIO(encode_layers(layers, f".{extension}")))
    assert image.info["icc_profile"] == profile()
    found = image.getexif()
    assert (found[0x010F], found[0x0110]) == ("Maker", "Camera 1")
    assert found.get_ifd(0x8769)[0x9003] == "2026:01:02 03:04:05"
    assert found.get_ifd(0x8825)[1] == "N"
    if "WEBP" not in (source, image.format):        # which has no resolution of its own
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)


@pytest.mark.parametrize("source", ["JPEG", "PNG", "WEBP"])
def test_the_result_is_upright_and_has_no_thumbnail(source: str) -> None:
    data = photograph(source, 6)
    assert Image.open(io.BytesIO(data)).getexif().get_ifd(ExifTags.IFD.IFD1)       # there is one
    layers = decode_layers(data, "a")
    assert layers.pixels.shape == (64, 48, 3)
    written = encode_layers(layers, ".jpg")
    found = Image.open(io.BytesIO(written)).getexif()
    assert found[0x0112] == 1 and not found.get_ifd(ExifTags.IFD.IFD1)
    assert np.array_equal(decode_layers(written, "b").pixels.shape, (64, 48, 3))


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_a_deep_file_is_read_with_all_that_was_written(extension: str) -> None:
    layers = decode_layers(photograph("JPEG"), "a")
    layers.pixels = layers.pixels.astype(np.uint16) * 257
    layers.alpha = layers.pixels[..., 0]
    again = decode_layers(encode_layers(layers, f".{extension}"), "b")
    assert np.array_equal(again.pixels, layers.pixels) and np.array_equal(again.alpha, layers.alpha)
    assert again.metadata.profile == profile()
    assert again.metadata.dpi == pytest.approx((300, 300), abs=0.1)
    found = Image.Exif()
    found.load(b"Exif\0\0" + again.metadata.exif)
    assert found[0x010F] == "Maker" and found.get_ifd(0x8825)[1] == "N"


def test_exif_states_the_size_of_the_result() -> None:
    layers = decode_layers(photograph("JPEG"), "a")
    layers.pixels = bicubic(layers.pixels, 96, 128)
    inside = Image.open(io.BytesIO(encode_layers(layers, ".jpg"))).getexif().get_ifd(0x8769)
    assert (inside[0xA002], inside[0xA003]) == (128, 96)


def test_tags_about_storage_do_not_reach_another_file() -> None:
    """EXIF of a TIFF is its whole directory."""
    layers = decode_layers(photograph("TIFF"), "a")
    found = Image.open(io.BytesIO(encode_layers(layers, ".jpg"))).getexif()
    assert not {256, 257, 258, 259, 262, 273, 277, 278, 279, 34675} & set(found)


def test_an_exif_block_too_large_for_jpeg_is_left_out() -> None:
    block = Image.Exif()
    block[0x010F] = "x" * 70_000
    layers = Layers(smooth(), metadata=Metadata(exif=block.tobytes()[6:]))
    assert not Image.open(io.BytesIO(encode_layers(layers, ".jpg"))).getexif()
    assert Image.open(io.BytesIO(encode_layers(layers, ".png"))).getexif()


@pytest.mark.parametrize("broken", [b"", b"no profile", profile()[:60], profile(space=b"XYZ ")])
def test_a_profile_that_cannot_be_used_is_sRGB(broken: bytes) -> None:
    data = encoded(Image.fromarray(smooth()), "PNG", icc_profile=broken)
    layers = decode_layers(data, "a")
    assert layers.metadata.space is None and np.array_equal(layers.srgb(), smooth())


def test_a_plain_file_says_nothing_more_than_before(tmp_path: Path) -> None:
    Image.fromarray(smooth()).save(tmp_path / "a.png")
    assert read_layers(tmp_path / "a.png").metadata == Metadata()
    write_layers(tmp_path / "b.png", read_layers(tmp_path / "a.png"))
    assert not Image.open(tmp_path / "b.png").info


# ---- color ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("colors, gamma", [(P3, 2.2), (ADOBE_RGB, 563 / 256), (P3, 1.8)])
def test_networks_see_sRGB(colors: tuple, gamma: float) -> None:
    data = encoded(Image.fromarray(smooth()), "PNG", icc_profile=profile(colors, gamma))
    layers = decode_layers(data, "a")
    assert np.array_equal(layers.pixels, smooth())
    expected = to_srgb(smooth(), colors, round(gamma * 256) / 256).astype(int)
    inside = (expected > 8) & (expected < 247)      # dark ones differ by the curve's toe
    assert np.abs(layers.srgb() - expected)[inside].max() <= 2
    assert np.abs(smooth() - expected).max() > 10


def test_colors_come_back_from_sRGB() -> None:
    space = color_space(profile())
    gentle = (smooth() // 3 + 90).astype(np.uint8)      # inside sRGB
    assert np.abs(space.from_srgb(space.to_srgb(gentle)).astype(int) - gentle).max() <= 1


def test_an_sRGB_profile_is_kept_and_changes_nothing() -> None:
    layers = decode_layers(encoded(Image.fromarray(smooth()), "PNG", icc_profile=SRGB), "a")
    assert layers.metadata.profile == SRGB and layers.metadata.space is None


def test_where_the_profile_cannot_stay_colors_become_sRGB() -> None:
    layers = decode_layers(photograph("PNG"), "a")
    stripped = layers.for_file(".png", strip_metadata=True)
    assert stripped.metadata == Metadata() and np.array_equal(stripped.pixels, layers.srgb())
    bitmap = layers.for_file(".bmp")
    assert bitmap.metadata.profile is None and np.array_equal(bitmap.pixels, layers.srgb())
    assert layers.for_file(".jpg") is layers


def test_a_gray_profile_is_applied_since_the_result_is_color() -> None:
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    data = encoded(Image.fromarray(gray), "PNG", icc_profile=profile(gamma=1.5, space=b"GRAY"))
    layers = decode_layers(data, "a")
    linear = (gray / 255) ** 1.5
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert layers.metadata.profile is None
    assert np.abs(layers.pixels[..., 0] - srgb * 255).max() <= 2
    assert (layers.pixels == layers.pixels[..., :1]).all()

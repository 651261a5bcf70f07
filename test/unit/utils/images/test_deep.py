"""Images with transparency and with 16 bits a sample, read and written."""
from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from utils.images.deep import Layers, read_layers, write_layers
from utils.images.io import read_image

EXIF_ORIENTATION = 0x0112


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype,
                                             endpoint=True)


@pytest.mark.parametrize("extension", ["png", "tif", "tiff"])
@pytest.mark.parametrize("clear", [False, True])
def test_16_bits_and_transparency_come_back_bit_for_bit(extension: str, clear: bool,
                                                        tmp_path: Path) -> None:
    pixels = noise(9, 7, 3, dtype=np.uint16)
    alpha = noise(9, 7, dtype=np.uint16) if clear else None
    write_layers(tmp_path / f"a.{extension}", Layers(pixels, alpha))
    found = read_layers(tmp_path / f"a.{extension}")
    assert found.pixels.dtype == np.uint16 and np.array_equal(found.pixels, pixels)
    assert (found.alpha is None) if alpha is None else np.array_equal(found.alpha, alpha)


@pytest.mark.parametrize("extension", ["png", "webp", "tif"])
def test_8_bit_transparency_comes_back(extension: str, tmp_path: Path) -> None:
    """WebP loses a little color, but no transparency."""
    pixels, alpha = np.full((9, 7, 3), 90, np.uint8), noise(9, 7) | 1
    write_layers(tmp_path / f"a.{extension}", Layers(pixels, alpha))
    found = read_layers(tmp_path / f"a.{extension}")
    assert found.pixels.dtype == np.uint8 and np.array_equal(found.alpha, alpha)
    assert np.abs(found.pixels.astype(int) - pixels).max() <= 4


@pytest.mark.parametrize("mode, saved", [
    ("RGBA", {}), ("LA", {}), ("P", {"transparency": b"\x00\x80"}), ("P", {"transparency": 1})])
def test_every_kind_of_transparency_is_seen(mode: str, saved: dict, tmp_path: Path) -> None:
    image = Image.fromarray(noise(8, 8, 3))
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    if mode != "P":
        image.putalpha(Image.fromarray(noise(8, 8)))
    image.save(tmp_path / "a.png", **saved)
    expected = np.array(Image.open(tmp_path / "a.png").convert("RGBA"))[..., 3]
    assert expected.min() < 255 and np.array_equal(read_layers(tmp_path / "a.png").alpha, expected)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp"])
def test_plain_pictures_have_no_more_layers(name: str, tmp_path: Path) -> None:
    Image.fromarray(noise(8, 8, 3)).save(tmp_path / name)
    found = read_layers(tmp_path / name)
    assert found.alpha is None and np.array_equal(found.pixels, read_image(tmp_path / name))


@pytest.mark.parametrize("turn", range(1, 9))
def test_all_layers_are_turned_as_the_picture_is(turn: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = turn
    made = Image.fromarray(noise(6, 4, 4))
    made.save(tmp_path / "a.png", exif=exif)
    found = read_layers(tmp_path / "a.png")
    alpha = np.repeat(noise(6, 4, 4)[..., 3:], 3, axis=2)
    Image.fromarray(alpha).save(tmp_path / "alpha.png", exif=exif)
    assert np.array_equal(found.alpha, read_image(tmp_path / "alpha.png")[..., 0])
    assert np.array_equal(found.pixels, read_image(tmp_path / "a.png"))


@pytest.mark.parametrize("turn", range(1, 9))
def test_16_bit_layers_are_turned_as_the_picture_is(turn: int, tmp_path: Path) -> None:
    """OpenCV writes no EXIF: the chunk goes in behind the header."""
    data = cv2.imencode(".png", noise(6, 4, 3, dtype=np.uint16))[1].tobytes()
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = turn
    body = io.BytesIO()
    Image.new("L", (1, 1)).save(body, "PNG", exif=exif)
    body = body.getvalue()
    at = body.index(b"eXIf") - 4
    chunk = body[at:at + 12 + int.from_bytes(body[at:at + 4], "big")]
    (tmp_path / "a.png").write_bytes(data[:33] + chunk + data[33:])
    found = read_layers(tmp_path / "a.png")
    assert found.pixels.dtype == np.uint16
    assert np.array_equal(found.pixels >> 8, read_image(tmp_path / "a.png"))


def test_a_grey_16_bit_picture_keeps_its_bits(tmp_path: Path) -> None:
    grey = noise(8, 9, dtype=np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert np.array_equal(read_layers(tmp_path / "a.png").pixels, np.dstack([grey] * 3))


@pytest.mark.parametrize("name, shape", [("a.jpg", (9, 7, 3)), ("a.bmp", (9, 7, 3)),
                                         ("a.webp", (9, 7, 4))])
def test_a_format_that_holds_less_gets_less(name: str, shape: tuple, tmp_path: Path) -> None:
    write_layers(tmp_path / name, Layers(noise(9, 7, 3, dtype=np.uint16),
                                         noise(9, 7, dtype=np.uint16)))
    assert np.array(Image.open(tmp_path / name)).shape == shape

"""Colors of files with more than 8 bits, and of JPEG 2000, against independent readers."""
from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from image_files import SRGB, WHITE, jp2_with, profile, tiff
from PIL import Image
from served import SMALL, small_weights

import data as data_package
import models
import preparation
import prepare
from enhance import enhance
from options.enhance_options import EnhanceOptions
from utils.images.deep import decode_layers, encode_layers
from utils.images.io import BadImage, decode_image
from utils.images.resize import bicubic

SMOOTH = bicubic(np.random.default_rng(0).integers(0, 256, (7, 6, 3), np.uint8), 43, 50)
SMOOTH[0, 0], SMOOTH[-1, -1] = 0, 255       # all of the range
FULL = SMOOTH.astype(np.uint16) * 257 ^ 0x15
GRAY, ALPHA = FULL[..., :1], FULL[::-1, :, 1:2]
RGB, RGBA = 2, (338, (3, (2,)))
ASSUMED = "bits are taken as the depth"


def saved(image: Image.Image, file_format: str, **settings: object) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **settings)
    return file.getvalue()


def opencv(extension: str, pixels: np.ndarray) -> bytes:
    """A file of RGB or RGBA."""
    swapped = pixels[..., [2, 1, 0, 3][:pixels.shape[2]]] if pixels.ndim == 3 else pixels
    return cv2.imencode(extension, np.ascontiguousarray(swapped))[1].tobytes()


def by_tifffile(samples: np.ndarray, **settings: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, samples, **settings)
    return file.getvalue()


def as_bytes(samples: np.ndarray, bits: int) -> np.ndarray:
    """What a viewer shows of RGB or gray samples, (H, W, 3)."""
    shown = np.rint(samples / ((1 << bits) - 1) * 255)
    return np.repeat(shown, 3, axis=2) if shown.shape[2] == 1 else shown


def assert_looks(data: bytes, expected: np.ndarray, tolerance: float = 1) -> None:
    """Both ways of reading agree with what is expected."""
    plain, layers = decode_image(data, "a"), decode_layers(data, "a")
    assert plain.dtype == np.uint8 and plain.shape == expected.shape
    assert np.abs(plain - expected).max() <= tolerance
    deep = layers.pixels
    assert np.array_equal(plain, deep if deep.dtype == np.uint8 else deep >> 8)


# ---- less depth than the container has -----------------------------------------------------------

@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize("make", [
    lambda samples: saved(Image.fromarray(samples[..., 0].astype(np.int32)), "TIFF"),
    lambda samples: saved(Image.fromarray(samples[..., 0]), "TIFF"),
    lambda samples: saved(Image.fromarray(samples[..., 0]), "PNG"),
    lambda samples: by_tifffile(samples[..., 0].astype(np.uint32)),
    lambda samples: by_tifffile(samples[..., 0].astype(">i2"), byteorder=">"),
    lambda samples: tiff(samples, 1, order=">", deflate=True)],
    ids=["tiff I", "tiff I;16", "png", "tiff u4", "tiff i2", "tiff deflate"])
def test_gray_samples_that_do_not_fill_their_container(make: object, bits: int) -> None:
    samples = FULL[..., :1] >> (16 - bits)
    data = make(samples)
    assert_looks(data, as_bytes(samples, bits))
    note, = decode_layers(data, "a").notes
    assert f"{bits} {ASSUMED}" in note and f"exceeds {samples.max()}" in note


@pytest.mark.parametrize("bits", [8, 12])
@pytest.mark.parametrize("make", [
    lambda samples: opencv(".png", samples), lambda samples: opencv(".tif", samples),
    lambda samples: by_tifffile(samples, photometric="rgb"),
    lambda samples: tiff(samples, RGB, planar=2)], ids=["png", "opencv tiff", "tifffile", "planar"])
def test_color_samples_that_do_not_fill_their_container(make: object, bits: int) -> None:
    samples = FULL >> (16 - bits)
    data = make(samples)
    assert_looks(data, as_bytes(samples, bits))
    assert len(decode_layers(data, "a").notes) == 1


def test_transparency_may_fill_what_colors_do_not() -> None:
    for alpha in (ALPHA, ALPHA >> 4):
        layers = decode_layers(opencv(".png", np.dstack([FULL >> 4, alpha])), "a")
        assert np.abs(layers.alpha / 257 - as_bytes(ALPHA, 16)[..., 0]).max() <= 1


def test_enhance_and_check_say_what_was_assumed(tmp_path: Path,
                                                capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tif").write_bytes(by_tifffile(FULL >> 4, photometric="rgb"))
    (tmp_path / "in" / "b.png").write_bytes(opencv(".png", FULL[::-1]))
    weights = small_weights(tmp_path / "g.pth")
    assert enhance(EnhanceOptions(models, data_package).parse(
        [*SMALL, "--pretrain_model_path", str(weights), "--input", str(tmp_path / "in"),
         "--output", str(tmp_path / "out")])) == 0
    said = capsys.readouterr().out
    assert said.count("note: ") == 1 and f"a.tif: no sample exceeds {FULL.max() >> 4}" in said
    opt = prepare.parse(["check", "--input", str(tmp_path / "in"), "--workers", "1"])
    assert preparation.find("check").run(opt) == 0
    said = capsys.readouterr().out
    assert "note: 1 image: fewer bits than the file's samples could have" in said
    assert "note: 2 images: 16 bits or floating point" in said


def test_a_declared_depth_is_believed() -> None:
    """As MaxSampleValue of TIFF and the maximum of PGM; nothing is assumed."""
    dark = FULL >> 6
    assert_looks(tiff(dark, RGB, more={281: (3, (1023,) * 3)}), as_bytes(dark, 10))
    assert_looks(tiff(dark, RGB, more={281: (3, (65535,) * 3)}), dark >> 8)
    assert_looks(tiff(FULL >> 2, RGB, more={281: (3, (16383,) * 3)}), as_bytes(FULL >> 2, 14))
    pgms = [b"P5\n50 43\n%d\n" % top + dark[..., 0].astype(">u2").tobytes()
            for top in (65535, 1023)]
    assert_looks(pgms[0], np.repeat(dark[..., :1] >> 8, 3, axis=2))
    assert_looks(pgms[1], as_bytes(dark[..., :1], 10))
    for data in (tiff(dark, RGB, more={281: (3, (1023,) * 3)}), *pgms):
        assert decode_layers(data, "a").notes == []


def test_labels_in_16_bits_stay_labels() -> None:
    labels = np.random.default_rng(0).integers(0, 19, (20, 20), np.uint16)
    assert np.array_equal(decode_image(saved(Image.fromarray(labels), "PNG"), "a")[..., 0], labels)


# ---- TIFF ----------------------------------------------------------------------------------------

LAYOUTS = [{}, {"order": ">"}, {"tile": 16}, {"deflate": True, "predictor": 2},
           {"tile": 32, "order": ">", "predictor": 2, "deflate": True}]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize("kind", ["gray", "gray alpha", "rgb", "rgba", "cmyk", "white is zero"])
def test_16_bit_tiffs_of_every_layout(kind: str, planar: int, layout: dict) -> None:
    inks = np.dstack([65535 - FULL, ALPHA // 3])
    samples, photometric, more = {
        "gray": (GRAY, 1, {}), "gray alpha": (np.dstack([GRAY, ALPHA]), 1, dict([RGBA])),
        "rgb": (FULL, RGB, {}), "rgba": (np.dstack([FULL, ALPHA]), RGB, dict([RGBA])),
        "cmyk": (inks, 5, {}), "white is zero": (65535 - GRAY, 0, {})}[kind]
    data = tiff(samples, photometric, planar=planar, more=more, **layout)
    # An independent reader finds the samples that were meant.
    found = tifffile.imread(io.BytesIO(data)).reshape(
        (-1, *samples.shape[:2]) if planar == 2 else samples.shape)
    assert np.array_equal(np.moveaxis(found, 0, -1) if planar == 2 else found, samples)
    expected = {"cmyk": FULL * (1 - inks[..., 3:] / 65535), "rgb": FULL, "rgba": FULL}.get(
        kind, np.repeat(GRAY, 3, axis=2))
    assert_looks(data, np.floor(expected / 256), 1 if kind == "cmyk" else 0)
    layers = decode_layers(data, "a")
    assert layers.pixels.dtype == np.uint16 and layers.notes == []
    assert np.abs(layers.pixels - expected).max() <= 1
    assert ("a" in kind.split()[-1:] or "alpha" in kind or kind == "rgba") == (
        layers.alpha is not None)
    if layers.alpha is not None:
        assert np.array_equal(layers.alpha, ALPHA[..., 0])


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize("colors", [1, 3])
@pytest.mark.parametrize("layout", [{}, {"order": ">"}, {"tile": 16, "deflate": True}], ids=str)
def test_packed_samples(bits: int, planar: int, colors: int, layout: dict) -> None:
    samples = FULL[..., :colors] >> (16 - bits)
    data = tiff(samples, RGB if colors == 3 else 1, bits=bits, planar=planar, **layout)
    assert_looks(data, as_bytes(samples, bits))
    assert decode_layers(data, "a").notes == []


def test_packed_samples_whose_white_is_zero() -> None:
    samples = GRAY >> 4
    assert_looks(tiff(4095 - samples, 0, bits=12), as_bytes(samples, 12))


def test_a_small_range_whose_white_is_zero() -> None:
    samples = GRAY >> 4
    data = tiff(4095 - samples, 0)
    assert_looks(data, as_bytes(samples, 12))
    assert ASSUMED in decode_layers(data, "a").notes[0]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("white", [1.0, 255.0])
@pytest.mark.parametrize("photometric", ["rgb", "minisblack"])
def test_floating_point(dtype: type, white: float, photometric: str) -> None:
    samples = SMOOTH if photometric == "rgb" else SMOOTH[..., 0]
    data = by_tifffile((samples / 255 * white).astype(dtype), photometric=photometric)
    expected = SMOOTH if photometric == "rgb" else np.repeat(SMOOTH[..., :1], 3, axis=2)
    assert_looks(data, expected.astype(int))


def test_colors_multiplied_by_alpha_are_divided() -> None:
    alpha = np.maximum(ALPHA, 20_000)
    multiplied = (FULL * (alpha / 65535)).round().astype(np.uint16)
    layers = decode_layers(tiff(np.dstack([multiplied, alpha]), RGB, more={338: (3, (1,))}), "a")
    assert np.abs(layers.pixels.astype(int) - FULL).max() <= 3


@pytest.mark.parametrize("number", range(1, 9))
def test_a_deep_tiff_is_turned_upright(number: int) -> None:
    data = tiff(FULL, RGB, planar=2, more={274: (3, (number,))})
    shallow = saved(Image.fromarray(SMOOTH), "TIFF", tiffinfo={274: number})
    assert np.array_equal(decode_image(data, "a"), decode_image(shallow, "b"))


def test_bytes_do_not_count_as_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photographs of 30 megapixels have 180 million bytes."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", FULL[..., 0].size)
    assert np.array_equal(decode_layers(tiff(FULL, RGB), "a").pixels, FULL)


def test_bigtiff(tmp_path: Path) -> None:
    data = by_tifffile(FULL, photometric="rgb", bigtiff=True)
    assert data[2] == 43 and np.array_equal(decode_layers(data, "a").pixels, FULL)


@pytest.mark.parametrize("data, reason", [
    (tiff(FULL, 8), "CIE L*a*b* is not read with 16 bits"),
    (tiff(FULL, 6), "YCbCr is not read with 16 bits"),
    (tiff(GRAY, 3), "palette is not read with 16 bits"),
    (tiff(np.dstack([SMOOTH, SMOOTH[..., :1]]), 5, bits=8, more={332: (3, (2,))}), "cyan, magenta"),
    (tiff(FULL, RGB, more={317: (3, (3,))}), "predictor 3"),
    (tiff(FULL, RGB, more={259: (3, (7,))}), "compression 7"),
    (tiff(FULL, RGB, more={258: (3, (16, 8, 16))}), "must be alike"),
    (tiff(FULL, RGB, more={339: (3, (2, 1, 1))}), "must be alike"),
    (tiff(np.dstack([FULL, ALPHA]), 5, more={332: (3, (2,))}), "cyan, magenta"),
    (tiff(GRAY, 0, more={339: (3, (2,))}), "unsigned samples"),
    (tiff(GRAY, 1, more={258: (3, (24,))}), "24 bits a sample is not read"),
    (tiff(GRAY.astype(np.uint16), 1, more={339: (3, (2,))}), "from 0 to 65535, got -"),
    (by_tifffile(FULL.astype(np.complex64)[..., 0]), "not read")])
def test_what_is_not_read_right_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    for read in (decode_image, decode_layers):
        with pytest.raises(BadImage) as error:
            read(data, "a.tif")
        assert str(error.value).startswith("a.tif: ") and reason in str(error.value)


@pytest.mark.parametrize("layout", LAYOUTS[:3], ids=str)
@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize("kind", ["rgb", "rgba", "rgbx", "gray alpha", "cmyk", "cmyk and more",
                                  "white is zero", "white is zero, alpha", "4 bits", "2 bits"])
def test_8_bit_tiffs_of_every_layout(kind: str, planar: int, layout: dict) -> None:
    gray, alpha, unspecified = SMOOTH[..., :1], (ALPHA >> 8).astype(np.uint8), {338: (3, (0,))}
    inks = np.dstack([255 - SMOOTH, alpha // 3])
    on_black = np.rint(SMOOTH * (1 - inks[..., 3:] / 255))
    clear, three = dict([RGBA]), np.repeat(gray, 3, axis=2)
    samples, photometric, bits, more, expected = {
        "rgb": (SMOOTH, RGB, 8, {}, SMOOTH),
        "rgba": (np.dstack([SMOOTH, alpha]), RGB, 8, clear, SMOOTH),
        "rgbx": (np.dstack([SMOOTH, alpha]), RGB, 8, unspecified, SMOOTH),
        "gray alpha": (np.dstack([gray, alpha]), 1, 8, clear, three),
        "cmyk": (inks, 5, 8, {}, on_black),
        "cmyk and more": (np.dstack([inks, alpha]), 5, 8, unspecified, on_black),
        "white is zero": (255 - gray, 0, 8, {}, three),
        "white is zero, alpha": (np.dstack([255 - gray, alpha]), 0, 8, clear, three),
        "4 bits": (SMOOTH >> 4, RGB, 4, {}, (SMOOTH >> 4) * 17),
        "2 bits": (gray >> 6, 1, 2, {}, (three >> 6) * 85)}[kind]
    data = tiff(samples, photometric, bits=bits, planar=planar, more=more, **layout)
    assert_looks(data, expected.astype(int))
    found = decode_layers(data, "a").alpha
    assert np.array_equal(found, alpha[..., 0]) if more == clear else found is None


def test_an_8_bit_lab_tiff() -> None:
    """By the formulas of CIE L*a*b*, with the white of D50."""
    linear = np.where(SMOOTH <= 10, SMOOTH / 255 / 12.92, ((SMOOTH / 255 + 0.055) / 1.055) ** 2.4)
    x, y, z = np.moveaxis(np.cbrt(linear @ np.array(SRGB) / WHITE), -1, 0)
    lab = np.dstack([(116 * y - 16) * 2.55, 500 * (x - y), 200 * (y - z)])
    stored = np.rint(lab).astype(np.int16).astype(np.uint8)     # a and b are signed
    found = decode_image(tiff(stored, 8, bits=8), "a")
    error = np.abs(found.astype(int) - SMOOTH)[SMOOTH.min(axis=2) > 40]    # steps grow in the dark
    assert error.mean() < 1.5 and np.percentile(error, 99) <= 8


def test_a_huge_tile_is_refused_before_it_is_decoded() -> None:
    for samples, bits in ((SMOOTH[..., :1], 8), (FULL, 16)):
        data = tiff(samples, 1 if bits == 8 else RGB, bits=bits, deflate=True, tile=64,
                    more={322: (4, (46320,)), 323: (4, (46320,))})
        with pytest.raises(BadImage, match="tiles of 46320 x 46320 pixels; the limit is"):
            decode_image(data, "a")


# ---- JPEG 2000 -----------------------------------------------------------------------------------

@pytest.mark.parametrize("pixels", [FULL, FULL[..., 0]], ids=["color", "gray"])
def test_16_bit_jpeg_2000(pixels: np.ndarray) -> None:
    data = saved(Image.fromarray(pixels), "JPEG2000") if pixels.ndim == 2 else opencv(
        ".jp2", pixels)
    expected = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    layers = decode_layers(data, "a")
    assert layers.pixels.dtype == np.uint16
    assert np.abs(layers.pixels.astype(int) - expected).mean() < 400     # OpenCV's file is lossy
    assert_looks(data, layers.pixels >> 8, 0)
    assert np.array_equal(decode_layers(encode_layers(layers, ".png"), "b").pixels, layers.pixels)


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 0, 2), (0, 1, 2)])
@pytest.mark.parametrize("clear", [True, False])
def test_jpeg_2000_says_which_channel_is_which(order: tuple, clear: bool) -> None:
    alpha = ALPHA >> 8
    stored = np.dstack([SMOOTH[..., list(order)], *([alpha] if clear else [])]).astype(np.uint8)
    channels = [(0, color + 1) for color in order] + [(1, 0)] * clear
    data = jp2_with(saved(Image.fromarray(stored), "JPEG2000"), channels)
    assert_looks(data, SMOOTH.astype(int), 1)
    found = decode_layers(data, "a").alpha
    assert np.array_equal(found, alpha[..., 0]) if clear else found is None


def test_12_bit_jpeg_2000() -> None:
    """Pillow writes 16 bits only; these are called 12 afterwards, and so is their middle."""
    gray = FULL[..., 0] >> 4
    data = bytearray(saved(Image.fromarray(gray + np.uint16(32768 - 2048)), "JPEG2000"))
    data[data.index(b"ihdr") + 14] = data[data.index(b"\xff\x51") + 40] = 11
    assert_looks(bytes(data), as_bytes(gray[..., None], 12))
    assert decode_layers(bytes(data), "a").notes == []


def test_jpeg_2000_in_ycc_and_cmyk() -> None:
    ycc = saved(Image.fromarray(np.asarray(Image.fromarray(SMOOTH).convert("YCbCr"))), "JPEG2000")
    assert_looks(jp2_with(ycc, space=18), SMOOTH.astype(int), 3)
    inks = np.dstack([255 - SMOOTH, np.zeros_like(SMOOTH[..., :1])])
    cmyk = saved(Image.fromarray(inks), "JPEG2000")
    assert_looks(jp2_with(cmyk, [], space=12), SMOOTH.astype(int), 1)
    with pytest.raises(BadImage, match="4 channels of 8 bits is not read in this order"):
        decode_image(jp2_with(cmyk, [(0, 4), (0, 3), (0, 2), (0, 1)], space=12), "a")


@pytest.mark.parametrize("pixels", [SMOOTH, FULL], ids=["8 bits", "16 bits"])
def test_jpeg_2000_keeps_its_profile(pixels: np.ndarray) -> None:
    data = jp2_with(opencv(".jp2", pixels), icc=profile())
    layers = decode_layers(data, "a")
    assert layers.metadata.profile == profile() and layers.metadata.space is not None


@pytest.mark.parametrize("space, name", [(14, "CIE L*a*b*"), (11, "CMY"), (21, "ROMM-RGB")])
def test_jpeg_2000_in_other_colors_is_refused(space: int, name: str) -> None:
    data = jp2_with(saved(Image.fromarray(SMOOTH), "JPEG2000"), space=space)
    with pytest.raises(BadImage) as error:
        decode_image(data, "a.jp2")
    assert str(error.value) == f"a.jp2: JPEG 2000 in {name} is not read"


def test_a_small_jpeg_2000_of_many_pixels_is_refused() -> None:
    data = bytearray(saved(Image.fromarray(SMOOTH), "JPEG2000"))
    for side in (43, 50):       # in the header's box and in the codestream
        old = side.to_bytes(4, "big")
        at = -1
        while (at := data.find(old, at + 1)) >= 0:
            data[at:at + 4] = (9000).to_bytes(4, "big")
    with pytest.raises(BadImage, match="9000 x 9000 pixels and would take 1235 MiB of memory; the "
                                       "limit is 1024 MiB"):
        decode_image(bytes(data), "a")


# ---- PNG -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("size", [0, 3 << 20])
@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"tEXt"])
def test_a_long_text_in_a_png_is_ignored(kind: bytes, size: int) -> None:
    text = b"workflow " * (size // 9)
    body = {b"zTXt": b"prompt\0\0" + zlib.compress(text), b"tEXt": b"prompt\0" + text,
            b"iTXt": b"prompt\0\1\0\0\0" + zlib.compress(text)}[kind]
    png = saved(Image.fromarray(SMOOTH), "PNG")
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    assert np.array_equal(decode_image(png[:33] + chunk + png[33:], "a"), SMOOTH)
    assert np.array_equal(decode_layers(png[:-12] + chunk + png[-12:], "a").pixels, SMOOTH)


@pytest.mark.parametrize("size", [100, 3 << 20])
def test_a_large_profile_in_a_png_is_kept(size: int) -> None:
    large = profile() + bytes(size)
    layers = decode_layers(saved(Image.fromarray(SMOOTH), "PNG", icc_profile=large), "a")
    assert np.array_equal(layers.pixels, SMOOTH) and layers.metadata.profile == large


def test_a_color_that_stands_for_transparency_in_16_bits() -> None:
    png = opencv(".png", FULL)
    body = struct.pack(">3H", *map(int, FULL[20, 20]))
    chunk = struct.pack(">I", 6) + b"tRNS" + body + struct.pack(">I", zlib.crc32(b"tRNS" + body))
    layers = decode_layers(png[:33] + chunk + png[33:], "a")
    expected = np.where((FULL == FULL[20, 20]).all(axis=2), 0, 65535)
    assert np.array_equal(layers.pixels, FULL) and np.array_equal(layers.alpha, expected)

"""Reading, writing and converting images."""
import errno
import io
import json
import os
import zlib

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from utils.images import jpeg
from utils.images.convert import image_grid, to_image, to_tensor
from utils.images.io import (
    MAX_BYTES,
    BadImage,
    find_images,
    list_images,
    read_image,
    write_image,
)
from utils.images.resize import bicubic, flip

GOLDEN = json.loads((ROOT / "test/golden/sparnet_losses.json").read_text())


def smooth(height=48, width=40, seed=0):
    """An image without fine detail, so that JPEG hardly changes it."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), np.uint8)
    return bicubic(coarse, height, width)


def encoded(image, file_format, **settings):
    file = io.BytesIO()
    image.save(file, file_format, **settings)
    return file.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def stored(tmp_path, data, name="picture.png"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


# name: (file name, content, expected pixels, tolerance)
def readable():
    rgb = smooth()
    image, grey = Image.fromarray(rgb), Image.fromarray(rgb).convert("L")
    three = np.repeat(np.asarray(grey)[..., None], 3, 2)
    alpha = Image.fromarray(np.random.default_rng(1).integers(0, 256, rgb.shape[:2], np.uint8))
    rgba, la = image.copy(), grey.copy()
    rgba.putalpha(alpha)
    la.putalpha(alpha)
    palette = image.quantize(16)
    wide16 = (np.asarray(grey).astype(np.uint16) << 8) + 77
    unit = np.asarray(grey).astype(np.float32) / 255
    png = encoded(image, "PNG")
    return {
        "rgb": ("a.png", png, rgb, 0),
        "grey": ("a.png", encoded(grey, "PNG"), three, 0),
        "grey jpeg": ("a.jpg", encoded(grey, "JPEG", quality=95), three, 4),
        "grey alpha": ("a.png", encoded(la, "PNG"), three, 0),
        "rgba": ("a.png", encoded(rgba, "PNG"), rgb, 0),
        "palette": ("a.png", encoded(palette, "PNG"), np.asarray(palette.convert("RGB")), 0),
        "palette transparent": ("a.png", encoded(palette, "PNG", transparency=b"\x00\x80"),
                                np.asarray(palette.convert("RGB")), 0),
        "gif": ("a.gif", encoded(palette, "GIF", save_all=True, append_images=[palette.rotate(9)]),
                np.asarray(palette.convert("RGB")), 0),
        "bilevel": ("a.png", encoded(grey.convert("1"), "PNG"),
                    np.asarray(grey.convert("1").convert("RGB")), 0),
        "16 bit png": ("a.png", encoded(Image.fromarray(wide16), "PNG"), three, 0),
        "16 bit tiff": ("a.tif", encoded(Image.fromarray(wide16), "TIFF"), three, 0),
        "16 bit colour": ("a.png", png16(rgb.astype(np.uint16) * 257), rgb, 0),
        "float tiff 0..1": ("a.tif", encoded(Image.fromarray(unit), "TIFF"), three, 0),
        "float tiff 0..255": ("a.tif", encoded(Image.fromarray(unit * 255), "TIFF"), three, 0),
        "cmyk jpeg": ("a.jpg", encoded(image.convert("CMYK"), "JPEG", quality=98), rgb, 12),
        "renamed png": ("a.jpg", png, rgb, 0),
        "jpeg": ("a.jpg", encoded(image, "JPEG", quality=98, subsampling=0), rgb, 8),
        "progressive jpeg": ("a.jpeg", encoded(image, "JPEG", quality=98, subsampling=0,
                                               progressive=True), rgb, 8),
        "jpeg with trailing bytes": ("a.jpg", encoded(image, "JPEG", quality=98, subsampling=0)
                                     + b"camera notes", rgb, 8),
        "webp": ("a.webp", encoded(image, "WEBP", lossless=True), rgb, 0),
        "bmp": ("a.BMP", encoded(image, "BMP"), rgb, 0),
        "ppm": ("a.ppm", encoded(image, "PPM"), rgb, 0),
        "one pixel": ("a.png", encoded(image.crop((0, 0, 1, 1)), "PNG"), rgb[:1, :1], 0),
        "very wide": ("a.png", encoded(image.resize((5000, 2)), "PNG"),
                      np.asarray(image.resize((5000, 2))), 0),
    }


def png16(pixels):
    """A 16-bit RGB PNG, which Pillow cannot write."""
    def chunk(kind, body):
        crc = zlib.crc32(kind + body).to_bytes(4, "big")
        return len(body).to_bytes(4, "big") + kind + body + crc
    height, width = pixels.shape[:2]
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([16, 2, 0, 0, 0])
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows))
            + chunk(b"IEND", b""))


READABLE = readable()


@pytest.mark.parametrize("kind", READABLE)
def test_every_kind_of_picture_becomes_rgb_bytes(kind, tmp_path):
    name, data, expected, tolerance = READABLE[kind]
    got = read_image(stored(tmp_path, data, name))
    assert (got.dtype, got.shape) == (np.uint8, expected.shape)
    assert np.abs(got.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation, file_format, tmp_path):
    upright = smooth()
    # What a camera held in that way stores: the inverse of what a viewer does to show it.
    lying = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
             5: upright.swapaxes(0, 1), 6: np.rot90(upright),
             7: np.rot90(upright, 2).swapaxes(0, 1), 8: np.rot90(upright, -1)}[orientation]
    settings = {"quality": 98, "subsampling": 0} if file_format == "JPEG" else {}
    data = encoded(Image.fromarray(np.ascontiguousarray(lying)), file_format,
                   exif=exif(orientation), **settings)
    got = read_image(stored(tmp_path, data)).astype(int)
    assert got.shape == upright.shape and np.abs(got - upright).max() <= 8


def bad():
    image = Image.fromarray(smooth(200, 200))
    jpeg, png = encoded(image, "JPEG"), encoded(image, "PNG")
    not_a_number = np.asarray(image.convert("L")).astype(np.float32)
    not_a_number[3, 4] = np.nan
    huge = np.full((8, 8), 1e9, np.float32)
    return {
        "zero-byte": (b"", "empty"),
        "truncated jpeg": (jpeg[:len(jpeg) // 2], "truncated"),
        "truncated jpeg, end marker": (jpeg[:40] + b"\xff\xd9", ""),
        "truncated png": (png[:len(png) // 2], "truncated"),
        "text": (b"this is not a picture", "the format is unknown"),
        "git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        "nan": (encoded(Image.fromarray(not_a_number), "TIFF"), "NaN"),
        "unbounded float": (encoded(Image.fromarray(huge), "TIFF"), "1e+09"),
        "32-bit integers": (encoded(Image.fromarray(np.full((8, 8), 10**6, np.int32)), "TIFF"),
                            "1000000"),
        "postscript": (encoded(image, "EPS"), "the format is unknown"),
        "pixel bomb": (b"P6\n60000 60000\n255\n", "pixels"),
        "jpeg bomb": (jpeg.replace((200).to_bytes(2, "big") * 2, b"\xff\xff\xff\xff"), "pixels"),
    }


BAD = bad()


@pytest.mark.parametrize("kind", BAD)
def test_bad_file_is_named_with_the_reason(kind, tmp_path):
    data, reason = BAD[kind]
    path = stored(tmp_path, data, "broken.jpg")
    with pytest.raises(BadImage) as error:
        read_image(path)
    assert str(error.value).startswith(f"{path}: ") and reason in str(error.value)


def test_damaged_bytes_give_pixels_or_bad_image(tmp_path):
    rng = np.random.default_rng(0)
    outcomes = set()
    for kind in ("palette transparent", "16 bit png", "float tiff 0..1", "webp", "gif"):
        data = np.frombuffer(READABLE[kind][1], np.uint8)
        for _ in range(20):
            damaged = data.copy()
            damaged[rng.integers(len(data), size=5)] = rng.integers(0, 256, 5)
            try:
                outcomes.add(read_image(stored(tmp_path, damaged.tobytes())).ndim)
            except BadImage:
                outcomes.add("bad")
    assert outcomes == {3, "bad"}


def test_missing_file_is_bad_image(tmp_path):
    with pytest.raises(BadImage, match="No such file"):
        read_image(tmp_path / "absent.png")


@pytest.mark.parametrize("make, message", [
    (lambda path: path.symlink_to(path.name), "symbolic links"),
    (lambda path: (os.mkfifo(path.with_suffix("")), path.symlink_to("picture")), "not a regular"),
    (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    (lambda path: (path.touch(), os.truncate(path, MAX_BYTES + 1)), "the limit is"),
    (lambda path: path.mkdir(), "Is a directory")])
def test_what_is_no_file_of_sane_size_is_bad_image(make, message, tmp_path):
    make(tmp_path / "picture.png")
    with pytest.raises(BadImage, match=message):
        read_image(tmp_path / "picture.png")


def test_a_message_is_one_line_that_can_be_printed(tmp_path):
    with pytest.raises(BadImage) as error:
        read_image(stored(tmp_path, b"text", "a\nb\udce9é.png"))
    assert "a\\nb\\udce9é.png: the format is unknown" in str(error.value)
    assert str(error.value).isprintable()


def test_damaged_exif_leaves_the_picture_as_it_lies(tmp_path):
    data = encoded(Image.fromarray(smooth()), "PNG", exif=b"Exif\0\0MM\0*\xff")
    assert np.array_equal(read_image(stored(tmp_path, data)), smooth())


def test_a_name_of_the_greatest_length_can_be_written(tmp_path):
    write_image(tmp_path / f"{'x' * 251}.png", smooth())
    assert np.array_equal(read_image(tmp_path / f"{'x' * 251}.png"), smooth())


def test_fast_jpeg_path_agrees_with_pillow(tmp_path, monkeypatch):
    data = encoded(Image.fromarray(smooth(218, 178)), "JPEG", quality=90)
    path = stored(tmp_path, data, "a.jpg")
    fast = read_image(path)
    monkeypatch.setattr(jpeg, "decode_plain", lambda data: None)
    # Identical with equal libjpeg versions; a few levels otherwise.
    assert np.abs(fast.astype(int) - read_image(path)).max() <= 3


def test_ordinary_jpeg_takes_the_fast_path():
    assert jpeg.plain_jpeg(encoded(Image.fromarray(smooth()), "JPEG")) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_jpeg_takes_the_fast_path_and_agrees_with_pillow(orientation, tmp_path,
                                                                  monkeypatch):
    data = encoded(Image.fromarray(smooth()), "JPEG", exif=exif(orientation))
    assert jpeg.plain_jpeg(data) == orientation
    fast = read_image(stored(tmp_path, data))
    monkeypatch.setattr(jpeg, "decode_plain", lambda data: None)
    assert np.abs(fast.astype(int) - read_image(tmp_path / "picture.png")).max() <= 3


def test_list_is_sorted_by_relative_path_without_hidden_files(tmp_path):
    for name in ("b/1.png", "a.JPG", "b/.x.png", ".git/c.png", "b/a/2.webp", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    names = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
    assert names == ["a.JPG", "b/1.png", "b/a/2.webp"]


def test_list_without_recursion_stays_in_the_folder(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b/1.png").touch()
    (tmp_path / "2.png").touch()
    assert list_images(tmp_path, recursive=False) == [tmp_path / "2.png"]


def test_list_follows_links_but_not_in_circles(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/1.png").touch()
    (tmp_path / "in/up").symlink_to(tmp_path)
    assert [path.name for path in list_images(tmp_path)] == ["1.png"]


def test_list_survives_a_link_to_itself(tmp_path):
    (tmp_path / "1.png").symlink_to("1.png")
    assert list_images(tmp_path) == [tmp_path / "1.png"]


def test_dangling_link_is_listed_so_that_it_is_reported(tmp_path):
    (tmp_path / "1.png").symlink_to(tmp_path / "moved.png")
    with pytest.raises(BadImage, match=r"1\.png: No such file"):
        read_image(list_images(tmp_path)[0])


@pytest.mark.parametrize("make, message", [
    (lambda path: None, "no such folder"),
    (lambda path: path.touch(), "must be a folder, got a file"),
    (lambda path: path.mkdir(), "has no image among 0 files"),
    (lambda path: (path.mkdir(), (path / "a.txt").touch()), "has no image among 1 file;"),
])
def test_list_says_what_is_wrong_with_the_folder(make, message, tmp_path):
    make(tmp_path / "faces")
    with pytest.raises(ValueError, match=f"faces:? {message}"):
        list_images(tmp_path / "faces")


def test_find_takes_file_folder_or_glob(tmp_path):
    for name in ("x/1.png", "x/2.jpg", "x/sub/3.png", "photo[1].dat"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def found(pattern):
        root, paths = find_images(str(tmp_path / pattern))
        return root.relative_to(tmp_path).as_posix(), [path.name for path in paths]
    assert found("x") == ("x", ["1.png", "2.jpg", "3.png"])
    assert found("x/2.jpg") == ("x", ["2.jpg"])
    assert found("x/*.png") == ("x", ["1.png"])
    assert found("*/**/*.png") == (".", ["1.png", "3.png"])
    assert found("photo[1].dat") == (".", ["photo[1].dat"])


@pytest.mark.parametrize("pattern", ["absent", "absent*.png", "text*"])
def test_find_refuses_what_names_no_picture(pattern, tmp_path):
    (tmp_path / "text.txt").touch()
    with pytest.raises(ValueError, match=r"no such file|matches no image"):
        find_images(tmp_path / pattern)


@pytest.mark.parametrize("extension", ["png", "bmp", "tif", "TIFF", "ppm"])
def test_lossless_formats_return_what_was_written(extension, tmp_path):
    path = tmp_path / "new folder" / f"a.{extension}"
    write_image(path, smooth())
    assert np.array_equal(read_image(path), smooth())


@pytest.mark.parametrize("extension", ["jpg", "jpeg", "webp"])
def test_lossy_formats_come_close(extension, tmp_path):
    write_image(tmp_path / f"a.{extension}", smooth())
    got = read_image(tmp_path / f"a.{extension}").astype(int)
    assert np.abs(got - smooth()).mean() < 3


def test_unknown_extension_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must be one of \.jpg, .*, got \.xyz"):
        write_image(tmp_path / "a.xyz", smooth())


def test_float_array_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="uint8"):
        write_image(tmp_path / "a.png", smooth() / 255)


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    write_image(tmp_path / "a.png", smooth())
    before = (tmp_path / "a.png").read_bytes()

    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, "disk full")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_image(tmp_path / "a.png", smooth(seed=1))
    assert os.listdir(tmp_path) == ["a.png"] and (tmp_path / "a.png").read_bytes() == before


@pytest.mark.parametrize("case", GOLDEN["resize"]["cases"], ids=lambda case: case["name"])
def test_bicubic_equals_the_golden_values_bit_for_bit(case):
    random = np.random.RandomState(zlib.crc32(case["name"].encode()))
    source = random.randint(0, 256, case["source_shape"]).astype(np.uint8)
    assert int(source.sum()) == case["source_sum"]
    result = bicubic(source, *case["target"])
    assert list(result.shape) == case["shape"] and int(result.sum()) == case["result_sum"]
    assert [[at, float(result.reshape(-1)[at])] for at, _ in case["samples"]] == case["samples"]


def test_flip_equals_a_mirrored_view():
    assert np.array_equal(flip(smooth()[3:30, 5:]), smooth()[3:30, 5:][:, ::-1])


def test_to_tensor_is_exact_for_every_grey_level():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    expected = (levels.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
    assert np.array_equal(to_tensor(levels)[0].permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_to_tensor_lies_in_memory_as_asked(memory_format):
    batch = torch.randint(0, 256, (2, 6, 5, 3), dtype=torch.uint8)
    x = to_tensor(batch, memory_format)
    assert x.shape == (2, 3, 6, 5) and x.is_contiguous(memory_format=memory_format)


def test_to_tensor_leaves_its_input_alone():
    batch = torch.randint(0, 256, (2, 6, 5, 3), dtype=torch.uint8)
    before = batch.clone()
    to_tensor(batch)
    assert torch.equal(batch, before)


def test_to_tensor_takes_flipped_views():
    assert torch.equal(to_tensor(smooth()[:, ::-1]), to_tensor(smooth()).flip(3))


@pytest.mark.parametrize("wrong", [np.zeros((4, 4, 3), np.float32), np.zeros((3, 4, 4), np.uint8)])
def test_to_tensor_refuses_floats_and_channels_first(wrong):
    with pytest.raises(ValueError, match="images must be uint8"):
        to_tensor(wrong)


def test_round_trip_through_tensors_is_exact():
    batch = np.stack([smooth(), smooth(seed=1)])
    assert np.array_equal(to_image(to_tensor(batch)), batch)


@pytest.mark.parametrize("rounding, expected", [("round", 128), ("truncate", 127)])
def test_to_image_rounds_as_asked(rounding, expected):
    x = torch.full((3, 2, 2), 127.6 / 255 * 2 - 1)
    assert np.array_equal(to_image(x, rounding), np.full((2, 2, 3), expected, np.uint8))


def test_to_image_clips():
    x = torch.tensor([-7.0, 9.0, 1.0]).reshape(3, 1, 1).requires_grad_()
    assert to_image(x).tolist() == [[[0, 255, 255]]]


def test_grid_places_every_picture():
    a, b, c = smooth(10, 8), smooth(6, 5, seed=1), smooth(4, 9, seed=2)
    grid = image_grid([[a, b], [c]], gap=2)
    assert grid.shape == (10 + 2 + 4, 9 + 2 + 5, 3)
    assert np.array_equal(grid[:10, :8], a) and np.array_equal(grid[:6, 11:16], b)
    assert np.array_equal(grid[12:, :9], c) and (grid[10:12] == 255).all()


def test_grid_labels_are_drawn_above_their_column():
    plain = np.full((10, 60, 3), 255, np.uint8)
    grid = image_grid([[plain, plain]], gap=0, labels=["", "restored"])
    assert grid[:20, 60:].min() < 128 and (grid[:20, :60] == 255).all()

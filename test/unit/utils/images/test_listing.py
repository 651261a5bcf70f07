"""Which files of a folder are read, and how the others are named."""
from __future__ import annotations

import io
import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from image_files import tiff
from PIL import Image, features
from served import SMALL, small_weights

import data
import models
import preparation
import prepare
from data.folder_dataset import FolderDataset
from data.single_dataset import SingleDataset
from enhance import enhance
from options.enhance_options import EnhanceOptions
from utils.images.io import (
    BadImage,
    find_images,
    left_out,
    list_images,
    read_image,
    write_image,
)
from utils.images.resize import bicubic

PIXELS = bicubic(np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8), 48, 48)
# extension: Pillow's format; all that the reader takes besides .jpg and .png
READ = {".jfif": "JPEG", ".jpe": "JPEG", ".mpo": "JPEG", ".apng": "PNG", ".dib": "DIB",
        ".pnm": "PPM", ".pbm": "PPM", ".jp2": "JPEG2000", ".j2k": "JPEG2000", ".ico": "ICO",
        ".avif": "AVIF", ".pcx": "PCX", ".sgi": "SGI", ".qoi": "QOI", ".tif": "TIFF"}
# What cameras and renderers write; the beginnings are real, the rest is not.
UNREAD = {".heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", ".exr": b"v/1\x01\x02\0\0\0",
          ".hdr": b"#?RADIANCE\n", ".cr3": b"\0\0\0\x18ftypcrx \0\0\0\x01",
          ".jxl": b"\xff\x0a\xfa\x1f", ".svg": b"<svg/>", ".mp4": b"\0\0\0\x18ftypmp42\0\0\0\0",
          ".dng": tiff(np.zeros((8, 8, 1), np.uint16), 32803),
          ".nef": tiff(np.zeros((8, 8, 1), np.uint16), 32803)}
BESIDE = ("notes.txt", "faces.jsonl", "list.csv", "Thumbs.db", "README", "weights.pth")


def encoded(file_format: str, pixels: np.ndarray = PIXELS) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    image.save(file, file_format, **({"sizes": [(48, 48)]} if file_format == "ICO" else {}))
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One of each kind, all that is read with other pixels."""
    made = tmp_path / "in"
    made.mkdir()
    for number, (extension, file_format) in enumerate(READ.items()):
        if file_format != "AVIF" or features.check("avif"):
            content = encoded(file_format, PIXELS // (number + 1))
            (made / f"{number}{extension}").write_bytes(content)
    for extension, content in UNREAD.items():
        (made / f"x{extension}").write_bytes(content)
    for name in BESIDE:
        (made / name).write_bytes(b"no image")
    return made


def test_everything_that_can_be_read_is_listed(folder: Path) -> None:
    assert {path.suffix for path in list_images(folder)} == set(READ) - (
        set() if features.check("avif") else {".avif"})


@pytest.mark.parametrize("extension", READ)
def test_each_kind_is_read(extension: str, folder: Path) -> None:
    path = next(folder.glob(f"*{extension}"), None)
    if path is None:
        pytest.skip("this Pillow reads no such files")
    expected = PIXELS // (list(READ).index(extension) + 1)
    found = read_image(path).astype(int)
    assert found.shape == (48, 48, 3) and np.abs(found - expected).mean() < 6


def test_what_is_left_out_is_counted_and_named_by_kind(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "y.DNG").write_bytes(UNREAD[".dng"])
    assert left_out(folder) == (
        f"10 files in {folder} are left out, because the kind is not read: 1 .cr3, 2 .dng, 1 .exr, "
        "1 .hdr, 1 .heic, 1 .jxl, 1 .mp4, 1 .nef, 1 .svg")
    assert left_out(f"{folder}/x.h*") == (
        f"2 files in {folder}/x.h* are left out, because the kind is not read: 1 .hdr, 1 .heic")


@pytest.mark.parametrize("name", BESIDE)
def test_what_is_no_image_by_its_name_is_not_mentioned(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"no image")
    assert left_out(tmp_path) == ""


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "WEBP", "JPEG2000"])
@pytest.mark.parametrize("name", ["a.heic", "a.image", "a", "a.jpg.1"])
def test_the_content_decides_where_the_extension_says_nothing(name: str, file_format: str,
                                                              tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(encoded(file_format))
    assert list_images(tmp_path) == [tmp_path / name] and left_out(tmp_path) == ""


@pytest.mark.parametrize("extension", [".dng", ".nef", ".heic", ".exr"])
def test_a_file_that_is_named_itself_is_refused_with_the_reason(extension: str,
                                                                folder: Path) -> None:
    with pytest.raises(BadImage, match=r"raw file \(DNG\)|the format is unknown"):
        read_image(folder / f"x{extension}")


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("more", [{50706: (4, (0x00000401,))}, {254: (4, (1,))}],
                         ids=["DNG", "preview"])
def test_a_raw_file_that_is_called_tif_is_no_thumbnail(more: dict, bits: int,
                                                       tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(np.zeros((8, 8, 3), np.uint8), 2, bits=bits, more=more))
    with pytest.raises(BadImage, match="raw file"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("photos", [(), ("--photos",)])
def test_enhance_restores_what_is_read_and_names_the_rest(
        photos: tuple, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    weights = small_weights(tmp_path / "g.pth")
    (folder / "x.mp4").unlink()
    enhance(EnhanceOptions(models, data).parse(
        [*SMALL, "--pretrain_model_path", str(weights), "--input", str(folder), "--output",
         str(tmp_path / "out"), *photos]))
    said = capsys.readouterr()
    number = len(list_images(folder))
    assert f"{number} of {number} " in said.out and not said.err
    assert said.out.count("8 files in") == 1 and "1 .dng, 1 .exr" in said.out


def test_check_names_the_rest(folder: Path, capsys: pytest.CaptureFixture) -> None:
    opt = prepare.parse(["check", "--input", str(folder), "--output", str(folder.parent / "out"),
                         "--workers", "1"])
    assert preparation.find("check").run(opt) == 0
    said = capsys.readouterr().out
    assert "note: 9 files in" in said and "1 .heic" in said
    report = json.loads((folder.parent / "out" / "report.json").read_text())
    assert report["left_out"] == left_out(folder)


def test_training_names_the_rest_in_one_line(folder: Path,
                                             caplog: pytest.LogCaptureFixture) -> None:
    for split in ("train", "val"):
        FolderDataset(FolderDataset.Settings(dataroot=str(folder), load_size=32), split=split)
    assert [record.getMessage() for record in caplog.records] == [left_out(folder)]


# ---- folders that cannot be read ----------------------------------------------------------------

@pytest.fixture
def closed_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an image and with `lost+found`, which even the tests' user must not read."""
    write_image(tmp_path / "in" / "a.png", np.zeros((40, 40, 3), np.uint8))
    write_image(tmp_path / "in" / "lost+found" / "b.png", np.zeros((40, 40, 3), np.uint8))
    scandir = os.scandir

    def refusing(path: object) -> object:
        if str(path).rstrip("/").endswith("lost+found"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)
    monkeypatch.setattr(os, "scandir", refusing)
    return tmp_path / "in"


def test_a_folder_that_cannot_be_read_is_left_out_and_named(closed_folder: Path) -> None:
    root, images = find_images(closed_folder)
    assert [path.relative_to(root).as_posix() for path in images] == ["a.png"]
    assert left_out(closed_folder) == f"1 folder in {closed_folder} cannot be read: lost+found"


def test_the_folder_that_was_named_itself_must_be_readable(closed_folder: Path) -> None:
    with pytest.raises(PermissionError, match="lost"):
        find_images(closed_folder / "lost+found")


def test_a_data_set_names_what_it_left_out(
        closed_folder: Path, caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("facezoo"), "propagate", True)
    with caplog.at_level(logging.INFO, "facezoo"):
        made = SingleDataset(SingleDataset.Settings(dataroot=str(closed_folder), load_size=32),
                             split="test")
    assert made.items == ["a.png"] and "lost+found" in caplog.text

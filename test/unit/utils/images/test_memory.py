"""How much memory an image may take, by what its header says."""
from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from utils.images import memory, tiff_tags
from utils.images.deep import decode_layers
from utils.images.io import TooManyPixels, decode_image, image_size
from utils.images.resize import bicubic

SMOOTH = bicubic(np.random.default_rng(0).integers(0, 256, (7, 6, 3), np.uint8), 43, 50)


def saved(image: Image.Image, file_format: str, **settings: object) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **settings)
    return file.getvalue()


def with_sides(image: Image.Image, file_format: str, **how: object) -> bytes:
    """A small file whose header says 100 MP."""
    data = saved(image, file_format, **how)
    if file_format == "PNG":
        head = data[12:16] + struct.pack(">II", 10_000, 10_000) + data[24:29]
        return data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]
    tags = tiff_tags.read_directory(data)
    return tiff_tags.with_tags(data, tags, {tiff_tags.WIDTH: tags.longs(10_000),
                                            tiff_tags.HEIGHT: tags.longs(10_000)})


DEEP = Image.fromarray(np.zeros((8, 8), np.uint16))
FLOAT = Image.fromarray(np.zeros((8, 8), np.float32))


@pytest.mark.parametrize("data, needs", [
    (with_sides(DEEP, "PNG"), 1525), (with_sides(FLOAT, "TIFF"), 1335),
    (with_sides(Image.fromarray(SMOOTH), "PNG"), 572)], ids=["16 bits", "float", "8 bits"])
@pytest.mark.parametrize("read", [image_size, decode_image, decode_layers])
def test_memory_is_estimated_from_the_header(data: bytes, needs: int, read) -> None:
    """100 MP of 8 bits are within the limit, of 16 bits and of floats not."""
    try:
        for mebibytes in (needs - 1, 500):
            memory.limit(mebibytes)
            # Pillow, which looks at pixels alone, may be first to refuse.
            with pytest.raises(TooManyPixels, match=f"would take ({needs}|572) MiB of memory; the "
                                                    f"limit is {mebibytes} MiB .--max_image_mem"):
                read(data, "a")
        memory.limit(needs + 1)
        if read is image_size:
            assert read(data, "a") == (10_000, 10_000)
    finally:
        memory.limit(memory.DEFAULT)


def test_a_progressive_jpeg_takes_twice_as_much() -> None:
    image = Image.fromarray(SMOOTH)
    height, width = SMOOTH.shape[:2]
    assert memory.most_pixels(memory.PROGRESSIVE) * 2 == memory.most_pixels()
    assert decode_image(saved(image, "JPEG", progressive=True), "a").shape == (height, width, 3)


def test_the_flag_reaches_readers_and_their_worker_processes(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.png").write_bytes(with_sides(Image.fromarray(SMOOTH), "PNG"))
    done = subprocess.run(
        [sys.executable, str(ROOT / "prepare.py"), "resize", "--input", str(tmp_path), "--output",
         str(tmp_path / "out"), "--size", "8", "--workers", "2", "--max_image_memory", "300"],
        capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.count("would take 572 MiB of memory; the limit is 300 MiB") == 3


def test_an_image_inside_another_is_limited_too() -> None:
    """An icon is a list of whole PNG files, of which its header says what it likes."""
    inner = with_sides(Image.fromarray(SMOOTH), "PNG")
    head = struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 48, 48, 0, 0, 1, 32,
                                                      len(inner), 22)
    try:
        memory.limit(300)
        with pytest.raises(TooManyPixels, match=r"has (10000 x 10000|100000000) pixels and would "
                                                r"take 572 MiB of memory; the limit is 300 MiB"):
            decode_image(head + inner, "a.ico")
    finally:
        memory.limit(memory.DEFAULT)

"""JPEG files: the fast way to decode ordinary ones, and what libjpeg has to say about damage.

libjpeg decodes whatever it can and fills the rest with gray. All it says of it is a warning on C's
stream `stderr`, which OpenCV leaves to it. `decode_watched` turns that stream elsewhere meanwhile.
File descriptor 2 stays as it is, so nothing that Python or another process writes is touched.
"""
from __future__ import annotations

import ctypes
import os
import re
import struct
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from PIL import Image

from utils.images import memory

EXIF_ORIENTATION = 0x0112
_DAMAGE = re.compile(r"(Corrupt JPEG data: [^\n]*|Premature end of JPEG file)")
_LEFT_OVER = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9")
# OpenCV decodes to RGB at once since 4.11.
_COLOR = getattr(cv2, "IMREAD_COLOR_RGB", cv2.IMREAD_COLOR)
_HARMLESS = 2       # bytes that some cameras leave before the end
_HOLE = bytes(256)  # what a lost block of a disk leaves; no image has that in its data, see `_hole`
_END_OF_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7]")


class Damaged(ValueError):
    """libjpeg met data that cannot be part of the image."""


def plain_jpeg(data: bytes) -> int | None:
    """EXIF orientation of an ordinary JPEG, None for another file.

    Ordinary ones are complete, and have 8 bits, three channels and a size within the limit of
    `utils.images.memory`.
    """
    if not data.startswith(b"\xff\xd8\xff") or not data.endswith(b"\xff\xd9"):
        return None
    at, turn = 2, 1
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker, length = struct.unpack_from(">BH", data, at + 1)
        if marker == 0xE1 and data[at + 4:at + 10] == b"Exif\0\0":
            turn = _orientation(data[at + 4:at + 2 + length])
        if marker in (0xC0, 0xC1, 0xC2):
            bits, height, width, channels = struct.unpack_from(">BHHB", data, at + 4)
            each = memory.PROGRESSIVE if marker == 0xC2 else memory.SHALLOW
            good = (bits == 8 and channels == 3
                    and 0 < height * width <= memory.most_pixels(each))
            return turn if good else None
        at += 2 + length
    return None


def decode_plain(data: bytes) -> np.ndarray | None:
    """uint8 RGB (H, W, 3) as it is stored; None if OpenCV does not like the file.

    OpenCV takes two thirds of Pillow's time.

    Raises:
        Damaged: see `decode_watched`.
    """
    pixels = decode_watched(data, _COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None or _COLOR != cv2.IMREAD_COLOR:
        return pixels
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def check_damage(data: bytes) -> None:
    """Raise Damaged where a JPEG has gray or wrong blocks; decodes an eighth of each side."""
    decode_watched(data, cv2.IMREAD_REDUCED_GRAYSCALE_8)


def decode_watched(data: bytes, flags: int) -> np.ndarray | None:
    """What cv2.imdecode gives.

    Raises:
        Damaged: what libjpeg said, if it is more than that a few bytes are left over at the end;
            or a hole in the data. Where C's `stderr` cannot be replaced (other systems than Linux),
            for a hole alone.
    """
    pixels, said = _watch(lambda: cv2.imdecode(np.frombuffer(data, np.uint8), flags))
    found = _DAMAGE.search(said)
    if found is None:
        # Zeros are valid codes. Where they make as many blocks as were there, libjpeg is silent.
        if _HOLE in data and _hole(data):
            raise Damaged("the JPEG is damaged (zeros in the middle of its data)")
        return pixels
    rest = _LEFT_OVER.search(said)
    if rest and _is_padding(data, int(rest[1])):
        return pixels
    raise Damaged(f"the JPEG is damaged ({found[1].removeprefix('Corrupt JPEG data: ')})")


def _is_padding(data: bytes, count: int) -> bool:
    """Whether so many bytes before the end marker hold nothing."""
    if count <= _HARMLESS:
        return True
    end = data.rfind(b"\xff\xd9")
    return len(set(data[max(0, end - count):end])) == 1


def _hole(data: bytes) -> bool:
    """Whether the first scan of a sequential JPEG has zeros that no encoder writes.

    They would be blocks whose 63 frequencies all have the value of the first code. Only where that
    code says "no more frequencies" may they be blocks of one color.
    """
    at, first_codes, sequential = 2, {}, False
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = struct.unpack_from(">BH", data, at + 1)
        body = data[at + 4:at + 2 + length]
        if marker in (0xC0, 0xC1):
            sequential = True
        elif marker == 0xC4:
            while len(body) > 17:
                first_codes[body[0]] = body[17]
                body = body[17 + sum(body[1:17]):]
        elif marker == 0xDA and len(body) > 2:
            table = 0x10 | body[2] & 15     # of the first component's frequencies
            end = _END_OF_SCAN.search(data, at + 2 + length)
            scan = data[at + 2 + length:end.start() if end else len(data)].rstrip(b"\0")
            return sequential and _HOLE in scan and first_codes.get(table, 0) != 0
        at += 2 + length
    return False


def _orientation(block: bytes) -> int:
    try:
        exif = Image.Exif()
        exif.load(block)
        return int(exif.get(EXIF_ORIENTATION, 1))
    except Exception:   # its parser raises whatever it meets, and the pixels may be good
        return 1


# ---- C's stream stderr ---------------------------------------------------------------------------

class _Stream:
    """C's `stderr`, which can be replaced by a file in memory; several threads may do so."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None)
        libc.fdopen.restype = ctypes.c_void_p
        self._stderr = ctypes.c_void_p.in_dll(libc, "stderr")
        self._file = (os.memfd_create("stderr") if hasattr(os, "memfd_create")
                      else os.dup(tempfile.TemporaryFile().fileno()))
        self._replacement = libc.fdopen(self._file, b"w+")
        if not self._replacement or not self._stderr.value:
            raise OSError("no stream")
        libc.setvbuf(ctypes.c_void_p(self._replacement), None, 2, 0)    # 2: without a buffer
        self._own = self._stderr.value
        self._users, self._waiting_alone, self._alone = 0, 0, False
        self._changed = threading.Condition()

    def enter(self, alone: bool) -> int:
        """Replace it; returns how much it has taken so far. Alone waits for all others."""
        with self._changed:
            if self._alone or self._waiting_alone or (alone and self._users):
                self._waiting_alone += alone
                # Who wants to be alone comes first, or might never be.
                self._changed.wait_for(lambda: not self._alone and (
                    not self._users if alone else not self._waiting_alone))
                self._waiting_alone -= alone
            self._users += 1
            self._alone = alone
            self._stderr.value = self._replacement
            return self._length()

    def leave(self, since: int) -> str:
        """What was said since; the last one puts the stream back."""
        with self._changed:
            said = ""
            self._users -= 1
            if (length := self._length()) > since:
                said = os.pread(self._file, length - since, since).decode(errors="replace")
            if not self._users:
                self.put_back()
                if length:
                    self._pass_on(length)
            self._alone = False
            if not self._users:
                self._changed.notify_all()
            return said

    def put_back(self) -> None:
        """C's own stream again."""
        self._stderr.value = self._own

    def _length(self) -> int:
        return os.lseek(self._file, 0, os.SEEK_CUR)

    def _pass_on(self, length: int) -> None:
        """What is no remark on a JPEG was meant for the user."""
        text = os.pread(self._file, length, 0).decode(errors="replace")
        others = [line for line in text.splitlines() if line and not _DAMAGE.search(line)]
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        if others and sys.stderr is not None:
            print(*others, sep="\n", file=sys.stderr)


@lru_cache(maxsize=1)
def _stream() -> _Stream | None:
    if not (hasattr(os, "pread") and hasattr(os, "register_at_fork")):      # Windows
        return None
    try:
        stream = _Stream()
    except (OSError, ValueError, AttributeError):
        return None
    os.register_at_fork(after_in_child=lambda: _forget(stream))
    return stream


def _forget(stream: _Stream) -> None:
    """In a forked process: a lock that another thread held is never released there."""
    stream.put_back()
    _stream.cache_clear()


def _watch(decode: Callable[[], Any]) -> tuple[Any, str]:
    """What `decode` gives, and what C libraries wrote to stderr meanwhile."""
    stream = _stream()
    if stream is None:
        return decode(), ""
    result, said = None, ""
    for alone in (False, True):
        since = stream.enter(alone)
        try:
            result = decode()
        finally:
            said = stream.leave(since)
        if not said:    # else it was by this file, or by one in another thread
            break
    return result, said

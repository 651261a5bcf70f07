"""PNG: 16 bits a sample, and chunks that Pillow refuses or forgets."""
from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import cv2
import numpy as np

from utils.images.color import is_rgb

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_PROFILE = 1 << 24       # bytes of a profile when it is decompressed
_PILLOW_LIMIT = 1 << 20
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")


def chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type, begin and length of the content of each chunk that is complete."""
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        yield kind, at + 8, length
        at += 12 + length


def without_text(data: bytes) -> bytes:
    """The file without its texts, and without a profile that is larger than Pillow takes."""
    if not data.startswith(SIGNATURE):
        return data
    kept, since = [], 0
    for kind, at, length in chunks(data):
        is_large = kind == b"iCCP" and len(_profile(data[at:at + length])) > _PILLOW_LIMIT
        if kind in _TEXTS or is_large:
            kept.append(data[since:at - 8])
            since = at + length + 4
    return data if not since else b"".join([*kept, data[since:]])


def profile_of(data: bytes) -> bytes | None:
    """The ICC profile, if there is one of RGB colors and up to MAX_PROFILE bytes."""
    found = next((_profile(data[at:at + length]) for kind, at, length in chunks(data)
                  if kind == b"iCCP"), b"")
    return found if is_rgb(found) and len(found) <= MAX_PROFILE else None


def decode_deep(data: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    """uint16 RGB (H, W, 3) and alpha (H, W) of a PNG with 16 bits a sample; Pillow cuts those.

    Raises:
        ValueError: OpenCV cannot decode it.
    """
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise ValueError("the PNG cannot be decoded; it is truncated or damaged")
    pixels = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    alpha = np.ascontiguousarray(pixels[..., 3]) if pixels.shape[2] == 4 else None
    return np.ascontiguousarray(pixels[..., 2::-1]), alpha


def _profile(body: bytes) -> bytes:
    """Decompressed as far as one byte over the limit; b"" if it is damaged."""
    try:
        packed = body[body.index(b"\0") + 2:]
        return zlib.decompressobj().decompress(packed, MAX_PROFILE + 1)
    except (ValueError, zlib.error):
        return b""

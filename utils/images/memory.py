"""How much memory an image may take while it is decoded, estimated from its header.

The limit holds for the whole process and those it forks; entries set it by --max_image_memory.
"""
from __future__ import annotations

import re

from PIL import Image

MIB = 1 << 20
DEFAULT = 1024          # MiB
# Bytes for each pixel: what a decoder holds, and its result.
SHALLOW, PROGRESSIVE, DEEP = 6, 12, 16
_limit = DEFAULT * MIB


def limit(mebibytes: int) -> None:
    """Let an image take so many MiB."""
    global _limit
    _limit = mebibytes * MIB
    # Pillow's own limit also holds for images inside others; it refuses twice as many.
    Image.MAX_IMAGE_PIXELS = most_pixels() // 2


def limit_in_mebibytes() -> int:
    return _limit // MIB


def most_pixels(each: int = SHALLOW) -> int:
    """How many pixels an image may have that takes so many bytes for each."""
    return _limit // each


def check(width: int, height: int, each: int = SHALLOW) -> None:
    """Raise DecompressionBombError if an image of this size would take more than the limit.

    Args:
        each: bytes of memory for each pixel.
    """
    if width * height > most_pixels(each):
        raise Image.DecompressionBombError(_refusal(f"{width} x {height}", width * height * each))


def refusal_of(error: Image.DecompressionBombError) -> str:
    """What an error of `check` or of Pillow says, in the words of `check`."""
    found = re.search(r"\((\d+) pixels\)", str(error))
    return _refusal(found[1], int(found[1]) * SHALLOW) if found else str(error)


def _refusal(pixels: str, needed: int) -> str:
    return (f"the image has {pixels} pixels and would take {needed // MIB} MiB of memory; the "
            f"limit is {_limit // MIB} MiB (--max_image_memory)")


limit(DEFAULT)

"""How much memory an image may take while it is decoded, estimated from its header.

The limit holds for the whole process and those it forks; entries set it by --max_image_memory.
"""
from __future__ import annotations

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
        raise Image.DecompressionBombError(
            f"the image has {width} x {height} pixels and would take "
            f"{width * height * each // MIB} MiB of memory; the limit is {_limit // MIB} MiB "
            "(--max_image_memory)")

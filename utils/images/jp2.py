"""JPEG 2000: what its header says about color, where Pillow does not look."""
from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"
_CODESTREAM = b"\xff\x4f\xff\x51"
_SRGB, _GRAY, _YCC, _CMYK = 16, 17, 18, 12
_SPACES = {14: "CIE L*a*b*", 13: "CIE L*a*b* of another range", 19: "CIEJab", 20: "e-sRGB",
           11: "CMY", 15: "bilevel", 21: "ROMM-RGB", 24: "e-YCC"}
_COLOR, _OPACITY, _PREMULTIPLIED = 0, 1, 2      # kinds of channels
_NOT_GIVEN = 65535


@dataclass
class Header:
    """What matters of a file's header.

    Attributes:
        channels: how many there are.
        bits: of the deepest channel.
        signed: one of them has negative values.
        space: number of the enumerated color space, None where a profile says it.
        order: for each channel its kind and, of colors, which one from 1; () where not defined.
        palette: colors come from a table.
        profile: ICC profile, or None.
    """
    channels: int
    bits: int
    signed: bool = False
    space: int | None = None
    order: tuple[tuple[int, int], ...] = ()
    palette: bool = False
    profile: bytes | None = None

    @property
    def is_plain(self) -> bool:
        """Whether Pillow reads the file right: 8 bits, channels in the usual order."""
        expected = [(_COLOR, number) for number in range(1, self.channels + 1)]
        if self.channels in (2, 4):
            expected[-1] = (_OPACITY, 0)
        usual = not self.order or list(self.order) == expected
        return self.bits <= 8 and usual


def is_jpeg2000(data: bytes) -> bool:
    """Whether a file begins as JP2 and its bare codestream do."""
    return data.startswith((SIGNATURE, _CODESTREAM))


def read_header(data: bytes) -> Header:
    """What the boxes and the codestream say.

    Raises:
        ValueError: damaged, or colors that are not read.
    """
    try:
        header = _read(data)
    except (struct.error, IndexError) as error:
        raise ValueError("the header of the JPEG 2000 image is damaged") from error
    if header.space in _SPACES:
        raise ValueError(f"JPEG 2000 in {_SPACES[header.space]} is not read")
    if header.signed:
        raise ValueError("JPEG 2000 with signed samples is not read")
    return header


def decode_deep(data: bytes, header: Header) -> tuple[np.ndarray, np.ndarray | None]:
    """RGB (H, W, 3) and alpha (H, W), uint8 or uint16 with the bits that the header declares.

    Raises:
        ValueError: OpenCV, which minds the order of channels, does not read it.
    """
    kinds = [kind for kind, _ in header.order]
    if header.channels not in (1, 3, 4) or header.space == _CMYK or header.palette or (
            _PREMULTIPLIED in kinds) or (header.channels == 4 and kinds.count(_COLOR) == 4):
        raise ValueError(f"JPEG 2000 with {header.channels} channels of {header.bits} bits is not "
                         "read in this order or color space")
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    finally:
        cv2.utils.logging.setLogLevel(level)
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"JPEG 2000 with {header.channels} channels of {header.bits} bits cannot "
                         "be decoded")
    pixels = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    # Without a definition of the channels, Pillow takes a fourth as alpha, too.
    alpha = np.ascontiguousarray(pixels[..., 3]) if pixels.shape[2] == 4 else None
    return np.ascontiguousarray(pixels[..., 2::-1]), alpha


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Type, begin and end of the content of each box."""
    while at + 8 <= end:
        length, kind = struct.unpack_from(">I4s", data, at)
        inside = at + 8
        if length == 1:
            length, = struct.unpack_from(">Q", data, inside)
            inside += 8
        length = length or end - at
        if length < inside - at:
            raise struct.error
        yield kind, inside, min(at + length, end)
        at += length


def _read(data: bytes) -> Header:
    if data.startswith(_CODESTREAM):
        return _of_codestream(data, 0)
    found: Header | None = None
    space, order, palette, profile = None, (), False, None
    for kind, begin, end in _boxes(data, 0, len(data)):
        if kind == b"jp2h":
            for inner, at, stop in _boxes(data, begin, end):
                if inner == b"colr" and space is None and data[at] == 1:
                    space, = struct.unpack_from(">I", data, at + 3)
                elif inner == b"colr" and data[at] in (2, 3):
                    profile = data[at + 3:stop]
                elif inner == b"cdef":
                    order = _order(data[at:stop])
                palette |= inner == b"pclr"
        elif kind == b"jp2c":
            found = _of_codestream(data, begin)
            break
    if found is None:
        raise ValueError("the JPEG 2000 file holds no image")
    found.space, found.order, found.palette, found.profile = space, order, palette, profile
    return found


def _order(body: bytes) -> tuple[tuple[int, int], ...]:
    number, = struct.unpack_from(">H", body)
    found = {}
    for at in range(2, 2 + 6 * number, 6):
        channel, kind, color = struct.unpack_from(">HHH", body, at)
        found[channel] = (kind, color if kind == _COLOR and color != _NOT_GIVEN else 0)
    return tuple(found[channel] for channel in sorted(found))


def _of_codestream(data: bytes, at: int) -> Header:
    number, = struct.unpack_from(">H", data, at + 40)
    depths = [data[at + 42 + 3 * channel] for channel in range(number)]
    return Header(number, max((depth & 127) + 1 for depth in depths),
                  any(depth & 128 for depth in depths))

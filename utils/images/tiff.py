"""TIFF files whose samples Pillow and OpenCV read wrong or not at all, read sample by sample.

libtiff undoes the compression, through Pillow: it is given the same file with another directory,
in which each byte of a row is a gray pixel. What the bytes mean is decided here.
"""
from __future__ import annotations

import io
import math
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from utils.images import tiff_tags as tags
from utils.images.tiff_tags import Directory, with_tags

# Of one tile; larger ones are never written, and decoders take memory for the whole tile at once.
MAX_TILE_PIXELS = 1 << 24
STRIP_BYTES = 1 << 18       # of a written strip, before it is compressed
_LOSSLESS = {1, 5, 8, 32773, 32946, 34925, 50000}   # none, LZW, deflate, PackBits, LZMA, Zstandard
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _CMYK = 0, 1, 2, 5
_COLORS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _CMYK: 4}
_REFUSED = {3: "a palette", 4: "a transparency mask", 6: "YCbCr", 8: "CIE L*a*b*",
            9: "ICC L*a*b*", 10: "ITU L*a*b*", 32844: "LogL", 32845: "LogLuv"}
_RAW = (32803, 34892)           # color filter array, linear raw
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3


@dataclass
class Samples:
    """The samples of an image, as the file has them.

    Attributes:
        colors: (H, W, 1), (H, W, 3) or, for CMYK, (H, W, 4); integers or floats.
        alpha: (H, W) of the same type, or None.
        premultiplied: colors are multiplied by alpha.
        inverted: white is 0.
        bits: of each sample, as declared.
        declared: the largest value that the file declares, or 0.
    """
    colors: np.ndarray
    alpha: np.ndarray | None
    premultiplied: bool
    inverted: bool
    bits: int
    declared: int


def check(directory: Directory) -> None:
    """Refuse what no decoder may be given.

    Raises:
        ValueError: a camera's raw file or a preview, other inks than those of CMYK, or tiles that
            are much larger than an image's.
    """
    if tags.DNG_VERSION in directory.entries or (
            directory.value(tags.PHOTOMETRIC, -1) in _RAW):
        raise ValueError("this is a camera's raw file (DNG); develop it to TIFF or JPEG first")
    if directory.value(tags.SUBFILE_TYPE) & 1:
        raise ValueError("the first image of this TIFF is the preview of another one, as in "
                         "cameras' raw files; develop it to TIFF or JPEG first")
    if directory.value(tags.PHOTOMETRIC) == _CMYK and directory.value(tags.INK_SET, 1) != 1:
        raise ValueError("the inks of a TIFF must be cyan, magenta, yellow and black")
    tile = directory.value(tags.TILE_WIDTH) * directory.value(tags.TILE_HEIGHT)
    image = directory.value(tags.WIDTH) * directory.value(tags.HEIGHT)
    if tile > max(MAX_TILE_PIXELS, 2 * image):
        raise ValueError(f"the TIFF has tiles of {directory.value(tags.TILE_WIDTH)} x "
                         f"{directory.value(tags.TILE_HEIGHT)} pixels; the limit is "
                         f"{MAX_TILE_PIXELS} pixels")


def is_deep(directory: Directory) -> bool:
    """Whether samples are others than unsigned ones of up to 8 bits, or lie as Pillow cannot read
    them: gray and alpha apart."""
    bits = directory.values(tags.BITS, (1,))
    if directory.value(tags.PLANAR, 1) == 2 and directory.value(tags.SAMPLES, 1) == 2:
        return True
    return any(each not in (1, 2, 4, 8) for each in bits) or any(
        each not in (_UNSIGNED, 4) for each in directory.values(tags.SAMPLE_FORMAT))


def without_planes_of_one(data: bytes, directory: Directory) -> bytes:
    """A file whose only sample is said to lie in a plane of its own, without that: Pillow forgets
    the bits and the meaning of such samples."""
    if directory.value(tags.PLANAR, 1) != 2 or directory.value(tags.SAMPLES, 1) != 1:
        return data
    return with_tags(data, directory, {tags.PLANAR: directory.shorts(1)})


def read_samples(data: bytes, directory: Directory) -> Samples:
    """The samples of an image.

    Raises:
        ValueError: a kind that is not read, with the reason.
    """
    photometric = directory.value(tags.PHOTOMETRIC, _BLACK_IS_ZERO)
    if photometric not in _COLORS:
        raise ValueError(f"a TIFF with {_REFUSED.get(photometric, f'photometric {photometric}')} "
                         f"is not read with {directory.value(tags.BITS, 1)} bits a sample")
    number, colors = directory.value(tags.SAMPLES, 1), _COLORS[photometric]
    bits = set(directory.values(tags.BITS, (1,)))
    kinds = set(directory.values(tags.SAMPLE_FORMAT)) or {_UNSIGNED}
    if len(bits) != 1 or len(kinds) != 1 or number < colors:
        raise ValueError(f"all samples of a TIFF must be alike, got BitsPerSample {sorted(bits)}, "
                         f"SampleFormat {sorted(kinds)} and {number} samples a pixel")
    kind, depth = kinds.pop(), bits.pop()
    whole = _whole(data, directory, number, kind, depth)
    extra = directory.values(tags.EXTRA_SAMPLES, (2,) if number == colors + 1 else ())
    values = whole[..., :colors]
    # 0 is unspecified, 1 associated (premultiplied), 2 unassociated alpha.
    is_clear = number > colors and bool(extra) and extra[0] in (1, 2)
    declared = directory.value(tags.MAX_VALUE)
    is_inverted = photometric == _WHITE_IS_ZERO
    if is_inverted and kind != _UNSIGNED:
        raise ValueError("a TIFF whose white is 0 must have unsigned samples")
    return Samples(values, whole[..., colors] if is_clear else None, is_clear and extra[0] == 1,
                   is_inverted, depth, declared if declared < 1 << min(depth, 32) else 0)


def _whole(data: bytes, directory: Directory, number: int, kind: int, bits: int) -> np.ndarray:
    """All samples, (H, W, number)."""
    types = {(_UNSIGNED, 16): "u2", (_UNSIGNED, 32): "u4", (_SIGNED, 16): "i2", (_SIGNED, 32): "i4",
             (_FLOAT, 16): "f2", (_FLOAT, 32): "f4", (_FLOAT, 64): "f8", (_UNSIGNED, 8): "u1"}
    packed = kind == _UNSIGNED and bits < 16 and bits != 8
    if not packed and (kind, bits) not in types:
        raise ValueError(f"a TIFF with SampleFormat {kind} and {bits} bits a sample is not read")
    predictor, compression = directory.value(tags.PREDICTOR, 1), directory.value(tags.COMPRESSION,
                                                                                 1)
    if compression not in _LOSSLESS:
        raise ValueError(f"a TIFF of {bits} bits a sample is not read with compression "
                         f"{compression}")
    if predictor != 1 and (packed or predictor != 2 or kind == _FLOAT):
        raise ValueError(f"a TIFF of {bits} bits a sample is not read with predictor {predictor}")
    planes = number if directory.value(tags.PLANAR, 1) == 2 else 1
    together = number // planes
    found = []
    for plane in range(planes):
        rows, tile = _bytes_of_plane(data, directory, plane, planes, bits * together)
        values = (_unpacked(rows, bits) if packed
                  else rows.view(np.dtype(types[kind, bits]).newbyteorder(directory.order)))
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        across = -(-directory.value(tags.WIDTH) // tile) * tile * together
        values = values[:, :across].reshape(len(rows), -1, together)
        if predictor == 2:
            values = _summed(values, tile)
        found.append(values[:, :directory.value(tags.WIDTH)])
    return found[0] if planes == 1 else np.concatenate(found, axis=2)


def _summed(values: np.ndarray, tile: int) -> np.ndarray:
    """Differences along each row of a tile (of a strip: of the image) as values."""
    return np.concatenate([np.cumsum(values[:, left:left + tile], axis=1, dtype=values.dtype)
                           for left in range(0, values.shape[1], tile)], axis=1)


def _unpacked(rows: np.ndarray, bits: int) -> np.ndarray:
    """Samples of so many bits, first bit first, of rows of whole bytes."""
    several = math.lcm(bits, 8) // 8        # bytes that hold a whole number of samples
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % several)))
    each = np.unpackbits(rows.reshape(-1, several), axis=1).reshape(-1, bits)
    weights = (1 << np.arange(bits - 1, -1, -1)).astype(np.uint16)
    return (each * weights).sum(axis=1, dtype=np.uint16).reshape(len(rows), -1)


def _bytes_of_plane(data: bytes, directory: Directory, plane: int, planes: int,
                    bits_a_pixel: int) -> tuple[np.ndarray, int]:
    """Bytes (H, N) of a plane's rows, and the width in pixels along which predictors go."""
    width, height = directory.value(tags.WIDTH), directory.value(tags.HEIGHT)
    tiled = tags.TILE_WIDTH in directory.entries
    tile = directory.value(tags.TILE_WIDTH) if tiled else width
    if not (tile and height):
        raise ValueError("the TIFF has no size")
    row = -(-tile * bits_a_pixel // 8)          # bytes of a tile's row
    places, sizes = ((tags.TILE_OFFSETS, tags.TILE_BYTES) if tiled
                     else (tags.STRIP_OFFSETS, tags.STRIP_BYTES))
    offsets, lengths = directory.values(places), directory.values(sizes)
    if not offsets or len(offsets) % planes or len(offsets) != len(lengths):
        raise ValueError(f"the TIFF must have its {planes} planes in equal parts, got "
                         f"{len(offsets)} offsets and {len(lengths)} lengths")
    part = slice(plane * len(offsets) // planes, (plane + 1) * len(offsets) // planes)
    changes = {tags.WIDTH: directory.longs(-(-width // tile) * row),
               tags.BITS: directory.shorts(8), tags.SAMPLES: directory.shorts(1),
               tags.PHOTOMETRIC: directory.shorts(_BLACK_IS_ZERO),
               tags.PLANAR: directory.shorts(1), places: directory.longs(*offsets[part]),
               sizes: directory.longs(*lengths[part])}
    changes |= dict.fromkeys((tags.SAMPLE_FORMAT, tags.EXTRA_SAMPLES, tags.PREDICTOR,
                              tags.ORIENTATION, tags.MAX_VALUE, tags.INK_SET, tags.COLOR_MAP))
    if tiled:
        changes[tags.TILE_WIDTH] = directory.longs(row)
    with _Bytes(io.BytesIO(with_tags(data, directory, changes))) as image:
        return np.array(image), tile


class _Bytes(TiffImageFile):
    """Without Pillow's limit of pixels, which would count bytes; `decode` has its own."""

    def load_prepare(self) -> None:
        ImageFile.ImageFile.load_prepare(self)


def written(pixels: np.ndarray, alpha: np.ndarray | None, settings: dict) -> bytes:
    """A TIFF of uint16 RGB (H, W, 3) and alpha (H, W), without loss; `settings` as for Pillow."""
    height, width = pixels.shape[:2]
    samples = pixels if alpha is None else np.dstack([pixels, alpha])
    number = samples.shape[2]
    model = io.BytesIO()
    Image.new("L", (1, 1)).save(model, "TIFF", **settings)     # with all that is no pixel
    data = model.getvalue()
    directory = tags.read_directory(data)
    rows = max(1, STRIP_BYTES // (2 * width * number))
    strips = []
    for top in range(0, height, rows):
        part = samples[top:top + rows]
        steps = np.diff(part, axis=1, prepend=np.zeros_like(part[:, :1]))
        strips.append(zlib.compress(steps.astype(f"{directory.order}u2").tobytes(), 5))
    offsets = np.cumsum([len(data)] + [len(strip) for strip in strips])[:-1]
    changes = {
        tags.WIDTH: directory.longs(width), tags.HEIGHT: directory.longs(height),
        tags.SAMPLES: directory.shorts(number), tags.BITS: directory.shorts(*[16] * number),
        tags.PHOTOMETRIC: directory.shorts(_RGB), tags.PLANAR: directory.shorts(1),
        tags.COMPRESSION: directory.shorts(8), tags.PREDICTOR: directory.shorts(2),
        tags.ROWS_PER_STRIP: directory.longs(rows),
        tags.STRIP_OFFSETS: directory.longs(*offsets.tolist()),
        tags.STRIP_BYTES: directory.longs(*map(len, strips))}
    if alpha is not None:
        changes[tags.EXTRA_SAMPLES] = directory.shorts(2)
    return with_tags(b"".join([data, *strips]), directory, changes)

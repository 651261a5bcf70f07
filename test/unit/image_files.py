"""Files that no library at hand writes: profiles, TIFF by its tags, JPEG 2000 by its boxes."""
from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

# Red, green and blue of a space, in XYZ at D50: the columns of its matrix.
P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
WHITE = (0.9642, 1.0, 0.8249)


def profile(colors: tuple = P3, gamma: float = 2.2, space: bytes = b"RGB ") -> bytes:
    """An ICC profile of version 2 with three primaries and one curve; `GRAY` has the curve only."""
    def xyz(values: tuple) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(each * 65536) for each in values))
    curve = b"curv\0\0\0\0" + struct.pack(">IHxx", 1, round(gamma * 256))
    name = b"a space\0"
    text = b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + bytes(78)
    parts = {b"desc": text, b"cprt": b"text\0\0\0\0none\0", b"wtpt": xyz(WHITE)}
    if space == b"GRAY":
        parts[b"kTRC"] = curve
    else:
        parts |= {letter + b"XYZ": xyz(color)
                  for letter, color in zip((b"r", b"g", b"b"), colors, strict=True)}
        parts |= {letter + b"TRC": curve for letter in (b"r", b"g", b"b")}
    table, bodies = b"", b""
    start = 128 + 4 + 12 * len(parts)
    for key, body in parts.items():
        bodies += bytes(-len(bodies) % 4)
        table += key + struct.pack(">II", start + len(bodies), len(body))
        bodies += body
    head = (struct.pack(">I4sI4s4s4s", start + len(bodies), b"none", 0x02100000, b"mntr", space,
                        b"XYZ ") + struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
            + struct.pack(">3i", *(round(each * 65536) for each in WHITE)))
    return head.ljust(128, b"\0") + struct.pack(">I", len(parts)) + table + bodies


def to_srgb(pixels: np.ndarray, colors: tuple = P3, gamma: float = 2.2) -> np.ndarray:
    """uint8 pixels of a space as sRGB, by the formulas; independent of any color engine."""
    linear = (pixels / 255.0) ** gamma @ np.array(colors) @ np.linalg.inv(np.array(SRGB))
    linear = linear.clip(0, 1)
    made = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(made * 255).astype(np.uint8)


def exif(orientation: int = 1, thumbnail: bool = True) -> bytes:
    """EXIF as a camera writes it: maker, exposure, place, size, and a thumbnail of its own."""
    block = Image.Exif()
    block[0x010F], block[0x0110], block[0x0112] = "Maker", "Camera 1", orientation
    inside = block.get_ifd(0x8769)
    inside[0x9003], inside[0xA002], inside[0xA003] = "2026:01:02 03:04:05", 64, 48
    block.get_ifd(0x8825)[1] = "N"
    body = block.tobytes()
    if not thumbnail:
        return body
    # A second directory with a small JPEG, where the first one's link to the next leads.
    start = 6 + 8
    order = ">" if body[6:8] == b"MM" else "<"
    count, = struct.unpack_from(order + "H", body, start)
    link, small = start + 2 + 12 * count, io.BytesIO()
    Image.new("RGB", (16, 12), "red").save(small, "JPEG")
    at = len(body) - 6
    rows = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in (
        (0x0201, at + 2 + 24 + 4), (0x0202, len(small.getvalue()))))
    more = struct.pack(order + "H", 2) + rows + bytes(4) + small.getvalue()
    return body[:link] + struct.pack(order + "I", at) + body[link + 4:] + more


def tiff(samples: np.ndarray, photometric: int, bits: int = 16, planar: int = 1,
         order: str = "<", tile: int = 0, predictor: int = 1, deflate: bool = False,
         more: dict[int, tuple[int, tuple[int, ...]]] | None = None) -> bytes:
    """A TIFF of unsigned samples (H, W, N), in strips of 5 rows or in tiles.

    Args:
        bits: 10, 12 and 14 are packed.
        order: `<` or `>`.
        more: further tags, type 3 or 4 and values.
    """
    height, width, number = samples.shape
    planes = [samples] if planar == 1 else [samples[..., n:n + 1] for n in range(number)]
    parts = []
    for plane in planes:
        rows, columns = (tile, tile) if tile else (5, width)
        for top in range(0, height, rows):
            for left in range(0, width, columns):
                piece = plane[top:top + rows, left:left + columns]
                if tile:
                    piece = np.pad(piece, ((0, tile - piece.shape[0]), (0, tile - piece.shape[1]),
                                           (0, 0)))
                body = _packed(piece, bits, order, predictor)
                parts.append(zlib.compress(body) if deflate else body)
    offsets = 8 + np.cumsum([0] + [len(part) for part in parts])
    places = ([(322, 4, (tile,)), (323, 4, (tile,)), (324, 4, tuple(offsets[:-1])),
               (325, 4, tuple(map(len, parts)))] if tile else
              [(273, 4, tuple(offsets[:-1])), (278, 4, (5,)), (279, 4, tuple(map(len, parts)))])
    tags = {256: (4, (width,)), 257: (4, (height,)), 258: (3, (bits,) * number),
            259: (3, (8 if deflate else 1,)), 262: (3, (photometric,)), 277: (3, (number,)),
            284: (3, (planar,)), 317: (3, (predictor,))}
    tags |= {tag: (kind, values) for tag, kind, values in places} | (more or {})
    data = b"".join(parts)
    data += bytes(len(data) % 2)
    rows, bodies, start = b"", b"", 8 + len(data) + 2 + 12 * len(tags) + 4
    for tag, (kind, values) in sorted(tags.items()):
        body = struct.pack(f"{order}{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(body) > 4:
            bodies, body = bodies + body, struct.pack(order + "I", start + len(bodies))
        rows += struct.pack(order + "HHI", tag, kind, len(values)) + body.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(data))
    return head + data + struct.pack(order + "H", len(tags)) + rows + bytes(4) + bodies


def _packed(piece: np.ndarray, bits: int, order: str, predictor: int) -> bytes:
    if bits == 16:
        values = piece.astype(np.uint16)
        if predictor == 2:
            values = np.diff(values, axis=1, prepend=np.zeros_like(values[:, :1]))
        return values.astype(f"{order}u2").tobytes()
    rows = piece.reshape(len(piece), -1).astype(np.uint16)
    each = (rows[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(each.reshape(len(rows), -1).astype(np.uint8), axis=1).tobytes()


def jp2_with(data: bytes, channels: list[tuple[int, int]] | None = None,
             space: int | None = None, icc: bytes = b"") -> bytes:
    """A JP2 file with another definition of its channels (kind, color; [] for none), another color
    space, or a color profile."""
    at = data.index(b"jp2h") - 4
    length, = struct.unpack_from(">I", data, at)
    inner, kept = data[at + 8:at + length], b""
    while inner:
        size, kind = struct.unpack_from(">I4s", inner)
        box, inner = inner[:size], inner[size:]
        if kind == b"colr" and space is not None:
            box = struct.pack(">I4s3BI", 15, b"colr", 1, 0, 0, space)
        elif kind == b"colr" and icc:
            box = struct.pack(">I4s3B", 11 + len(icc), b"colr", 2, 0, 0) + icc
        kept += b"" if kind == b"cdef" and channels is not None else box
    if channels:
        body = struct.pack(">H", len(channels)) + b"".join(
            struct.pack(">HHH", number, *each) for number, each in enumerate(channels))
        kept += struct.pack(">I4s", 8 + len(body), b"cdef") + body
    return data[:at] + struct.pack(">I4s", 8 + len(kept), b"jp2h") + kept + data[at + length:]

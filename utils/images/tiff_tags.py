"""The directory of a TIFF file: its tags, and the same file with other tags."""
from __future__ import annotations

import struct
from dataclasses import dataclass, field

# Tags, by their numbers in TIFF 6.0.
SUBFILE_TYPE = 254
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
STRIP_OFFSETS, ORIENTATION, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES = 273, 274, 277, 278, 279
MAX_VALUE, PLANAR, PREDICTOR, COLOR_MAP, TILE_WIDTH, TILE_HEIGHT = 281, 284, 317, 320, 322, 323
TILE_OFFSETS, TILE_BYTES, INK_SET, EXTRA_SAMPLES, SAMPLE_FORMAT = 324, 325, 332, 338, 339
DNG_VERSION = 50706
BYTE, SHORT, LONG = 1, 3, 4     # types
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8,
          17: 8, 18: 8}
_CODES = {1: "B", 2: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 11: "f", 12: "d",
          13: "I", 16: "Q", 17: "q", 18: "Q"}
MAX_TAGS = 4096
Entry = tuple[int, int, bytes]      # type, count, value


@dataclass
class Directory:
    """The first directory of a file.

    Attributes:
        order: `<` or `>`, as struct has it.
        big: a BigTIFF, whose counts and offsets have 8 bytes.
        entries: by tag; values as they lie in the file.
    """
    order: str
    big: bool
    entries: dict[int, Entry] = field(default_factory=dict)

    def values(self, tag: int, default: tuple = ()) -> tuple:
        """Numbers of a tag; the default where it is missing or holds no numbers."""
        kind, count, body = self.entries.get(tag, (0, 0, b""))
        if kind not in _CODES or len(body) < count * _SIZES[kind]:
            return default
        return struct.unpack_from(f"{self.order}{count}{_CODES[kind]}", body)

    def value(self, tag: int, default: int = 0) -> int:
        """First number of a tag."""
        return int((self.values(tag) or (default,))[0])

    def shorts(self, *values: int) -> Entry:
        """An entry of 16-bit numbers."""
        return SHORT, len(values), struct.pack(f"{self.order}{len(values)}H", *values)

    def longs(self, *values: int) -> Entry:
        """An entry of numbers as large as the file's offsets."""
        kind, code = (16, "Q") if self.big else (LONG, "I")
        return kind, len(values), struct.pack(f"{self.order}{len(values)}{code}", *values)


def is_tiff(data: bytes) -> bool:
    """Whether a file begins as a TIFF or a BigTIFF does."""
    return data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_directory(data: bytes) -> Directory:
    """The tags of the first image of a TIFF; those that point outside the file are left out.

    Raises:
        ValueError: the directory itself lies outside the file, or has over MAX_TAGS tags.
    """
    order = "<" if data[:2] == b"II" else ">"
    found = Directory(order, data[2:4].strip(b"\0") == b"+")
    entry, number, head = (20, "Q", 8) if found.big else (12, "I", 4)
    try:
        at, = struct.unpack_from(order + number, data, head)
        count, = struct.unpack_from(order + ("Q" if found.big else "H"), data, at)
        at += 8 if found.big else 2
        if count > MAX_TAGS:
            raise ValueError(f"the TIFF directory has {count} tags; the limit is {MAX_TAGS}")
        for place in range(at, at + count * entry, entry):
            tag, kind, length = struct.unpack_from(f"{order}HH{number}", data, place)
            size, inside = length * _SIZES.get(kind, 0), place + entry - struct.calcsize(number)
            if size > struct.calcsize(number):
                inside, = struct.unpack_from(order + number, data, inside)
            if size and inside + size <= len(data):
                found.entries[tag] = (kind, length, data[inside:inside + size])
    except struct.error as error:
        raise ValueError("the TIFF directory lies outside the file") from error
    return found


def classic(data: bytes, directory: Directory) -> tuple[bytes, Directory]:
    """A BigTIFF of less than 4 GiB as an ordinary TIFF, which every decoder reads; others as they
    are. Directories below the first one, such as EXIF's, are left out."""
    if not directory.big or len(data) >= 1 << 32:
        return data, directory
    made = Directory(directory.order, False)
    for tag, (kind, count, body) in directory.entries.items():
        if tag in (330, 34665, 34853):
            continue
        if kind in (16, 17, 18):
            kind, body = LONG, made.longs(*directory.values(tag))[2]
        made.entries[tag] = (kind, count, body)
    head = (b"II*\0" if directory.order == "<" else b"MM\0*") + bytes(4)
    return with_tags(head + data[8:], made, {}), made


def with_tags(data: bytes, directory: Directory, changes: dict[int, Entry | None]) -> bytes:
    """The file with a directory of its own at the end: the given one with these changes.

    Args:
        changes: by tag; None removes it.
    """
    entries = {tag: entry for tag, entry in {**directory.entries, **changes}.items() if entry}
    order, number, head = directory.order, *(("Q", 8) if directory.big else ("I", 4))
    inline = struct.calcsize(number)
    start = len(data) + -len(data) % 8
    after = start + (8 if directory.big else 2) + len(entries) * (12 if not directory.big else 20)
    after += inline
    rows, bodies = b"", b""
    for tag in sorted(entries):
        kind, count, body = entries[tag]
        if len(body) <= inline:
            place = body.ljust(inline, b"\0")
        else:
            bodies += bytes(-(after + len(bodies)) % 8)
            place = struct.pack(order + number, after + len(bodies))
            bodies += body
        rows += struct.pack(f"{order}HH{number}", tag, kind, count) + place
    count = struct.pack(order + ("Q" if directory.big else "H"), len(entries))
    return b"".join((data[:head], struct.pack(order + number, start), data[head + inline:],
                     bytes(start - len(data)), count, rows, bytes(inline), bodies))

"""Five hundred odd files, as folders of images collect them: which work, which must be named.

Deterministic by seed. A file is `good` (decoded, whatever it looks like), `bad` (named once, with a
reason), `either` (damage that decoders may or may not notice) or `ignored` (nobody's business: no
image by its name, or no file).
"""
from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, features

from utils.images.io import MAX_BYTES
from utils.images.resize import bicubic

GOOD, BAD, EITHER, IGNORED = "good", "bad", "either", "ignored"
Rng = np.random.Generator
FORMATS = {".jpg": "JPEG", ".png": "PNG", ".gif": "GIF", ".webp": "WEBP", ".bmp": "BMP",
           ".tif": "TIFF", ".ppm": "PPM"}
SIGNATURES = {".jpg": b"\xff\xd8\xff\xe0\0\x10JFIF\0", ".png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
              ".gif": b"GIF89a", ".webp": b"RIFF\x80\0\0\0WEBPVP8 ", ".bmp": b"BM", ".ppm": b"P6\n",
              ".tif": b"II*\0\x08\0\0\0"}
OTHERS = {"heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "avif": b"\0\0\0\x1cftypavif\0\0\0\0",
          "mp4": b"\0\0\0\x18ftypmp42\0\0\0\0", "pdf": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
          "gzip": b"\x1f\x8b\x08\0\0\0\0\0\0\x03", "elf": b"\x7fELF\x02\x01\x01",
          "psd": b"8BPS\0\1", "exr": b"v/1\x01\x02\0\0\0", "npy": b"\x93NUMPY\x01\0v\0"}
TEXTS = {"text": "not an image\n" * 9, "html": "<!DOCTYPE html><title>404</title>",
         "json": '{"error": "access denied"}',
         "xml": '<?xml version="1.0"?><Error>NoSuchKey</Error>',
         "svg": '<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>',
         "lfs": "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
         "postscript": "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"}
NAMES = ("two words", "line\nbreak", "caf\udce9", "été", "-rf", "100%", "a;b&c", "[1]*?",
         "'quoted\"", "x" * 200, "y" * 251, "tab\there", "dots...", "~home", "#1", "面孔", "{name}")


@dataclass
class Odd:
    """A file to be made.

    Attributes:
        small: a side below SSIM's window, so two of them cannot be compared.
        make: writes it; None writes `content`.
    """
    kind: str
    name: str
    outcome: str
    content: bytes = b""
    small: bool = False
    make: Callable[[Path], None] | None = None

    def write(self, folder: Path) -> Path:
        """Make the file, and the folders it lies in."""
        path = folder / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.make is None:
            path.write_bytes(self.content)
        else:
            self.make(path)
        return path


# ---- images ------------------------------------------------------------------------------------

def sample_image(rng: Rng, height: int = 36, width: int = 32) -> Image.Image:
    coarse = rng.integers(0, 256, (6, 5, 3), np.uint8)
    return Image.fromarray(bicubic(coarse, height, width))


def encoded(image: Image.Image, suffix: str, **settings: object) -> bytes:
    file = io.BytesIO()
    image.save(file, FORMATS[suffix], **settings)
    return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(pixels: np.ndarray, bits: int = 8, interlaced: bool = False,
        extra: bytes = b"", size: tuple[int, int] | None = None) -> bytes:
    """A PNG of (H, W) or (H, W, 3) samples of 8 or 16 bits, which Pillow writes fewer kinds of."""
    height, width = size or pixels.shape[:2]
    passes = [(0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2),
              (1, 2, 0, 1)] if interlaced else [(0, 1, 0, 1)]
    rows = b"".join(b"\0" + row.astype(">u2" if bits == 16 else "u1").tobytes()
                    for top, down, left, right in passes
                    for row in pixels[top::down, left::right] if row.size)
    head = struct.pack(">IIBBBBB", width, height, bits, 2 if pixels.ndim == 3 else 0, 0, 0,
                       int(interlaced))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra
            + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def tiff(width: int, height: int, *more: tuple[int, int, int], data: bytes = b"\0" * 64) -> bytes:
    """A gray TIFF that declares what it likes; `more`: tag, type, value."""
    tags = {256: (4, width), 257: (4, height), 258: (3, 8), 259: (3, 1), 262: (3, 1), 273: (4, 8),
            277: (3, 1), 278: (4, height), 279: (4, len(data))}
    tags |= {tag: (kind, value) for tag, kind, value in more}
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value)
                       for tag, (kind, value) in sorted(tags.items()))
    return (b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags))
            + entries + b"\0\0\0\0")


def with_exif(jpeg: bytes, body: bytes) -> bytes:
    block = b"Exif\0\0" + body
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]


def orientation(value: int, kind: int = 3) -> bytes:
    return (b"MM\0*\0\0\0\x08\0\x01\x01\x12" + struct.pack(">HI", kind, 1)
            + struct.pack(">HH", value, 0) + b"\0\0\0\0")


# ---- kinds ---------------------------------------------------------------------------------------

Made = Iterator[tuple[str, str, bytes, str]]       # kind, suffix, content, outcome


def broken(rng: Rng) -> Made:
    """What must be refused."""
    suffixes = list(FORMATS)
    for suffix in suffixes:
        whole = encoded(sample_image(rng), suffix)
        for fraction in (0.01, 0.1, 0.3, 0.5, 0.7, 0.85):
            yield f"truncated{suffix}", suffix, whole[:max(1, int(fraction * len(whole)))], BAD
        yield "zero bytes", suffix, b"", BAD
        yield "noise", suffix, rng.bytes(int(rng.integers(1, 3000))), BAD
        yield "noise after a signature", suffix, SIGNATURES[suffix] + rng.bytes(400), BAD
        yield "nothing but zeros", suffix, bytes(int(rng.integers(1, 5000))), BAD
    for kind, text in TEXTS.items():
        for suffix in rng.choice(suffixes, 2, replace=False):
            yield kind, str(suffix), text.encode(), BAD
    for kind, start in OTHERS.items():
        yield f"{kind} renamed", ".jpg", start + rng.bytes(200), BAD
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(zipfile.ZipInfo("face.jpg"), encoded(sample_image(rng), ".jpg"))
    yield "zip renamed", ".jpg", archive.getvalue(), BAD
    icon = io.BytesIO()
    sample_image(rng).resize((16, 16)).save(icon, "ICO")
    yield "icon renamed", ".png", icon.getvalue(), GOOD
    gray = np.asarray(sample_image(rng).convert("L"))
    for value in (np.nan, np.inf, -np.inf, 1e30, -5.0):
        samples = (gray / 255).astype(np.float32)
        samples[3, 4] = value
        yield f"floating point {value}", ".tif", encoded(Image.fromarray(samples), ".tif"), BAD
    for value in (10 ** 6, -7):
        samples = np.full((12, 12), value, np.int32)
        yield f"integer {value}", ".tif", encoded(Image.fromarray(samples), ".tif"), BAD
    jpeg, small = encoded(sample_image(rng), ".jpg"), png(gray)
    yield "garbage before", ".jpg", b"\n\n" + jpeg, BAD
    yield "checksum of header", ".png", small[:29] + bytes([small[29] ^ 1]) + small[30:], BAD
    yield "checksum of pixels", ".png", small[:60] + bytes([small[60] ^ 1]) + small[61:], BAD
    yield "no pixels", ".png", small[:33] + chunk(b"IEND", b""), BAD
    yield "impossible depth", ".png", png(gray, 3), BAD
    for size in ((0, 9), (9, 0)):
        yield "no area", ".png", png(gray, size=size), BAD


def bombs(rng: Rng) -> Made:
    """Small files that ask for much memory."""
    gray = np.zeros((4, 4), np.uint8)
    for side in (20000, 60000, 2 ** 31 - 1):
        yield "bomb", ".png", png(gray, size=(side, side)), BAD
        yield "bomb", ".png", png(np.zeros((4, 4, 3), np.uint8), interlaced=True,
                                  size=(side, side)), BAD
        yield "bomb", ".ppm", f"P6\n{side} {side}\n255\n".encode() + bytes(99), BAD
        yield "bomb", ".tif", tiff(side, side), BAD
        yield "bomb", ".bmp", b"BM" + struct.pack("<IIIIiiHHIIIIII", 99, 0, 54, 40, side, side, 1,
                                                  24, 0, 0, 0, 0, 0, 0) + bytes(99), BAD
    yield "strip of 4 GiB", ".tif", tiff(16, 16, (279, 4, 2 ** 32 - 1)), BAD
    yield "strip of 4 GiB", ".tif", tiff(16, 16, (279, 4, 2 ** 32 - 1), (259, 3, 8)), BAD
    for side in (60000, 2 ** 30):
        yield "huge tile", ".tif", tiff(16, 16, (322, 4, side), (323, 4, side), (324, 4, 8),
                                        (325, 4, 64), (259, 3, 8)), BAD
    for height in (60000, 65535):
        jpeg = encoded(sample_image(rng, 200, 200), ".jpg")
        yield "bomb", ".jpg", jpeg.replace(struct.pack(">HH", 200, 200),
                                           struct.pack(">HH", height, 65535)), BAD
    gif = bytearray(encoded(sample_image(rng).quantize(8), ".gif"))
    gif[6:10] = b"\xff\xff\xff\xff"
    yield "bomb", ".gif", bytes(gif), BAD
    deep = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1 << 24), 1))
    yield "bomb in a comment", ".png", png(gray, extra=deep), EITHER
    deep = chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(1 << 24), 1))
    yield "bomb in a profile", ".png", png(gray, extra=deep), EITHER


def unusual(rng: Rng) -> Made:
    """What must work."""
    image = sample_image(rng)
    gray, palette = image.convert("L"), image.quantize(16)
    for suffix in FORMATS:
        yield "ordinary", suffix, encoded(sample_image(rng), suffix), GOOD
        for other in rng.choice(list(FORMATS), 2, replace=False):
            yield "wrong extension", str(other), encoded(sample_image(rng), suffix), GOOD
        if suffix not in (".bmp", ".ppm"):
            yield "garbage behind", suffix, encoded(sample_image(rng), suffix) + rng.bytes(50), GOOD
    yield "palette", ".png", encoded(palette, ".png"), GOOD
    yield "palette, transparent", ".png", encoded(palette, ".png", transparency=b"\0\x80"), GOOD
    yield "palette, one clear color", ".gif", encoded(palette, ".gif", transparency=3), GOOD
    for suffix in (".png", ".bmp", ".tif", ".gif"):
        yield "one bit", suffix, encoded(gray.convert("1"), suffix), GOOD
    for suffix in (".png", ".jpg", ".bmp", ".tif", ".webp"):
        yield "gray", suffix, encoded(gray, suffix), GOOD
    yield "palette", ".bmp", encoded(palette, ".bmp"), GOOD
    for mode, suffix in (("RGBA", ".png"), ("LA", ".png"), ("RGBA", ".webp"), ("RGBA", ".tif")):
        yield "alpha", suffix, encoded(image.convert(mode), suffix), GOOD
    cmyk = encoded(image.convert("CMYK"), ".jpg")
    yield "CMYK", ".jpg", cmyk, GOOD
    yield "CMYK", ".tif", encoded(image.convert("CMYK"), ".tif"), GOOD
    # The same samples said to be YCCK: Adobe's marker ends in the kind of transform.
    at = cmyk.index(b"Adobe") + 11
    yield "YCCK", ".jpg", cmyk[:at] + b"\x02" + cmyk[at + 1:], GOOD
    wide = np.asarray(gray).astype(np.uint16) * 257
    yield "16 bits gray", ".png", png(wide, 16), GOOD
    yield "16 bits color", ".png", png(np.asarray(image).astype(np.uint16) * 257, 16), GOOD
    yield "16 bits gray", ".tif", encoded(Image.fromarray(wide), ".tif"), GOOD
    yield "32-bit integers", ".tif", encoded(Image.fromarray(wide.astype(np.int32)), ".tif"), GOOD
    for white in (1.0, 255.0):
        values = (np.asarray(gray) / 255 * white).astype(np.float32)
        yield "floating point", ".tif", encoded(Image.fromarray(values), ".tif"), GOOD
    for color in (np.asarray(gray), np.asarray(image)):
        yield "interlaced", ".png", png(color, interlaced=True), GOOD
    more = [sample_image(rng) for _ in range(3)]
    for suffix in (".tif", ".gif", ".webp"):
        yield "several images", suffix, encoded(image, suffix, save_all=True,
                                                  append_images=more), GOOD
    loop = bytearray(tiff(16, 16, data=bytes(range(256))))
    loop[-4:] = struct.pack("<I", 8 + 256)                  # the next page is this one
    yield "endless pages", ".tif", bytes(loop), GOOD
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        yield compression, ".tif", encoded(sample_image(rng), ".tif", compression=compression), GOOD
    if features.check("jpg_2000"):
        file = io.BytesIO()
        image.save(file, "JPEG2000")
        yield "JPEG 2000", ".jp2", file.getvalue(), GOOD
    jpeg = encoded(image, ".jpg", subsampling=0)
    for value in (*range(10), 255, 65535):
        yield "orientation", ".jpg", with_exif(jpeg, orientation(value)), GOOD
    for kind in (0, 2, 7, 13, 99):
        yield "orientation of another type", ".jpg", with_exif(jpeg, orientation(6, kind)), GOOD
    for body in (b"", b"MM", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff", rng.bytes(60),
                 b"MM\0*\0\0\0\x08\0\x01\x01\x12", b"XX\0*\0\0\0\x08" + bytes(20)):
        yield "broken EXIF", ".jpg", with_exif(jpeg, body), GOOD
    yield "broken EXIF", ".png", png(np.asarray(image), extra=chunk(b"eXIf", b"MM\0*\xff")), GOOD
    for suffix in (".jpg", ".png", ".tif", ".webp"):
        yield "broken profile", suffix, encoded(image, suffix, icc_profile=rng.bytes(80)), GOOD
    for settings in ({"progressive": True}, {"quality": 1}, {"quality": 100}, {"subsampling": 2},
                     {"restart_marker_blocks": 1}, {"optimize": True}):
        yield "JPEG variants", ".jpg", encoded(image, ".jpg", **settings), GOOD


def extreme(rng: Rng) -> Made:
    """Shapes at the ends of what is allowed; must work."""
    for suffix in (".png", ".jpg", ".bmp", ".tif", ".gif", ".ppm", ".webp"):
        yield "one pixel", suffix, encoded(sample_image(rng, 1, 1), suffix), GOOD
    for height, width in ((2, 20000), (20000, 2), (1, 16000), (16000, 1), (3, 5), (10, 300)):
        yield f"{width}x{height}", ".png", encoded(sample_image(rng, height, width), ".png"), GOOD
    yield "20000x2", ".jpg", encoded(sample_image(rng, 2, 20000), ".jpg"), GOOD
    yield "40000x1", ".bmp", encoded(sample_image(rng, 1, 40000), ".bmp"), GOOD


def damaged(rng: Rng, count: int) -> Made:
    """Bytes changed in the middle; decoders differ in what they notice."""
    variants = [(suffix, {}) for suffix in FORMATS] + [(".jpg", {"progressive": True})]
    for index in range(count):
        suffix, settings = variants[index % len(variants)]
        data = bytearray(encoded(sample_image(rng), suffix, **settings))
        for at in rng.integers(2, len(data), int(rng.integers(1, 9))):
            data[at] = int(rng.integers(256))
        yield f"damaged{suffix}", suffix, bytes(data), EITHER
        if index % 25 == 0:
            jpeg = encoded(sample_image(rng), ".jpg")
            yield "arithmetic coding", ".jpg", jpeg.replace(b"\xff\xc0", b"\xff\xc9", 1), EITHER
            taller = jpeg.replace(struct.pack(">HH", 36, 32), struct.pack(">HH", 99, 32), 1)
            yield "fewer rows than said", ".jpg", taller, EITHER


# ---- entries of folders --------------------------------------------------------------------------

def link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)


def forbidden(path: Path) -> None:
    path.write_bytes(b"x")
    path.chmod(0)


def pipe_behind_link(path: Path) -> None:
    os.mkfifo(path.with_suffix(".pipe"))
    path.symlink_to(path.with_suffix(".pipe").name)


def entries(rng: Rng) -> Iterator[Odd]:
    """What is odd about the entry, not about its content."""
    for at, stem in enumerate(NAMES):
        yield Odd("odd name", f"names/{stem}.png", GOOD, encoded(sample_image(rng), ".png"))
        yield Odd("odd name", f"names/bad {at} {stem[:190]}.JPG", BAD, b"no image")
    for index in range(6):
        yield Odd("dangling link", f"links/{index}.png", BAD, make=link_to(f"gone{index}"))
    yield Odd("link to itself", "links/self.png", BAD, make=link_to("self.png"))
    yield Odd("link to a device", "links/zero.png", BAD, make=link_to("/dev/zero"))
    yield Odd("link to a pipe", "links/pipe.png", BAD, make=pipe_behind_link)
    yield Odd("pipe", "links/waits.png", IGNORED, make=os.mkfifo)
    yield Odd("folder", "folders/x.png", IGNORED, make=Path.mkdir)
    yield Odd("empty folder", "folders/empty", IGNORED, make=Path.mkdir)
    yield Odd("too many bytes", "links/sparse.png", BAD, make=sparse)
    if os.geteuid():
        yield Odd("no permission", "links/forbidden.png", BAD, make=forbidden)
    for name in ("notes.txt", "face.svg", "face.dng", "face.heic", "Thumbs.db", ".hidden.png",
                 "noextension"):
        yield Odd("no image by name", f"others/{name}", IGNORED, b"\0")


@lru_cache
def odd_files(count: int = 500, seed: int = 0) -> list[Odd]:
    """So many distinct files of all kinds, in an order that mixes them."""
    rng = np.random.default_rng(seed)
    found: list[Odd] = list(entries(rng))
    made = [(each, False) for kinds in (broken, bombs, unusual, unusual) for each in kinds(rng)]
    made += [(each, False) for each in broken(rng)][::3]
    made += [(each, True) for each in extreme(rng)]
    made += [(each, False) for each in damaged(rng, count)]
    for number, ((kind, suffix, content, outcome), small) in enumerate(made[:count - len(found)]):
        found.append(Odd(kind, f"{number % 5}/{number:04d}{suffix}", outcome, content, small))
    assert len(found) == count, f"{count} files asked for, {len(found)} made"
    return [found[at] for at in rng.permutation(count)]

"""Damaged files of every kind that is read: what is wrong with one is one line, soon and cheap.

    python test/unit/mutations.py [--cases 10000] [--kinds image state ...] [--seed 0]

Each case is a good file, changed at random: bits, blocks, lengths, tokens, parts of another file,
and inside checksums that are then made right again. It is read in a forked process that may take
MAX_SECONDS and MAX_BYTES more than before. ValueError and OSError are what readers may raise.
"""
from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import pickle
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "test" / "unit")]
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

import numpy as np
import torch
from image_files import tiff
from PIL import Image, features
from torch import nn

from data.components import read_components
from engine import checkpoint
from engine.legacy_pickle import holds_module, read_legacy_module
from faces.detect import read_faces
from options.base_options import read_yaml
from utils.images import pack
from utils.images.deep import decode_layers
from utils.images.image_list import read_list
from utils.images.io import decode_image, image_size, list_images, read_image

MAX_SECONDS, MAX_BYTES = 10, 1 << 30
WEIGHTS = {"a.weight": torch.arange(64.0).reshape(8, 8), "a.bias": torch.ones(8)}
STATE = {"version": 2, "step": 3, "networks": {"G": WEIGHTS}, "optimizers": {}, "rng": [1, 2]}
NUMBERS = (0, 1, 2, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 46320, 0x7FFFFFFF, 0x80000000,
           0xFFFFFFFF, 1 << 40, (1 << 63) - 1)
TOKENS = (b"", b"null", b"{}", b"[]", b"-1", b"1e999", b"NaN", b"99999999999999999999", b'"',
          b"\\u0000", b"../../x", b"/etc/passwd", b"\xff\xfe", b"\0", b"[" * 3000, b"{" * 3000,
          b"&a [*a]", b"? [a]", b"!!python/name:os.system", b"!!timestamp x", b"!!int x", b"<<: 3",
          b"true", b"1.5", b"#", b"\r", b"\xef\xbb\xbf", b"a" * 5000)


@dataclass(frozen=True)
class Kind:
    """Good files of a kind, and what reads one of them.

    Attributes:
        seeds: makes the good files' bytes.
        read: takes the path of a file, which lies in a folder of its own.
        name: of that file.
        inside: changes a file behind its checksums; None where it has none.
        text: tokens are exchanged, too.
    """
    seeds: Callable[[], list[bytes]]
    read: Callable[[Path], object]
    name: str
    inside: Callable[[bytes, np.random.Generator], bytes] | None = None
    text: bool = False


# ---- changes -------------------------------------------------------------------------------------

def changed(data: bytes, rng: np.random.Generator, kind: Kind, others: list[bytes]) -> bytes:
    """The file with one to four random changes."""
    for _ in range(int(rng.integers(1, 5))):
        if kind.inside and rng.random() < 0.5:
            data = kind.inside(data, rng)
        else:
            data = once_changed(data, rng, others, kind.text)
    return data


def once_changed(data: bytes, rng: np.random.Generator, others: list[bytes] = (),
                 text: bool = False) -> bytes:
    at = int(rng.integers(len(data) + 1))
    length = int(min(len(data) - at, rng.integers(1, 1 + [4, 64, 1024][rng.integers(3)])))
    choice = int(rng.integers(8 if text else 7))
    if choice == 0 and data:
        bits = bytearray(data)
        bits[min(at, len(data) - 1)] ^= 1 << int(rng.integers(8))
        return bytes(bits)
    if choice == 1:
        fill = [b"\0", b"\xff", b"\x55", bytes([int(rng.integers(256))])][rng.integers(4)]
        return data[:at] + fill * length + data[at + length:]
    if choice == 2:
        width = int([1, 2, 4, 8][rng.integers(4)])
        number = int(NUMBERS[rng.integers(len(NUMBERS))]) & ((1 << 8 * width) - 1)
        order = ["little", "big"][rng.integers(2)]
        return data[:at] + number.to_bytes(width, order) + data[at + width:]
    if choice == 3:
        return data[:at]
    if choice == 4:
        return data[:at] + data[at + length:]
    if choice == 5:
        return data[:at] + data[at:at + length] * int(rng.integers(2, 5)) + data[at + length:]
    if choice == 6:
        other = others[rng.integers(len(others))] if len(others) else data
        start = int(rng.integers(len(other) + 1))
        return data[:at] + other[start:start + length] + data[at + length:]
    token = TOKENS[rng.integers(len(TOKENS))]
    return data[:at] + token + data[at + (length if rng.random() < 0.5 else 0):]


def inside_png(data: bytes, rng: np.random.Generator) -> bytes:
    """A chunk changed, and its CRC made right."""
    if not data.startswith(b"\x89PNG"):
        return once_changed(data, rng)
    chunks, at = [], 8
    while at + 12 <= len(data):
        size = struct.unpack(">I", data[at:at + 4])[0]
        chunks.append((data[at + 4:at + 8], data[at + 8:at + 8 + size]))
        at += 12 + size
    if not chunks:
        return data
    chosen = int(rng.integers(len(chunks)))
    name, body = chunks[chosen]
    chunks[chosen] = name, once_changed(body, rng)
    return data[:8] + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks)


def inside_zip(data: bytes, rng: np.random.Generator) -> bytes:
    """A record changed, and the archive written anew."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            records = [(record.filename, archive.read(record)) for record in archive.infolist()]
    except Exception:
        return once_changed(data, rng)
    made = io.BytesIO()
    chosen = int(rng.integers(len(records))) if rng.random() < 0.3 else next(
        (at for at, (name, _) in enumerate(records) if name.endswith("data.pkl")), 0)
    packed = zipfile.ZIP_DEFLATED if rng.random() < 0.1 else zipfile.ZIP_STORED
    with warnings.catch_warnings(), zipfile.ZipFile(made, "w", packed) as archive:
        warnings.simplefilter("ignore")
        for at, (name, body) in enumerate(records):
            archive.writestr(name, once_changed(body, rng) if at == chosen else body)
    return made.getvalue()


# ---- good files ----------------------------------------------------------------------------------

def saved(content: object, **how: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **how)
    return file.getvalue()


def in_format(file_format: str, image: Image.Image, **how: object) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **how)
    return file.getvalue()


@cache
def images() -> list[bytes]:
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (24, 20, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "words"
    found = [in_format("JPEG", rgb, quality=90, exif=exif, dpi=(72, 72)),
             in_format("JPEG", rgb, progressive=True), in_format("JPEG", rgb.convert("CMYK")),
             in_format("JPEG", rgb.convert("L")), in_format("PNG", rgb, exif=exif),
             in_format("PNG", rgb.convert("P")), in_format("PNG", rgb.convert("RGBA")),
             in_format("PNG", Image.fromarray(rng.integers(0, 65536, (9, 8), np.uint16))),
             in_format("WEBP", rgb, exif=exif), in_format("WEBP", rgb, lossless=True),
             in_format("GIF", rgb.convert("P"), save_all=True, append_images=[rgb.convert("P")]),
             in_format("BMP", rgb), in_format("BMP", rgb.convert("P")), in_format("PPM", rgb),
             in_format("ICO", rgb), in_format("PCX", rgb), in_format("SGI", rgb),
             in_format("TIFF", rgb), in_format("TIFF", rgb, compression="tiff_lzw"),
             in_format("TIFF", rgb, compression="jpeg"), in_format("TIFF", rgb.convert("1")),
             tiff(rng.integers(0, 65536, (9, 8, 3), np.uint16))]
    if features.check("jpg_2000"):
        found += [in_format("JPEG2000", rgb), in_format("JPEG2000", rgb, no_jp2=True)]
    if features.check("avif"):
        found.append(in_format("AVIF", rgb))
    return found


@cache
def packs() -> dict[str, bytes]:
    """The files of a pack by name, its index first."""
    with tempfile.TemporaryDirectory() as folder:
        _write_pack(Path(folder) / "p")
        found = sorted((Path(folder) / "p").iterdir())
        return {path.name: path.read_bytes() for path in found if path.suffix == ".bin"
                or path.name == pack.INDEX}


def _write_pack(folder: Path) -> None:
    rng = np.random.default_rng(0)
    faces = {f"{name}.png": rng.integers(0, 256, (6, 5, 3), np.uint8) for name in ("a", "b/c", "d")}
    pack.write_pack(folder, dict.fromkeys(faces, (1, 2)), {"size": None},
                    lambda names: ((name, faces[name]) for name in names), 100)


def faces_files() -> list[bytes]:
    return [json.dumps({"a.png": [{"box": [1, 2, 30, 40], "points": [[1, 2]] * 5, "score": 0.9}],
                        "b.png": []}).encode()]


def components() -> list[bytes]:
    parts = {"left_eye": [1.0, 2, 3], "right_eye": [4.0, 5, 6], "mouth": [7.0, 8, 9]}
    return [json.dumps({"size": 512, "parts": {"a.png": parts, "b/c.png": parts}}).encode(),
            saved({"00000000": parts})]


def safetensors() -> list[bytes]:
    from safetensors.torch import save
    return [save(WEIGHTS), save({**WEIGHTS, "half": torch.ones(3).half()}, {"format": "pt"})]


def pickled() -> list[bytes]:
    return [saved(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm2d(2)),
                  _use_new_zipfile_serialization=False),
            saved(WEIGHTS, _use_new_zipfile_serialization=False), pickle.dumps(WEIGHTS)]


# ---- readers -------------------------------------------------------------------------------------

def read_picture(path: Path) -> None:
    data = path.read_bytes()
    for read in (lambda: image_size(data, "x"), lambda: decode_image(data, "x"),
                 lambda: decode_layers(data, "x").for_file(".jpg").srgb()):
        with contextlib.suppress(ValueError):
            read()


def read_weights(path: Path) -> None:
    with contextlib.suppress(ValueError, OSError):
        checkpoint.peek(path)
    checkpoint.load_weights(path, WEIGHTS, "G")


def read_module(path: Path) -> None:
    with contextlib.suppress(ValueError, OSError):
        holds_module(path)
    with contextlib.suppress(ValueError, OSError):
        checkpoint.read(path)
    read_legacy_module(path)


def read_pack(path: Path) -> None:
    """The index beside good shards; nothing may be written or read outside."""
    for name, content in packs().items():
        if name != pack.INDEX:
            (path.parent / name).write_bytes(content)
    for image in list_images(path.parent)[:9]:
        with contextlib.suppress(ValueError):
            read_image(image, verify=True)
        assert image.resolve().is_relative_to(path.parent.resolve()), f"{image} lies outside"


KINDS = {
    "image": Kind(images, read_picture, "x.png", inside_png),
    "weights": Kind(lambda: [saved(WEIGHTS), saved({"params_ema": WEIGHTS}),
                             saved({**WEIGHTS, "epoch": 3})], read_weights, "x.pth", inside_zip),
    "state": Kind(lambda: [saved({**STATE, "version": 1}), saved(STATE)],
                  lambda path: checkpoint.load_state(path.parent), "latest_state.pth", inside_zip),
    "module": Kind(pickled, read_module, "x.pth"),
    "safetensors": Kind(safetensors, read_weights, "x.safetensors"),
    "pack": Kind(lambda: [packs()[pack.INDEX]], read_pack, pack.INDEX, text=True),
    "list": Kind(lambda: [b"# folder: .\na.png\nb/c.png\n", b'a.png\n"\\u00e9.png"\n'],
                 lambda path: read_list(path), "x.txt", text=True),
    "yaml": Kind(lambda: [path.read_bytes() for path in sorted((ROOT / "options").glob("*.yaml"))],
                 lambda path: read_yaml(path), "x.yaml", text=True),
    "faces": Kind(faces_files, lambda path: read_faces(path), "x.json", text=True),
    "components": Kind(components, lambda path: read_components(path), "x.json", text=True),
}


# ---- running -------------------------------------------------------------------------------------

def case_of(name: str, number: int, seed: int) -> bytes:
    kind, rng = KINDS[name], np.random.default_rng([seed, number])
    seeds = kind.seeds()
    return changed(seeds[rng.integers(len(seeds))], rng, kind, seeds)


def failures(name: str, cases: range, seed: int = 0) -> Iterator[tuple[int, str]]:
    """Cases that did not end as they must, with what happened; each can be made by `case_of`."""
    waiting = list(cases)
    while waiting:
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(reader)
            _work(name, waiting, seed, writer)
        os.close(writer)
        with os.fdopen(reader, "rb") as file:
            lines = file.read().decode(errors="replace").splitlines()
        _, status = os.waitpid(child, 0)
        done = 0
        for line in lines:
            number, _, what = line.partition(" ")
            if what == "begin":
                done += 1
            elif what:
                yield int(number), what
        if done and status and not lines[-1].endswith(" stop"):
            yield waiting[done - 1], f"the process ended with status {status}"
        if not done:
            raise RuntimeError(f"a worker ended with status {status} before its first case")
        waiting = waiting[done:]


def _work(name: str, cases: list[int], seed: int, writer: int) -> None:
    """In the child: read case after case, until one has taken too much memory."""
    def say(number: int, what: str) -> None:
        os.write(writer, f"{number} {' '.join(what.split())[:900]}\n".encode())
    gc.freeze()     # else every collection goes through all that the parent holds
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, _late)
    before = _resident()
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 4 * MAX_BYTES, size + 4 * MAX_BYTES))
    folder = Path(tempfile.mkdtemp(prefix="mutations"))
    try:
        for number in cases:
            say(number, "begin")
            place = folder / str(number)
            place.mkdir()
            (place / KINDS[name].name).write_bytes(case_of(name, number, seed))
            began = time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS)
            try:
                KINDS[name].read(place / KINDS[name].name)
            except (ValueError, OSError):
                pass
            except BaseException:
                say(number, traceback.format_exc()[-800:])
            signal.setitimer(signal.ITIMER_REAL, 0)
            if time.monotonic() - began > MAX_SECONDS:
                say(number, f"took {time.monotonic() - began:.0f} s")
            shutil.rmtree(place)
            if (grown := _resident() - before) > MAX_BYTES:
                say(number, f"took {grown >> 20} MiB")
                say(number, "stop")
                break
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)


class TooLate(BaseException):
    """Not an Exception, which readers turn into their own."""


def _late(*_: object) -> None:
    raise TooLate(f"more than {MAX_SECONDS} s")


def _resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=10_000, help="of each kind")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    opt, wrong = parser.parse_args(), 0
    for name in opt.kinds:
        began, found = time.monotonic(), 0
        for number, what in failures(name, range(opt.cases), opt.seed):
            if what != "stop":
                found += 1
                print(f"{name} {number}: {what}")
        wrong += found
        print(f"{name}: {opt.cases} cases, {found} wrong, {time.monotonic() - began:.0f} s",
              flush=True)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())

"""What a file of images is like, found by worker processes and remembered in a file of lines."""
from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data.labels import read_label_map
from preparation import _pictures
from utils.images import decode, jp2, tiff, tiff_tags
from utils.images.io import BadImage, DamagedImage, content_of, decode_image, orientation_of
from utils.images.metadata import metadata_of
from utils.images.pack import stamp_or_none

# Side of the grid whose brightness steps make the fingerprint; 16 * 16 bits tell faces apart that
# are aligned alike, 64 do not.
GRID = 16
STEP = 2        # gray levels; less is what encoding makes of an even surface
READER = 2      # what an older reader found is not believed
ASSUMED = "fewer bits than the file's samples could have, by the largest sample"
DEEP, TURNED = "16 bits or floating point", "rotated or mirrored by EXIF"
Record = dict[str, Any]


def inspect(jobs: list[tuple[str, Path]], cache: Path | None, workers: int) -> Iterator[Record]:
    """A record of each file, in any order; what the cache holds of unchanged ones is not read.

    Args:
        jobs: kind, `image` or `mask`, and path.
        cache: file that gets a line per record as it is made, or None.

    Yields:
        `kind`, `path`, `stamp`, and either `error` and `damaged` or `height`, `width`; images also
        `format` ("" in packs), `notes`, `pixels` (digest) and `look` (fingerprint), both in hex.
    """
    known = {}
    for record in _pictures.complete_records(cache, "kind", "path", "stamp") if cache else ():
        known[str(record["kind"]), str(record["path"])] = record
    waiting = []
    for kind, path in jobs:
        record = known.get((kind, str(path)))
        if record and record.get("reader") == READER and (
                record["stamp"] == stamp_or_none(path) is not None):
            yield record
        else:
            waiting.append((kind, path))
    if not waiting:
        return
    if cache:
        cache.parent.mkdir(parents=True, exist_ok=True)
    with open(cache, "a", encoding="utf-8") if cache else nullcontext() as file:
        for record in _pictures.spread(_inspect_one, waiting, workers, unit="file"):
            if file:
                file.write(json.dumps(record) + "\n")
                file.flush()
            yield record


def fingerprint(image: np.ndarray) -> bytes:
    """256 bits: whether brightness grows to the right, on a grid of means over areas.

    Like the difference hash of N. Krawetz. Of ten FFHQ faces JPEG of quality 30 and halving change
    6 bits at most; two of them differ in 91 or more.
    """
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    small = cv2.resize(gray, (GRID + 1, GRID), interpolation=cv2.INTER_AREA)
    return np.packbits(small[:, 1:] > small[:, :-1] + STEP).tobytes()


def describe(data: bytes) -> tuple[str, list[str]]:
    """Format of a readable image's file, and what is unusual about it."""
    if tiff_tags.is_tiff(data) and tiff.is_deep(directory := tiff_tags.read_directory(data)):
        is_gray = directory.value(tiff_tags.PHOTOMETRIC, 1) in (0, 1)
        unusual = {"gray": is_gray, DEEP: True,
                   "alpha, which is dropped": directory.value(tiff_tags.SAMPLES, 1) in (2, 4),
                   TURNED: directory.value(tiff_tags.ORIENTATION, 1) in range(2, 9)}
        kind = "TIFF"
    else:
        kind, unusual = _by_pillow(data)
    notes = [note for note, holds in unusual.items() if holds]
    # Deep images are rare, so that decoding once more does not matter.
    if DEEP in notes and decode.decode(data, False).notes:
        notes.append(ASSUMED)
    return kind, notes


def _by_pillow(data: bytes) -> tuple[str, dict[str, bool]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = decode.opened(data)
        unusual = {
            "gray": image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I"),
            "alpha, which is dropped": "A" in image.mode or "transparency" in image.info,
            "CMYK": image.mode == "CMYK",
            DEEP: (image.mode == "F" or image.mode.startswith("I")
                   or (image.format == "PNG" and data[24] == 16)
                   or (image.format == "JPEG2000" and jp2.read_header(data).bits > 8)),
            "several images in one file, of which the first is used": _frames(image) > 1,
            "a color profile other than sRGB, which is ignored here and in training":
                metadata_of(image).space is not None,
            TURNED: orientation_of(image) in range(2, 9)}
    # Images of some cameras are JPEGs with more behind them.
    return "JPEG" if image.format == "MPO" else str(image.format), unusual


def _frames(image: Any) -> int:
    try:
        return getattr(image, "n_frames", 1)
    except Exception:   # only the first is read, the others may be damaged
        return 1


def _inspect_one(job: tuple[str, Path]) -> Record:
    kind, path = job
    record: Record = {"kind": kind, "path": str(path), "stamp": stamp_or_none(path),
                      "reader": READER}
    try:
        if kind == "mask":
            image = read_label_map(path)
        else:
            data = content_of(path, verify=True)
            is_file = isinstance(data, bytes)
            image = decode_image(data, path) if is_file else data
            record["format"], record["notes"] = describe(data) if is_file else ("", [])
            if record["format"] and (image == image[..., :1]).all() and "gray" not in (
                    record["notes"]):
                record["notes"].append("gray saved as color")
            digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
            digest.update(np.ascontiguousarray(image))
            record |= {"pixels": digest.hexdigest(), "look": fingerprint(image).hex()}
        record["height"], record["width"] = image.shape[:2]
    except BadImage as error:
        record["error"] = str(error)
        record["damaged"] = isinstance(error, DamagedImage)
    return record

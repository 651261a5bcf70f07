"""Check a folder of images for problems before training.

    python prepare.py check --input FACES --size 512 --masks MASKS --output CHECKED
    python newtrain.py --dataroot CHECKED/usable.txt ...
"""
from __future__ import annotations

import argparse
import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from data.base_dataset import relative_names
from options.parser import count, positive_int
from preparation import _inspect, _near_duplicates
from preparation._inspect import Record
from utils.files import to_json, write_text
from utils.images.image_list import is_list, write_list
from utils.images.io import EXTENSIONS_OF, left_out, root_of, shown
from utils.text import counted

# Kind of finding: what it means.
KINDS = {
    "unreadable": "the image cannot be decoded",
    "damaged": "the image is decoded with gray or wrong blocks",
    "size": "the image does not have the requested size",
    "extension": "the content has another format than the name says",
    "duplicate": "another image has the same pixels",
    "near": "another image looks alike",
    "mask_missing": "the image has no label map",
    "mask_bad": "the label map cannot be read or has other labels",
    "mask_size": "the label map has another size", "mask_extra": "the label map has no image",
    "lq_missing": "the image has no low-quality image",
    "lq_bad": "the low-quality image cannot be read",
    "lq_extra": "the low-quality image has no target"}
FOUND = 1       # exit status


@dataclass
class Finding:
    """Something wrong with an image, or with a counterpart that has none."""
    name: str
    kind: str
    detail: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input", required=True, metavar="PATH",
                        help="images: a folder (including subfolders), a list or a pack")
    parser.add_argument("--output", metavar="DIR",
                        help="folder for report.json, report.csv, usable.txt and excluded.txt; a "
                             "stopped run continues from there")
    parser.add_argument("--size", type=positive_int, metavar="PIXELS",
                        help="images must be squares with this side")
    parser.add_argument("--min_size", type=positive_int, metavar="PIXELS",
                        help="min length of both sides")
    parser.add_argument("--square", action="store_true", help="images must be square")
    parser.add_argument("--masks", metavar="DIR",
                        help="folder of label maps, NAME.png for each image: labels 0 to 18 or "
                             "their colors")
    parser.add_argument("--mask_size", type=positive_int, metavar="PIXELS",
                        help="side of the label maps (default: any with the image's aspect ratio)")
    parser.add_argument("--lq_dataroot", metavar="DIR",
                        help="folder of low-quality images with the same names; extensions may "
                             "differ")
    parser.add_argument("--near", type=count, metavar="BITS",
                        help="also report near-duplicates: fingerprints that differ in at most "
                             "this many of 256 bits; up to 20 only copies were found")
    parser.add_argument("--show", type=count, default=20, metavar="N",
                        help="max findings of each kind to print")
    parser.add_argument("--workers", type=positive_int, default=2, help="parallel processes")


def run(opt: argparse.Namespace) -> int:
    """Check everything, print a table, write the reports; 1 if something was found.

    Raises:
        ValueError: an input without images, or options that do not go together.
    """
    if opt.mask_size and not opt.masks:
        raise ValueError("--mask_size needs --masks")
    root, names = root_of(opt.input), relative_names(opt.input)
    others = {kind: _counterparts(kind, source, names, is_list(opt.input))
              for kind, source in (("mask", opt.masks), ("lq", opt.lq_dataroot)) if source}
    jobs = [("image", root / name) for name in names]
    for kind, (paths, _) in others.items():
        jobs += [("mask" if kind == "mask" else "image", path) for path in paths.values()]
    cache = Path(opt.output) / "cache.jsonl" if opt.output else None
    records = {(record["kind"], record["path"]): record
               for record in _inspect.inspect(jobs, cache, opt.workers)}
    images = {name: records["image", str(root / name)] for name in names}
    found = [finding for name in names for finding in _of_image(name, images[name], opt)]
    found += _alike_ones(images, opt.near)
    for kind, (paths, extra) in others.items():
        of_kind = {name: records["mask" if kind == "mask" else "image", str(path)]
                   for name, path in paths.items()}
        found += _of_counterparts(kind, images, of_kind, opt.mask_size)
        found += [Finding(name, f"{kind}_extra", KINDS[f"{kind}_extra"]) for name in extra]
    notes = {name: record["notes"] for name, record in images.items() if record.get("notes")}
    missed = left_out(opt.input)
    show(opt.input, len(names), found, notes, opt.show, missed)
    if opt.output:
        write_reports(Path(opt.output), opt.input, root, names, found, notes, missed)
    return FOUND if found else 0


# ---- findings ------------------------------------------------------------------------------------

def _of_image(name: str, record: Record, opt: argparse.Namespace) -> Iterator[Finding]:
    if "error" in record:
        yield Finding(name, "damaged" if record.get("damaged") else "unreadable", _reason(record))
        return
    height, width = record["height"], record["width"]
    wrong = []
    if opt.size and (height, width) != (opt.size, opt.size):
        wrong.append(f"not {opt.size}x{opt.size}")
    if opt.min_size and min(height, width) < opt.min_size:
        wrong.append(f"smaller than {opt.min_size}x{opt.min_size}")
    if opt.square and height != width:
        wrong.append("not square")
    if wrong:
        yield Finding(name, "size", f"the image has {width}x{height} pixels, "
                                    f"which is {' and '.join(wrong)}")
    suffix, extensions = PurePosixPath(name).suffix, EXTENSIONS_OF.get(record["format"])
    if extensions and suffix.lower() not in extensions:
        yield Finding(name, "extension", f"the content is {record['format']}, the extension is "
                                         f"{suffix or 'missing'}")


def _alike_ones(images: dict[str, Record], max_bits: int | None) -> Iterator[Finding]:
    good = {name: record for name, record in images.items() if "error" not in record}
    copies = _near_duplicates.same((name, record["pixels"]) for name, record in good.items())
    yield from (Finding(name, "duplicate", f"the pixels are those of {shown(first)}")
                for name, first in sorted(copies.items()))
    names = [name for name in good if name not in copies]
    if max_bits is None or not names:
        return
    looks = np.frombuffer(bytes.fromhex("".join(good[name]["look"] for name in names)), np.uint8)
    close = _near_duplicates.near(names, looks.reshape(len(names), -1), max_bits)
    num_bits = 8 * looks.size // len(names)
    yield from (Finding(name, "near", f"the fingerprint differs in {distance} of {num_bits} bits "
                                      f"from {shown(other)}")
                for name, (other, distance) in close.items())


def _counterparts(kind: str, source: str, names: list[str], is_choice: bool
                  ) -> tuple[dict[str, Path], list[str]]:
    """The counterpart of each image that has one, and the names of those without image."""
    root, there = root_of(source), relative_names(source)
    by_stem = {_stem(name): name for name in there
               if kind != "mask" or name.lower().endswith(".png")}
    paths = {name: root / by_stem[_stem(name)] for name in names if _stem(name) in by_stem}
    used = set(paths.values())
    return paths, [] if is_choice else [name for name in there if root / name not in used]


def _of_counterparts(kind: str, images: dict[str, Record], others: dict[str, Record],
                     mask_size: int | None) -> Iterator[Finding]:
    for name, image in images.items():
        other = others.get(name)
        if other is None:
            yield Finding(name, f"{kind}_missing", KINDS[f"{kind}_missing"])
        elif "error" in other:
            yield Finding(name, f"{kind}_bad", shown(other["error"]))
        elif kind == "mask" and "error" not in image:
            height, width = other["height"], other["width"]
            fits = ((height, width) == (mask_size,) * 2 if mask_size
                    else height * image["width"] == width * image["height"])
            if not fits:
                wanted = (f"{mask_size}x{mask_size} (--mask_size)" if mask_size else
                          f"the aspect ratio of the image, {image['width']}x{image['height']}")
                yield Finding(name, "mask_size", f"the label map has {width}x{height} pixels and "
                                                 f"must have {wanted}")


def _stem(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()


def _reason(record: Record) -> str:
    return record["error"].removeprefix(f"{shown(record['path'])}: ")


# ---- reports -------------------------------------------------------------------------------------

def excluded(found: list[Finding]) -> set[str]:
    """Images that something is wrong with; counterparts without an image are not among them."""
    return {finding.name for finding in found if not finding.kind.endswith("_extra")}


def show(source: str, total: int, found: list[Finding], notes: dict[str, list[str]],
         max_shown: int, missed: str = "") -> None:
    """Print the table, what was left out, then the first findings of each kind."""
    by_kind: dict[str, list[Finding]] = defaultdict(list)
    for finding in found:
        by_kind[finding.kind].append(finding)
    print(f"checked {counted(total, 'image')} in {shown(source)}")
    for kind, meaning in KINDS.items():
        if kind in by_kind:
            print(f"  {kind:<14}{len(by_kind[kind]):>8}  {meaning}")
    print(f"  {'usable':<14}{total - len(excluded(found)):>8}  no finding")
    for note, number in sorted(Counter(note for each in notes.values() for note in each).items()):
        print(f"  note: {counted(number, 'image')}: {note}")
    if missed:
        print(f"  note: {missed}")
    for kind, findings in by_kind.items():
        for finding in findings[:max_shown]:
            print(f"{kind}: {shown(finding.name)}: {finding.detail}")
        if len(findings) > max_shown:
            print(f"{kind}: {len(findings) - max_shown} more are not shown; "
                  "--show and --output list more")


def write_reports(folder: Path, source: str, root: Path, names: list[str], found: list[Finding],
                  notes: dict[str, list[str]], missed: str = "") -> None:
    """report.json, report.csv, and lists of the images without and with findings."""
    left_out = excluded(found)
    write_text(folder / "report.json", to_json({
        "input": source, "pictures": len(names), "usable": len(names) - len(left_out),
        "counts": Counter(finding.kind for finding in found), "kinds": KINDS,
        "findings": [asdict(finding) for finding in found], "notes": notes,
        "left_out": missed}) + "\n")
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("name", "kind", "detail"))
    writer.writerows((finding.name, finding.kind, finding.detail) for finding in found)
    writer.writerows((name, "note", note) for name, each in notes.items() for note in each)
    write_text(folder / "report.csv", table.getvalue())
    for file, chosen in (("usable.txt", [name for name in names if name not in left_out]),
                         ("excluded.txt", [name for name in names if name in left_out])):
        if chosen:
            write_list(folder / file, root, chosen)
        else:
            (folder / file).unlink(missing_ok=True)
    print(f"wrote report.json, report.csv and lists of images to {folder}")

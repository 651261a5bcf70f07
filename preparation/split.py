"""Split images into training, validation and test parts, reproducibly.

    python prepare.py split --input FACES --output PARTS --parts train=rest val=50 test=0.1
    python newtrain.py --dataroot PARTS/train.txt --val_dataroot PARTS/val.txt ...
"""
from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path, PurePosixPath

from data.base_dataset import checksum, relative_names
from data.celeba_aligned_dataset import PARTS as PARTITION_PARTS
from data.celeba_aligned_dataset import part_names
from options.parser import count, positive_int
from preparation import _inspect, _near_duplicates, _pictures
from utils.files import write_atomically
from utils.images.image_list import write_list
from utils.images.io import list_images, root_of, shown, warn_left_out
from utils.text import counted

REST = "rest"
Parts = dict[str, list[str]]


def part(text: str) -> tuple[str, str]:
    """NAME=NUMBER, a whole number of images, a fraction below 1, or `rest`."""
    name, _, size = text.partition("=")
    is_fraction = re.fullmatch(r"0?\.\d+", size) and float(size) > 0
    if not re.fullmatch(r"\w[\w-]*", name) or not (size == REST or is_fraction or size.isdecimal()):
        raise argparse.ArgumentTypeError("a part must be NAME=NUMBER with a whole number, a "
                                         f"fraction such as 0.1, or `rest`, got {text!r}")
    return name, size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input", required=True, metavar="PATH",
                        help="images: a folder (including subfolders), a list or a pack")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the parts")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--parts", nargs="+", type=part, metavar="NAME=NUMBER",
                     default=[("train", REST), ("val", "0.05"), ("test", "0.05")],
                     help="size of each part: a number of images, a fraction of all or `rest` "
                          "(default: train=rest val=0.05 test=0.05)")
    how.add_argument("--partition", metavar="FILE",
                     help="use the parts of CelebA's list_eval_partition.txt instead")
    parser.add_argument("--seed", type=count,
                        help="random seed (default: no seed, by CRC-32 of the names, as training "
                             "chooses validation images)")
    parser.add_argument("--identities", metavar="FILE",
                        help="keep the images of a person together: lines `NAME PERSON`, as in "
                             "CelebA's identity_CelebA.txt")
    parser.add_argument("--duplicates", action="store_true",
                        help="keep images with equal pixels together")
    parser.add_argument("--group", metavar="REGEX",
                        help="keep images together whose names have the same match, or the same "
                             "first group of it, e.g. '^[^_]+'").rare = True
    parser.add_argument("--as", dest="form", default="lists",
                        choices=("lists", "links", "hardlinks", "copies"),
                        help="write lists PART.txt, or folders PART with links or copies")
    parser.add_argument("--masks", metavar="DIR",
                        help="folder of label maps NAME.png to divide in the same way")
    parser.add_argument("--lq_dataroot", metavar="DIR",
                        help="folder of low-quality images to divide in the same way; extensions "
                             "may differ")
    parser.add_argument("--workers", type=positive_int, default=2, help="parallel processes")


def run(opt: argparse.Namespace) -> int:
    """Write the parts; returns the exit status.

    Raises:
        ValueError: parts that do not work out, images without group or counterpart, an output
            that holds another split. Nothing is written then.
    """
    root, names = root_of(opt.input), relative_names(opt.input)
    warn_left_out(opt.input)
    groups = groups_of(names, root, opt)
    parts = (by_partition(names, groups, opt.partition) if opt.partition
             else by_number(names, groups, opt.parts, opt.seed))
    sources = {_label(opt.input): (root, {name: name for name in names})}
    for flag, source, suffix in (("--masks", opt.masks, ".png"),
                                 ("--lq_dataroot", opt.lq_dataroot, None)):
        if source:
            label = _label(source)
            if label in sources:
                raise ValueError(f"{flag} {source} must not have the same folder name as another "
                                 f"input, got {label} twice; rename one")
            sources[label] = root_of(source), counterparts(names, source, suffix, flag)
    if opt.form == "lists":
        _write_lists(Path(opt.output), parts, sources)
    else:
        _write_folders(Path(opt.output), parts, sources, opt.form, opt.workers)
    for name, members in parts.items():
        print(f"{name:>8}: {counted(len(members), 'image')}, "
              f"{100 * len(members) / len(names):.1f} %, in "
              f"{counted(len({groups[member] for member in members}), 'group')}")
    left_out = len(names) - sum(map(len, parts.values()))
    print(f"wrote {opt.form} to {opt.output}" + (
        f"; left out {counted(left_out, 'image')} that no part takes" if left_out else ""))
    return 0


# ---- groups --------------------------------------------------------------------------------------

def groups_of(names: list[str], root: Path, opt: argparse.Namespace) -> dict[str, str]:
    """For each image the first name, in order, of those it has to stay with."""
    group = {name: name for name in names}

    def join(keys: Iterable[tuple[str, str]]) -> None:
        """Merge the groups of all images that have a key in common."""
        first: dict[str, str] = {}
        for name, key in keys:
            one, other = _top(group, name), _top(group, first.setdefault(key, name))
            group[max(one, other)] = min(one, other)
    if opt.group:
        join(_matches(names, opt.group))
    if opt.identities:
        join(_identities(names, opt.identities))
    if opt.duplicates:
        records = _inspect.inspect([("image", root / name) for name in names], None, opt.workers)
        digests = {record["path"]: record.get("pixels") for record in records}
        pixels = [(name, digests[str(root / name)]) for name in names]
        # What cannot be read equals nothing; `prepare.py check` names it.
        copies = _near_duplicates.same((name, digest) for name, digest in pixels if digest)
        join((name, copies.get(name, name)) for name in names)
    return {name: _top(group, name) for name in names}


def _top(group: dict[str, str], name: str) -> str:
    while group[name] != name:
        group[name] = group[group[name]]
        name = group[name]
    return name


def _matches(names: list[str], pattern: str) -> list[tuple[str, str]]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"--group must be a regular expression, got {pattern!r} "
                         f"({error})") from error
    found = {name: compiled.search(name) for name in names}
    without = [name for name, match in found.items() if match is None]
    if without:
        raise ValueError(f"--group {pattern!r} must match every name, got no match for "
                         f"{_some_of(without, names)}")
    return [(name, (match.group(1) or "") if compiled.groups else match.group())
            for name, match in found.items()]


def _some_of(without: list[str], names: list[str]) -> str:
    return f"{len(without)} of {len(names)} images, such as {', '.join(map(shown, without[:3]))}"


def _identities(names: list[str], path: str) -> list[tuple[str, str]]:
    """Who is in each image; found by its name, or by that without folder, up to the extension."""
    identity: dict[str, str] = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        fields = line.rsplit(maxsplit=1)
        if not fields:
            continue
        if len(fields) != 2:
            raise ValueError(f"--identities {path}, line {number} must be an image name and an "
                             f"identity, got {line!r}")
        identity[_stem(fields[0].strip())] = fields[1]
    found = {name: identity.get(_stem(name), identity.get(PurePosixPath(name).stem))
             for name in names}
    without = [name for name, who in found.items() if who is None]
    if without:
        raise ValueError(f"--identities {path} must list every image, got no identity for "
                         f"{_some_of(without, names)}")
    return list(found.items())


# ---- parts ---------------------------------------------------------------------------------------

def by_number(names: list[str], groups: dict[str, str], wanted: list[tuple[str, str]],
              seed: int | None) -> Parts:
    """Fill the parts with whole groups, in an order that depends on their first names only.

    The part with the rest comes last, so that adding images moves few. A group larger than what a
    part still lacks goes to a later part.

    Raises:
        ValueError: two parts of one name, more than there is, or a part that remains empty.
    """
    sizes = dict(wanted)
    if len(sizes) < len(wanted) or sum(size == REST for size in sizes.values()) > 1:
        raise ValueError("--parts must have different names and `rest` only once, got "
                         f"{' '.join(f'{name}={size}' for name, size in wanted)}")
    lacks = {name: len(names) if size == REST else int(size) if size.isdecimal() else
             round(float(size) * len(names)) for name, size in sizes.items()}
    fixed = sum(lacks[name] for name, size in sizes.items() if size != REST)
    if fixed > len(names):
        raise ValueError(f"--parts must not ask for more than the "
                         f"{counted(len(names), 'image')} of --input, got {fixed}")
    members: dict[str, list[str]] = defaultdict(list)
    for name in names:
        members[groups[name]].append(name)
    parts: Parts = {name: [] for name in sizes}
    order = sorted(sizes, key=lambda name: sizes[name] == REST)     # stable
    for group in sorted(members, key=_rank(seed)):
        fits = next((name for name in order if len(members[group]) <= lacks[name]), None)
        if fits is not None:
            parts[fits] += members[group]
            lacks[fits] -= len(members[group])
    empty = [name for name, found in parts.items() if not found]
    if empty:
        raise ValueError(f"--parts leave no image for {', '.join(empty)}; "
                         f"{counted(len(names), 'image')} are in "
                         f"{counted(len(members), 'group')} with "
                         f"{counted(min(map(len, members.values())), 'image')} or more")
    return {name: sorted(found) for name, found in parts.items()}


def by_partition(names: list[str], groups: dict[str, str], path: str) -> Parts:
    """The parts of CelebA's file.

    Raises:
        ValueError: images it does not know, or whose group it tears apart.
    """
    part_of = {name: part for part, number in PARTITION_PARTS.items()
               for name in part_names(Path(path), number)}
    by_stem = {_stem(name): part for name, part in part_of.items()}
    found = {name: by_stem.get(_stem(name), by_stem.get(PurePosixPath(name).stem))
             for name in names}
    without = [name for name, part in found.items() if part is None]
    if without:
        raise ValueError(f"--partition {path} must list every image, got no part for "
                         f"{_some_of(without, names)}")
    torn = [name for name in names if found[name] != found[groups[name]]]
    if torn:
        raise ValueError(f"--partition {path} must keep groups together, got "
                         f"{shown(torn[0])} in {found[torn[0]]} and {shown(groups[torn[0]])} of "
                         f"the same group in {found[groups[torn[0]]]}, "
                         f"{counted(len(torn), 'such image')} in all")
    parts = {part: [name for name in names if found[name] == part] for part in PARTITION_PARTS}
    return {part: members for part, members in parts.items() if members}


def counterparts(names: list[str], source: str, suffix: str | None, flag: str) -> dict[str, str]:
    """The name in another folder of what belongs to each image.

    Raises:
        ValueError: images without counterpart.
    """
    there = {_stem(name): name for name in relative_names(source)
             if suffix is None or name.lower().endswith(suffix)}
    without = [name for name in names if _stem(name) not in there]
    if without:
        raise ValueError(f"{flag} {source} must have a file for every image, got none for "
                         f"{_some_of(without, names)}")
    return {name: there[_stem(name)] for name in names}


def _rank(seed: int | None) -> Callable[[str], tuple]:
    if seed is None:
        return lambda name: (checksum(name), name)
    return lambda name: (hashlib.blake2b(f"{seed}/{name}".encode(errors="surrogateescape")
                                         ).digest(), name)


def _stem(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()


def _label(source: str) -> str:
    return root_of(source).resolve().name


# ---- writing -------------------------------------------------------------------------------------

def _write_lists(folder: Path, parts: Parts, sources: dict[str, tuple[Path, dict[str, str]]]
                 ) -> None:
    """PART.txt, and PART.FOLDER.txt of each folder divided alike."""
    for part_name, members in parts.items():
        for at, (label, (root, names)) in enumerate(sources.items()):
            file = f"{part_name}.{label}.txt" if at else f"{part_name}.txt"
            write_list(folder / file, root, [names[member] for member in members])


def _write_folders(folder: Path, parts: Parts, sources: dict[str, tuple[Path, dict[str, str]]],
                   form: str, workers: int) -> None:
    """PART/NAME; where several folders are divided alike PART/FOLDER/NAME, as data sets expect."""
    jobs: dict[Path, Path] = {}
    for part_name, members in parts.items():
        for label, (root, names) in sources.items():
            below = folder / part_name / label if len(sources) > 1 else folder / part_name
            targets = {below / names[member]: root / names[member] for member in members}
            if strangers := _images_in(below) - targets.keys():
                raise ValueError(f"--output {below} holds {counted(len(strangers), 'image')} of "
                                 f"another split, such as {shown(min(strangers).name)}; "
                                 "choose another folder")
            jobs |= targets
    absent = next((source for source in jobs.values() if not os.path.lexists(source)), None)
    if absent is not None:
        raise ValueError(f"--as must be lists for the images of a pack, got {form}; "
                         f"{shown(absent)} is not a file")
    waiting = [pair for pair in jobs.items() if not os.path.lexists(pair[0])]
    for _ in _pictures.spread(partial(_put, form), waiting, workers if form == "copies" else 1):
        pass


def _images_in(folder: Path) -> set[Path]:
    try:
        return set(list_images(folder))
    except ValueError:      # none
        return set()


def _put(form: str, pair: tuple[Path, Path]) -> None:
    target, source = pair
    target.parent.mkdir(parents=True, exist_ok=True)
    if form == "links":
        real = os.path.join(os.path.realpath(source.parent), source.name)
        target.symlink_to(os.path.relpath(real, target.parent.resolve()))
    elif form == "hardlinks":
        os.link(os.path.realpath(source), target)
    else:
        with open(source, "rb") as original:
            write_atomically(target, lambda file: shutil.copyfileobj(original, file))

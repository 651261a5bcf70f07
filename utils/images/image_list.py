"""Text files that name images of a folder, taken wherever the folder itself is.

    # root: ../faces            where the names begin, from the list's own folder; else that folder
    00001.png
    more/00002.png

Empty lines and others that begin with # say nothing. A name that would be misread, such as one with
a line break, is written as JSON text, in quotation marks.
"""
from __future__ import annotations

import json
import os
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path, PurePosixPath

from utils.files import parse_json, write_text

SUFFIX = ".txt"
ROOT = "# root:"


def is_list(path: str | Path) -> bool:
    """Whether a path names a list: it ends in .txt and is no folder."""
    return Path(path).suffix.lower() == SUFFIX and not Path(path).is_dir()


def read_list(path: str | Path) -> tuple[Path, list[str]]:
    """The folder where the names begin, and the names, sorted.

    Raises:
        ValueError: no such file, no names, one twice, or one that leads out of the folder.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such list of images") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a list of images ({error})") from error
    root, names = path.parent, []
    for number, line in enumerate(lines, 1):
        try:
            if line.startswith(ROOT):
                # From where the list really lies, as it was written; `..` is no folder's parent.
                place = path.parent.resolve() / _plain(line.removeprefix(ROOT).strip())
                root = Path(os.path.normpath(place))
            elif line.strip() and not line.startswith("#"):
                names.append(_inside(_plain(line.strip())))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    names.sort()
    twice = next((name for name, after in pairwise(names) if name == after), None)
    if twice is not None:
        raise ValueError(f"{path} names {twice!r} more than once; remove one")
    if not names:
        raise ValueError(f"{path} must name an image on each line, got none")
    if not root.is_dir():
        raise ValueError(f"{path}: the line `{ROOT}` must name the folder of the images, got "
                         f"{root}, which is not a folder")
    return root, names


def write_list(path: str | Path, root: str | Path, names: Iterable[str]) -> None:
    """Write a list of names below `root`, whose place is noted from the list's folder."""
    path = Path(path)
    place = Path(os.path.relpath(Path(root).resolve(), path.parent.resolve())).as_posix()
    lines = [f"{ROOT} {_written(place)}", *map(_written, sorted(names))]
    write_text(path, "\n".join(lines) + "\n")


def _written(name: str) -> str:
    plain = name.isprintable() and name == name.strip() and name[:1] not in ("#", '"')
    return name if plain else json.dumps(name)


def _plain(text: str) -> str:
    return str(parse_json(text)) if text.startswith('"') else text


def _inside(name: str) -> str:
    if name.startswith("/") or ".." in PurePosixPath(name).parts:
        raise ValueError(f"a name must stay inside the folder, got {name!r}")
    return PurePosixPath(name).as_posix()

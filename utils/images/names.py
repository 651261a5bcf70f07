"""Names for what is written of each input: every input its own."""
from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from pathlib import Path


def output_stems(root: Path, inputs: list[Path]) -> list[str]:
    """A name for everything that is written of each input: its path below `root`.

    Without its extension, unless another input would have the same name then. No two names differ
    in upper and lower case only: on some file systems they are one file.
    """
    short = [path.relative_to(root).with_suffix("").as_posix() for path in inputs]
    whole = [path.relative_to(root).as_posix() for path in inputs]
    shared = Counter(name.casefold() for name in short)
    alone = [shared[name.casefold()] == 1 for name in short]
    stems, taken = [""] * len(inputs), set()
    for index in sorted(range(len(inputs)), key=alone.__getitem__):     # whole names first
        names = [short[index], whole[index]] if alone[index] else [whole[index]]
        more = (f"{whole[index]}_{number}" for number in itertools.count(2))
        stems[index] = next(name for name in itertools.chain(names, more)
                            if name.casefold() not in taken)
        taken.add(stems[index].casefold())
    return stems


def folder_beside(results: Iterable[Path], folder: Path, name: str) -> Path:
    """The folder `name` below `folder`, or `name_2` and so on where results have that one."""
    taken = {path.relative_to(folder).parts[0].casefold() for path in results}
    names = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
    return folder / next(each for each in names if each.casefold() not in taken)

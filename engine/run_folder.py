"""The folder of a run: what may be written into it, and what has to be moved out of its way."""
from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from utils.files import link_or_copy

logger = logging.getLogger("facezoo")
STATES = ("latest_state.pth", "previous_state.pth")
PUBLISHED = ("latest.info", "latest_opts.pth")      # the original repository's, see checkpoint
OPTIONS = "train_opt.yaml"
# There from the start of a run until its first state: weights beside it are that start's own.
STARTED = ".started"


def prepare(folder: Path, continuing: bool, inputs: Iterable[str] = ()) -> None:
    """Make the folder of a run that starts or continues; nothing in it is lost.

    An earlier run in the folder of a new one is moved aside. A folder that is a link stays one.

    Args:
        folder: below the checkpoints folder, named like the run.
        continuing: --continue_train.
        inputs: option values, which may name files that moving would take away.

    Raises:
        ValueError: there is nothing to continue, though other runs or weights suggest it; or an
            input lies in the folder that would be moved.
        OSError: the folder cannot be made or moved.
    """
    real = Path(os.path.realpath(folder))
    if continuing:
        _check_continuing(folder, real)
    elif _contents(real):
        _refuse_moving_inputs(folder, real, inputs)
        _move_aside(folder, real)
    real.mkdir(parents=True, exist_ok=True)
    for leftover in real.glob(".*.tmp"):        # of a save that was killed
        leftover.unlink(missing_ok=True)
    if not any((real / name).exists() for name in (*STATES, *PUBLISHED)):
        (real / STARTED).touch()


def state_is_saved(folder: Path) -> None:
    """From now on the folder can be continued; see STARTED."""
    (folder / STARTED).unlink(missing_ok=True)


def keep_originals(folder: Path) -> None:
    """Give the files of the original repository a second name before a run writes its own."""
    aside = _free_name(folder / "original")
    aside.mkdir()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".pth", ".info") and path.is_file():
            link_or_copy(path, aside / path.name)
    logger.info("the files that this run continues are kept in %s", aside)


def keep_best(folder: Path, step: int) -> bool:
    """Rename the best weights to best_before_step_<step>; whether there were any."""
    found = list(folder.glob("best_net_*.pth"))
    for path in found:
        os.replace(path, path.with_name(path.name.replace("best_", f"best_before_step_{step}_", 1)))
    return bool(found)


def changed(saved: dict[str, Any], options: dict[str, Any], ignored: Iterable[str]) -> list[str]:
    """Names of the options, but for those ignored, whose value is another than at the last save."""
    def plain(value: Any) -> Any:
        return list(value) if isinstance(value, tuple) else value
    return [name for name in sorted(options) if name in saved and name not in ignored
            and plain(saved[name]) != plain(options[name])]


def _contents(folder: Path) -> list[str]:
    """What a folder holds of an earlier run; a start that failed leaves its options only."""
    if not folder.is_dir():
        return []
    return [path.name for path in folder.iterdir()
            if path.name != OPTIONS and not path.name.startswith(".")]


def _check_continuing(folder: Path, real: Path) -> None:
    if not real.is_dir():
        others = sorted(path.name for path in folder.parent.glob("*") if path.is_dir() and any(
            (path / name).exists() for name in (OPTIONS, *STATES, *PUBLISHED)))
        if others:
            shown = ", ".join(others[:10]) + (", ..." if len(others) > 10 else "")
            raise ValueError(f"--continue_train: there is no run {folder.name} in {folder.parent}, "
                             f"only {shown}; leave --continue_train out, or make that folder, "
                             "to start a new run")
        return
    if any((real / name).exists() for name in STATES) or all(
            (real / name).exists() for name in PUBLISHED):
        return
    weights = sorted(path.name for path in real.glob("*_net_*.pth"))
    if weights and not (real / STARTED).exists():
        raise ValueError(f"--continue_train: {folder} has weights ({', '.join(weights[:3])}) but "
                         "no training state; to start from them, use another --name and "
                         f"--pretrain_model_path {folder / weights[0]}")
    if weights:
        _move_aside(folder, real)


def _refuse_moving_inputs(folder: Path, real: Path, inputs: Iterable[str]) -> None:
    for value in inputs:
        if os.path.exists(value) and real in Path(os.path.realpath(value)).parents:
            raise ValueError(f"--name {folder.name} would move the earlier run in {folder} aside, "
                             f"and {value} with it; choose another --name")


def _move_aside(folder: Path, real: Path) -> None:
    aside = _free_name(real)
    try:
        os.replace(real, aside)
    except OSError:     # a mount point, or a parent that cannot be written
        contents = list(real.iterdir())
        aside = _free_name(real / "earlier")
        aside.mkdir()
        for path in contents:
            if not path.name.startswith((".lock", "earlier.")):
                os.replace(path, aside / path.name)
    logger.info("the earlier run %s is kept as %s", folder, aside)


def _free_name(folder: Path) -> Path:
    """The folder's name with date and time, as a name that nothing has yet."""
    stem = f"{folder.name}.{time.strftime('%Y%m%d-%H%M%S')}"
    names = (stem, *(f"{stem}-{number}" for number in range(2, 1000)))
    return next(path for name in names if not os.path.lexists(path := folder.with_name(name)))

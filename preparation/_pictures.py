"""What the commands that turn images into images share: workers, resuming, failures."""
from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from options.parser import positive_int
from utils.files import parse_json, write_text
from utils.images import memory
from utils.images.io import BadImage, find_images, read_image, warn_left_out, write_image
from utils.images.names import output_stems
from utils.text import counted

SOME_FAILED = 1
CHUNK, CHUNKS_AHEAD = 4, 4      # items a worker takes at once; chunks per worker under way
FORMATS = ("png", "jpg", "webp")


def add_arguments(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--input", required=True, metavar="PATH",
                        help=f"{what}: a folder (including subfolders), a list, a pack or a "
                             "quoted pattern")
    parser.add_argument("--output", required=True, metavar="DIR",
                        help="folder for the results, with the input's subfolders")
    parser.add_argument("--ext", default="png", choices=FORMATS, help="file format of the results")
    parser.add_argument("--workers", type=positive_int, default=2, help="parallel processes")


def convert(opt: argparse.Namespace, change: Callable[[np.ndarray], np.ndarray]) -> int:
    """Write change(image) for every image that has no result yet; 1 if some failed.

    Args:
        change: from uint8 RGB (H, W, 3) to uint8; picklable. A ValueError of its is the image's.

    Raises:
        ValueError: no images, or a result that would overwrite one.
    """
    targets = targets_of(opt.input, Path(opt.output), opt.ext)
    waiting = [pair for pair in targets.items() if not pair[1].exists()]
    failed = [message for message in spread(partial(_convert_one, change), waiting, opt.workers)
              if message]
    print(written(len(waiting) - len(failed), "image", len(targets) - len(waiting), opt.output))
    return conclude(failed)


def written(new: int, noun: str, old: int, folder: str | Path) -> str:
    """The last line of a command: how many results are new, and how many it found."""
    return (f"wrote {counted(new, noun)} to {folder}"
            + (f"; {counted(old, noun)} existed already" if old else ""))


def targets_of(source: str, folder: Path, ext: str) -> dict[Path, Path]:
    """The result of each image: its name of `output_stems`, in `folder`, with the extension."""
    root, images = find_images(source)
    warn_left_out(source)
    targets = {path: folder / f"{stem}.{ext}"
               for path, stem in zip(images, output_stems(root, images), strict=True)}
    originals = {os.path.realpath(path) for path in images}     # resolve() raises at circular links
    clash = next((target for target in targets.values() if os.path.realpath(target) in originals),
                 None)
    if clash is not None:
        raise ValueError(f"--output would overwrite the image {clash}; choose another folder")
    return targets


def spread(task: Callable, items: list, workers: int, unit: str = "image") -> Iterator:
    """task(item) of every item, in order, by several processes, with progress.

    Processes wait for a slow reader of the results: these never pile up.

    Raises:
        ChildProcessError: a process was killed.
    """
    if workers == 1 or len(items) < 2:
        yield from map(task, tqdm(items, unit=unit, disable=None))
        return
    chunks = (items[at:at + CHUNK] for at in range(0, len(items), CHUNK))
    before = multiprocessing.active_children()
    # A fresh interpreter each: forking one whose libraries have threads can hang.
    with (ProcessPoolExecutor(min(workers, len(items)), multiprocessing.get_context("spawn"),
                              _alone, (memory.limit_in_mebibytes(),)) as pool,
          tqdm(total=len(items), unit=unit, disable=None) as bar):
        under_way = deque(pool.submit(_each, task, chunk)
                          for chunk in islice(chunks, CHUNKS_AHEAD * workers))
        try:
            while under_way:
                for result in under_way.popleft().result():
                    bar.update()
                    yield result
                under_way.extend(pool.submit(_each, task, chunk) for chunk in islice(chunks, 1))
        except BrokenProcessPool:
            raise ChildProcessError("a worker process was killed (out of memory?); use fewer "
                                    "--workers") from None
        finally:
            if under_way:       # an error, or nobody wants the rest: end now, do not finish it
                for child in set(multiprocessing.active_children()) - set(before):
                    child.terminate()


def _each(task: Callable, items: list) -> list:
    return [task(item) for item in items]


def complete_lines(path: Path) -> list[str]:
    """Lines of a file of notes; half of one, which a run that was killed may have left, is cut."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = text.split("\n")
    if lines[-1]:
        write_text(path, "\n".join([*lines[:-1], ""]))
    return [line for line in lines[:-1] if line]


def complete_records(path: Path, *keys: str) -> Iterator[dict[str, Any]]:
    """The JSON objects of `complete_lines` that have these keys; a damaged line does not count."""
    for line in complete_lines(path):
        with suppress(ValueError):
            record = parse_json(line)
            if isinstance(record, dict) and all(key in record for key in keys):
                yield record


def conclude(failed: list[str]) -> int:
    """Name the images that failed; returns the exit status."""
    for message in failed:
        print(f"failed: {message}", file=sys.stderr)
    return SOME_FAILED if failed else 0


def _alone(max_image_memory: int) -> None:
    memory.limit(max_image_memory)
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)        # the main process ends the others


def _convert_one(change: Callable, pair: tuple[Path, Path]) -> str:
    path, target = pair
    try:
        image = read_image(path)
    except BadImage as error:
        return str(error)
    try:
        write_image(target, change(image))
    except ValueError as error:
        return f"{path}: {error}"
    return ""

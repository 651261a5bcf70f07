"""Jobs on Huawei's ModelArts: fetch the data, run a launch script, bring the results back."""
from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

INPUT = "/home/ma-user/modelarts/inputs/data_url_0"
OUTPUT = "/home/ma-user/modelarts/outputs/train_url_0/"
# Where remote folders lie during the job; each may be set by the environment.
CACHES = {"FACEZOO_CACHE_DATA": "/cache/data_url", "FACEZOO_CACHE_TRAIN": "/cache/train_url"}
# What the platform adds to a job's command line and the scripts do not use.
PLATFORM_OPTIONS = ("init_method", "rank", "num_gpus")
BAD_INPUT = 2


def run_job(kind: str, root: Path, argv: list[str] | None = None) -> int:
    """Run test/KIND_1p.sh, or KIND_8p.sh where there are several cards.

    Args:
        kind: `train_full` or `train_performance`.
        root: the code folder.
        argv: command line; what is not named here goes to the script as --key=value.

    Returns:
        Exit status of the script; 2 for bad input.
    """
    job, rest = _parser(kind).parse_known_args(argv)
    for name in PLATFORM_OPTIONS:
        if getattr(job, name) is not None:
            say(f"ignoring --{name}={getattr(job, name)}")
    card = os.environ.get("ASCEND_DEVICE_ID", "0")
    try:
        cards = card_count("RANK_SIZE", os.environ.get("RANK_SIZE") or "1")
        size = card_count("--world_size", job.world_size) if job.world_size else cards
        script = root / "test" / f"{kind}_{'8p' if size > 1 else '1p'}.sh"
        if not script.is_file():
            raise ValueError(f"{size} cards need {script}, which does not exist; use "
                             f"--world_size=1")
        copy = find_copy([url for url in (job.data_url, job.train_url) if is_remote(url)])
    except ValueError as error:
        print(f"[CANN-Modelzoo] error: {error}", file=sys.stderr, flush=True)
        return BAD_INPUT
    if cards > 1 and card != "0":
        # The platform starts this file once per card; that of card 0 starts all the processes.
        say(f"nothing to do for card {card}; the process of card 0 runs the job")
        return 0
    arguments = as_assignments(rest) + ([f"--world_size={size}"] if size > 1 else [])
    return transfer_and_run(script, job.data_url, job.train_url, arguments, copy)


def _parser(kind: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=f"Run test/{kind}_1p.sh as a ModelArts job; its arguments "
                                        f"may follow as --key=value.")
    parser.add_argument("--data_url", default=INPUT, help="folder of images, local or obs://")
    parser.add_argument("--train_url", default=OUTPUT, help="folder for results, local or obs://")
    parser.add_argument("--world_size", help="number of cards (default: RANK_SIZE, else 1)")
    for name in PLATFORM_OPTIONS:
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    return parser


def card_count(source: str, text: str) -> int:
    """The number in a text; ValueError, naming the source, for anything but 1, 2, 3 ..."""
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"{source} must be a number of cards, got {text!r}")
    return int(text)


def as_assignments(arguments: list[str]) -> list[str]:
    """`--key value` and `--key=value` alike as `--key=value`; what is neither stays as it is."""
    joined: list[str] = []
    for text in arguments:
        open_key = joined and joined[-1].startswith("--") and "=" not in joined[-1]
        if open_key and (not text.startswith("--") or joined[-1] == "--more"):
            joined[-1] += f"={text}"
        else:
            joined.append(text)
    return joined


# ---- the job ------------------------------------------------------------------------------------

def transfer_and_run(script: Path, data_url: str, train_url: str, arguments: list[str],
                     copy: Callable[[str, str], Any] | None) -> int:
    """Run the script on local folders; results go back even if it fails or is stopped.

    Args:
        copy: copies a folder from one place to the other; needed for remote folders only.
    """
    data, output = local_folder(data_url, 0), local_folder(train_url, 1)
    if is_remote(data_url):
        say(f"copying {data_url} to {data}")
        copy(data_url, data)
    try:
        return run_script(script, [f"--data_path={data}", f"--output_path={output}", *arguments])
    finally:
        if is_remote(train_url) and Path(output).is_dir():
            say(f"copying {output} to {train_url}")
            copy(output, train_url)


def is_remote(url: str) -> bool:
    return url.startswith(("obs://", "s3://"))


def local_folder(url: str, which: int) -> str:
    """The folder itself, or the cache that stands for a remote one: 0 for data, 1 for results."""
    variable, default = list(CACHES.items())[which]
    return os.environ.get(variable, default) if is_remote(url) else os.path.abspath(url)


def find_copy(remote: list[str]) -> Callable[[str, str], Any] | None:
    """moxing's parallel copy, or None where nothing is remote: moxing exists on ModelArts only.

    Raises:
        ValueError: something is remote and moxing cannot be imported.
    """
    if not remote:
        return None
    try:
        import moxing
    except ImportError as error:
        raise ValueError(f"{remote[0]} needs the package moxing, which only ModelArts has "
                         f"({error}); give a local folder") from error
    return moxing.file.copy_parallel


def run_script(script: Path, arguments: list[str]) -> int:
    """Exit status of the script; a SIGTERM to this process stops it, and it saves first."""
    say(f"running {script.name} {' '.join(arguments)}")
    environment = {"PYTHON": sys.executable, **os.environ}
    process = subprocess.Popen(["bash", str(script), *arguments], cwd=script.parents[1],
                               env=environment)
    former = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        status = process.wait()
    finally:
        signal.signal(signal.SIGTERM, former)
    status = status if status >= 0 else 128 - status     # as a shell reports a signal
    say(f"{script.name} ended with status {status}")
    return status


def say(text: str) -> None:
    print(f"[CANN-Modelzoo] {text}", flush=True)

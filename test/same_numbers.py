"""Proof that a refactoring changes no number: two commits, the same commands, every bit compared.

    python test/same_numbers.py COMMIT_A COMMIT_B [--models NAME ...] [--variants NAME ...]
                                [--keep FOLDER] [--python PATH]
    python test/same_numbers.py HEAD .          before committing; `.` is the working tree

For every training model, tiny and on synthetic faces, both checkouts train, validate and save. In
the variants plain, O2 and lazy A then continues its own run (the reference) and B that of A; with
plain both also restore an image and evaluate with A's weights, and B continues its own run, too.
Compared are weights, training states, losses and validations, the pixels of restored images and
the rows of per_image.csv. Only the command lines of newtrain.py, evaluate.py and enhance.py are
used, and the tiny arguments of A, so modules may move in between.

A row per model and variant:
    equal      every value has the same name and the same bits
    renamed    every value has the same bits, but some have other names or exist on one side only
    DIFFERS    values of the same name have other bits
    absent     B does not have the model
    FAILED     a command failed; the end of its log follows
Exit status: 0 if all rows are equal, else 1. Models that only B has are named and not run.
"""
from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

# As in every entry: an installed torch_npu must not be loaded by `import torch`.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
JOBS = 2
SHOWN = 3           # names shown of those that differ
LOG_LINES = 20      # shown of a command that failed
# Measured times and memory, options and where things lie: they may change from run to run.
VOLATILE = {"options", "path", "seconds_per_step", "fps", "data_wait", "peak_memory"}
# Taken by the models that have the flag. A lazy regularizer also runs after continuing.
LAZY = {"--d_reg_every": "1", "--g_reg_every": "2", "--r1_every": "2"}
LOSS_NETWORKS = {"--vgg_weights": "random", "--id_weights": "random"}
VARIANTS = ("plain", "accumulate", "O2", "lazy", "losses", "ranks", "ranks-accumulate")
CONTINUED = ("plain", "O2", "lazy")     # whose training states hold something of their own


class Checkout(NamedTuple):
    """One side of the comparison, "A" or "B"."""
    label: str
    folder: Path
    python: str


class Case(NamedTuple):
    """A model in a variant, with the arguments of its training."""
    model: str
    variant: str
    arguments: list[str]


class Failed(Exception):
    """A command ended with another status than 0; holds the end of its log."""


# ---- digests and their comparison ----------------------------------------------------------------

def digest(value: Any) -> str:
    """What identifies a value to the last bit: SHA-256 of a tensor or array, else its text."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if not isinstance(value, torch.Tensor):
        return f"{type(value).__name__} {value!r}"
    data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(data).hexdigest()}"


def flatten(value: Any, name: str = "") -> dict[str, str]:
    """Digests of everything in nested dicts and lists, by path; volatile entries are left out."""
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {name: digest(value)}
    found: dict[str, str] = {}
    for key, item in value.items():
        if key not in VOLATILE:
            found |= flatten(item, f"{name}/{key}" if name else str(key))
    return found


class Difference(NamedTuple):
    """Names of values with other bits; `old -> new` of equal ones; names on one side only."""
    numbers: list[str]
    renamed: list[str]
    only_a: list[str]
    only_b: list[str]


def compare(a: dict[str, str], b: dict[str, str]) -> Difference:
    """Compare what `flatten` gave; names on one side only are paired where their digests agree."""
    free = defaultdict(list)
    for name in b:
        if name not in a:
            free[b[name]].append(name)
    renamed, only_a = [], []
    for name in a:
        if name not in b and free[a[name]]:
            renamed.append(f"{name} -> {free[a[name]].pop(0)}")
        elif name not in b:
            only_a.append(name)
    return Difference([name for name in a if b.get(name, a[name]) != a[name]], renamed, only_a,
                      [name for names in free.values() for name in names])


def verdict(difference: Difference, count: int) -> tuple[str, str]:
    """The word for a row, and which names it is about."""
    labels = ("have other bits", "have another name", "exist in A only", "exist in B only")
    parts = [f"{len(names)} of {count} values {label}: {', '.join(names[:SHOWN])}"
             + (" ..." if len(names) > SHOWN else "")
             for label, names in zip(labels, difference, strict=True) if names]
    word = "DIFFERS" if difference.numbers else "renamed" if parts else "equal"
    return word, "; ".join(parts) or f"{count} values"


# ---- what a run leaves ---------------------------------------------------------------------------

def read_run(folder: Path) -> dict[str, Any]:
    """Losses and validations, weights and training state of a run's folder."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    files = [*sorted(folder.glob("*_net_*.pth")), folder / "latest_state.pth"]
    return {"metrics.jsonl": [json.loads(line) for line in lines],
            **{path.name: torch.load(path, map_location="cpu", weights_only=True)
               for path in files}}


def read_images(folder: Path) -> dict[str, np.ndarray]:
    """Pixels of every PNG below a folder; at least one must be there."""
    images = {path.name: np.array(Image.open(path)) for path in sorted(folder.rglob("*.png"))}
    if not images:
        raise Failed(f"no restored image in {folder}")
    return images


def read_table(folder: Path) -> list[dict[str, str]]:
    """Rows of the only per_image.csv below a folder."""
    [path] = folder.rglob("per_image.csv")
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# ---- running -------------------------------------------------------------------------------------

def run(checkout: Checkout, *words: object, log: Path | None = None) -> str:
    """Run Python in a checkout; returns what it printed, or raises Failed with the end of it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)     # a checkout must find its own modules only
    done = subprocess.run([checkout.python, *map(str, words)], cwd=checkout.folder, text=True,
                          env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if log:
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"$ {checkout.label}: {' '.join(map(str, words))}\n{done.stdout}\n")
    if done.returncode:
        end = "\n".join(done.stdout.splitlines()[-LOG_LINES:])
        raise Failed(f"{checkout.label}, status {done.returncode}: {' '.join(map(str, words))}\n"
                     f"{end}")
    return done.stdout


def train(checkout: Checkout, case: Case, runs: Path, resume: bool = False) -> dict[str, Any]:
    """Train the run below a folder, or continue it by a step; returns what it left."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--local_addr=127.0.0.1",
                "--nproc_per_node=2") if case.variant.startswith("ranks") else ()
    steps = 1 if case.variant == "O2" else 2    # half precision takes seconds a step on a CPU
    length = ("--train_steps", steps + resume, *(("--continue_train",) if resume else ()))
    run(checkout, *launcher, "newtrain.py", *case.arguments, "--checkpoints_dir", runs, "--name",
        "run", "--dataset_name", "synthetic", "--no-tensorboard", "--print_freq", 1, *length,
        log=runs.parent / "log")
    return read_run(runs / "run")


def continue_run(reader: Checkout, case: Case, written: Path) -> dict[str, Any]:
    """Continue a copy of the run below a folder; returns what that left."""
    runs = written.with_name(f"{written.name}_in_{reader.label}")
    shutil.copytree(written, runs)
    return train(reader, case, runs, resume=True)


def apply(reader: Checkout, case: Case, written: Path, image: Path) -> dict[str, Any]:
    """Restore an image and evaluate with the weights of the run below a folder."""
    results, log = written.with_name(f"applied_in_{reader.label}"), written.parent / "log"
    trained = ("--model", case.model, "--name", "run", "--checkpoints_dir", written, "--epoch",
               "latest", "--device", "cpu")
    run(reader, "enhance.py", *trained, "--input", image, "--output", results / "restored",
        "--rounding", "round", log=log)
    run(reader, "evaluate.py", *trained, "--dataset_name", "synthetic", "--max_dataset_size", 3,
        "--num_threads", 0, "--results_dir", results, log=log)
    return {"restored": read_images(results / "restored"), "per_image.csv": read_table(results)}


def check(case: Case, a: Checkout, b: Checkout, folder: Path) -> tuple[str, str]:
    """Run a case in both checkouts; returns the verdict."""
    folder.mkdir(parents=True)
    try:
        expected, found = ({"trained": train(side, case, folder / side.label)} for side in (a, b))
        if case.variant in CONTINUED:
            expected["A's continued"] = continue_run(a, case, folder / "A")
            found["A's continued"] = continue_run(b, case, folder / "A")
        if case.variant == "plain":
            expected["B's continued"] = expected["A's continued"]
            found["B's continued"] = continue_run(b, case, folder / "B")
            draw_face(folder / "face.png", case)
            for side, values in ((a, expected), (b, found)):
                values["A's applied"] = apply(side, case, folder / "A", folder / "face.png")
    except (Failed, OSError, ValueError) as error:      # a file may be missing or damaged
        return "FAILED", str(error)
    digests = flatten(expected)
    return verdict(compare(digests, flatten(found)), len(digests))


# ---- what to run ---------------------------------------------------------------------------------

def without_zero_weights(arguments: list[str]) -> list[str]:
    """The arguments less each `--lambda_... 0`, so that these losses are on."""
    groups: list[list[str]] = []
    for word in arguments:
        if word.startswith("--"):
            groups.append([])
        groups[-1].append(word)
    return [word for group in groups for word in group
            if not (group[0].startswith("--lambda_") and set(group[1:]) == {"0"})]


def tiny_arguments(a: Checkout, names: list[str]) -> dict[str, list[str]]:
    """By model, the arguments that make it small enough."""
    lines = run(a, "-c", "import sys; sys.path.append('test/unit'); import conftest\n"
                "for name in sys.argv[1:]: print(*conftest.tiny_arguments(name))", *names)
    return dict(zip(names, map(str.split, lines.splitlines()), strict=True))


def cases_of(a: Checkout, model: str, tiny: list[str], variants: list[str]) -> list[Case]:
    """The variants that a model has, with their arguments."""
    known = run(a, "newtrain.py", "--help", "all", "--model", model, "--dataset_name",
                "synthetic").split()

    def having(flags: dict[str, str]) -> list[str]:
        return [word for flag, value in flags.items() if flag in known for word in (flag, value)]
    accumulate, losses = ["--accumulate", "2"], without_zero_weights(tiny)
    arguments = {"plain": tiny, "accumulate": tiny + accumulate, "O2": tiny + ["--opt_level", "O2"],
                 "lazy": tiny + having(LAZY) if having(LAZY) else None,
                 "losses": losses + having(LOSS_NETWORKS) if losses != tiny else None,
                 "ranks": tiny, "ranks-accumulate": tiny + accumulate}
    return [Case(model, name, arguments[name]) for name in variants if arguments[name] is not None]


def check_out(commit: str, label: str, folder: Path, python: str) -> Checkout:
    """Write a commit's files, or with `.` the working tree's, to a folder."""
    folder.mkdir(parents=True)
    if commit != ".":
        archive = subprocess.run(["git", "archive", "--format=tar", commit], cwd=ROOT, check=True,
                                 stdout=subprocess.PIPE).stdout
        subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
        return Checkout(label, folder, python)
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others",
                             "--exclude-standard"], cwd=ROOT, check=True, text=True,
                            stdout=subprocess.PIPE).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():     # not deleted since
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return Checkout(label, folder, python)


def draw_face(path: Path, case: Case) -> None:
    """The image that is restored: a face-like ellipse with noise, the same in every run.

    It has the network's size: 0.1.0 resized others in its own way for GFP-GAN and PFSRNet.
    """
    words = case.arguments
    side = int(words[max(i for i, word in enumerate(words) if word == "--load_size") + 1])
    y, x = np.mgrid[-1:1:side * 1j, -1:1:side * 1j]
    face = np.stack([np.exp(-(x ** 2 * rate + y ** 2)) for rate in (1.5, 2.0, 2.5)], axis=-1)
    noise = np.random.default_rng(0).normal(0, 8, face.shape)
    Image.fromarray((face * 220 + noise).clip(0, 255).astype(np.uint8)).save(path)


def report(model: str, variant: str, word: str, detail: str) -> bool:
    """Print a row; returns whether it is equal."""
    print(f"{model:<12} {variant:<17} {word:<8} {detail}", flush=True)
    return word == "equal"


def compare_commits(opt: argparse.Namespace, folder: Path) -> bool:
    """Check every case, files below a folder; returns whether all are equal."""
    a, b = (check_out(commit, label, folder / "checkouts" / label, os.path.abspath(opt.python))
            for commit, label in ((opt.commit_a, "A"), (opt.commit_b, "B")))
    in_a, in_b = (run(side, "-c", "import models; print(*models.names())").split()
                  for side in (a, b))
    if unknown := set(opt.models or []) - set(in_a):
        raise ValueError(f"--models: {', '.join(sorted(unknown))} not in A, which has "
                         f"{', '.join(in_a)}")
    runs = folder / "runs"
    runs.mkdir()
    if new := [name for name in in_b if name not in in_a]:
        print(f"only in B, not run: {', '.join(new)}")
    wanted = opt.models or in_a
    good = [report(name, "-", "absent", "B does not have it") for name in wanted
            if name not in in_b]
    tiny = tiny_arguments(a, [name for name in wanted if name in in_b])
    with ThreadPoolExecutor(JOBS) as pool:
        found = pool.map(lambda name: cases_of(a, name, tiny[name], opt.variants), tiny)
        cases = [case for several in found for case in several]
        results = pool.map(
            lambda case: check(case, a, b, runs / f"{case.model}-{case.variant}"), cases)
        good += [report(case.model, case.variant, *result)
                 for case, result in zip(cases, results, strict=True)]
    return all(good)


def main() -> int:
    """Parse the command line and compare; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("commit_a", metavar="COMMIT_A", help="the reference; . for working tree")
    parser.add_argument("commit_b", metavar="COMMIT_B", help="what is compared with it")
    parser.add_argument("--models", nargs="+", metavar="NAME", help="default: all of A")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS,
                        help="default: all")
    parser.add_argument("--keep", type=Path, metavar="FOLDER",
                        help="new folder that keeps checkouts, runs and logs (default: a temporary "
                             "one, removed at the end)")
    parser.add_argument("--python", default=sys.executable, metavar="PATH",
                        help="interpreter of the runs (default: this one)")
    opt = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        try:
            good = compare_commits(opt, (opt.keep or Path(temporary)).resolve())
        except (ValueError, Failed, OSError, subprocess.CalledProcessError) as error:
            parser.error(str(error))
    print(f"{'all equal' if good else 'NOT all equal'}; {time.perf_counter() - start:.0f} s")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

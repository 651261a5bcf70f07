"""What the entries do where Linux's own modules and calls are missing, as on Windows and macOS."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, tiny_arguments

from data.synthetic.faces import render_face
from utils import system
from utils.images.io import write_image

# Taken away once the libraries are loaded, which have their own ways, and before our modules are.
WITHOUT = """
import ctypes, multiprocessing, os, runpy, signal, sys
import cv2, numpy, PIL.Image, torch, torch.utils.data, tensorboard.summary, yaml, tqdm
import torch.utils.tensorboard, concurrent.futures.process, subprocess, socket, tempfile
for name in ("resource", "fcntl", "termios", "pwd", "grp"):
    sys.modules[name] = None        # import raises ImportError
for module, names in ((os, "pread O_NONBLOCK fork register_at_fork statvfs sched_getaffinity "
                           "sysconf mkfifo memfd_create getuid geteuid killpg getpgid"),
                      (signal, "SIGALRM alarm SIGHUP SIGUSR1 SIGUSR2 SIGCHLD SIGKILL SIGPIPE")):
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
sys.argv = ARGV
sys.path.insert(0, ROOT)
# Libraries must not be told; of ours this module alone asks.
real, sys.platform = sys.platform, PLATFORM
import utils.system
sys.platform = real
"""


def without(platform: str, code: str, argv: list[str], folder: Path) -> subprocess.CompletedProcess:
    text = (f"PLATFORM, ARGV, ROOT = {platform!r}, {argv!r}, {str(ROOT)!r}\n{WITHOUT}\n{code}")
    return subprocess.run([sys.executable, "-c", text], cwd=folder, capture_output=True, text=True,
                          timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1",
                                            "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"})


def test_every_module_can_be_imported(tmp_path: Path) -> None:
    """All but those that need an extra package, which say so."""
    done = without("win32", """
import importlib, pathlib
root = pathlib.Path(ROOT)
folders = ("data engine export faces metrics models options preparation serving tools "
           "utils").split()
files = [*root.glob("*.py"), *(path for name in folders for path in (root / name).rglob("*.py"))]
for path in sorted(files):
    parts = path.relative_to(root).with_suffix("").parts
    if any(not part.isidentifier() for part in parts):
        continue
    try:
        importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    except ModuleNotFoundError as error:
        if error.name in ("resource", "fcntl", "termios", "pwd", "grp"):
            raise
print("imported", len(files))
""", ["x"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 150


@pytest.mark.parametrize("platform", ["win32", pytest.param("darwin", marks=pytest.mark.deep)])
def test_a_run_trains_resumes_evaluates_and_restores(platform: str, tmp_path: Path) -> None:
    for index in range(4):
        write_image(tmp_path / "faces" / f"{index}.png", render_face(index, size=64).image)
    arguments = tiny_arguments("sparnet", without="--num_threads")
    done = without(platform, """
import newtrain, evaluate, enhance, prepare, preparation, data, models
from engine import entry
from options.train_options import TrainOptions
from options.evaluate_options import EvaluateOptions
from options.enhance_options import EnhanceOptions

def status(kind, body, more):
    opt = kind(models, data, "x").parse(more)
    return entry.run(body, opt, "x")

pack = prepare.parse(["pack", "--input", "faces", "--output", "packed", "--size", "64",
                      "--workers", "1"])
assert preparation.find("pack").run(pack) == 0
train = [*ARGV, "--dataroot", "packed", "--dataset_name", "folder", "--checkpoints_dir", "runs",
         "--name", "one", "--eval_freq", "2", "--save_latest_freq", "2", "--no-tensorboard"]
opt = TrainOptions(models, data, "x").parse([*train, "--train_steps", "2"])
print("threads", opt.num_threads)
assert entry.run(newtrain.train, opt, "x") == 0
assert status(TrainOptions, newtrain.train, [*train, "--train_steps", "4", "--num_threads", "2",
                                             "--continue_train"]) == 0
assert status(EvaluateOptions, evaluate.evaluate,
              ["--checkpoints_dir", "runs", "--name", "one", "--device", "cpu", "--dataroot",
               "packed", "--dataset_name", "folder", "--results_dir", "results"]) == 0
assert status(EnhanceOptions, enhance.enhance,
              ["--checkpoints_dir", "runs", "--name", "one", "--device", "cpu", "--input", "faces",
               "--output", "out"]) == 0
print("done")
""", arguments, tmp_path)
    assert done.returncode == 0 and done.stdout.endswith("done\n"), done.stderr[-3000:]
    assert "threads 0" in done.stdout
    assert done.stdout.count("worker processes need a system that can fork") == 1
    assert len(list((tmp_path / "out").glob("*.png"))) == 4


def test_a_file_is_read_at_an_offset_without_pread_too(tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(bytes(range(100)))
    with open(tmp_path / "a", "rb") as file:
        expected = [system.read_at(file, 10, offset) for offset in (50, 0, 95)]
        monkeypatch.delattr(os, "pread")
        assert [system.read_at(file, 10, offset) for offset in (50, 0, 95)] == expected

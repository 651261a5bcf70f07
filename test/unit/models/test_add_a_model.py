"""The example of docs/add_a_model.md, dropped into place, is a full member."""
from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from data.synthetic.faces import render_face
from utils.images.io import read_image, write_image

TOY = ["--model", "toy", "--load_size", "32", "--scale_factor", "4", "--batch_size", "2",
       "--num_threads", "0", "--device", "cpu", "--num_val_images", "2", "--no-tensorboard"]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the two files of the document, and nothing else, added."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("models", "data", "engine", "options", "utils", "metrics", "faces", "export"):
        shutil.copytree(ROOT / name, folder / name,
                        ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.glob("*.py"):
        shutil.copy(path, folder)
    text = (ROOT / "docs" / "add_a_model.md").read_text()
    blocks = re.findall(r"^## \d\. .*?`(\S+\.py)`.*?```python\n(.*?)```", text, flags=re.M | re.S)
    assert [name for name, _ in blocks] == ["models/networks/toy.py", "models/toy_model.py"]
    for name, code in blocks:
        (folder / name).write_text(code)
    return folder


def run(checkout: Path, script: str, *arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, script, *map(str, arguments)], cwd=checkout,
                          capture_output=True, text=True, timeout=120,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_its_flags_are_shown(checkout: Path) -> None:
    assert "--toy_width" in run(checkout, "newtrain.py", "--help", "--model", "toy").stdout


@pytest.mark.deep
def test_it_trains_saves_and_resumes_as_if_never_stopped(checkout: Path) -> None:
    for name, steps, more in (("whole", 6, ()), ("parts", 4, ()), ("parts", 6, ("--continue_train",
                                                                               ))):
        done = run(checkout, "newtrain.py", *TOY, "--name", name, "--train_steps", steps, *more)
        assert done.returncode == 0, done.stderr
    one, two = (torch.load(checkout / "check_points" / name / "latest_net_G.pth",
                           weights_only=True) for name in ("whole", "parts"))
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.deep
def test_it_restores_and_is_measured(checkout: Path) -> None:
    assert run(checkout, "newtrain.py", *TOY, "--name", "used", "--train_steps", 2,
               "--toy_width", 8).returncode == 0
    write_image(checkout / "in" / "a.png", render_face(1, size=40).image)
    done = run(checkout, "enhance.py", "--name", "used", "--input", "in", "--output", "out")
    assert done.returncode == 0, done.stderr
    assert read_image(checkout / "out" / "a.png").shape == (32, 32, 3)
    done = run(checkout, "evaluate.py", "--name", "used", "--max_dataset_size", 3,
               "--num_threads", 0)
    assert done.returncode == 0 and "bicubic" in done.stdout


@pytest.mark.deep
def test_its_weights_alone_say_how_wide_it_is(checkout: Path) -> None:
    assert run(checkout, "newtrain.py", *TOY, "--name", "wide", "--train_steps", 1,
               "--toy_width", 8).returncode == 0
    moved = shutil.copy(checkout / "check_points" / "wide" / "latest_net_G.pth",
                        checkout / "toy.pth")
    write_image(checkout / "one" / "a.png", render_face(1, size=40).image)
    arguments = ("--pretrain_model_path", moved, "--load_size", "32", "--input", "one", "--output",
                 "made")
    done = run(checkout, "enhance.py", "--model", "toy", *arguments)
    assert done.returncode == 0, done.stderr
    done = run(checkout, "enhance.py", *arguments)
    assert done.returncode == 2 and "it is of --model toy" in done.stderr

"""Odd and broken images through every program: nothing falls over, each is named once."""
from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from malformed import BAD, EITHER, GOOD, IGNORED, Odd, odd_files

import data
import enhance
import evaluate
import models
import preparation
import prepare
from data.base_dataset import relative_names
from engine import entry
from options.enhance_options import EnhanceOptions
from options.evaluate_options import EvaluateOptions
from utils.images.io import list_images, shown

TINY = ["--res_depth", "0", "--bottleneck_size", "16", "--load_size", "32", "--device", "cpu"]
# Of a process; one that decodes a bomb of 60,000 pixels a side needs ten times as much.
MAX_KILOBYTES = 1_000_000
# argv -> exit status, what was said on stdout and stderr
Program = Callable[..., tuple[int, str]]


def one_of_each_kind() -> list[Odd]:
    return list({odd.kind + odd.name.rpartition(".")[2] * (odd.kind == "odd name"): odd
                 for odd in odd_files()}.values())


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    from models.networks.sparnet import SPARNet
    torch.manual_seed(0)
    torch.save(SPARNet(res_depth=0, bottleneck_size=16).state_dict(), tmp_path / "G.pth")
    return tmp_path / "G.pth"


def written(files: list[Odd], folder: Path) -> Path:
    for odd in files:
        odd.write(folder)
    return folder


@pytest.fixture
def here(capsys: pytest.CaptureFixture) -> Program:
    """The programs in this process."""
    def run(script: str, *arguments: object) -> tuple[int, str]:
        argv = [str(argument) for argument in arguments]
        capsys.readouterr()
        if script == "prepare.py":
            opt = prepare.parse(argv)
            status = entry.run(preparation.find(opt.command).run, opt, script)
        elif script == "enhance.py":
            status = entry.run(enhance.enhance, EnhanceOptions(models, data).parse(argv), script)
        else:
            status = entry.run(evaluate.evaluate, EvaluateOptions(models, data).parse(argv), script)
        said = capsys.readouterr()
        return status, said.out + said.err
    return run


# A child's largest size begins with its parent's at the fork, and that of tests may be large.
SMALL_PARENT = """
import os, sys
child = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, *sys.argv[1:]])
_, status, usage = os.wait4(child, 0)
print(f"\\n{usage.ru_maxrss}", flush=True)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def in_small_memory(script: str, *arguments: object) -> tuple[int, str]:
    """A program as its users start it, with an eye on its memory."""
    done = subprocess.run([sys.executable, "-c", SMALL_PARENT, str(ROOT / script),
                           *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    said, _, kilobytes = done.stdout.decode().rstrip().rpartition("\n")
    assert 50_000 < int(kilobytes) < MAX_KILOBYTES, f"{script} took {kilobytes} KB"
    return done.returncode, said


def assert_named_once(files: list[Odd], folder: Path, processed: set[str], said: str,
                      before: str, comparing: bool = False) -> None:
    """Bad files are named, good ones processed, the others one of the two."""
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if line.startswith(before)]
    for odd in files:
        path = shown(folder / odd.name)
        named = sum(line.startswith((f"{before}{path}: ", f"{before}{path} and "))
                    for line in lines)
        done = odd.name in processed
        expected = {GOOD: [(0, True)], BAD: [(1, False)], IGNORED: [(0, False)],
                    EITHER: [(0, True), (1, False)]}[odd.outcome]
        if comparing and odd.small:
            expected = [(1, False)]         # too small for SSIM
        assert (named, done) in expected, f"{odd.kind}, {path}: named {named} times, done {done}"
    assert len(lines) == len(set(lines))


def check_all(files: list[Odd], folder: Path, program: Program) -> None:
    out = folder.parent / "checked"
    status, said = program("prepare.py", "check", "--input", folder, "--output", out, "--show",
                           1000, "--workers", 1)
    report = json.loads((out / "report.json").read_text())
    broken = {each["name"] for each in report["findings"] if each["kind"] == "unreadable"}
    listed = {path.relative_to(folder).as_posix() for path in list_images(folder)}
    assert status == 1 and report["pictures"] == len(listed)
    for line in said.splitlines():
        assert not line.startswith("Traceback")
    for odd in files:
        named = said.count(f"unreadable: {shown(odd.name)}: ")
        assert named == (odd.name in broken)
        assert odd.name in listed or odd.outcome == IGNORED
        assert odd.outcome == EITHER or (odd.name in broken) == (odd.outcome == BAD), odd
    with (out / "report.csv").open(newline="", encoding="utf-8") as file:
        assert sum(row[1] == "unreadable" for row in csv.reader(file)) == len(broken)
    left_out = {each["name"] for each in report["findings"]}
    assert set(relative_names(out / "usable.txt")) == listed - left_out


def restore_all(files: list[Odd], folder: Path, program: Program, weights: Path,
                *more: str) -> None:
    out = folder.parent / "restored"
    status, said = program("enhance.py", "--pretrain_model_path", weights, *TINY, "--input", folder,
                           "--output", out, *more)
    inputs = list_images(folder)
    target = out / "restored_imgs" if "--photos" in more else out
    results = enhance.output_paths(folder, inputs, target, "png")
    processed = {path.relative_to(folder).as_posix()
                 for path, result in zip(inputs, results, strict=True) if result.is_file()}
    assert status == 1
    assert_named_once(files, folder, processed, said, "not restored: ")


def measure_all(files: list[Odd], folder: Path, program: Program, *source: object,
                comparing: bool = False) -> None:
    out = folder.parent / "measured"
    status, said = program("evaluate.py", *source, "--max_bad_images", 1, "--results_dir", out)
    report = json.loads(next(out.rglob("report.json")).read_text())
    assert status == 0, said[-500:]
    assert_named_once(files, folder, {row["path"] for row in report["per_image"]}, said,
                      "warning: skipping an unreadable image: ", comparing)


def sources(folder: Path, weights: Path) -> dict[str, list]:
    return {"folders": ["--restored", folder, "--gt", folder],
            "network": ["--pretrain_model_path", weights, *TINY, "--dataset_name", "folder",
                        "--dataroot", folder, "--num_threads", 0]}


# ---- one of each kind ----------------------------------------------------------------------------

def test_there_are_five_hundred_different_ones() -> None:
    files = odd_files()
    assert len(files) == 500 == len({odd.name for odd in files})
    again = odd_files.__wrapped__()
    assert [(odd.name, odd.content) for odd in again] == [(odd.name, odd.content) for odd in files]
    contents = [odd.content for odd in files if odd.make is None and len(odd.content) > 1]
    assert len(set(contents)) > 0.9 * len(contents)
    assert len({odd.kind for odd in files}) > 25
    assert sum(odd.outcome in (GOOD, BAD) for odd in files) > 400


def test_check_names_every_broken_picture(tmp_path: Path, here: Program) -> None:
    files = one_of_each_kind()
    check_all(files, written(files, tmp_path / "in"), here)


def test_enhance_does_all_that_can_be_read(tmp_path: Path, weights: Path, here: Program) -> None:
    files = one_of_each_kind()
    restore_all(files, written(files, tmp_path / "in"), here, weights)


def test_evaluate_measures_all_that_can_be_read(tmp_path: Path, weights: Path,
                                                here: Program) -> None:
    files = one_of_each_kind()
    folder = written(files, tmp_path / "in")
    measure_all(files, folder, here, *sources(folder, weights)["folders"], comparing=True)


# ---- all of them ---------------------------------------------------------------------------------

@pytest.mark.deep
@pytest.mark.parametrize("program", ["check", "enhance", "photos", "folders", "network"])
def test_five_hundred_odd_pictures(program: str, tmp_path: Path, weights: Path) -> None:
    files = odd_files()
    folder = written(files, tmp_path / "in")
    if program == "check":
        check_all(files, folder, in_small_memory)
    elif program in ("enhance", "photos"):
        restore_all(files, folder, in_small_memory, weights,
                    *(["--photos", "--upscale", "2"] if program == "photos" else []))
    else:
        measure_all(files, folder, in_small_memory, *sources(folder, weights)[program],
                    comparing=program == "folders")

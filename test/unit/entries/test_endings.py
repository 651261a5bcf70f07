"""How runs end that are not left alone: a full disk, a second run, signals, a deleted folder."""
from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from conftest import ROOT, tiny_arguments, torchrun_command

import newtrain

OFTEN = ("--print_freq", "1", "--save_latest_freq", "1", "--eval_freq", "0")
ENDLESS = ("--train_steps", "100000", "--print_freq", "1", "--eval_freq", "0")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(runs: Path, *arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "newtrain.py"), *tiny_arguments("sparnet"),
            "--checkpoints_dir", str(runs), "--name", "tiny", "--no-tensorboard",
            *map(str, arguments)]


@pytest.fixture
def begin() -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts a training and gives it after three steps; it does not outlive the test."""
    with ExitStack() as started:
        def start(runs: Path, *arguments: object) -> subprocess.Popen:
            process = subprocess.Popen(command(runs, *arguments), stdout=subprocess.PIPE,
                                       stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
            started.callback(process.kill)
            for line in process.stdout:
                if " step: 3/" in line:
                    return process
            raise AssertionError(process.stderr.read())
        yield start


def end(process: subprocess.Popen, number: int = signal.SIGTERM) -> tuple[int, str, str]:
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def state_of(folder: Path) -> dict:
    return torch.load(folder / "latest_state.pth", weights_only=True)


# ---- two runs ------------------------------------------------------------------------------------

@pytest.mark.parametrize("more", [(), pytest.param(("--continue_train",), marks=pytest.mark.deep)])
def test_a_second_run_of_one_name_is_refused_and_the_first_goes_on(
        begin: Callable, tmp_path: Path, more: tuple) -> None:
    first = begin(tmp_path, *ENDLESS, *more)
    second = subprocess.run(command(tmp_path, *ENDLESS, *more), capture_output=True, text=True,
                            timeout=120, env=ENVIRONMENT)
    assert second.returncode == 2
    assert re.search(rf"--name tiny: the run .*tiny is being written by process {first.pid} on "
                     r"\S+ since", second.stderr)
    assert second.stderr.count("\n") == 1
    status, out, _ = end(first)
    assert status == newtrain.STOPPED, out
    assert state_of(tmp_path / "tiny")["step"] >= 3
    assert sorted(os.listdir(tmp_path)) == ["tiny"]


@pytest.mark.deep
def test_of_two_runs_that_start_together_one_is_refused(tmp_path: Path) -> None:
    for race in range(3):
        both = [subprocess.Popen(command(tmp_path / str(race), "--train_steps", "3", *OFTEN),
                                 stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                 env=ENVIRONMENT) for _ in range(2)]
        said = [process.communicate()[1] for process in both]
        assert sorted(process.returncode for process in both) == [0, 2], said
        assert state_of(tmp_path / str(race) / "tiny")["step"] == 3


@pytest.mark.deep
def test_both_processes_of_a_second_run_end(begin: Callable, tmp_path: Path) -> None:
    first = begin(tmp_path, *ENDLESS)
    second = subprocess.run(
        [*torchrun_command(ROOT / "newtrain.py"), *command(tmp_path, *ENDLESS)[2:]],
        capture_output=True, text=True, timeout=120, env=ENVIRONMENT)
    assert second.returncode != 0
    said = [line for line in second.stderr.splitlines() if line.startswith("newtrain.py: error")]
    assert len(said) == 1 and "is being written by" in said[0]
    assert end(first)[0] == newtrain.STOPPED


# ---- a full disk ---------------------------------------------------------------------------------

def can_mount() -> bool:
    return bool(shutil.which("unshare")) and not subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True).returncode


def on_small_disk(folder: Path, size: int, arguments: list[str], kept: Path
                  ) -> subprocess.CompletedProcess:
    """Run a command while `folder` is a disk of so many bytes, then copy that to `kept`."""
    script = ('mount -t tmpfs -o size="$1" tmpfs "$2"; "${@:4}"; status=$?; cp -r "$2" "$3"; '
              'exit $status')
    return subprocess.run(["unshare", "-rm", "bash", "-c", script, "-", str(size), str(folder),
                           str(kept), *arguments], capture_output=True, text=True, timeout=240,
                          env=ENVIRONMENT)


@pytest.mark.skipif(not can_mount(), reason="needs unshare and mount of a tmpfs")
def test_a_full_disk_is_one_line_that_says_what_is_intact(train: Callable, tmp_path: Path) -> None:
    assert train("--train_steps", "1", *OFTEN).returncode == 0
    before = tmp_path / "runs" / "tiny"
    state, weights = (sum(path.stat().st_size for path in before.glob(pattern))
                      for pattern in ("latest_state.pth", "*_net_*.pth"))
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    done = on_small_disk(disk, 2 * state + state // 2 + 2 * weights,
                         command(disk, "--train_steps", "9", *OFTEN), kept)
    assert done.returncode == 2, done.stderr
    assert "No space left on device" in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1
    intact = int(re.search(r"step (\d+) is saved and intact", done.stderr)[1])
    assert state_of(kept / "tiny")["step"] == intact >= 1


# ---- signals -------------------------------------------------------------------------------------

@pytest.fixture
def stop() -> newtrain.StopSignal:
    """A handler whose signals are put back afterwards."""
    before = {number: signal.getsignal(number) for number in newtrain.STOP_SIGNALS}
    yield newtrain.StopSignal()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_copies_of_a_signal_are_no_second_one(stop: newtrain.StopSignal) -> None:
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
        os.kill(os.getpid(), number)
    assert stop.name == "SIGTERM"


def test_a_second_signal_ends_at_once(stop: newtrain.StopSignal) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    stop.noted -= newtrain.REPEAT_SECONDS
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)


def test_while_files_are_written_no_signal_ends_the_process(stop: newtrain.StopSignal) -> None:
    with stop.wait_for_files():
        os.kill(os.getpid(), signal.SIGTERM)
        stop.noted -= newtrain.REPEAT_SECONDS
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.name == "SIGTERM"


# ---- the folder ----------------------------------------------------------------------------------

def test_a_folder_deleted_while_training_is_made_again(begin: Callable, tmp_path: Path
                                                       ) -> None:
    real = tmp_path / "disk" / "real"
    real.mkdir(parents=True)
    (tmp_path / "tiny").symlink_to(real)
    process = begin(tmp_path, *ENDLESS)
    shutil.rmtree(real.parent)
    status, out, err = end(process)
    assert status == newtrain.STOPPED, out + err
    assert (tmp_path / "tiny").is_symlink()
    assert {"latest_state.pth", "latest_net_G.pth", "train_opt.yaml",
            "result.json"} <= set(os.listdir(real))


# ---- other options -------------------------------------------------------------------------------

@pytest.mark.deep
@pytest.mark.parametrize("more", [(), ("--seed", "5")])
def test_changed_options_are_listed_and_another_task_has_a_best_of_its_own(
        more: tuple, train: Callable, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "tiny"
    assert train("--train_steps", "1", "--print_freq", "1").returncode == 0
    best = (folder / "best_net_G.pth").read_bytes()
    done = train("--train_steps", "2", "--print_freq", "1", "--lambda_pix", "2", *more,
                 "--continue_train")
    changes = [line for line in done.stdout.splitlines() if line.startswith("changed since")]
    assert changes == ["changed since step 1: --lambda_pix is 2.0, it was 1.0",
                       *(["changed since step 1: --seed is 5, it was 123"] if more else []),
                       "changed since step 1: --train_steps is 2, it was 1"]
    kept = folder / "best_before_step_1_net_G.pth"
    assert kept.exists() == bool(more)
    if more:
        assert kept.read_bytes() == best and "best so far" in done.stdout

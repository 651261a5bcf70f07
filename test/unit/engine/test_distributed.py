"""Several processes over gloo: one training, files written once, resumable, and how it ends."""
from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, children_of, tiny_arguments, torchrun_command
from PIL import Image

import data
import models
from data.base_dataset import collate
from engine import distributed
from metrics.evaluation import Column, evaluate_loader, means
from metrics.psnr_ssim import PROTOCOLS

SECONDS_TO_END = 60
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def start(tmp_path: Path, *arguments: object, name: str = "ddp", model: str = "sparnet",
          processes: int = 2, script: str = "newtrain.py") -> subprocess.Popen:
    """A training on several processes; its run is tmp_path/NAME."""
    command = (torchrun_command(ROOT / script, processes) if processes > 1
               else [sys.executable, str(ROOT / script)])
    return subprocess.Popen(
        [*command, *tiny_arguments(model), "--checkpoints_dir", str(tmp_path), "--name", name,
         "--no-tensorboard", "--eval_freq", "0", "--print_freq", "1", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path,
        env=ENVIRONMENT, start_new_session=True)


def train(tmp_path: Path, *arguments: object, status: int = 0, **settings: object) -> str:
    """Everything a finished training printed."""
    process = start(tmp_path, *arguments, **settings)
    text, _ = process.communicate(timeout=240)
    assert process.returncode == status, text
    return text


def weights(tmp_path: Path, name: str = "ddp", file: str = "latest") -> dict[str, torch.Tensor]:
    return torch.load(tmp_path / name / f"{file}_net_G.pth", weights_only=True)


def records(tmp_path: Path, name: str = "ddp") -> list[dict]:
    return [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").open()]


def losses(tmp_path: Path, name: str) -> list[float]:
    return [record["loss"] for record in records(tmp_path, name) if "loss" in record]


# ---- leaving -------------------------------------------------------------------------------------

def test_after_gloo_a_process_ends_without_tearing_the_interpreter_down(
        monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []
    monkeypatch.setattr(os, "_exit", ends.append)
    monkeypatch.setattr(distributed, "_joined", "gloo")
    distributed.leave(75)
    assert ends == [75]


def failing(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("refused")])
def test_what_the_main_process_fails_at_ends_every_process(error: Exception,
                                                           monkeypatch: pytest.MonkeyPatch
                                                           ) -> None:
    assert distributed.on_main(lambda: 7) == 7
    with pytest.raises(type(error), match=r"No space|refused"):
        distributed.on_main(lambda: failing(error))
    monkeypatch.setattr(distributed, "is_main", lambda: False)      # as on another rank
    for main, outcome in (((7, False), 7), ((None, True), distributed.FailedElsewhere)):
        monkeypatch.setattr(distributed, "gather_from_ranks", lambda own, main=main: [main, own])
        if outcome == 7:
            assert distributed.on_main(lambda: failing(error)) == 7
        else:
            with pytest.raises(distributed.FailedElsewhere):
                distributed.on_main(lambda: failing(error))


def test_any_other_process_ends_as_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "_joined", "hccl")
    with pytest.raises(SystemExit, match="75"):
        distributed.leave(75)


# ---- one training on two processes ---------------------------------------------------------------

@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Four steps on two processes, validated at the second and the last."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(folder, "--train_steps", 4, "--eval_freq", 2, "--num_val_images", 3)


@pytest.mark.deep
def test_only_the_main_process_speaks_and_writes(whole_run: tuple[Path, str]) -> None:
    folder, text = whole_run
    assert text.count("validation at step 4") == text.count("finished step 4") == 1
    result = json.loads((folder / "ddp" / "result.json").read_text())
    assert (result["world_size"], result["step"], result["batch_size"]) == (2, 4, 2)
    assert [record["step"] for record in records(folder)] == [1, 2, 2, 3, 4, 4]


@pytest.mark.deep
def test_resuming_gives_the_weights_of_not_stopping(whole_run: tuple[Path, str],
                                                    tmp_path: Path) -> None:
    expected = weights(whole_run[0])
    train(tmp_path, "--train_steps", 2, "--eval_freq", 2, "--num_val_images", 3)
    text = train(tmp_path, "--train_steps", 4, "--eval_freq", 2, "--num_val_images", 3,
                 "--continue_train")
    assert "continuing after step 2" in text
    found = weights(tmp_path)
    assert [key for key in expected if not torch.equal(expected[key], found[key])] == []


@pytest.mark.deep
def test_validation_of_two_processes_is_that_of_one(whole_run: tuple[Path, str],
                                                    tiny_options: Callable) -> None:
    """Three images: the processes' parts are unequal."""
    folder, _ = whole_run
    said = [record["validation"] for record in records(folder) if "validation" in record][-1]
    opt = tiny_options("sparnet", "--num_val_images", "3")
    model = models.create(opt, torch.device("cpu"))
    model.load_weights("G", folder / "ddp" / "latest_net_G.pth")
    model.eval()
    dataset = data.create_dataset(opt.dataset_name, "val", opt.degradation, vars(opt))
    batches = [model.prepare(collate([dataset[index]])) for index in range(3)]
    protocol = PROTOCOLS["published"]
    mean = means([row for row, _ in evaluate_loader(model.restore, batches, [protocol])])
    assert said["psnr"] == pytest.approx(mean[Column("restored", "psnr", protocol.name)], abs=1e-4)


@pytest.mark.deep
def test_evaluation_on_two_processes_writes_the_files_of_one(whole_run: tuple[Path, str],
                                                             tmp_path: Path) -> None:
    files = {}
    for processes in (1, 2):
        command = torchrun_command(ROOT / "evaluate.py", processes)
        out = tmp_path / str(processes)
        done = subprocess.run(
            [*(command if processes > 1 else [sys.executable, command[-1]]), "--name", "ddp",
             "--checkpoints_dir", str(whole_run[0]), "--results_dir", str(out), "--device", "cpu",
             "--epoch", "latest", "--max_dataset_size", "5", "--batch_size", "1", "--num_threads",
             "0", "--dataset_name", "synthetic", "--strip", "4", "--save_images", "--metrics",
             "ms_ssim", "psnr_pooled"],
            capture_output=True, text=True, timeout=240, env=ENVIRONMENT)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("5 images") == 1
        found = out / "ddp_synthetic"
        files[processes] = {path.relative_to(found): path.read_bytes()
                            for path in sorted(found.rglob("*")) if path.is_file()}
        assert json.loads(files[processes].pop(Path("report.json")))["processes"] == processes
    assert len(files[1]) == 4 + 5 and files[1] == files[2]


def test_two_folders_are_refused_on_several_processes(monkeypatch: pytest.MonkeyPatch,
                                                      run_script: Callable) -> None:
    done = run_script("evaluate.py", "--restored", "a", "--gt", "b", env={"WORLD_SIZE": "2"})
    assert done.returncode == 2 and "without torchrun" in done.stderr


# ---- two processes with half the batch -----------------------------------------------------------

@pytest.fixture(scope="module")
def compare(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[float, float]]:
    """Ten steps with batch 4, and with batch 2 on two processes: the largest relative difference of
    a loss, and the relative distance of the weights."""
    folder = tmp_path_factory.mktemp("compare")
    settings = {"script": "test/unit/engine/train_in_float64.py"}
    common = ("--train_steps", 10, "--num_val_images", 0)
    train(folder, *common, "--batch_size", 4, name="one", processes=1, **settings)

    def difference(*arguments: str) -> tuple[float, float]:
        train(folder, *common, "--batch_size", 2, *arguments, name="two", **settings)
        of_losses = max(abs(b - a) / a for a, b in zip(losses(folder, "one"), losses(folder, "two"),
                                                       strict=True))
        one, two = (torch.cat([tensor.double().flatten() for tensor in state.values()])
                    for state in (weights(folder, "one"), weights(folder, "two")))
        return of_losses, float((two - one).norm() / one.norm())
    return difference


@pytest.mark.deep
def test_two_processes_equal_one_with_twice_the_batch(compare: Callable) -> None:
    """Losses are logged in single precision, 6e-8; the requirement is 1e-5."""
    of_losses, of_weights = compare("--sync_bn")
    assert of_losses < 1e-6 and of_weights < 1e-7


@pytest.mark.deep
def test_gradients_averaged_after_the_backward_pass_do_the_same(compare: Callable) -> None:
    of_losses, of_weights = compare("--sync_bn", "--average")
    assert of_losses < 1e-6 and of_weights < 1e-7


@pytest.mark.deep
def test_without_synchronised_norms_each_process_normalises_its_own_batch(
        compare: Callable) -> None:
    of_losses, of_weights = compare("--no-sync_bn")
    assert of_losses > 1e-3 and of_weights > 1e-3


# ---- how it ends ---------------------------------------------------------------------------------

@pytest.fixture
def running(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Start a training and wait for a step; killed after the test if it still runs."""
    started = []

    def begin(step: int, *arguments: object) -> subprocess.Popen:
        process = start(tmp_path, *arguments)
        started.append(process)
        file = tmp_path / "ddp" / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while not (file.exists() and any(record["step"] >= step for record in records(tmp_path))):
            assert process.poll() is None and time.monotonic() < deadline, process.stdout.read()
            time.sleep(0.05)
        return process
    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def ranks_of(process: subprocess.Popen) -> list[int]:
    """Process numbers of the ranks that a torchrun started, in rank order."""
    return children_of(process.pid)


def end(process: subprocess.Popen) -> str:
    """What a job printed until it ended, which it must within a bound."""
    text, _ = process.communicate(timeout=SECONDS_TO_END)
    return text


def kill_and_resume(rank: int, steps: int, running: Callable, tmp_path: Path) -> None:
    """Kill a rank at a random step, go on, and compare with a training that was left alone."""
    arguments = ("--train_steps", steps, "--save_latest_freq", 3)
    process = running(random.randint(4, steps - 4), *arguments)
    os.kill(ranks_of(process)[rank], signal.SIGKILL)
    text = end(process)
    assert process.returncode != 0
    assert f"rank      : {rank}" in text and "SIGKILL" in text
    reached = max(record["step"] for record in records(tmp_path))
    again = train(tmp_path, *arguments, "--continue_train")
    resumed = int(re.search(r"continuing after step (\d+)", again)[1])
    assert reached - 3 <= resumed <= reached + 1 and resumed % 3 == 0
    train(tmp_path, *arguments, name="undisturbed")
    expected, found = weights(tmp_path, "undisturbed"), weights(tmp_path)
    assert [key for key in expected if not torch.equal(expected[key], found[key])] == []


@pytest.mark.deep
@pytest.mark.parametrize("rank", [0, 1])
def test_any_rank_may_die_at_any_step(rank: int, running: Callable, tmp_path: Path) -> None:
    kill_and_resume(rank, 40, running, tmp_path)


@pytest.mark.deep
def test_a_signal_to_the_launcher_saves_and_stops_every_rank(running: Callable,
                                                             tmp_path: Path) -> None:
    process = running(3, "--train_steps", 10000)
    process.send_signal(signal.SIGTERM)
    text = end(process)
    assert process.returncode != 0 and "everything is saved" in text
    step = int(re.search(r"stopped by SIGTERM after step (\d+)", text)[1])
    assert torch.load(tmp_path / "ddp" / "latest_state.pth", weights_only=True)["step"] == step


@pytest.mark.deep
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_loader_worker_of_any_rank_saves_and_stops_every_rank(
        rank: int, running: Callable, tmp_path: Path) -> None:
    process = running(3, "--train_steps", 10000, "--num_threads", 2)
    os.kill(children_of(ranks_of(process)[rank])[-1], signal.SIGKILL)
    text = end(process)
    assert process.returncode != 0 and "exitcode  : 5" in text
    assert text.count("newtrain.py: error:") == 1 and 'newtrain.py", line' not in text
    step = int(re.search(r"SIGKILL \(out of memory\?\); step (\d+) is saved", text)[1])
    arguments = ("--train_steps", step + 2)
    assert f"continuing after step {step}" in train(tmp_path, *arguments, "--continue_train")
    train(tmp_path, *arguments, name="undisturbed")
    expected, found = weights(tmp_path, "undisturbed"), weights(tmp_path)
    assert [key for key in expected if not torch.equal(expected[key], found[key])] == []


DEFECT = """
import atexit
from argparse import Namespace
import torch
from engine import distributed, entry

def work(opt):
    distributed.start(torch.device("cpu"), 60)
    network = distributed.wrap(torch.nn.Linear(4, 4), torch.device("cpu"))
    network(torch.ones(2, 4)).sum().backward()
    raise {what}

atexit.register(print, "torn down", flush=True)
distributed.leave(entry.run(distributed.recorded(work), Namespace(), "work"))
"""


@pytest.mark.parametrize("what, status, words", [
    ('KeyError("a defect")', 1, "KeyError: 'a defect'"), ("SystemExit(2)", 2, "")])
def test_a_defect_ends_a_group_without_tearing_the_interpreter_down(
        what: str, status: int, words: str, tmp_path: Path) -> None:
    script = tmp_path / "defect.py"
    script.write_text(DEFECT.format(what=what))
    done = subprocess.run(torchrun_command(script, 2), capture_output=True, text=True,
                          timeout=SECONDS_TO_END, env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 1 and f"exitcode  : {status}" in done.stderr
    assert words in done.stderr and "torn down" not in done.stdout


@pytest.mark.deep
def test_an_error_on_one_rank_ends_the_job_with_its_message(tmp_path: Path) -> None:
    """The second process alone cannot read its images: half of them are no images."""
    folder = tmp_path / "faces"
    folder.mkdir()
    for index in range(4):
        Image.fromarray(np.full((64, 64, 3), 40 * index, np.uint8)).save(folder / f"{index}.png")
    for index in (2, 3):    # in order, so that the second process gets these
        (folder / f"{index}.png").write_bytes(b"no image")
    text = train(tmp_path, "--dataset_name", "celeba", "--dataroot", folder, "--serial_batches",
                 "--num_val_images", 0, "--train_steps", 3, status=1)
    assert "2.png" in text and "Root Cause" in text


@pytest.mark.deep
def test_landmark_trainings_end(tmp_path: Path) -> None:
    """One of 18 hung in the destructor of DDP's reducer. Here four run at a time."""
    started = [start(tmp_path, "--train_steps", 2, "--eval_freq", 2, model="fan", name=f"fan{at}")
               for at in range(4)]
    try:
        assert ["finished step 2" in end(process) for process in started] == [True] * 4
        assert [process.returncode for process in started] == [0] * 4
    finally:
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


# ---- small things --------------------------------------------------------------------------------

@pytest.mark.parametrize("count, world", [(5, 2), (3, 8), (0, 2), (16, 4)])
def test_shares_are_all_items_in_order(count: int, world: int,
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: world)
    fractions = []
    for rank in range(world):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        fractions.append(list(distributed.share(count)))
    assert [item for part in fractions for item in part] == list(range(count))
    assert max(map(len, fractions)) - min(map(len, fractions)) <= 1


ENDINGS = """
import sys, torch
from engine import distributed
cpu = torch.device("cpu")
distributed.start(cpu, 60)
for _ in range(20):
    network = distributed.wrap(torch.nn.Linear(4, 4), cpu)
    network(torch.ones(2, 4)).sum().backward()
    distributed.gather_from_ranks({"rank": distributed.rank()})
    distributed.barrier()
    del network
distributed.stop()
distributed.leave(0)
"""


@pytest.mark.parametrize("rounds", [1, pytest.param(2, marks=pytest.mark.deep)])
def test_ending_never_waits_for_a_wrapper_that_nobody_holds(tmp_path: Path, rounds: int) -> None:
    """The destructor of DDP's reducer could wait for ever; 20 wrappers are let go per round."""
    script = tmp_path / "endings.py"
    script.write_text(ENDINGS)
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    for _ in range(rounds):
        done = subprocess.run(torchrun_command(script, 2), capture_output=True, text=True,
                              timeout=SECONDS_TO_END, env=environment)
        assert done.returncode == 0, done.stderr

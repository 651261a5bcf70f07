"""newtrain.py as its user sees it: resume, kill, signals, diverging, bad data, files written."""
from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, children_of, models_and_levels, tiny_arguments

import models
from utils.images.io import write_image

STEPS = ["--train_steps", "8", "--print_freq", "2", "--eval_freq", "4", "--save_latest_freq", "3"]


def weights(folder: Path, suffix: str = "latest") -> dict[str, torch.Tensor]:
    return torch.load(folder / f"{suffix}_net_G.pth", weights_only=True)


def assert_same_weights(first: Path, second: Path) -> None:
    one, two = weights(first), weights(second)
    assert one.keys() == two.keys()
    assert [key for key in one if not torch.equal(one[key], two[key])] == []


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An uninterrupted run of 8 steps: its folder and what it printed."""
    root = tmp_path_factory.mktemp("finished")
    done = subprocess.run(
        [sys.executable, str(ROOT / "newtrain.py"), *tiny_arguments("sparnet"), *STEPS,
         "--checkpoints_dir", str(root), "--name", "tiny"], capture_output=True, text=True,
        timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return root / "tiny", done.stdout


def test_a_run_writes_weights_state_metrics_options_and_result(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    present = {path.name for path in folder.iterdir()}
    assert {"latest_net_G.pth", "best_net_G.pth", "latest_state.pth", "previous_state.pth",
            "metrics.jsonl", "train_opt.yaml", "result.json", "tensorboard"} <= present
    assert not [name for name in present if name.startswith(".")]


def test_progress_lines_carry_the_fields_tools_look_for(finished: tuple[Path, str]) -> None:
    lines = [line for line in finished[1].splitlines() if " step: " in line]
    assert len(lines) == 4
    fields = ("epoch:", "step:", "loss:", "Pix:", "learning_rate/G:", "time:", "FPS:", "data:",
              "memory:", "ETA:")
    assert [field for field in fields if field not in lines[-1]] == []


def test_without_data_one_line_says_how_to_give_some(finished: tuple[Path, str]) -> None:
    assert "embedded synthetic faces; give your own with --dataroot" in finished[1]


def test_the_result_file_holds_measured_figures(finished: tuple[Path, str]) -> None:
    result = json.loads((finished[0] / "result.json").read_text())
    assert result["fps"] == pytest.approx(result["batch_size"] / result["sec_per_step"])
    assert (result["step"], result["steps_timed"], result["device"], result["opt_level"]) == (
        8, 4, "cpu", "O0")
    assert 0 < result["psnr"] < 60 and 0 < result["loss"] < 2


def test_the_log_file_holds_losses_and_validations(finished: tuple[Path, str]) -> None:
    found = records(finished[0])
    assert [r["step"] for r in found if "losses" in r] == [2, 4, 6, 8]
    assert [r["step"] for r in found if "validation" in r] == [4, 8]


def test_tensorboard_gets_scalars_and_pictures(finished: tuple[Path, str]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(finished[0] / "tensorboard"))
    events.Reload()
    assert {"loss/Pix", "learning_rate/G", "validation/psnr"} <= set(events.Tags()["scalars"])


@pytest.mark.deep
def test_saved_options_repeat_the_run(finished: tuple[Path, str], run_script: Callable,
                                      tmp_path: Path) -> None:
    done = run_script("newtrain.py", "--config", finished[0] / "train_opt.yaml",
                      "--checkpoints_dir", tmp_path, "--name", "again", "--no-tensorboard")
    assert done.returncode == 0, done.stderr
    assert_same_weights(finished[0], tmp_path / "again")


@pytest.mark.deep
@pytest.mark.parametrize("workers", [0, 2])
def test_stopping_in_the_middle_of_an_epoch_changes_nothing(
        finished: tuple[Path, str], train: Callable, tmp_path: Path, workers: int) -> None:
    assert train(*STEPS[2:], "--train_steps", "5", "--num_threads", workers).returncode == 0
    done = train(*STEPS, "--continue_train")
    assert "continuing after step 5" in done.stdout, done.stderr
    assert_same_weights(finished[0], tmp_path / "runs" / "tiny")


@pytest.mark.deep
def test_a_resumed_log_has_each_step_once(finished: tuple[Path, str], train: Callable,
                                          tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "tiny"
    train(*STEPS)
    os.replace(folder / "previous_state.pth", folder / "latest_state.pth")
    train(*STEPS, "--continue_train")
    steps = [r["step"] for r in records(folder) if "losses" in r]
    assert steps == sorted(set(steps))


@pytest.mark.deep       # fp16 convolutions are slow on a CPU
def test_resuming_o2_equals_not_stopping(train: Callable, tmp_path: Path) -> None:
    precision = ["--opt_level", "O2", "--loss_scale", "dynamic"]
    other = train(*STEPS, *precision, "--name", "whole")
    assert other.returncode == 0, other.stderr
    assert train(*STEPS[2:], *precision, "--train_steps", "3").returncode == 0
    assert train(*STEPS, *precision, "--continue_train").returncode == 0
    assert_same_weights(tmp_path / "runs" / "whole", tmp_path / "runs" / "tiny")


SLOWER = ("--load_size", "64")      # leaves time to be killed in


def kill_and_resume(root: Path, instants: list[float], steps: int) -> Path:
    """Start a run, kill it -9 after each of the instants (seconds), finish it; the run's folder."""
    command = [sys.executable, str(ROOT / "newtrain.py"), *tiny_arguments("sparnet"), *SLOWER,
               "--train_steps", str(steps), "--print_freq", "1", "--save_latest_freq", "1",
               "--eval_freq", "5", "--checkpoints_dir", str(root), "--name", "killed",
               "--no-tensorboard", "--continue_train"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for instant in instants:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   env=environment)
        time.sleep(instant)
        process.kill()
        process.wait()
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    return root / "killed"


def uninterrupted(root: Path, steps: int) -> Path:
    done = subprocess.run(
        [sys.executable, str(ROOT / "newtrain.py"), *tiny_arguments("sparnet"), *SLOWER,
         "--train_steps", str(steps), "--eval_freq", "5", "--checkpoints_dir", str(root),
         "--name", "whole", "--no-tensorboard"], capture_output=True, text=True, timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return root / "whole"


@pytest.mark.deep
def test_a_run_killed_at_twenty_instants_ends_with_the_same_weights(tmp_path: Path) -> None:
    instants = [random.Random(2).uniform(3, 12) for _ in range(20)]
    folder = kill_and_resume(tmp_path, instants, 60)
    assert_same_weights(uninterrupted(tmp_path, 60), folder)


@pytest.mark.parametrize("number, whole_group", [
    (signal.SIGTERM, False), (signal.SIGUSR1, False),
    pytest.param(signal.SIGHUP, True, marks=pytest.mark.deep),
    pytest.param(signal.SIGUSR1, True, marks=pytest.mark.deep),
    pytest.param(signal.SIGTERM, True, marks=pytest.mark.deep),
    pytest.param(signal.SIGINT, True, marks=pytest.mark.deep)])
def test_a_signal_saves_and_exits_with_a_status_of_its_own(number: int, whole_group: bool,
                                                           tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "tiny"
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "newtrain.py"), *tiny_arguments("sparnet"), "--train_steps",
         "100000", "--print_freq", "1", "--save_latest_freq", "100000", "--num_threads", "1",
         "--eval_freq", "0", "--checkpoints_dir", str(folder.parent), "--name", "tiny",
         "--no-tensorboard"],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True)
    for line in process.stdout:
        if " step: 3/" in line:
            (os.killpg if whole_group else os.kill)(process.pid, number)
            break
    rest = process.stdout.read()
    assert process.wait(timeout=120) == 75
    assert "--continue_train" in rest
    state = torch.load(folder / "latest_state.pth", weights_only=True)
    assert state["step"] >= 3


@pytest.mark.deep       # test_watched_loader.py does it without a training
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGBUS])
def test_a_killed_loader_worker_saves_and_goes_on_as_if_nothing_was(
        stop: int, train: Callable, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "newtrain.py"), *tiny_arguments("sparnet"), "--train_steps",
         "100000", "--print_freq", "1", "--save_latest_freq", "1", "--num_threads", "2",
         "--eval_freq", "0", "--checkpoints_dir", str(tmp_path / "runs"), "--name", "tiny",
         "--no-tensorboard"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"})
    for line in process.stdout:
        if " step: 3/" in line:
            os.kill(children_of(process.pid)[-1], stop)
            break
    _, said = process.communicate(timeout=120)
    assert process.returncode == 5, said
    assert said.count("newtrain.py: error:") == 1 and "Traceback" not in said
    assert f"a loader worker was killed by {signal.Signals(stop).name}" in said
    assert "is saved; go on with --continue_train and fewer --num_threads" in said
    step = torch.load(tmp_path / "runs/tiny/latest_state.pth", weights_only=True)["step"]
    for arguments in (["--continue_train"], ["--name", "whole"]):
        done = train("--train_steps", step + 2, "--eval_freq", "0", *arguments)
        assert done.returncode == 0, done.stderr
    assert_same_weights(tmp_path / "runs" / "whole", tmp_path / "runs" / "tiny")


@pytest.mark.deep
def test_too_little_shared_memory_is_one_warning_and_the_same_weights(
        faces: Path, tmp_path: Path) -> None:
    """In a mount namespace of its own, where /dev/shm is as small as a container's may be."""
    small = ["unshare", "-rm", "bash", "-c",
             'mount -t tmpfs -o size=256k tmpfs /dev/shm && exec "$@"', "-"]
    if not shutil.which("unshare") or subprocess.run([*small, "true"]).returncode:
        pytest.skip("no namespaces here")
    for name, prefix in (("small", small), ("large", [])):
        done = subprocess.run(
            [*prefix, sys.executable, str(ROOT / "newtrain.py"), *tiny_arguments("sparnet"),
             "--load_size", "128", "--num_threads", "2", "--train_steps", "3", "--dataroot",
             str(faces), "--checkpoints_dir", str(tmp_path), "--name", name, "--no-tensorboard"],
            capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("warning: /dev/shm has 0.2 MB free") == (name == "small")
    assert_same_weights(tmp_path / "small", tmp_path / "large")


@pytest.mark.deep
def test_a_second_run_of_the_same_name_keeps_the_first(train: Callable, tmp_path: Path) -> None:
    for _ in range(2):
        assert train("--train_steps", "1", "--eval_freq", "0").returncode == 0
    assert len(list((tmp_path / "runs").glob("tiny*/latest_net_G.pth"))) == 2


@pytest.mark.deep
def test_continuing_another_model_is_refused(train: Callable, tmp_path: Path) -> None:
    train("--train_steps", "1", "--eval_freq", "0")
    done = train("--train_steps", "2", "--continue_train", "--res_depth", "1")
    assert done.returncode == 2
    assert "--res_depth 0" in done.stderr


@pytest.mark.parametrize("name, measured", [
    ("fan", {"landmark_error", "landmarks_found"}), ("stylegan2", None)])
def test_models_that_do_not_restore_have_no_psnr(name: str, measured: set | None,
                                                 run_script: Callable, tmp_path: Path) -> None:
    done = run_script("newtrain.py", *tiny_arguments(name), "--train_steps", "1", "--name", "x",
                      "--checkpoints_dir", tmp_path, "--no-tensorboard")
    assert done.returncode == 0 and "PSNR" not in done.stdout and "inf" not in done.stdout
    found = [r["validation"] for r in records(tmp_path / "x") if "validation" in r]
    assert [set(values) for values in found] == ([] if measured is None else [measured])


def test_fine_tuning_starts_from_the_given_weights(finished: tuple[Path, str], tiny_run: Callable
                                                   ) -> None:
    path = finished[0] / "latest_net_G.pth"
    model, _ = tiny_run("sparnet", "--pretrain_model_path", str(path))
    found = model.weights()["G"]
    assert all(torch.equal(value, found[key]) for key, value in weights(finished[0]).items())


def test_a_flag_that_contradicts_the_weights_is_refused_with_the_one_they_need(
        finished: tuple[Path, str], tiny_run: Callable, capsys: pytest.CaptureFixture) -> None:
    path = finished[0] / "latest_net_G.pth"
    with pytest.raises(SystemExit):
        tiny_run("sparnet", "--pretrain_model_path", str(path), "--res_depth", "2")
    said = f"--res_depth 2 contradicts {path}, which needs --res_depth 0"
    assert said in " ".join(capsys.readouterr().err.split())


def test_diverging_stops_with_advice_and_keeps_the_good_weights(train: Callable,
                                                                tmp_path: Path) -> None:
    often = ["--print_freq", "1", "--save_latest_freq", "1", "--eval_freq", "0", "--Gnorm", "none"]
    assert train("--train_steps", "2", *often).returncode == 0
    done = train("--train_steps", "40", "--lr", "1e30", "--max_bad_steps", "3", *often,
                 "--continue_train")
    assert done.returncode == 4, done.stdout + done.stderr
    assert "--max_bad_steps 3" in done.stderr and "--lr" in done.stderr
    found = weights(tmp_path / "runs" / "tiny")
    assert all(torch.isfinite(value).all() for value in found.values())


# ---- data as users have it ----------------------------------------------------------------------

@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """20 small images of odd sizes in a folder with a space in its name."""
    folder = tmp_path / "my faces"
    generator = np.random.default_rng(0)
    for index in range(20):
        small = generator.integers(0, 256, (5, 4, 3), dtype=np.uint8)
        write_image(folder / "deeper" / f"{index:02d}.jpg", small.repeat(20, 0).repeat(20, 1))
    return folder


def test_training_on_a_folder_of_pictures(train: Callable, faces: Path) -> None:
    done = train("--dataroot", faces, "--train_steps", "2")
    assert done.returncode == 0, done.stderr
    assert "validation at step 2" in done.stdout


def test_too_many_unreadable_pictures_stop_the_run(train: Callable, faces: Path) -> None:
    for path in sorted((faces / "deeper").iterdir())[:10]:
        path.write_bytes(path.read_bytes()[:200])
    done = train("--dataroot", faces, "--train_steps", "30", "--eval_freq", "0")
    assert done.returncode == 2
    assert "--max_bad_images" in done.stderr and ".jpg" in done.stderr


def test_a_few_unreadable_pictures_are_named_and_skipped(train: Callable, faces: Path) -> None:
    (faces / "deeper" / "03.jpg").write_bytes(b"")
    done = train("--dataroot", faces, "--train_steps", "9", "--max_bad_images", "0.2")
    assert done.returncode == 0, done.stderr
    assert "03.jpg" in done.stdout


@pytest.mark.parametrize("make, words", [
    (lambda folder: None, ["no such folder"]),
    (lambda folder: folder.mkdir(), ["no image"]),
    (lambda folder: write_image(folder / "one.png", np.zeros((9, 9, 3), np.uint8)),
     ["--batch_size"])])
def test_useless_data_is_one_line_and_status_2(make: Callable, words: list[str],
                                               run_here: Callable, tmp_path: Path) -> None:
    make(tmp_path / "data")
    done = run_here("newtrain.py", *tiny_arguments("sparnet"), "--checkpoints_dir",
                    tmp_path / "runs", "--dataroot", tmp_path / "data", "--train_steps", "1")
    assert done.returncode == 2
    assert [word for word in words if word not in done.stderr] == []
    assert "Traceback" not in done.stderr


# ---- every model -------------------------------------------------------------------------------

@pytest.mark.parametrize("name", models.names())
def test_one_step_reaches_every_weight(name: str, tiny_run: Callable) -> None:
    model, batch = tiny_run(name)
    before = {letter: {key: value.clone() for key, value in state.items()}
              for letter, state in model.weights().items()}
    losses = model.run_step(batch)
    assert all(torch.isfinite(loss) for loss in losses.values())
    unmoved = [f"{letter}.{key}" for letter, network in model.unwrapped.items()
               for key, parameter in network.named_parameters()
               if parameter.requires_grad and torch.equal(parameter, before[letter][key])]
    assert unmoved == []


@pytest.mark.parametrize("name, level", models_and_levels())
def test_every_recipe_trains_at_every_precision(name: str, level: str, tiny_run: Callable) -> None:
    model, batch = tiny_run(name, "--opt_level", level)
    first = sum(model.run_step(batch).values())
    for step in range(2, 6):
        model.start_step(step, 100, 100)
        last = sum(model.run_step(batch).values())
    assert torch.isfinite(last) and last < first


@pytest.mark.parametrize("name, level", models_and_levels())
def test_going_on_from_a_state_equals_not_stopping(name: str, level: str, tiny_run: Callable,
                                                   tmp_path: Path) -> None:
    model, batch = tiny_run(name, "--opt_level", level)
    model.run_step(batch)
    torch.save(model.state_dict(), tmp_path / "state.pth")
    model.start_step(2, 100, 100)
    model.run_step(batch)
    fresh, _ = tiny_run(name, "--opt_level", level)
    again = type(fresh)(fresh.opt, fresh.device)
    again.setup(torch.load(tmp_path / "state.pth", weights_only=True))
    again.train()
    again.start_step(2, 100, 100)
    again.run_step(batch)
    for letter, state in model.weights().items():
        other = again.weights()[letter]
        assert [key for key in state if not torch.equal(state[key], other[key])] == []

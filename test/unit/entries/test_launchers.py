"""The launch scripts in test/: arguments, report, files, statuses; run on the CPU."""
from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from utils.images.io import write_image

SCRIPTS = sorted((ROOT / "test").glob("*.sh"))
LAUNCHERS = [path for path in SCRIPTS if path.name.startswith("train_")]
TINY = ["--device=cpu", "--train_steps=3", "--batch_size=2", "--workers=0",
        "--more=--load_size 64 --res_depth 0 --bottleneck_size 16 --num_val_images 2 "
        "--no-tensorboard --print_freq 1"]
CARD_VARIABLES = ("ASCEND_DEVICE_ID", "NPU_CALCULATE_DEVICE", "LOCAL_RANK", "RANK", "WORLD_SIZE",
                  "RANK_SIZE", "RANK_ID", "MASTER_ADDR", "MASTER_PORT", "CPU_AFFINITY_CONF",
                  "MODELARTS_MODEL_PATH", "ASCEND_OPP_PATH", "PYTHON")
Run = Callable[..., subprocess.CompletedProcess]


def environment(**changes: object) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in CARD_VARIABLES}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable,
            **{key: str(value) for key, value in changes.items()}}


def launch(script: str, *arguments: object, cwd: Path = ROOT, timeout: float = 240,
           **changes: object) -> subprocess.CompletedProcess:
    """Run test/SCRIPT in a folder; further keywords are environment variables."""
    return subprocess.run(["bash", str(ROOT / "test" / script), *map(str, arguments)],
                          capture_output=True, text=True, timeout=timeout, cwd=cwd,
                          env=environment(**changes))


def make_faces(folder: Path, count: int = 12) -> Path:
    """Smooth random images."""
    generator = np.random.default_rng(0)
    for index in range(count):
        small = generator.integers(0, 256, (6, 5, 3), dtype=np.uint8)
        name = f"{index:02d}.{'jpg' if index % 2 else 'png'}"
        write_image(folder / name, small.repeat(16, 0).repeat(16, 1))
    return folder


def labels(text: str) -> list[str]:
    """What stands before ` : ` in the lines after the one that says Final result."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if re.fullmatch("-+ Final result -+", line))
    return [line.split(" : ")[0] for line in lines[start + 1:]]


def figure(text: str, label: str) -> float:
    return float(re.search(rf"^{re.escape(label)} : (.+)$", text, flags=re.M)[1])


def case(path: Path) -> dict[str, str]:
    """A CaseName.log."""
    return dict(line.split(" = ") for line in path.read_text().splitlines())


def steps(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if " step: " in line]


# ---- real runs on the CPU, from three working directories ---------------------------------------

@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_faces(tmp_path_factory.mktemp("launchers") / "my faces")


@pytest.fixture(scope="module")
def full(faces: Path) -> Iterator[tuple[Path, str]]:
    """Full training from the root, into the default folder of a card number no one else uses."""
    card = os.getpid()
    output = ROOT / "test" / "output" / str(card)
    output.mkdir(parents=True)
    (output / "earlier.txt").write_text("of an earlier job")
    try:
        done = launch("train_full_1p.sh", f"--data_path={faces}", f"--device_id={card}", *TINY)
        assert done.returncode == 0, done.stdout + done.stderr
        yield output, done.stdout
    finally:
        shutil.rmtree(output)


@pytest.fixture(scope="module")
def performance(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Speed run from test/, arguments in the other spelling, as on ModelArts."""
    output = tmp_path_factory.mktemp("performance") / "my output"
    output.mkdir()
    (output / "mine.txt").write_text("the user's")
    words = [word for argument in TINY for word in argument.split("=", 1)]
    done = launch("train_performance_1p.sh", "--data_path", faces, "--output_path", output, *words,
                  cwd=ROOT / "test", MODELARTS_MODEL_PATH="/anywhere")
    assert done.returncode == 0, done.stdout + done.stderr
    return output, done.stdout


@pytest.fixture(scope="module")
def elsewhere(full: tuple[Path, str], faces: Path, tmp_path_factory: pytest.TempPathFactory
              ) -> tuple[Path, str, str]:
    """Fine-tuning, then evaluation, in another folder and with relative paths; both outputs."""
    cwd = tmp_path_factory.mktemp("elsewhere")
    (cwd / "faces here").symlink_to(faces)
    shutil.copytree(full[0] / "full", cwd / "weights")
    common = ["--data_path=faces here", "--output_path=out here", "--device=cpu", "--workers=0",
              "--pth_path=weights/best_net_G.pth"]
    done = [launch("train_finetune_1p.sh", *common, "--batch_size=2", "--train_steps=2", TINY[-1],
                   cwd=cwd), launch("train_eval_1p.sh", *common, cwd=cwd)]
    for each in done:
        assert each.returncode == 0, each.stdout + each.stderr
    return cwd / "out here", done[0].stdout, done[1].stdout


def test_a_full_run_reports_in_the_zoo_s_order(full: tuple[Path, str]) -> None:
    assert labels(full[1]) == ["Final Performance images/sec", "Final Performance sec/step",
                               "Final Train Accuracy", "E2E Training Duration sec"]


def test_a_performance_run_reports_no_accuracy(performance: tuple[Path, str]) -> None:
    assert labels(performance[1]) == ["Final Performance images/sec",
                                      "Final Performance sec/step", "E2E Training Duration sec"]


def test_the_reported_figures_are_those_the_run_measured(full: tuple[Path, str]) -> None:
    result = json.loads((full[0] / "full" / "result.json").read_text())
    found = [figure(full[1], label) for label in labels(full[1])[:3]]
    assert found == pytest.approx([result["fps"], result["sec_per_step"], result["psnr"]], rel=1e-2)


def test_the_report_names_the_device_the_run_used(full: tuple[Path, str]) -> None:
    assert f"device: cpu, {platform.machine()}" in full[1]


def test_the_full_case_file_has_the_keys_in_order(full: tuple[Path, str]) -> None:
    found = case(full[0] / "sparnet_bs2_1p_acc.log")
    assert list(found) == ["Network", "RankSize", "BatchSize", "DeviceType", "CaseName",
                           "ActualFPS", "TrainingTime", "TrainAccuracy", "ActualLoss",
                           "E2ETrainingTime"]
    assert list(found.values())[:5] == ["sparnet", "1", "2", platform.machine(),
                                        "sparnet_bs2_1p_acc"]


def test_the_performance_case_file_has_no_accuracy(performance: tuple[Path, str]) -> None:
    assert list(case(performance[0] / "sparnet_bs2_1p_perf.log")) == [
        "Network", "RankSize", "BatchSize", "DeviceType", "CaseName", "ActualFPS", "TrainingTime",
        "ActualLoss", "E2ETrainingTime"]


def test_training_time_is_milliseconds_per_step(full: tuple[Path, str]) -> None:
    found = case(full[0] / "sparnet_bs2_1p_acc.log")
    assert float(found["TrainingTime"]) == pytest.approx(2 * 1000 / float(found["ActualFPS"]),
                                                         rel=1e-2)


def test_the_loss_file_has_a_line_per_progress_line(full: tuple[Path, str]) -> None:
    losses = (full[0] / "train_sparnet_bs2_1p_acc_loss.txt").read_text().splitlines()
    records = (full[0] / "full" / "metrics.jsonl").read_text().splitlines()
    measured = [record["loss"] for record in map(json.loads, records) if "loss" in record]
    assert [float(loss) for loss in losses] == pytest.approx(measured, rel=1e-5)
    assert len(losses) == 3
    assert case(full[0] / "sparnet_bs2_1p_acc.log")["ActualLoss"] == losses[-1]


def test_the_default_folder_is_emptied_and_holds_log_and_weights(full: tuple[Path, str]) -> None:
    card = full[0].name
    assert not (full[0] / "earlier.txt").exists()
    assert len(steps(full[0] / f"train_{card}.log")) == 3
    assert (full[0] / "full" / "best_net_G.pth").exists()


def test_a_given_folder_is_never_emptied(performance: tuple[Path, str]) -> None:
    assert (performance[0] / "mine.txt").exists()


def test_a_performance_run_does_not_evaluate(performance: tuple[Path, str]) -> None:
    text = (performance[0] / "train_0.log").read_text()
    assert "finished step 3" in text and "validation at step" not in text


def test_on_modelarts_the_log_is_also_printed(performance: tuple[Path, str],
                                              full: tuple[Path, str]) -> None:
    assert all(line in performance[1] for line in steps(performance[0] / "train_0.log"))
    assert " step: " not in full[1]


def test_fine_tuning_starts_from_the_given_weights(elsewhere: tuple[Path, str, str]) -> None:
    log = (elsewhere[0] / "train_0.log").read_text()
    assert "pretrain_model_path: weights/best_net_G.pth" in log
    assert labels(elsewhere[1])[2] == "Final Train Accuracy"


def test_evaluation_reports_what_evaluate_measured(elsewhere: tuple[Path, str, str]) -> None:
    output, _, text = elsewhere
    mean = json.loads((output / "eval_celeba" / "report.json").read_text())["mean"]
    expected = mean["restored"]["published"]
    assert labels(text) == ["Final PSNR", "Final SSIM", "Final Train Accuracy",
                            "E2E Training Duration sec"]
    assert [figure(text, "Final PSNR"), figure(text, "Final SSIM")] == pytest.approx(
        [expected["psnr"], expected["ssim"]], abs=1e-4)
    found = case(output / "sparnet_bs8_1p_eval.log")
    assert found["TrainAccuracy"] == found["PSNR"] == f"{expected['psnr']:.4f}"


def test_evaluation_keeps_the_log_of_the_training(elsewhere: tuple[Path, str, str]) -> None:
    assert len(steps(elsewhere[0] / "train_0.log")) == 2
    assert "gain" in (elsewhere[0] / "eval_0.log").read_text()


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess]:
    """A training that refuses its data after it has resolved its options."""
    root = tmp_path_factory.mktemp("failed")
    (root / "no faces").mkdir()
    return root / "out", launch("train_full_1p.sh", f"--data_path={root / 'no faces'}",
                                f"--output_path={root / 'out'}", *TINY)


def test_a_failed_training_passes_its_status_on(failed: tuple) -> None:
    assert failed[1].returncode == 2


def test_a_failed_training_shows_the_last_30_lines_of_its_log(failed: tuple) -> None:
    tail = (failed[0] / "train_0.log").read_text().splitlines()[-30:]
    assert "no image" in tail[-1]
    assert failed[1].stderr.splitlines()[:len(tail)] == tail


def test_a_failed_training_still_gets_its_case_file(failed: tuple) -> None:
    found = case(failed[0] / "sparnet_bs2_1p_acc.log")
    assert [found[key] for key in ("ActualFPS", "TrainingTime", "TrainAccuracy", "ActualLoss")] == [
        "NA"] * 4
    assert (failed[0] / "train_sparnet_bs2_1p_acc_loss.txt").read_text() == ""


# ---- what the scripts make of their arguments; the Python they start only takes notes ------------

STUB = '''
import json, os, sys
if sys.argv[1] == "-m":
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
flags = dict(each.split("=", 1) for each in sys.argv[2:] if "=" in each)
folder = os.path.join(flags["--checkpoints_dir"], flags["--name"])
os.makedirs(folder, exist_ok=True)
json.dump({"arguments": sys.argv[1:], "environment": dict(os.environ)},
          open(os.path.join(flags["--checkpoints_dir"], "notes.json"), "w"))
result = {"model": "sparnet", "batch_size": 32, "fps": 8.0, "sec_per_step": 4.0, "psnr": 30.0,
          "device": "cpu", "device_name": "stub", "precision": "O0"}
result.update(json.loads(os.environ.get("STUB_RESULT", "{}")))
json.dump(result, open(os.path.join(folder, "result.json"), "w"))
open(os.path.join(folder, "metrics.jsonl"), "w").write('{"step": 1, "loss": 0.5}\\n{"ste')
if "STUB_SLEEP" in os.environ:
    import signal, time
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    print("ready", flush=True)
    time.sleep(60)
sys.exit(int(os.environ.get("STUB_STATUS", "0")))
'''


@pytest.fixture
def stub(tmp_path: Path) -> str:
    """An interpreter that writes down how it was started instead of training."""
    (tmp_path / "stub.py").write_text(STUB)
    path = tmp_path / "my python"
    path.write_text(f'#!/usr/bin/env bash\nexec "{sys.executable}" "{tmp_path}/stub.py" "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def noted(stub: str, tmp_path: Path) -> Callable[..., tuple[list[str], dict[str, str]]]:
    """Arguments and environment that a script starts Python with."""
    def start(script: str, *arguments: object, **changes: object) -> tuple:
        output = tmp_path / "out"
        done = launch(script, "--data_path=faces", f"--output_path={output}", *arguments,
                      **{"PYTHON": stub, **changes})
        assert done.returncode == 0, done.stdout + done.stderr
        notes = json.loads((output / "notes.json").read_text())
        return notes["arguments"], notes["environment"]
    return start


def test_only_what_the_user_gave_reaches_the_program(noted: Callable, tmp_path: Path) -> None:
    arguments, _ = noted("train_full_1p.sh")
    assert arguments == [str(ROOT / "newtrain.py"), "--data_path=faces", "--device=auto",
                         f"--checkpoints_dir={tmp_path / 'out'}", "--name=full"]


def test_every_argument_reaches_the_program(noted: Callable) -> None:
    given = ["--model=sparnet", "--dataset_name=folder", "--batch_size=4", "--learning_rate=1e-3",
             "--train_epochs=2", "--train_steps=5", "--workers=1", "--opt_level=O1",
             "--loss_scale=128", "--more=--seed 7  --lr_policy cosine"]
    arguments, _ = noted("train_full_1p.sh", *given)
    assert set(given[:-1]) | {"--seed", "7", "--lr_policy", "cosine"} <= set(arguments)


@pytest.mark.parametrize("value, level", [
    ("must_keep_origin_dtype", "O0"), ("allow_fp32_to_fp16", "O1"), ("allow_mix_precision", "O2")])
def test_precision_modes_become_levels(noted: Callable, value: str, level: str) -> None:
    assert f"--opt_level={level}" in noted("train_full_1p.sh", f"--precision_mode={value}")[0]


@pytest.mark.parametrize("given, length", [
    ([], "--train_steps=100"), (["--train_steps=7"], "--train_steps=7"),
    (["--train_epochs=2"], "--train_epochs=2")])
def test_performance_runs_are_short_and_do_not_evaluate(noted: Callable, given: list[str],
                                                        length: str) -> None:
    arguments, _ = noted("train_performance_1p.sh", *given, "--more=--eval_freq 5")
    assert [each for each in arguments if each.startswith("--train_")] == [length]
    assert arguments[-4:-2] == ["--eval_freq", "0"]


@pytest.mark.parametrize("given, card, device, number", [
    ([], {}, "auto", None),
    (["--device_id=3"], {}, "auto", "3"),
    (["--device_id=3", "--device=npu"], {}, "npu:3", None),
    (["--device_id=3", "--device=cuda"], {}, "cuda:3", None),
    (["--device_id=3", "--device=cpu"], {}, "cpu", None),
    (["--device=npu:2"], {}, "npu:2", None),
    ([], {"ASCEND_DEVICE_ID": "5"}, "auto", None),
    (["--device_id=3"], {"ASCEND_DEVICE_ID": "5"}, "auto", None)])
def test_a_card_number_never_pretends_that_there_is_an_npu(
        noted: Callable, given: list[str], card: dict, device: str, number: str | None) -> None:
    arguments, started = noted("train_full_1p.sh", *given, **card)
    assert f"--device={device}" in arguments
    assert started.get("LOCAL_RANK") == number
    assert started.get("ASCEND_DEVICE_ID") == card.get("ASCEND_DEVICE_ID")


def test_a_one_card_script_runs_alone_within_a_larger_job(noted: Callable) -> None:
    _, started = noted("train_full_1p.sh", RANK="3", WORLD_SIZE="8", LOCAL_RANK="3", RANK_SIZE="8")
    assert started["RANK_SIZE"] == "1"
    assert {"RANK", "WORLD_SIZE", "LOCAL_RANK"} & set(started) == set()


@pytest.mark.parametrize("result", [{"fps": None, "sec_per_step": None}, {"fps": 0}])
def test_a_speed_that_was_not_measured_is_status_3(stub: str, tmp_path: Path, result: dict) -> None:
    done = launch("train_full_1p.sh", "--data_path=x", f"--output_path={tmp_path / 'out'}",
                  PYTHON=stub, STUB_RESULT=json.dumps(result))
    assert done.returncode == 3
    assert case(tmp_path / "out" / "sparnet_bs32_1p_acc.log")["ActualFPS"] == "NA"


def test_training_without_validation_has_no_accuracy_and_says_why(stub: str, tmp_path: Path
                                                                  ) -> None:
    done = launch("train_full_1p.sh", "--data_path=x", f"--output_path={tmp_path / 'out'}",
                  PYTHON=stub, STUB_RESULT='{"psnr": null}')
    assert done.returncode == 0
    assert "Final Train Accuracy : NA" in done.stdout and "--val_dataroot" in done.stdout


@pytest.mark.parametrize("script, given", [
    ("train_full_1p.sh", "--more=--seed 1 --continue_train"),
    ("train_finetune_1p.sh", "--pth_path=weights.pth")])
def test_the_default_folder_is_kept_where_the_job_needs_it(script: str, given: str, stub: str
                                                           ) -> None:
    card = 10_000_000 + os.getpid()
    output = ROOT / "test" / "output" / str(card)
    output.mkdir(parents=True)
    try:
        (output / "earlier.txt").write_text("weights of an earlier job")
        done = launch(script, "--data_path=x", f"--device_id={card}", given, PYTHON=stub)
        assert done.returncode == 0, done.stderr
        assert (output / "earlier.txt").exists()
    finally:
        shutil.rmtree(output)


def test_the_status_of_the_program_is_the_script_s(stub: str, tmp_path: Path) -> None:
    done = launch("train_full_1p.sh", "--data_path=x", f"--output_path={tmp_path / 'out'}",
                  "--batch_size=9", PYTHON=stub, STUB_STATUS=7)
    assert done.returncode == 7
    found = case(tmp_path / "out" / "sparnet_bs9_1p_acc.log")
    assert (found["ActualFPS"], found["ActualLoss"]) == ("NA", "0.5")


def test_no_figure_of_an_earlier_run_is_reported_for_a_failed_one(tmp_path: Path) -> None:
    run = tmp_path / "full"
    run.mkdir()
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    (run / "train_opt.yaml").write_text("batch_size: 77\n")
    os.utime(run / "metrics.jsonl", (1, 1))
    os.utime(run / "train_opt.yaml", (1, 1))
    done = launch("train_full_1p.sh", "--data_path=x", f"--output_path={tmp_path}",
                  "--batch_size=nothing")
    assert done.returncode == 2
    found = case(tmp_path / "sparnet_bsnothing_1p_acc.log")
    assert (found["ActualFPS"], found["ActualLoss"]) == ("NA", "NA")


def test_a_sigterm_lets_the_program_save_and_end(stub: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    process = subprocess.Popen(
        ["bash", str(ROOT / "test" / "train_full_1p.sh"), "--data_path=x",
         f"--output_path={output}"], env=environment(PYTHON=stub, STUB_SLEEP=1),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = output / "train_0.log"
    deadline = time.monotonic() + 60
    while not (log.exists() and "ready" in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=50) == 75
    assert (output / "sparnet_bsNA_1p_acc.log").exists()


# ---- refusals -----------------------------------------------------------------------------------

def refusal(script: str, *arguments: str, **changes: object) -> str:
    done = launch(script, *arguments, timeout=30, **changes)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stderr.strip()


@pytest.mark.parametrize("script", [path.name for path in LAUNCHERS])
def test_data_must_be_named(script: str) -> None:
    assert refusal(script) == "[Error] --data_path is missing: give a folder of face images"


@pytest.mark.parametrize("script", ["train_eval_1p.sh", "train_eval_8p.sh", "train_finetune_1p.sh"])
def test_weights_must_be_named(script: str) -> None:
    assert refusal(script, "--data_path=x") == (
        "[Error] --pth_path is missing: give the weights of network G")


@pytest.mark.parametrize("wrong", ["--batchsize=8", "--data_path model=8", "batch_size=8", "-b",
                                   "--", "--=3", "--kind=x"])
def test_an_unknown_argument_is_an_error_that_lists_the_known(wrong: str) -> None:
    text = refusal("train_full_1p.sh", "--data_path=x", wrong)
    assert wrong.split("=")[0] in text and "--batch_size" in text and "--loss_scale" in text


@pytest.mark.parametrize("arguments, words", [
    (["--batch_size"], "--batch_size=VALUE"), (["--batch_size", "--model=sparnet"], "--batch_size"),
    (["--precision_mode=fp8"], "allow_mix_precision"), (["--device_id=../.."], "number"),
    (["--conda_name=none"], "conda_name")])
def test_a_wrong_value_is_one_line(arguments: list[str], words: str, tmp_path: Path) -> None:
    text = refusal("train_full_1p.sh", "--data_path=x", *arguments, CONDA_EXE="", HOME=tmp_path,
                   PATH="/usr/bin:/bin")
    assert words in text and len(text.splitlines()) == 1


def test_a_missing_interpreter_is_one_line() -> None:
    assert "PYTHON must be a Python interpreter" in refusal(
        "train_full_1p.sh", "--data_path=x", PYTHON="no-such-python")


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("script", [path.name for path in LAUNCHERS])
def test_help_lists_the_arguments(script: str, flag: str) -> None:
    done = launch(script, flag, timeout=30)
    assert done.returncode == 0
    assert "--data_path" in done.stdout and "--more" in done.stdout


# ---- the environment of Ascend cards ------------------------------------------------------------

def sourced(folder: Path, **changes: object) -> dict[str, str]:
    """Environment after env_npu.sh, with CANN looked for in `folder` only as far as we can say."""
    done = subprocess.run(
        ["bash", "-c", 'set -u; source "$0"; env -0', str(ROOT / "test" / "env_npu.sh")],
        capture_output=True, text=True, timeout=30,
        env=environment(ASCEND_INSTALL_PATH=folder, HOME=folder, **changes))
    assert done.returncode == 0, done.stderr
    return dict(entry.split("=", 1) for entry in done.stdout.split("\0") if entry)


def fake_cann(folder: Path, package: str) -> Path:
    path = folder / package / "set_env.sh"
    path.parent.mkdir(parents=True)
    path.write_text('export ASCEND_OPP_PATH=/opp LIBRARIES="$NOT_SET_ANYWHERE:/lib"\n')
    return folder


@pytest.mark.skipif(Path("/usr/local/Ascend").exists() or Path("/etc/Ascend").exists(),
                    reason="this machine has CANN")
def test_without_cann_the_environment_stays_as_it_is(tmp_path: Path) -> None:
    assert [key for key in sourced(tmp_path) if key.startswith(("ASCEND_G", "HCCL", "TASK"))] == []


@pytest.mark.parametrize("package", ["ascend-toolkit", "nnae"])
def test_cann_is_sourced_and_its_switches_set(tmp_path: Path, package: str) -> None:
    found = sourced(fake_cann(tmp_path / "my cann", package))
    expected = {"ASCEND_OPP_PATH": "/opp", "ASCEND_SLOG_PRINT_TO_STDOUT": "0",
                "ASCEND_GLOBAL_LOG_LEVEL": "3", "ASCEND_GLOBAL_EVENT_ENABLE": "0",
                "TASK_QUEUE_ENABLE": "2", "HCCL_WHITELIST_DISABLE": "1",
                "HCCL_CONNECT_TIMEOUT": "1800"}
    assert {key: found.get(key) for key in expected} == expected


def test_what_the_user_has_set_stays(tmp_path: Path) -> None:
    given = {"TASK_QUEUE_ENABLE": "1", "HCCL_CONNECT_TIMEOUT": "60", "HCCL_IF_IP": "10.0.0.1"}
    found = sourced(fake_cann(tmp_path, "nnae"), **given)
    assert {key: found[key] for key in given} == given


def test_a_cann_that_is_set_up_already_is_not_sourced_again(tmp_path: Path) -> None:
    found = sourced(fake_cann(tmp_path, "nnae"), ASCEND_OPP_PATH="/mine")
    assert (found["ASCEND_OPP_PATH"], found["ASCEND_GLOBAL_LOG_LEVEL"]) == ("/mine", "3")


@pytest.mark.parametrize("given, changes, used", [
    ([], {}, True), (["--device=cpu"], {}, False), ([], {"etp_running_flag": "true"}, False)])
def test_scripts_set_cann_up_only_where_it_may_be_used(
        noted: Callable, tmp_path: Path, given: list, changes: dict, used: bool) -> None:
    folder = fake_cann(tmp_path / "cann", "nnae")
    _, started = noted("train_full_1p.sh", *given, ASCEND_INSTALL_PATH=folder, **changes)
    assert ("ASCEND_OPP_PATH" in started) == used


def test_a_conda_environment_is_activated_first(noted: Callable, stub: str, tmp_path: Path) -> None:
    profile = tmp_path / "conda" / "etc" / "profile.d" / "conda.sh"
    profile.parent.mkdir(parents=True)
    profile.write_text('conda() { export ACTIVE="$2$NOT_SET_ANYWHERE" PATH="$BASE/bin:$PATH"; }\n')
    (tmp_path / "conda" / "bin").mkdir()
    (tmp_path / "conda" / "bin" / "python3").symlink_to(stub)
    _, started = noted("train_full_1p.sh", "--conda_name=faces", BASE=tmp_path / "conda",
                       CONDA_EXE=tmp_path / "conda" / "bin" / "conda", PYTHON="not-this-one")
    assert started["ACTIVE"] == "faces"


# ---- the files themselves -----------------------------------------------------------------------

@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_valid_bash(path: Path) -> None:
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.name)
def test_a_launcher_is_short_and_strict(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -uo pipefail" in lines
    assert len(lines) < 20

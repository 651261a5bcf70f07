"""The launch scripts for several cards: two ranks over gloo, statuses, signals, two machines."""
from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from test_launchers import (
    TINY,
    case,
    environment,
    fake_cann,
    figure,
    labels,
    launch,
    make_faces,
    refusal,
    steps,
)

LONG = [TINY[0], "--world_size=2", "--train_steps=5000", *TINY[2:-1],
        f"{TINY[-1]} --save_latest_freq 1 --eval_freq 0"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(script: str, *arguments: object, **changes: object) -> subprocess.Popen:
    """A script in the background; further keywords are environment variables."""
    return subprocess.Popen(
        ["bash", str(ROOT / "test" / script), *map(str, arguments)], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env=environment(MASTER_PORT=free_port(), **changes))


def wait_for(path: Path, text: str, process: subprocess.Popen, seconds: float = 120) -> None:
    """Return when a file holds the text; fail with the file's end if that does not happen."""
    deadline = time.monotonic() + seconds
    while not (path.exists() and text in path.read_text()):
        shown = path.read_text()[-2000:] if path.exists() else "nothing written"
        assert process.poll() is None and time.monotonic() < deadline, shown
        time.sleep(0.05)


def ranks_of(output: Path) -> dict[int, int]:
    """Process numbers, by rank, of the trainings that write into a folder."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            settings = (folder / "environ").read_bytes().split(b"\0")
        except OSError:     # gone meanwhile
            continue
        if words[1:2] == [os.fsencode(ROOT / "newtrain.py")] and os.fsencode(
                f"--checkpoints_dir={output}") in words:
            found |= {int(each[5:]): int(folder.name) for each in settings
                      if each.startswith(b"RANK=")}
    return found


# ---- two ranks train, measure speed, evaluate ---------------------------------------------------

@pytest.fixture(scope="module")
def cwd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two ranks")
    make_faces(folder / "my faces")
    return folder


@pytest.fixture(scope="module")
def full(cwd: Path) -> tuple[Path, str]:
    """Full training with relative paths; also printed, as on ModelArts."""
    done = launch("train_full_8p.sh", "--data_path=my faces", "--output_path=my out", *TINY,
                  "--world_size=2", cwd=cwd, MASTER_PORT=free_port(), MODELARTS_MODEL_PATH="/any")
    assert done.returncode == 0, done.stdout + done.stderr
    return cwd / "my out", done.stdout


def test_two_ranks_report_in_the_zoo_s_order(full: tuple[Path, str]) -> None:
    assert labels(full[1]) == ["Final Performance images/sec", "Final Performance sec/step",
                               "Final Train Accuracy", "E2E Training Duration sec"]


def test_the_case_of_two_ranks_names_both(full: tuple[Path, str]) -> None:
    found = case(full[0] / "sparnet_bs2_2p_acc.log")
    assert (found["RankSize"], found["BatchSize"], found["CaseName"]) == (
        "2", "2", "sparnet_bs2_2p_acc")


def test_the_speed_is_that_of_all_ranks_together(full: tuple[Path, str]) -> None:
    result = json.loads((full[0] / "full" / "result.json").read_text())
    found = case(full[0] / "sparnet_bs2_2p_acc.log")
    assert result["world_size"] == 2
    assert float(found["ActualFPS"]) == pytest.approx(2 * 2 / result["sec_per_step"], rel=1e-2)
    assert float(found["TrainingTime"]) == pytest.approx(1000 * result["sec_per_step"], rel=1e-2)


def test_progress_is_logged_and_printed_once_for_all_ranks(full: tuple[Path, str]) -> None:
    logged = steps(full[0] / "train_0.log")
    assert len(logged) == 3
    assert all(line in full[1].splitlines() for line in logged)
    assert len((full[0] / "train_sparnet_bs2_2p_acc_loss.txt").read_text().splitlines()) == 3


@pytest.mark.deep
def test_a_performance_run_of_two_ranks_does_not_evaluate(cwd: Path) -> None:
    done = launch("train_performance_8p.sh", "--data_path", "my faces", "--output_path=speed",
                  *TINY, "--world_size", "2", cwd=cwd, MASTER_PORT=free_port())
    assert done.returncode == 0, done.stdout + done.stderr
    assert labels(done.stdout) == ["Final Performance images/sec", "Final Performance sec/step",
                                   "E2E Training Duration sec"]
    assert float(case(cwd / "speed" / "sparnet_bs2_2p_perf.log")["ActualFPS"]) > 0
    assert "validation at step" not in (cwd / "speed" / "train_0.log").read_text()


@pytest.mark.deep
def test_two_ranks_measure_what_one_measures(cwd: Path, full: tuple[Path, str]) -> None:
    found = {}
    for script, more in (("train_eval_8p.sh", ["--world_size=2"]), ("train_eval_1p.sh", [])):
        done = launch(script, "--data_path=my faces", f"--output_path={script}", "--device=cpu",
                      f"--pth_path={full[0] / 'full' / 'best_net_G.pth'}", "--batch_size=2",
                      "--workers=0", *more, cwd=cwd, MASTER_PORT=free_port())
        assert done.returncode == 0, done.stdout + done.stderr
        report = json.loads((cwd / script / "eval_celeba" / "report.json").read_text())
        found[script] = (figure(done.stdout, "Final PSNR"), figure(done.stdout, "Final SSIM"),
                         [each["path"] for each in report["per_image"]])
    assert found["train_eval_8p.sh"] == found["train_eval_1p.sh"]
    assert (cwd / "train_eval_8p.sh" / "sparnet_bs2_2p_eval.log").exists()


# ---- endings of a training ----------------------------------------------------------------------

def test_a_training_that_refuses_its_data_is_status_2(tmp_path: Path) -> None:
    done = launch("train_full_8p.sh", f"--data_path={tmp_path / 'none'}", "--world_size=2",
                  f"--output_path={tmp_path / 'out'}", *TINY, MASTER_PORT=free_port())
    assert done.returncode == 2
    assert "none: no such folder" in done.stderr


@pytest.mark.deep
def test_a_training_that_diverges_is_status_4(cwd: Path, tmp_path: Path) -> None:
    done = launch("train_full_8p.sh", f"--data_path={cwd / 'my faces'}", "--world_size=2",
                  f"--output_path={tmp_path / 'out'}", *TINY[:-1], "--train_steps=200",
                  f"{TINY[-1]} --lr 1e30 --max_bad_steps 0", MASTER_PORT=free_port())
    assert done.returncode == 4, done.stdout + done.stderr
    assert case(tmp_path / "out" / "sparnet_bs2_2p_acc.log")["ActualFPS"] == "NA"


@pytest.mark.deep
def test_a_sigterm_stops_all_ranks_after_a_save(cwd: Path, tmp_path: Path) -> None:
    process = start("train_full_8p.sh", f"--data_path={cwd / 'my faces'}",
                    f"--output_path={tmp_path}", *LONG)
    wait_for(tmp_path / "train_0.log", " step: 3/", process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=100)
    assert process.returncode == 75
    assert json.loads((tmp_path / "full" / "result.json").read_text())["interrupted"] == "SIGTERM"
    assert (tmp_path / "full" / "latest_state.pth").exists()
    assert ranks_of(tmp_path) == {}


@pytest.fixture(scope="module")
def killed(cwd: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str, float]:
    """Folder, status, stderr and seconds to the end of a job of which rank 1 was killed."""
    output = tmp_path_factory.mktemp("killed")
    process = start("train_full_8p.sh", f"--data_path={cwd / 'my faces'}",
                    f"--output_path={output}", *LONG)
    wait_for(output / "train_0.log", " step: 4/", process)
    began = time.monotonic()
    os.kill(ranks_of(output)[1], signal.SIGKILL)
    _, errors = process.communicate(timeout=150)
    return output, process.returncode, errors, time.monotonic() - began


@pytest.mark.deep
def test_a_killed_rank_ends_the_job_within_a_minute(killed: tuple) -> None:
    assert killed[1] == 128 + signal.SIGKILL
    assert killed[3] < 60
    assert ranks_of(killed[0]) == {}


@pytest.mark.deep
def test_a_killed_rank_shows_the_end_of_the_log(killed: tuple) -> None:
    log = (killed[0] / "train_0.log").read_text().splitlines()
    shown = killed[2].splitlines()
    assert len(shown) > 30 and shown[:-1] == log[1 - len(shown):]


@pytest.mark.deep
def test_the_log_says_which_rank_was_killed(killed: tuple) -> None:
    assert "rank 1 was killed by signal 9" in (killed[0] / "train_0.log").read_text().splitlines()


@pytest.mark.deep
def test_a_job_with_a_killed_rank_has_no_figures(killed: tuple) -> None:
    found = case(killed[0] / "sparnet_bs2_2p_acc.log")
    assert (found["ActualFPS"], found["TrainingTime"]) == ("NA", "NA")


@pytest.mark.deep
def test_a_job_with_a_killed_rank_can_be_continued(killed: tuple, cwd: Path,
                                                   tmp_path: Path) -> None:
    output = shutil.copytree(killed[0], tmp_path / "copy")      # other tests look at the original
    reached = int(steps(output / "train_0.log")[-1].split(" step: ")[1].split("/")[0])
    done = launch("train_full_8p.sh", f"--data_path={cwd / 'my faces'}",
                  f"--output_path={output}", *LONG[:2], f"--train_steps={reached + 4}",
                  *LONG[3:-1], f"{LONG[-1]} --continue_train", MASTER_PORT=free_port())
    assert done.returncode == 0, done.stdout + done.stderr
    log = (output / "train_0.log").read_text()
    assert f"finished step {reached + 4} " in log
    began = int(log.split("continuing after step ")[1].split(",")[0])
    assert reached - 1 <= began <= reached + 1      # a save at every step: nothing else is lost


# ---- two machines, both of them this one --------------------------------------------------------

@pytest.fixture(scope="module")
def machines(cwd: Path) -> list[tuple[int, str]]:
    """Status and stdout of the scripts of two machines that share the output folder."""
    port = free_port()
    processes = [subprocess.Popen(
        ["bash", str(ROOT / "test" / "train_full_8p.sh"), "--data_path=my faces",
         "--output_path=two machines", *TINY, "--world_size=2", "--nnodes=2",
         f"--node_rank={number}"], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, env=environment(MASTER_ADDR="127.0.0.1", MASTER_PORT=port))
        for number in range(2)]
    texts = [process.communicate(timeout=200)[0] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, texts, strict=True)]


@pytest.mark.deep
def test_two_machines_train_together(machines: list, cwd: Path) -> None:
    assert [status for status, _ in machines] == [0, 0], machines
    assert case(cwd / "two machines" / "sparnet_bs2_2p_acc.log")["RankSize"] == "2"
    assert json.loads((cwd / "two machines" / "full" / "result.json").read_text())[
        "world_size"] == 2


@pytest.mark.deep
def test_only_the_first_machine_reports(machines: list) -> None:
    assert "Final Performance" in machines[0][1] and "Final Performance" not in machines[1][1]


@pytest.mark.deep
def test_each_machine_has_its_own_log(machines: list, cwd: Path) -> None:
    assert len(steps(cwd / "two machines" / "train_0.log")) == 3
    assert steps(cwd / "two machines" / "train_0_node1.log") == []


# ---- ranks that only take notes, under the real torchrun ----------------------------------------

RANK = '''
import json, os, signal, sys, time
if sys.argv[1] in ("-m", "-c"):
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
folder = next(each.split("=", 1)[1] for each in sys.argv if each.startswith("--checkpoints_dir="))
plan = json.loads(os.environ["PLAN"])[int(os.environ["RANK"])]
open(f"{folder}/ready", "a").write("x")
for _ in range(int(20 * plan["seconds"])):
    time.sleep(0.05)
    if stopped and plan.get("heeds"):
        break
json.dump({"cores": sorted(os.sched_getaffinity(0)), "environment": dict(os.environ),
           "arguments": sys.argv[1:], "signals": len(stopped)},
          open(f"{folder}/rank_{os.environ['RANK']}.json", "w"))
sys.exit(plan["status"])
'''
ENDS_WELL = {"seconds": 0, "status": 0}


@pytest.fixture
def ranks(tmp_path: Path) -> Iterator[Callable[..., tuple[int, list[dict]]]]:
    """Run a script whose ranks follow a plan; gives its status and what each rank wrote down."""
    (tmp_path / "rank.py").write_text(RANK)
    python = tmp_path / "my python"
    python.write_text(f'#!/usr/bin/env bash\nexec "{sys.executable}" "{tmp_path}/rank.py" "$@"\n')
    python.chmod(0o755)

    def run(*arguments: str, plan: list[dict] | None = None, stop: bool = False,
            act: Callable[[], None] | None = None, **changes: object) -> tuple[int, list[dict]]:
        plan = plan or [ENDS_WELL, ENDS_WELL]
        process = start("train_full_8p.sh", "--data_path=x", f"--output_path={tmp_path / 'out'}",
                        f"--world_size={len(plan)}", *arguments, PLAN=json.dumps(plan),
                        **{"PYTHON": python, **changes})
        if stop or act:
            wait_for(tmp_path / "out" / "ready", "x" * len(plan), process)
            act() if act else process.send_signal(signal.SIGTERM)
        process.communicate(timeout=100)
        notes = [tmp_path / "out" / f"rank_{rank}.json" for rank in range(len(plan))]
        return process.returncode, [json.loads(path.read_text()) if path.exists() else {}
                                    for path in notes]
    yield run


@pytest.mark.deep
def test_a_stopped_rank_that_is_still_saving_is_let_be(ranks: Callable) -> None:
    status, notes = ranks(plan=[{"seconds": 4, "status": 75},
                                {"seconds": 60, "status": 75, "heeds": True}], stop=True)
    assert status == 75
    assert [each["signals"] for each in notes] == [1, 1]


def test_a_failed_rank_ends_the_others(ranks: Callable) -> None:
    status, notes = ranks(plan=[{"seconds": 60, "status": 1, "heeds": True},
                                {"seconds": 0, "status": 4}])
    assert status == 4
    assert notes[0]["signals"] == 1


def test_no_rank_outlives_the_script(tmp_path: Path, ranks: Callable) -> None:
    """Of a killed rank.sh torchrun knows no child that it could end."""
    def found(script: str) -> list[int]:
        return [int(each.parent.name) for each in Path("/proc").glob("[0-9]*/cmdline")
                if script in (words := each.read_text().split("\0"))
                and f"--checkpoints_dir={tmp_path / 'out'}" in words]

    def kill_one() -> None:
        os.kill(found(str(ROOT / "test" / "rank.sh"))[0], signal.SIGKILL)
    status, _ = ranks(plan=[{"seconds": 90, "status": 1, "heeds": True}] * 2, act=kill_one)
    assert status not in (0, 75)
    assert found(str(tmp_path / "rank.py")) == []


def test_pinned_ranks_share_the_cores_without_overlap(ranks: Callable) -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("this process may use one core only")
    _, notes = ranks("--pin=1", "--device=cpu")
    each = len(cores) // 2
    assert [note["cores"] for note in notes] == [cores[:each], cores[each:2 * each]]
    assert notes[0]["environment"]["CPU_AFFINITY_CONF"] == "0"


def test_on_the_cpu_the_ranks_share_the_cores_as_threads(ranks: Callable) -> None:
    _, notes = ranks("--device=cpu", OMP_NUM_THREADS="")
    expected = str(max(1, len(os.sched_getaffinity(0)) // 2))
    assert [note["environment"]["OMP_NUM_THREADS"] for note in notes] == [expected] * 2


def test_every_rank_gets_the_arguments_and_its_number(ranks: Callable) -> None:
    _, notes = ranks("--batch_size=4", "--more=--seed 7", RANK="5", LOCAL_RANK="5", RANK_ID="5",
                     RANK_SIZE="16", WORLD_SIZE="16")
    assert [note["environment"]["LOCAL_RANK"] for note in notes] == ["0", "1"]
    assert {note["environment"]["RANK_SIZE"] for note in notes} == {"2"}
    assert all({"--batch_size=4", "--seed", "7", "--device=auto", "--name=full"}
               <= set(note["arguments"]) for note in notes)


# ---- parts --------------------------------------------------------------------------------------

def shell(lines: str, **changes: object) -> str:
    """What lines of bash print after several_cards.sh was sourced."""
    done = subprocess.run(
        ["bash", "-c", f'set -uo pipefail; source "$0"; {lines}',
         str(ROOT / "test" / "several_cards.sh")], capture_output=True, text=True, timeout=60,
        env=environment(**changes))
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


@pytest.mark.parametrize("ended, torchrun, job", [
    ([0, 0], 0, 0), ([75, 75], 0, 75), ([137, 1], 1, 137), ([1, 137], 1, 1), ([1, 4], 1, 4),
    ([143, 2], 1, 2), ([75, 1], 1, 1), ([75, 0], 1, 1), ([], 1, 1), ([0], 143, 143)])
def test_the_rank_that_knows_why_decides_the_status(ended: list[int], torchrun: int, job: int,
                                                    tmp_path: Path) -> None:
    (tmp_path / "ended").write_text("".join(f"{status}\n" for status in ended))
    assert shell(f"status={torchrun}; status_of_ranks", RANK_NOTES=tmp_path) == str(job)


def test_a_port_that_is_taken_is_replaced_by_a_free_one() -> None:
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind(("", 29688))
            holder.listen()
        except OSError:     # somebody else holds it: as good
            pass
        found = int(shell("nnodes=1; meeting_port"))
    assert found != 29688
    with socket.socket() as probe:
        probe.bind(("", found))


@pytest.mark.parametrize("nnodes, changes, port", [
    (1, {"MASTER_PORT": 1234}, "1234"), (2, {"MASTER_PORT": 1234}, "1234"), (2, {}, "29688")])
def test_a_port_that_others_know_is_kept(nnodes: int, changes: dict, port: str) -> None:
    assert shell(f"nnodes={nnodes}; meeting_port", **changes) == port


@pytest.mark.parametrize("given, expected", [
    (":", "8 8"), ("nnodes=2", "16 8"), ("world_size=4", "4 4"), ("nnodes=2 world_size=4", "4 2")])
def test_cards_are_divided_among_the_machines(given: str, expected: str) -> None:
    assert shell(f'RANK_SIZE=8 nnodes="" node_rank="" world_size="" pin="" device=npu; {given}; '
                 f"count_ranks; echo $RANK_SIZE $per_node", MASTER_ADDR="10.0.0.1") == expected


@pytest.mark.parametrize("given, expected", [([], "1"), (["--pin=1"], "0")])
def test_with_cann_the_ranks_are_bound_in_one_way(given: list[str], expected: str, ranks: Callable,
                                                  tmp_path: Path) -> None:
    cann = fake_cann(tmp_path / "cann", "nnae")
    _, notes = ranks("--device=auto", *given, plan=[ENDS_WELL], ASCEND_INSTALL_PATH=cann)
    found = notes[0]["environment"]
    assert (found["CPU_AFFINITY_CONF"], found["HCCL_CONNECT_TIMEOUT"]) == (expected, "1800")


@pytest.mark.parametrize("wrong, words", [
    (["--world_size=many"], "world_size"), (["--world_size=0"], "world_size"),
    (["--nnodes=2", "--world_size=3"], "multiple of --nnodes"), (["--nnodes=2"], "MASTER_ADDR"),
    (["--nnodes=2", "--node_rank=2"], "node_rank"), (["--pin=yes"], "pin"),
    (["--device=npu:3"], "ASCEND_RT_VISIBLE_DEVICES"), (["--device_id=3"], "use one of"),
    (["--pin=1", "--world_size=100000"], "100000 ranks")])
def test_what_several_cards_cannot_do_is_one_line(wrong: list[str], words: str) -> None:
    text = refusal("train_full_8p.sh", "--data_path=x", *wrong)
    assert words in text and len(text.splitlines()) == 1


def test_two_ways_of_binding_to_cores_are_refused() -> None:
    assert "CPU_AFFINITY_CONF" in refusal("train_full_8p.sh", "--data_path=x", "--pin=1",
                                          "--world_size=1", CPU_AFFINITY_CONF="1")

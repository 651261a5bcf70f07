"""The ModelArts entries: paths, object store, several cards, statuses."""
from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from test_launchers import TINY, case, environment, make_faces
from test_launchers_8p import free_port

from tools.modelarts import _parser

ENTRIES = {"modelarts_entry_acc.py": "train_full", "modelarts_entry_perf.py": "train_performance"}
# Writes down how it was called; a line per argument.
SCRIPT = '''#!/usr/bin/env bash
for argument in "$@"; do
    [[ $argument != --output_path=* ]] || output=${argument#*=}
done
mkdir -p "$output"
{ echo "$PWD"; basename "$0"; printf '%s\\n' "$@"; } > "$output/calls.txt"
if [[ -n ${WAIT:-} ]]; then
    trap 'exit 75' TERM
    echo ready
    while true; do sleep 0.05; done
fi
exit "${STATUS:-0}"
'''
# Copies between places as moxing does, `obs://` being a folder of this machine.
MOXING = '''
import json, os, shutil
def _place(url):
    return url.replace("obs://", os.environ["STORE"] + "/").replace("s3://",
                                                                    os.environ["STORE"] + "/")
class file:
    @staticmethod
    def copy_parallel(source, target):
        with open(os.environ["STORE"] + "/calls.jsonl", "a") as calls:
            calls.write(json.dumps([source, target]) + "\\n")
        shutil.copytree(_place(source), _place(target), dirs_exist_ok=True)
'''


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A code folder with the entries and scripts that only take notes."""
    folder = tmp_path / "my code"
    (folder / "test").mkdir(parents=True)
    (folder / "tools").mkdir()
    for name in (*ENTRIES, "tools/__init__.py", "tools/modelarts.py"):
        shutil.copy(ROOT / name, folder / name)
    for kind in ENTRIES.values():
        (folder / "test" / f"{kind}_1p.sh").write_text(SCRIPT)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> dict[str, object]:
    """Environment with a moxing and an object store that holds the bucket folder faces."""
    root = tmp_path / "store"
    (root / "bucket" / "faces").mkdir(parents=True)
    (root / "bucket" / "faces" / "one.png").write_text("")
    package = tmp_path / "packages" / "moxing"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(MOXING)
    return {"STORE": root, "PYTHONPATH": package.parent,
            "FACEZOO_CACHE_DATA": tmp_path / "cache" / "data",
            "FACEZOO_CACHE_TRAIN": tmp_path / "cache" / "train"}


def start(folder: Path, entry: str, *arguments: object, cwd: Path | None = None,
          timeout: float = 60, **changes: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(folder / entry), *map(str, arguments)],
                          capture_output=True, text=True, timeout=timeout, cwd=cwd or folder,
                          env=environment(**changes))


def calls(output: Path) -> list[str]:
    """Working directory, name and arguments of the script that ran."""
    return (output / "calls.txt").read_text().splitlines()


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_runs_its_script_in_the_code_folder(entry: str, code: Path, tmp_path: Path
                                                     ) -> None:
    done = start(code, entry, "--data_url", "my faces", f"--train_url={tmp_path / 'out'}",
                 cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert calls(tmp_path / "out") == [
        str(code), f"{ENTRIES[entry]}_1p.sh", f"--data_path={tmp_path / 'my faces'}",
        f"--output_path={tmp_path / 'out'}"]
    assert all(line.startswith("[CANN-Modelzoo]") for line in done.stdout.splitlines())


def test_other_options_pass_through_as_assignments(code: Path, tmp_path: Path) -> None:
    done = start(code, "modelarts_entry_acc.py", f"--train_url={tmp_path / 'out'}", "--batch_size",
                 "8", "--device=cpu", "--more", "--load_size 64 --seed 1", "--model=sparnet")
    assert done.returncode == 0, done.stderr
    assert calls(tmp_path / "out")[4:] == ["--batch_size=8", "--device=cpu",
                                           "--more=--load_size 64 --seed 1", "--model=sparnet"]


def test_what_the_platform_adds_is_left_out_and_said(code: Path, tmp_path: Path) -> None:
    done = start(code, "modelarts_entry_acc.py", f"--train_url={tmp_path / 'out'}",
                 "--init_method", "tcp://10.0.0.1:6666", "--rank=0", "--num_gpus=1")
    assert "ignoring --num_gpus=1" in done.stdout
    assert len(calls(tmp_path / "out")) == 4


def test_without_options_the_platform_s_folders_are_used() -> None:
    job = _parser("train_full").parse_args([])
    assert (job.data_url, job.train_url) == ("/home/ma-user/modelarts/inputs/data_url_0",
                                             "/home/ma-user/modelarts/outputs/train_url_0/")


def test_the_status_of_the_script_is_the_job_s(code: Path, tmp_path: Path) -> None:
    done = start(code, "modelarts_entry_acc.py", f"--train_url={tmp_path / 'out'}", STATUS=7)
    assert done.returncode == 7


# ---- several cards ------------------------------------------------------------------------------

@pytest.mark.parametrize("arguments, variables", [(["--world_size=2"], {}), ([], {"RANK_SIZE": 2})])
def test_several_cards_take_the_script_for_several(arguments: list, variables: dict, code: Path,
                                                   tmp_path: Path) -> None:
    (code / "test" / "train_full_8p.sh").write_text(SCRIPT)
    done = start(code, "modelarts_entry_acc.py", f"--train_url={tmp_path / 'out'}", *arguments,
                 **variables)
    assert done.returncode == 0, done.stderr
    found = calls(tmp_path / "out")
    assert (found[1], found[-1]) == ("train_full_8p.sh", "--world_size=2")


@pytest.mark.parametrize("size, word", [("2", "train_full_8p.sh"), ("many", "--world_size"),
                                        ("0", "--world_size")])
def test_cards_without_script_are_status_2(size: str, word: str, code: Path, tmp_path: Path
                                           ) -> None:
    done = start(code, "modelarts_entry_acc.py", f"--train_url={tmp_path / 'out'}",
                 f"--world_size={size}")
    assert done.returncode == 2
    assert word in done.stderr and "Traceback" not in done.stderr


def test_only_one_of_the_processes_the_platform_starts_runs_the_job(code: Path, tmp_path: Path
                                                                    ) -> None:
    (code / "test" / "train_full_8p.sh").write_text(SCRIPT)
    done = start(code, "modelarts_entry_acc.py", f"--train_url={tmp_path / 'out'}", RANK_SIZE=8,
                 ASCEND_DEVICE_ID=3)
    assert done.returncode == 0
    assert not (tmp_path / "out").exists()


# ---- object store -------------------------------------------------------------------------------

@pytest.mark.parametrize("scheme", ["obs", "s3"])
def test_remote_folders_go_through_the_caches(scheme: str, code: Path, store: dict) -> None:
    done = start(code, "modelarts_entry_acc.py", f"--data_url={scheme}://bucket/faces",
                 f"--train_url={scheme}://bucket/out", **store)
    assert done.returncode == 0, done.stderr
    data, train = (str(store[f"FACEZOO_CACHE_{name}"]) for name in ("DATA", "TRAIN"))
    made = [json.loads(line) for line in (store["STORE"] / "calls.jsonl").read_text().splitlines()]
    assert made == [[f"{scheme}://bucket/faces", data], [train, f"{scheme}://bucket/out"]]
    assert calls(store["STORE"] / "bucket" / "out")[2:] == [f"--data_path={data}",
                                                            f"--output_path={train}"]


def test_only_the_output_folder_comes_back(code: Path, store: dict) -> None:
    start(code, "modelarts_entry_acc.py", "--data_url=obs://bucket/faces",
          "--train_url=obs://bucket/out", **store)
    assert [path.name for path in (store["STORE"] / "bucket" / "out").iterdir()] == ["calls.txt"]


def test_results_come_back_from_a_failed_script(code: Path, store: dict) -> None:
    done = start(code, "modelarts_entry_acc.py", "--data_url=obs://bucket/faces",
                 "--train_url=obs://bucket/out", STATUS=4, **store)
    assert done.returncode == 4
    assert (store["STORE"] / "bucket" / "out" / "calls.txt").exists()


def test_results_come_back_from_a_stopped_job(code: Path, store: dict) -> None:
    process = subprocess.Popen(
        [sys.executable, str(code / "modelarts_entry_acc.py"), "--data_url=obs://bucket/faces",
         "--train_url=obs://bucket/out"], stdout=subprocess.PIPE, text=True,
        env=environment(WAIT=1, **store))
    assert any(line == "ready\n" for line in process.stdout)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=50)
    assert process.returncode == 75
    assert (store["STORE"] / "bucket" / "out" / "calls.txt").exists()


@pytest.mark.parametrize("flag", ["--data_url", "--train_url"])
def test_a_remote_folder_without_moxing_is_status_2(flag: str, code: Path, tmp_path: Path) -> None:
    done = start(code, "modelarts_entry_acc.py", f"--train_url={tmp_path / 'out'}",
                 f"{flag}=obs://bucket/x")
    assert done.returncode == 2
    assert "moxing" in done.stderr and "Traceback" not in done.stderr


# ---- the real scripts ---------------------------------------------------------------------------

def test_a_full_job_trains_and_leaves_the_report(tmp_path: Path) -> None:
    faces = make_faces(tmp_path / "my faces")
    done = start(ROOT, "modelarts_entry_acc.py", f"--data_url={faces}",
                 f"--train_url={tmp_path / 'my results'}/", *TINY, cwd=tmp_path, timeout=240,
                 MODELARTS_MODEL_PATH="/anywhere")
    assert done.returncode == 0, done.stdout + done.stderr
    found = case(tmp_path / "my results" / "sparnet_bs2_1p_acc.log")
    assert float(found["ActualFPS"]) > 0 and float(found["TrainAccuracy"]) > 0
    assert " step: 3/3 " in done.stdout and "Final Train Accuracy" in done.stdout


@pytest.mark.deep
def test_a_performance_job_trains_from_and_to_the_object_store(store: dict) -> None:
    make_faces(store["STORE"] / "bucket" / "people")
    done = start(ROOT, "modelarts_entry_perf.py", "--data_url=obs://bucket/people",
                 "--train_url=obs://bucket/out", *TINY, timeout=240, **store)
    assert done.returncode == 0, done.stdout + done.stderr
    found = case(store["STORE"] / "bucket" / "out" / "sparnet_bs2_1p_perf.log")
    assert float(found["ActualFPS"]) > 0 and "TrainAccuracy" not in found


@pytest.mark.deep
@pytest.mark.parametrize("entry, end, arguments, variables", [
    ("modelarts_entry_acc.py", "acc", [], {"RANK_SIZE": 2, "ASCEND_DEVICE_ID": 0}),
    ("modelarts_entry_perf.py", "perf", ["--world_size", "2"], {})])
def test_a_job_on_two_cards_trains_on_both(entry: str, end: str, arguments: list,
                                           variables: dict, tmp_path: Path) -> None:
    faces = make_faces(tmp_path / "my faces")
    done = start(ROOT, entry, f"--data_url={faces}", f"--train_url={tmp_path / 'my results'}",
                 *arguments, *TINY, timeout=240, MASTER_PORT=free_port(), **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    found = case(tmp_path / "my results" / f"sparnet_bs2_2p_{end}.log")
    assert found["RankSize"] == "2" and float(found["ActualFPS"]) > 0
    kind = ENTRIES[entry].removeprefix("train_")
    result = json.loads((tmp_path / "my results" / kind / "result.json").read_text())
    assert result["world_size"] == 2


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_is_short(entry: str) -> None:
    assert len((ROOT / entry).read_text().splitlines()) < 25

"""tools.doctor on recorded machines, and tools.probe on this one."""
from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest
from conftest import ROOT

from engine.device import VENDORS
from tools import probe
from tools.doctor import diagnose, machine, page, plan, within
from tools.probe import Facts, ask, cann_version, disk_of, read_requirement

GIB = 2 ** 30
REQUIREMENTS = [each for each in map(read_requirement, (
    ROOT / "requirements.txt").read_text().splitlines()) if each]


def recorded(backend: str = "cpu", **changes: object) -> Facts:
    """A healthy machine: CPU, eight NPUs or one CUDA card; `a__b=x` changes facts["a"]["b"]."""
    facts: Facts = {
        "python": "3.11.7", "system": "Linux-5.10.0-x86_64", "machine": "x86_64",
        "device": "auto", "requirements": REQUIREMENTS,
        "packages": {**{each["name"]: "2.13.0" if each["name"] == "torch" else
                        "4.12.0" if "opencv" in each["name"] else "99.0" for each in REQUIREMENTS},
                     **dict.fromkeys(probe.OTHER_PACKAGES)},
        "torch": {"version": "2.13.0", "cuda_build": None, "cards": {"cuda": []},
                  "collectives": ["gloo"], "backend": backend, "vendor": VENDORS.get(backend),
                  "reason": "recorded",
                  "optimizer": "torch Adam(fused=True)", "opt_level": "O0", "collective": "gloo"},
        "torch_npu": {}, "apex": {}, "nvidia": [],
        "cann": {"set_env": None, "folder": None, "version": None, "ASCEND_HOME_PATH": None,
                 "ASCEND_OPP_PATH": None},
        "ascend": {"nodes": [], "open": True, "driver": None, "npu_smi": None},
        "cores": 16.0, "memory": 64 * GIB, "open_files": [65536, 1048576], "shm": 32 * GIB,
        "disk": {"folder": "check_points", "free": 500 * GIB, "writable": True}}
    if backend == "npu":
        home = "/usr/local/Ascend/ascend-toolkit"
        card = {"name": "Ascend910B1", "memory": 64 * GIB}
        facts["packages"]["torch-npu"] = "2.13.0.post1"
        del facts["torch"]["optimizer"], facts["torch"]["opt_level"]
        facts["torch"]["collective"] = "hccl"
        facts["torch_npu"] = {"cards": {"npu": [card] * 8}, "hccl": True, "opt_level": "O2",
                              "optimizer": "NpuFusedAdam"}
        facts["cann"] = {"set_env": f"{home}/set_env.sh", "folder": f"{home}/latest",
                         "version": "8.0.RC3", "ASCEND_HOME_PATH": f"{home}/latest",
                         "ASCEND_OPP_PATH": f"{home}/latest/opp"}
        facts["ascend"] = {"nodes": [f"/dev/davinci{i}" for i in range(8)], "open": True,
                           "driver": "24.1.rc3", "npu_smi": "npu-smi 24.1.rc3"}
    if backend == "cuda":
        facts["torch"] |= {"cuda_build": "12.6", "opt_level": "O2", "collective": "nccl", "cards": {
            "cuda": [{"name": "NVIDIA A100", "memory": 80 * GIB}]}, "collectives": ["gloo", "nccl"]}
        facts["nvidia"] = ["NVIDIA A100, 550.54"]
    for key, value in changes.items():
        *parents, last = key.split("__")
        place = facts
        for parent in parents:
            place = place[parent]
        place[last] = copy.deepcopy(value)
    return facts


def changed(facts: Facts, package: str, version: str) -> Facts:
    facts["packages"][package] = version
    return facts


def no_cann(wanted: bool) -> Facts:
    """torch-npu without CANN; ASCEND_DEVICE_ID or --device may still ask for the NPU."""
    facts = recorded("npu" if wanted else "cpu", torch_npu={
        "error": "ImportError: libhccl.so: cannot open shared object file"})
    facts["packages"]["torch-npu"] = "2.13.0"
    facts["cann"], facts["ascend"] = recorded()["cann"], recorded()["ascend"]
    return facts


# ---- healthy machines ---------------------------------------------------------------------------

@pytest.mark.parametrize("backend", ["cpu", "npu", "cuda"])
def test_a_healthy_machine_has_no_findings(backend: str) -> None:
    assert diagnose(recorded(backend)) == []


@pytest.mark.parametrize("backend, optimizer, precision, collective", [
    ("cpu", "torch Adam(fused=True)", "O0", "gloo"),
    ("npu", "NpuFusedAdam", "O2", "hccl"),
    ("cuda", "torch Adam(fused=True)", "O2", "nccl")])
def test_the_plan_says_what_the_device_will_use(backend: str, optimizer: str, precision: str,
                                                collective: str) -> None:
    assert plan(recorded(backend)) == [
        ("device", f"{backend} (recorded)"), ("precision", precision), ("optimizer", optimizer),
        ("several cards", collective)]


@pytest.mark.parametrize("backend, row, text", [
    ("npu", "cards", "npu: 8 x Ascend910B1, 64.0 GiB"), ("npu", "collectives", "gloo, hccl"),
    ("npu", "CANN", "8.0.RC3 in /usr/local/Ascend/ascend-toolkit/latest, set_env.sh sourced"),
    ("npu", "Ascend driver", "24.1.rc3; 8 /dev/davinci*; npu-smi 24.1.rc3"),
    ("cuda", "cards", "cuda: 1 x NVIDIA A100, 80.0 GiB"), ("cpu", "cards", "none"),
    ("cpu", "CANN", "none"), ("cpu", "limits", "65536 open files (up to 1048576), /dev/shm 32.0")])
def test_the_page_says_what_is_there(backend: str, row: str, text: str) -> None:
    assert dict(machine(recorded(backend)))[row].startswith(text)


# ---- machines with a problem --------------------------------------------------------------------

NO_LIBRARY = {"error": "ImportError: libhccl.so: cannot open shared object file"}
MACHINES = {
    "old Python": (recorded(python="3.9.2"), True, "3.9.2", "newer"),
    "no torch": (recorded(packages__torch=None, torch={}), True, "torch is not installed", "pip"),
    "broken torch": (recorded(torch={"error": "OSError: libc10.so"}), True, "libc10.so", "pip"),
    "no yaml": (recorded(packages__pyyaml=None), True, "pyyaml", "requirements.txt"),
    "opencv 5": (changed(recorded(), "opencv-python-headless", "5.0.0"), False,
                 "opencv-python-headless must be >=4.9,<5, 5.0.0 is installed", "requirements.txt"),
    "two opencv": (changed(recorded(), "opencv-python", "4.12.0"), False, "overwrite",
                   "uninstall"),
    "untested torch": (changed(recorded(), "torch", "2.6.0"), False, "==2.13.0", "requirements"),
    "ancient torch": (changed(recorded(), "torch", "1.11.0"), True, "==2.13.0", "requirements"),
    "wrong torchvision": (changed(recorded(), "torchvision", "0.20.1"), False, "0.20.1", "0.28"),
    "PyPI's apex": (recorded(apex={"usable": False, "found": "another package called apex"}), False,
                    "another package", "pip uninstall apex"),
    "crashing apex": (recorded(apex={"error": "the process was killed by signal 11"}), False,
                      "signal 11", "pip uninstall apex"),
    "torch-npu without CANN, unused": (no_cann(False), False, "libhccl.so", "uninstall torch-npu"),
    "torch-npu without CANN, wanted": (no_cann(True), True, "CANN is not", "--device cpu"),
    "version mismatch": (changed(recorded("npu"), "torch-npu", "2.9.0.post9"), True,
                         "2.9.0.post9 does not fit torch 2.13.0", "pair"),
    "set_env not sourced": (recorded("npu", torch_npu=NO_LIBRARY, cann__ASCEND_HOME_PATH=None,
                                     cann__ASCEND_OPP_PATH=None), True, "not sourced",
                            "source /usr/local/Ascend/ascend-toolkit/set_env.sh"),
    "set_env sourced in part": (recorded("npu", torch_npu=NO_LIBRARY, cann__ASCEND_OPP_PATH=None),
                                True, "ASCEND_OPP_PATH", "source /usr/local/Ascend"),
    "an NPU that works all the same": (recorded("npu", cann__ASCEND_OPP_PATH=None), False,
                                       "ASCEND_OPP_PATH", "source /usr/local/Ascend"),
    "0 devices": (recorded("npu", torch_npu__cards={"npu": []}), True, "no Ascend card",
                  "npu-smi info"),
    "no permission": (recorded("npu", ascend__open=False), True, "permission", "HwHiAiUser"),
    "cards without torch-npu": (recorded(ascend__nodes=["/dev/davinci0"]), False,
                                "1 Ascend card found, but torch-npu is not installed",
                                "requirements-npu.txt"),
    "npu asked for, not there": (recorded(torch__vendor="ascend"), True, "not installed",
                                 "requirements-npu.txt"),
    "CPU torch on a CUDA machine": (recorded(nvidia=["NVIDIA A100, 550.54"]), False,
                                    "does not see", "CUDA build"),
    "cuda asked for, not there": (recorded(torch__vendor="nvidia"), True, "no CUDA card",
                                  "--device cpu"),
    "low shm": (recorded(shm=64 * 2 ** 20), False, "/dev/shm has only 0.1 GiB", "--shm-size"),
    "low nofile": (recorded(open_files=[1024, 524288]), False, "a process may open only 1024 files",
                   "ulimit -n 65536"),
    "low nofile, no limit above": (recorded(open_files=[1024, -1]), False, "1024",
                                   "ulimit -n 65536"),
    "low nofile for good": (recorded(open_files=[1024, 1024]), False, "1024", "administrator"),
    "full disk": (recorded(disk__free=GIB), False, "only 1.0 GiB left", "free some space"),
    "read-only disk": (recorded(disk__writable=False), True, "check_points", "--checkpoints_dir"),
    "little memory": (recorded(memory=2 * GIB), False, "2.0 GiB of memory", "--batch_size"),
}


@pytest.mark.parametrize("name", MACHINES)
def test_a_problem_is_found_and_has_a_remedy(name: str) -> None:
    facts, stops, problem, remedy = MACHINES[name]
    found = [each for each in diagnose(facts) if problem in each.problem]
    assert [(each.stops, remedy in each.remedy) for each in found] == [(stops, True)]


@pytest.mark.parametrize("name", MACHINES)
def test_one_problem_is_reported_as_one(name: str) -> None:
    # Where CANN is missed, torch_npu cannot be imported either, and both lines help.
    facts, stops, _, _ = MACHINES[name]
    assert len(diagnose(facts)) == (2 if stops and "error" in facts["torch_npu"] else 1)


@pytest.mark.parametrize("name", MACHINES)
def test_the_page_holds_every_problem_and_the_verdict(name: str) -> None:
    facts, stops, _, _ = MACHINES[name]
    findings = diagnose(facts)
    text = page(facts, findings)
    assert all(each.problem in text and each.remedy in text for each in findings)
    assert text.endswith("training can start") == (not stops)


def test_the_worst_comes_first() -> None:
    facts = recorded(ascend__nodes=["/dev/davinci0"], disk__writable=False, shm=1)
    assert [each.stops for each in diagnose(facts)] == [True, False, False]


def test_unlimited_files_are_enough() -> None:
    assert diagnose(recorded(open_files=[-1, -1])) == []


@pytest.mark.parametrize("version, bounds, answer", [
    ("2.13.0+cpu", "==2.13.0", True), ("2.13", "==2.13.0", True), ("2.13.1", "==2.13.0", False),
    ("4.9", ">=4.9,<5", True), ("4.13.0.92", ">=4.9,<5", True), ("5.0", ">=4.9,<5", False),
    ("10.3", ">=9.5", True), ("2.1.0.post9", "<=2.1.0", True), ("1.0", "", True),
    ("1.0", "!=1", False), ("1.1", ">1.0", True)])
def test_versions_are_compared_by_their_numbers(version: str, bounds: str, answer: bool) -> None:
    assert within(version, bounds) is answer


# ---- probing ------------------------------------------------------------------------------------

def doctor(*arguments: str, python: str = sys.executable, **changes: object
           ) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items()
                   if key != "TORCH_DEVICE_BACKEND_AUTOLOAD"}       # conftest.py's
    environment |= {"OMP_NUM_THREADS": "1", **{key: str(value) for key, value in changes.items()}}
    return subprocess.run([python, "-m", "tools.doctor", *arguments], capture_output=True,
                          text=True, timeout=200, cwd=ROOT, env=environment)


def package(folder: Path, name: str, text: str) -> Path:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(text)
    return folder


def test_this_machine_can_train_on_its_cpu() -> None:
    done = doctor("--json", "--device", "cpu")
    found = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout
    assert found["plan"]["device"] == "cpu (asked for by --device)"
    assert found["facts"]["torch"]["version"].startswith(found["facts"]["packages"]["torch"])
    assert found["verdict"] == "training can start"


def test_a_machine_without_torch_still_gets_its_page(tmp_path: Path) -> None:
    venv.create(tmp_path / "empty", with_pip=False)
    done = doctor(python=str(tmp_path / "empty" / "bin" / "python"))
    assert done.returncode == 1
    assert "torch is not installed" in done.stdout and "pip install -r" in done.stdout
    assert "training cannot start" in done.stdout


def test_a_torch_that_cannot_be_imported_is_a_finding(tmp_path: Path) -> None:
    package(tmp_path, "torch", "raise OSError('libc10.so is missing')")
    done = doctor(PYTHONPATH=tmp_path)
    assert done.returncode == 1
    assert "torch cannot be used: OSError: libc10.so is missing" in done.stdout


def test_a_torch_npu_that_breaks_does_not_keep_the_cpu_from_training(tmp_path: Path) -> None:
    package(tmp_path, "torch_npu", "print('Warning: noise')\nraise ImportError('no libhccl.so')")
    wheel = tmp_path / "torch_npu-2.13.0.dist-info"     # by which `import torch` would load it
    wheel.mkdir()
    (wheel / "METADATA").write_text("Name: torch-npu\nVersion: 2.13.0\n")
    (wheel / "entry_points.txt").write_text("[torch.backends]\ntorch_npu = torch_npu:load\n")
    found = json.loads(doctor("--json", "--device", "cpu", PYTHONPATH=tmp_path).stdout)
    assert found["facts"]["packages"]["torch-npu"] == "2.13.0"
    assert found["facts"]["torch_npu"]["error"] == "ImportError: no libhccl.so"
    assert found["verdict"] == "training can start"


@pytest.mark.deep
def test_a_torch_npu_that_breaks_is_the_finding_where_the_npu_is_wanted(tmp_path: Path) -> None:
    package(tmp_path, "torch_npu", "raise ImportError('no libhccl.so')")
    done = doctor(PYTHONPATH=tmp_path, ASCEND_DEVICE_ID=0)
    assert done.returncode == 1
    assert "STOPS  torch_npu cannot be used: ImportError: no libhccl.so" in done.stdout
    assert "torch cannot be used" not in done.stdout


def test_a_cuda_that_is_not_there_is_the_finding_where_it_is_wanted() -> None:
    import torch
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    done = doctor("--device", "cuda")
    assert done.returncode == 1
    assert "STOPS  --device cuda: torch sees no CUDA card" in done.stdout


@pytest.mark.deep
def test_a_foreign_apex_is_told_apart(tmp_path: Path) -> None:
    package(tmp_path, "apex", "")
    found = json.loads(doctor("--json", PYTHONPATH=tmp_path).stdout)
    assert "another package called apex" in found["facts"]["apex"]["found"]


def test_a_child_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path, "apex", "import time\ntime.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    began = time.monotonic()
    assert ask("apex", timeout=1) == {"error": "its import took more than 1 second"}
    assert time.monotonic() - began < 30


def test_a_child_that_crashes_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path, "apex", "import os\nos.abort()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert ask("apex") == {"error": "the process was killed by signal 6"}


def test_a_wrong_device_is_one_line() -> None:
    done = doctor("--device", "tpu")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("got 'tpu'")


def test_the_doctor_imports_nothing_heavy() -> None:
    code = "import sys, tools.doctor; print({'torch', 'numpy', 'cv2', 'apex'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT,
                          timeout=60)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("place, text", [
    ("aarch64-linux/ascend_toolkit_install.info", "package_name=x\nversion=8.0.RC3\n"),
    ("compiler/version.info", "Version=8.0.RC3\n")])
def test_the_version_of_cann_is_read(place: str, text: str, tmp_path: Path) -> None:
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_text(text)
    assert cann_version(str(tmp_path)) == "8.0.RC3"


@pytest.mark.parametrize("line, expected", [
    ("torch==2.13.0", {"name": "torch", "bounds": "==2.13.0"}),
    ("opencv-python-headless>=4.9,<5    # why", {"name": "opencv-python-headless",
                                                 "bounds": ">=4.9,<5"}),
    ("# torch", None), ("", None), ("-r requirements.txt", None)])
def test_a_requirement_is_read(line: str, expected: dict | None) -> None:
    assert read_requirement(line) == expected


def test_the_disk_of_a_folder_that_is_not_there_yet_is_its_parent_s(tmp_path: Path) -> None:
    found = disk_of(str(tmp_path / "not" / "there"))
    assert found["writable"] and found["free"] > 0

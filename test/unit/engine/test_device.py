"""The device layer: who is chosen, what is said, and that nothing loads torch_npu unasked."""
from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from engine import device as devices
from engine import distributed
from engine.prefetch import Prefetcher

CPU = torch.device("cpu")
CARD_VARIABLES = ("LOCAL_RANK", "ASCEND_DEVICE_ID", "NPU_CALCULATE_DEVICE",
                  "ASCEND_RT_VISIBLE_DEVICES")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CARD_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def pretend(monkeypatch: pytest.MonkeyPatch, torch_npu: bool = False, card: bool = False,
            cuda: bool = False) -> None:
    monkeypatch.setattr(devices.importlib.util, "find_spec",
                        lambda name: object() if torch_npu else None)
    monkeypatch.setattr(devices.glob, "glob", lambda pattern: ["/dev/davinci0"] if card else [])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)


@pytest.mark.parametrize("machine, variables, expected", [
    ({}, {}, "cpu"), ({"cuda": True}, {}, "cuda"), ({"torch_npu": True, "card": True}, {}, "npu"),
    ({"torch_npu": True}, {"ASCEND_DEVICE_ID": "0"}, "npu"), ({"torch_npu": True}, {}, "cpu"),
    ({"torch_npu": True, "cuda": True}, {}, "cuda"), ({"card": True}, {}, "cpu"),
    ({"torch_npu": True, "card": True, "cuda": True}, {}, "npu")])
def test_auto_takes_what_the_machine_has(machine: dict, variables: dict, expected: str,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, **machine)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert devices.choose("auto").backend == expected


def test_torch_npu_without_a_card_is_said_and_the_cpu_used(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, torch_npu=True)
    assert "so the NPU is not used" in devices.choose("auto").reason


@pytest.mark.parametrize("spec", ["gpu", "npu:", "npu:x", "cuda:-1", "auto:1", ""])
def test_a_wrong_device_is_refused(spec: str) -> None:
    with pytest.raises(ValueError, match="--device"):
        devices.parse_spec(spec)


@pytest.mark.parametrize("backend, index, variables, expected", [
    ("npu", 3, {"LOCAL_RANK": "1"}, 3), ("npu", None, {"LOCAL_RANK": "1"}, 1),
    ("cuda", None, {"LOCAL_RANK": "2", "ASCEND_DEVICE_ID": "5"}, 2),
    ("npu", None, {"ASCEND_DEVICE_ID": "5"}, 5), ("npu", None, {"NPU_CALCULATE_DEVICE": "4"}, 4),
    ("cuda", None, {"ASCEND_DEVICE_ID": "5"}, 0), ("npu", None, {}, 0),
    ("npu", None, {"ASCEND_DEVICE_ID": "5", "ASCEND_RT_VISIBLE_DEVICES": "5"}, 0),
    ("npu", None, {"ASCEND_DEVICE_ID": "5", "ASCEND_RT_VISIBLE_DEVICES": "4,5"}, 5)])
def test_card_number_precedence(backend: str, index: int | None, variables: dict, expected: int,
                                monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert devices.card_number(backend, index) == expected


def test_cuda_without_a_card_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    with pytest.raises(ValueError, match=r"--device cuda.*--device cpu"):
        devices.open_device("cuda")


def test_a_torch_npu_that_does_not_load_is_reported_with_remedies(
        monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ImportError("libhccl.so: cannot open shared object file")
    monkeypatch.setattr(devices.importlib, "import_module", fail)
    with pytest.raises(ValueError, match=r"libhccl\.so.*set_env\.sh.*--device cpu"):
        devices.open_device("npu")


# ---- an NPU made of a namespace: what open_device does to it -------------------------------------

@pytest.fixture
def fake_npu(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    npu = types.SimpleNamespace(
        calls=[], device_count=lambda: 2, config=types.SimpleNamespace(),
        conv=types.SimpleNamespace(allow_hf32=True), matmul=types.SimpleNamespace(),
        get_device_name=lambda index: "Ascend910B1",
        utils=types.SimpleNamespace(is_support_inf_nan=lambda: True))
    npu.set_device = lambda number: npu.calls.append(("set_device", number))
    npu.set_compile_mode = lambda jit_compile: npu.calls.append(("jit_compile", jit_compile))
    monkeypatch.setattr(devices, "_import_torch_npu", lambda: None)
    monkeypatch.setattr(torch, "get_device_module", lambda name: npu)
    monkeypatch.setattr(torch, "npu", npu, raising=False)
    real = torch.device
    monkeypatch.setattr(torch, "device", lambda kind, index=None: types.SimpleNamespace(
        type=kind, index=index) if kind == "npu" else real(kind))
    return npu


def test_opening_an_npu_selects_the_card_and_sets_the_published_switches(
        fake_npu: types.SimpleNamespace) -> None:
    device = devices.open_device("npu:1")
    assert (device.type, device.index) == ("npu", 1)
    assert fake_npu.calls == [("set_device", 1), ("jit_compile", False)]
    assert fake_npu.config.allow_internal_format is False
    assert (fake_npu.conv.allow_hf32, fake_npu.matmul.allow_hf32) == (False, False)


def test_a_card_that_is_not_there_is_refused(fake_npu: types.SimpleNamespace) -> None:
    with pytest.raises(ValueError, match=r"npu:2.*2 card"):
        devices.open_device("npu:2")


def test_npu_strict_is_set_before_torch_npu_is_imported(
        fake_npu: types.SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_NPU_FALLBACK_CPU_DISABLE", "0")
    seen = []
    monkeypatch.setattr(devices, "_import_torch_npu", lambda: seen.append(
        devices.os.environ["TORCH_NPU_FALLBACK_CPU_DISABLE"]))
    devices.open_device("npu", npu_strict=True)
    assert seen == ["1"]


def test_speed_settings_are_made_before_torch_npu_is_imported_and_the_users_kept(
        fake_npu: types.SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPU_AFFINITY_CONF", "0")
    monkeypatch.setenv("TASK_QUEUE_ENABLE", "x")    # so that the variable is put back afterwards
    monkeypatch.delenv("TASK_QUEUE_ENABLE")
    seen = []
    monkeypatch.setattr(devices, "_import_torch_npu", lambda: seen.append(
        [devices.os.environ[name] for name in ("TASK_QUEUE_ENABLE", "CPU_AFFINITY_CONF")]))
    devices.open_device("npu")
    assert seen == [["2", "0"]]


@pytest.mark.parametrize("supported, expected", [(True, False), (False, True)])
def test_first_generation_chips_are_known_to_saturate(
        supported: bool, expected: bool, fake_npu: types.SimpleNamespace) -> None:
    fake_npu.utils.is_support_inf_nan = lambda: supported
    assert devices.overflow_saturates(devices.open_device("npu")) is expected


def test_channels_last_is_for_cpu_and_cuda_only() -> None:
    npu = types.SimpleNamespace(type="npu")
    assert devices.memory_format(CPU) is torch.channels_last
    assert devices.memory_format(npu) is torch.contiguous_format
    with pytest.raises(ValueError, match="--memory_format"):
        devices.memory_format(npu, "channels_last")


@pytest.mark.parametrize("kind, name", [("npu", "hccl"), ("cuda", "nccl"), ("cpu", "gloo")])
def test_each_backend_has_its_collective_library(kind: str, name: str) -> None:
    assert devices.collective(types.SimpleNamespace(type=kind)) == name


# ---- state and feeding --------------------------------------------------------------------------

def draws() -> list:
    import random

    import numpy
    return [random.random(), float(numpy.random.rand()), float(torch.rand(()))]


def test_random_state_comes_back_through_a_file(tmp_path: Path) -> None:
    devices.seed_everything(5, CPU)
    draws()
    torch.save(devices.rng_state(CPU), tmp_path / "rng.pth")
    expected = draws()
    devices.set_rng_state(CPU, torch.load(tmp_path / "rng.pth", weights_only=True))
    assert draws() == expected


def test_a_seed_decides_every_stream() -> None:
    devices.seed_everything(7, CPU)
    first = draws()
    devices.seed_everything(7, CPU)
    assert draws() == first


def test_prefetcher_keeps_the_order_prepares_each_batch_and_takes_no_more_than_asked() -> None:
    taken = []

    def loader() -> object:
        for index in range(5):
            taken.append(index)
            yield {"x": torch.tensor(index), "path": str(index)}
    found = []
    for batch in Prefetcher(loader(), CPU, lambda b: {**b, "x": b["x"] * 10}):
        found.append((int(batch["x"]), batch["path"], len(taken)))
    assert found == [(i * 10, str(i), i + 1) for i in range(5)]


def test_stopwatch_measures_the_time_between_its_marks() -> None:
    watch = devices.Stopwatch(CPU)
    watch.start()
    watch.stop()
    assert 0 <= watch.seconds() < 1


def test_fused_adam_is_torchs_on_the_cpu() -> None:
    build, name = devices.fused_adam(CPU)
    optimizer = build([torch.zeros(1, requires_grad=True)], lr=1e-3)
    assert optimizer.defaults["fused"] and "fused" in name


# ---- entries ------------------------------------------------------------------------------------

# All begin with the same line; one is started always. Help imports torch for a model's flags only.
HELP = ("--model", "sparnet", "--help")
ENTRIES = [("newtrain.py", *HELP), *(pytest.param(command, marks=pytest.mark.deep) for command in (
    ("evaluate.py", *HELP), ("enhance.py", *HELP), ("serve.py", *HELP),
    ("tools.selftest", "--golden", "test/golden/gpen_nms.json")))]


@pytest.mark.parametrize("command", ENTRIES, ids=lambda command: command[0])
def test_entries_run_with_a_torch_npu_that_cannot_be_imported(
        command: tuple[str, ...], run_script: Callable, tmp_path: Path) -> None:
    entry, *arguments = command
    poison = tmp_path / "site" / "torch_npu"
    poison.mkdir(parents=True)
    (poison / "__init__.py").write_text("raise RuntimeError('poisoned')\n")
    # What an installed wheel adds: torch loads the package by itself unless told not to.
    meta = tmp_path / "site" / "torch_npu-2.13.0.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: torch_npu\nVersion: 2.13.0\n")
    (meta / "entry_points.txt").write_text("[torch.backends]\ntorch_npu = torch_npu:_autoload\n")
    done = run_script(entry, *arguments, env={"PYTHONPATH": str(tmp_path / "site"),
                                              "TORCH_DEVICE_BACKEND_AUTOLOAD": "1"})
    assert done.returncode != 0         # the bait itself works
    environment = {k: v for k, v in devices.os.environ.items()
                   if k != "TORCH_DEVICE_BACKEND_AUTOLOAD"}
    done = subprocess.run([sys.executable, *([entry] if entry.endswith(".py") else ["-m", entry]),
                           *arguments], capture_output=True, text=True, timeout=120, cwd=ROOT,
                          env={**environment, "PYTHONPATH": str(tmp_path / "site")})
    assert done.returncode == 0, done.stderr


def test_modelzoo_ranks_become_torchs() -> None:
    environ = {"RANK_ID": "9", "RANK_SIZE": "16"}
    distributed.adopt_modelzoo_environment(environ)
    assert environ == {"RANK_ID": "9", "RANK_SIZE": "16", "RANK": "9", "WORLD_SIZE": "16",
                       "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29688"}


@pytest.mark.parametrize("environ", [
    {}, {"RANK_SIZE": "1"}, {"RANK_SIZE": "8"}, {"RANK": "0", "RANK_ID": "3", "RANK_SIZE": "8"}])
def test_other_environments_are_left_alone(environ: dict) -> None:
    before = dict(environ)
    distributed.adopt_modelzoo_environment(environ)
    assert environ == before


def test_a_machine_with_torch_npu_but_no_card_trains_on_the_cpu_and_says_why(
        train: Callable, tmp_path: Path) -> None:
    poison = tmp_path / "site" / "torch_npu"
    poison.mkdir(parents=True)
    (poison / "__init__.py").write_text("raise RuntimeError('poisoned')\n")
    done = train("--train_steps", "1", "--eval_freq", "0", "--device", "auto",
                 env={"PYTHONPATH": str(tmp_path / "site")})
    assert done.returncode == 0, done.stderr
    assert "so the NPU is not used" in done.stdout

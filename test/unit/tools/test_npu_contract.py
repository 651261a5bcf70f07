"""Every torch_npu name, keyword and variable our sources use exists in the recorded wheel."""
from __future__ import annotations

import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "test" / "npu"))

import contract

DEVICE = "engine/device.py"


@pytest.fixture(scope="module")
def record() -> dict:
    return contract.load_record()


def problems_of(record: dict, old: str, new: str, path: str = DEVICE) -> list[str]:
    """What the contract says when `old` is replaced by `new` in one of our files."""
    text = (ROOT / path).read_text(encoding="utf-8")
    assert old in text, f"{path} no longer contains {old!r}; change this test with it"
    return contract.compare(contract.used({path: text.replace(old, new)}), record)


def test_our_sources_fit_the_recorded_wheel(record: dict) -> None:
    assert contract.compare(contract.used(), record) == []


@pytest.mark.parametrize("name", [
    "torch.npu.set_device", "torch.npu.set_compile_mode", "torch.npu.config.allow_internal_format",
    "torch.npu.conv.allow_hf32", "torch.npu.matmul.allow_hf32", "torch.npu.get_rng_state",
    "torch.npu.utils.is_support_inf_nan", "torch.npu.amp.GradScaler", "torch.npu.Event.record",
    "torch.npu.Event.elapsed_time", "torch.npu.Stream.wait_stream",
    "torch_npu.optim.NpuFusedAdam", "torch_npu.optim.NpuFusedAdam.clip_grad_norm_fused_"])
def test_uses_behind_variables_and_getattr_are_seen(name: str) -> None:
    assert name in {use.name for use in contract.used().uses}


@pytest.mark.parametrize("old, new, said", [
    ("npu.set_device(number)", "npu.select_device(number)", "torch.npu.select_device"),
    ("npu.config.allow_internal_format", "npu.config.allow_private_format",
     "allow_private_format"),
    ('("conv", "matmul")', '("conv2d", "matmul")', "torch.npu.conv2d"),
    ('hasattr(npu, "set_compile_mode")', 'hasattr(npu, "set_compile_modes")',
     "torch.npu.set_compile_modes"),
    ('"is_support_inf_nan"', '"is_support_infnan"', "torch.npu.utils.is_support_infnan"),
    ("optim.NpuFusedAdam,", "optim.NPUFusedAdam,", "torch_npu.optim.NPUFusedAdam"),
    ("module_of(device).amp.GradScaler", "module_of(device).amp.Scaler", "torch.npu.amp.Scaler"),
    (".Stream()", ".SideStream()", "torch.npu.SideStream"),
    ("event.record()", "event.mark()", "torch.npu.Event.mark")])
def test_a_wrong_name_is_found(record: dict, old: str, new: str, said: str) -> None:
    found = problems_of(record, old, new)
    assert found and all(f"has no {said}" in line or said in line for line in found)


@pytest.mark.parametrize("old, new, said", [
    ("jit_compile=npu_jit", "jit=npu_jit", "takes no keyword jit"),
    ("enable_timing=True", "timing=True", "takes no keyword timing"),
    ("npu.set_device(number)", "npu.set_device(number, True)", "takes 1 positional arguments"),
    ("npu.set_device(number)", "npu.set_device()", "needs device")])
def test_a_wrong_argument_is_found(record: dict, old: str, new: str, said: str) -> None:
    found = problems_of(record, old, new)
    assert len(found) == 1 and said in found[0] and found[0].startswith(DEVICE + ":")


@pytest.mark.parametrize("path, old", [
    (DEVICE, '"TORCH_NPU_FALLBACK_CPU_DISABLE"'), (DEVICE, '"HCCL_DETERMINISTIC"'),
    (DEVICE, '"ASCEND_RT_VISIBLE_DEVICES"'), ("test/env_npu.sh", "TASK_QUEUE_ENABLE=$"),
    ("test/env_npu.sh", "HCCL_CONNECT_TIMEOUT=$"), ("test/env_npu.sh", "CPU_AFFINITY_CONF=$")])
def test_a_misspelt_variable_is_found(record: dict, path: str, old: str) -> None:
    name = old.strip('"=$')
    found = problems_of(record, old, old.replace(name, name + "S"), path)
    assert found and all("nobody reads the variable" in line for line in found)


def test_a_wrong_process_group_is_found(record: dict) -> None:
    assert any("no process group hcclx" in line
               for line in problems_of(record, '"npu": "hccl"', '"npu": "hcclx"'))


def test_every_variable_from_elsewhere_is_used_and_not_in_the_wheel(record: dict) -> None:
    ours = {name for name, _ in contract.used().variables}
    assert set(contract.ELSEWHERE) <= ours
    assert not set(contract.ELSEWHERE) & set(record["variables"])


def test_the_record_belongs_to_the_pinned_wheel(record: dict) -> None:
    pinned = (ROOT / "requirements-npu.txt").read_text(encoding="utf-8")
    assert f"torch-npu=={record['version']}\n" in pinned

"""What `make test` compares our sources with is what the installed wheel has."""
from __future__ import annotations

import json
from collections.abc import Callable

import contract
import operators


def test_the_recorded_contract_is_the_wheels(python: Callable) -> None:
    done = python("""
import json, sys
sys.path.insert(0, "test/npu")
import contract
print("RECORD" + json.dumps(contract.record_wheel()))
""", FACEZOO_NPU_RUNTIME="null")
    assert done.returncode == 0, done.stderr[-2000:]
    fresh = json.loads(done.stdout.partition("RECORD")[2])
    assert fresh == contract.load_record()


def test_our_sources_fit_it() -> None:
    assert contract.compare(contract.used(), contract.load_record()) == []


def test_the_recorded_kernels_are_the_wheels(python: Callable) -> None:
    done = python("""
import sys
sys.path.insert(0, "test/npu")
import operators
print("RECORD", *operators.wheel_kernels(), sep="\\n")
""", FACEZOO_NPU_RUNTIME="null")
    assert done.returncode == 0, done.stderr[-2000:]
    fresh = set(done.stdout.partition("RECORD\n")[2].split())
    assert fresh == operators.registered() and len(fresh) > 1000


def test_switches_exist_as_recorded() -> None:
    import torch
    torch.npu.config.allow_internal_format = False
    torch.npu.conv.allow_hf32 = False
    torch.npu.matmul.allow_hf32 = False
    assert torch.npu.conv.allow_hf32 is False and torch.npu.matmul.allow_hf32 is False

"""Every operator of every model has a kernel in the recorded torch-npu wheel."""
from __future__ import annotations

import sys
from collections import Counter

import pytest
import torch
from conftest import ROOT

import models

sys.path.insert(0, str(ROOT / "test" / "npu"))

import operators


@pytest.mark.parametrize("name", models.names())
def test_no_operator_of_a_model_lacks_an_npu_kernel(name: str) -> None:
    counts = operators.step_of(name)
    assert counts["aten::convolution"] > 0 and counts["aten::convolution_backward"] > 0
    assert operators.missing(counts, operators.registered()) == []


@pytest.mark.parametrize("name, call", [
    ("aten::huber_loss", lambda x: torch.nn.functional.huber_loss(x, 2 * x)),
    ("aten::linalg_inv_ex", lambda x: torch.linalg.inv(x)),
    ("aten::_linalg_eigh", lambda x: torch.linalg.eigh(x))])
def test_an_operator_without_kernel_is_reported(name: str, call: object) -> None:
    with operators.Recorder() as recorder:
        call(torch.eye(3))
    assert any(found.startswith(name)
               for found in operators.missing(recorder.counts, operators.registered()))


@pytest.mark.parametrize("name", ["aten::transpose.int", "aten::reshape", "aten::conv2d"])
def test_composite_operators_need_no_kernel(name: str) -> None:
    assert not operators.needs_kernel(name)


def test_operators_are_counted_each_time_they_run() -> None:
    with operators.Recorder() as recorder:
        x = torch.ones(3)
        x.mul_(2).mul_(2).sum()
    assert recorder.counts["aten::mul_.Tensor"] == 2 and recorder.counts["aten::sum"] == 1


def test_a_kernel_in_the_list_is_not_reported() -> None:
    counts = Counter({"aten::mm": 1})
    assert operators.missing(counts, set()) == ["aten::mm"]
    assert operators.missing(counts, {"aten::mm"}) == []

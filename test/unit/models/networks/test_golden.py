"""The golden cases and the tool that runs them."""
from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from torch import nn

from tools import golden, selftest

CASES = sorted((ROOT / "test" / "golden").glob("*.json"))
# Take more than some seconds each; `make deep` and tools.selftest run them.
SLOW = {
    "facexlib_parsenet_512", "gfpgan_train_step_512", "gpen_bfr512", "psfrgan_generator_512",
    "sparnethd_generator", "gfpgan_train_step_simple_64",
    "gfpgan_v1.3_512", "gfpgan_v1_512", "gfpgan_v1_512_gain", "pfsrnet_d_step3",
    "pfsrnet_losses_step1", "pfsrnet_losses_step2", "pfsrnet_losses_step3", "psfrgan_train_step",
    "sparnethd_losses", "stylegan2_disc_512",
    "stylegan2_disc_512_gain"}
CPU = torch.device("cpu")


@pytest.mark.parametrize("path", [
    pytest.param(path, id=path.stem, marks=[pytest.mark.deep] * (path.stem in SLOW))
    for path in CASES])
def test_golden_case_holds(path: Path) -> None:
    row = selftest.run_case(path, selftest.runners(), CPU)
    if row["skipped"]:
        pytest.skip(row["problem"])
    assert row["ok"] and not row["unused"], selftest.line(row)


def changed(tmp_path: Path, change: Callable[[dict], None], name: str = "sparnet_x4_128_spar3d"
            ) -> Path:
    case = json.loads((ROOT / "test" / "golden" / f"{name}.json").read_text())
    change(case)
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(case))
    return path


def move_output(case: dict) -> None:
    case["outputs"][0]["samples"][5][1] += 1e-3 * case["outputs"][0]["absmax"]


def move_intermediate(case: dict) -> None:
    case["intermediate"][0]["samples"][5][1] += 0.01


@pytest.mark.parametrize("change", [
    move_output, move_intermediate,
    lambda case: case.update(network="SomethingElse"),
    lambda case: case["config"].update(bottleneck_size=8),
    lambda case: case["outputs"].append({**case["outputs"][0], "name": "more"}),
    lambda case: case.update(gain={"no.such.key": 2.0}),
    lambda case: case.update(gain={"out_conv.conv2d.weight": 1.01}),
    lambda case: case.update(mode="train"),
    lambda case: case["state_dict"].pop()])
def test_a_case_that_does_not_hold_fails(change: Callable, tmp_path: Path) -> None:
    row = selftest.run_case(changed(tmp_path, change), selftest.runners(), CPU)
    assert not row["ok"]


@pytest.mark.parametrize("part, change", [
    ("losses", lambda case: case["outputs"][3]["samples"][0].__setitem__(1, 0.5)),
    ("metrics", lambda case: case["metrics"][2].update(ssim_y=0.88)),
    ("resize", lambda case: case["resize"]["cases"][0]["samples"][3].__setitem__(1, 1.0))])
def test_every_part_of_the_loss_case_is_compared(part: str, change: Callable,
                                                 tmp_path: Path) -> None:
    path = changed(tmp_path, change, "sparnet_losses")
    assert not selftest.run_case(path, selftest.runners(), CPU)["ok"]


@pytest.mark.parametrize("group", ["grads_step1", "params_after", "adam_exp_avg_sq",
                                   "buffers_after"])
def test_every_part_of_the_training_case_is_compared(group: str, tmp_path: Path) -> None:
    def change(case: dict) -> None:
        record = case[group][0]
        record["samples"] = [[i, v + record["absmax"]] for i, v in record["samples"]]
    path = changed(tmp_path, change, "sparnet_train_step")
    assert not selftest.run_case(path, selftest.runners(), CPU)["ok"]


def test_the_tool_reports_each_case_and_fails_if_one_does(run_script: Callable,
                                                          tmp_path: Path) -> None:
    changed(tmp_path, move_output)
    good = ROOT / "test" / "golden" / "sparnet_losses.json"
    (tmp_path / good.name).write_text(good.read_text())
    done = run_script("tools.selftest", "--golden", tmp_path, "--json", tmp_path / "out" / "r.json",
                      "--device", "cpu")
    report = json.loads((tmp_path / "out" / "r.json").read_text())
    assert done.returncode == 1
    assert {row["case"]: row["ok"] for row in report["cases"]} == {
        "sparnet_losses": True, "sparnet_x4_128_spar3d": False}
    assert "1 of 2 cases passed" in done.stdout


def test_a_folder_without_cases_is_an_error(run_script: Callable, tmp_path: Path) -> None:
    done = run_script("tools.selftest", "--golden", tmp_path, "--device", "cpu")
    assert done.returncode == 2 and "--golden" in done.stderr


# ---- the loader itself --------------------------------------------------------------------------

def test_kept_entries_stay_and_gains_multiply() -> None:
    one, two = nn.Linear(3, 2), nn.Linear(3, 2)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    golden.fill(one)
    golden.fill(two, keep=["bi*"], gain={"weight": 2.0})
    assert torch.equal(two.weight, one.weight * 2)
    assert not torch.equal(two.bias, one.bias)


@pytest.mark.parametrize("case, name, expected", [
    ({}, "a", 1e-4), ({"tolerance": 0.5}, "a", 0.5),
    ({"tolerance": 0.5, "tolerances": {"a": 0.1}}, "a", 0.1),
    ({"tolerance_by_output": {"a": 0.1, "ab": 0.2}}, "xab", 0.2),
    ({"tolerances": {"b": 0.1}, "tolerance": 0.5}, "a", 0.5)])
def test_the_longest_matching_tolerance_wins(case: dict, name: str, expected: float) -> None:
    assert golden.tolerance_of(case, {"name": name}) == expected


def test_a_records_own_tolerance_wins() -> None:
    assert golden.tolerance_of({"tolerance": 0.5}, {"name": "a", "tolerance": 0.3}) == 0.3


def test_another_shape_or_nan_never_passes() -> None:
    record = {"name": "a", "shape": [2], "absmax": 1.0, "samples": [[0, 0.0], [1, 1.0]]}
    assert not golden.compare({}, record, torch.zeros(3)).ok
    assert not golden.compare({}, record, torch.tensor([float("nan"), 1.0])).ok
    assert golden.compare({}, record, torch.tensor([0.0, 1.0])).ok


def test_forward_arguments_of_a_case_reach_the_network() -> None:
    class Scale(nn.Module):
        def forward(self, x: torch.Tensor, factor: float = 1.0, shift: float = 0.0) -> torch.Tensor:
            return x * factor + shift
    x = golden.make_input("x", (4,))
    record = {"name": "y", "shape": [4], "absmax": 8.0,
              "samples": [[i, float(v) * 3 + 5] for i, v in enumerate(x)]}
    case = {"inputs": [{"name": "x", "shape": [4]}], "outputs": [record], "state_dict": [],
            "call": {"factor": 3.0, "shift": 5.0}}
    assert all(check.ok for check in golden.run_network(case, Scale(), CPU, ROOT))
    assert all(check.ok for check in golden.run_network({**case, "call": [3.0, 5.0]}, Scale(), CPU,
                                                        ROOT))
    assert not all(check.ok for check in golden.run_network({**case, "call": {}}, Scale(), CPU,
                                                            ROOT))

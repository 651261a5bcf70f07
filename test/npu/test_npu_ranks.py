"""Two processes over hccl, started by torchrun as a user would."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
from npu_suite import DEVICE_OF_RANKS, FOLDER, Run, child, differing, unit

import models

QUICK = ("sparnet", "stylegan2")     # both ways of sharing gradients; `make deep` has all


def launch(script: Path, *arguments: object) -> None:
    done = child(*unit.torchrun_command(script)[1:], *arguments)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What each rank of hccl_ranks.py found."""
    folder = tmp_path_factory.mktemp("ranks")
    launch(FOLDER / "hccl_ranks.py", DEVICE_OF_RANKS, folder)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int64", "int32", "int8"])
def test_hccl_sums_every_type_we_reduce(dtype: str, facts: list[dict]) -> None:
    assert [found[dtype] for found in facts] == [[3.0] * 3] * 2


def test_hccl_refuses_float64(facts: list[dict]) -> None:
    assert all(found["float64"] for found in facts)


def test_gloo_refuses_npu_tensors(facts: list[dict]) -> None:
    assert all("No backend type associated with device type npu" in found["gloo"]
               for found in facts)


def test_flags_objects_and_tensors_reach_every_rank(facts: list[dict]) -> None:
    for found in facts:
        assert found["backend"] == "hccl"
        assert found["any"] == [True, False]
        assert found["objects"] == [{"rank": 0, "text": "x"}, {"rank": 1, "text": "xx"}]
        assert (found["broadcast"], found["gathered"]) == ([1.0, 1.0], [0.0, 1.0])


def test_ddp_averages_gradients(facts: list[dict]) -> None:
    assert [found["gradient"] for found in facts] == [[[1.5, 1.5]]] * 2


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[pytest.mark.deep] * (name not in QUICK)) for name in models.names()])
def test_two_ranks_over_hccl_train_as_two_over_gloo(name: str, tmp_path: Path) -> None:
    for device in (DEVICE_OF_RANKS, "cpu"):
        launch(FOLDER / "two_ranks.py", tmp_path, name, device)
    runs = {kind: Run(tmp_path / kind) for kind in ("npu", "cpu")}
    assert (runs["npu"].result["device"], runs["npu"].result["world_size"]) == ("npu", 2)
    assert runs["npu"].losses == runs["cpu"].losses
    assert differing(runs["npu"].weights, runs["cpu"].weights) == []

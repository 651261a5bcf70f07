"""Synchronised batch norm: two processes compute what one computes on both batches."""
from __future__ import annotations

import subprocess

import pytest
import torch
from conftest import ROOT, torchrun_command
from torch import nn
from two_ranks_batch_norm import CASES, make_data, make_network, run

from engine.casting import cast_network
from models.ops.sync_batch_norm import SyncBatchNorm, synchronize_batch_norms


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What the two ranks found."""
    folder = tmp_path_factory.mktemp("ranks")
    done = subprocess.run(
        [*torchrun_command(ROOT / "test/unit/models/ops/two_ranks_batch_norm.py"), str(folder)],
        capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    return [torch.load(folder / f"rank{rank}.pth") for rank in range(2)]


@pytest.mark.parametrize("case", CASES)
def test_unequal_batches_on_two_ranks_are_normalised_as_one(ranks: list[dict], case: str) -> None:
    expected = run(make_network(*CASES[case]), *make_data())
    for key in ("out", "x"):
        found = torch.cat([rank[case][key] for rank in ranks])
        torch.testing.assert_close(found, expected[key], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("case", CASES)
def test_running_statistics_are_those_of_all_samples(ranks: list[dict], case: str) -> None:
    expected = run(make_network(*CASES[case]), *make_data())
    for rank in ranks:
        for key in ("0.running_mean", "0.running_var", "0.num_batches_tracked"):
            torch.testing.assert_close(rank[case][key], expected[key], rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["0.weight", "0.bias"])
def test_parameter_gradients_of_the_ranks_add_up_to_the_whole(ranks: list[dict],
                                                             name: str) -> None:
    expected = run(make_network(0.1), *make_data())[f"grad {name}"]
    found = sum(rank["plain"][f"grad {name}"] for rank in ranks)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_half_precision_inputs_have_fp32_statistics(ranks: list[dict]) -> None:
    network = make_network(0.1).to(torch.float32)
    expected = network(make_data()[0].half())
    found = torch.cat([rank["half"] for rank in ranks])
    assert found.dtype == torch.float16
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)


def test_replacing_keeps_tensors_names_and_mode_and_counts() -> None:
    network = nn.Sequential(nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1)),
                            nn.BatchNorm1d(3, eps=1e-3, momentum=0.3, affine=False)).eval()
    before = {**network.state_dict(keep_vars=True)}
    assert synchronize_batch_norms(network) == 2
    after = network.state_dict(keep_vars=True)
    assert list(before) == list(after)
    assert all(before[key] is after[key] for key in before)
    norm = network[1]
    assert isinstance(norm, SyncBatchNorm) and not norm.training
    assert (norm.eps, norm.momentum, norm.affine) == (1e-3, 0.3, False)


def test_alone_it_is_the_ordinary_batch_norm_bit_for_bit() -> None:
    plain, synchronised = make_network(0.1), make_network(0.1)
    synchronize_batch_norms(synchronised)
    expected, found = run(plain, *make_data()), run(synchronised, *make_data())
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_o2_keeps_it_in_fp32() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    synchronize_batch_norms(network)
    cast_network(network, torch.float16, "apex", torch.device("cpu"))
    assert network[0].weight.dtype == torch.float16
    assert {t.dtype for t in network[1].state_dict().values()} == {torch.float32, torch.int64}


def test_a_vector_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(B, C"):
        SyncBatchNorm(3)(torch.zeros(3))

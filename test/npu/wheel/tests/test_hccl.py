"""ProcessGroupHCCL with two ranks under torchrun, over the host runtime's shared memory."""
from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ranks import PREAMBLE

ROOT = Path(__file__).resolve().parents[4]

COLLECTIVES = """
kinds = [torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.float32,
         torch.bfloat16, torch.uint8, torch.bool, torch.float64]
for kind in kinds:
    made = lambda: (torch.arange(5) + rank).to(kind).to(device)
    try:
        x = made()
        dist.all_reduce(x)
        result["all_reduce", kind] = x.cpu()
    except RuntimeError as error:
        result["all_reduce", kind] = str(error)
    x = made()
    dist.broadcast(x, src=1)
    result["broadcast", kind] = x.cpu()
    parts = [torch.zeros(5, dtype=kind, device=device) for _ in range(2)]
    dist.all_gather(parts, made())
    result["all_gather", kind] = [part.cpu() for part in parts]
x = torch.arange(700_000.0, device=device) * (rank + 1)     # several pieces of shared memory
dist.all_reduce(x)
result["large"] = torch.equal(x.cpu(), torch.arange(700_000.0) * 3)
for name in ("MAX", "MIN", "PRODUCT"):
    x = torch.tensor([2.0, -3.0], device=device) * (rank + 1)
    dist.all_reduce(x, op=getattr(dist.ReduceOp, name))
    result[name] = x.tolist()
x = torch.zeros(3, device=device)
dist.reduce_scatter_tensor(x, torch.arange(6.0, device=device))
result["reduce_scatter"] = x.tolist()
result["objects"] = distributed.gather_from_ranks({"rank": rank})
result["any"] = distributed.any_rank(rank == 1, device)
distributed.barrier()
"""
GLOO = """
group = dist.new_group(backend="gloo")
try:
    dist.all_reduce(torch.ones(2, device=device), group=group)
    result["said"] = "nothing"
except RuntimeError as error:
    result["said"] = str(error)
"""
DDP = """
from torch.nn.parallel import DistributedDataParallel
def trained(device, group, make, **settings):
    torch.manual_seed(0)
    # No bias before the batch norm: its gradient is noise.
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, bias=False), torch.nn.BatchNorm2d(4),
                              torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 2))
    net.to(device)
    wrapped = DistributedDataParallel(net, broadcast_buffers=False, process_group=group,
                                      **settings)
    optimizer = make(net)
    for step in range(5):
        x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(10 * step + rank))
        optimizer.zero_grad()
        wrapped(x.to(device)).square().mean().backward()
        optimizer.step()
    return [p.detach().cpu() for p in net.parameters()]
import torch_npu
adam = lambda net: torch.optim.Adam(net.parameters(), lr=1e-2, foreach=False)
fused = lambda net: torch_npu.optim.NpuFusedAdam(net.parameters(), lr=1e-2)
gloo = dist.new_group(backend="gloo")
result["cpu"] = trained(torch.device("cpu"), gloo, adam)
result["npu"] = trained(device, None, adam, device_ids=[device.index])
result["fused"] = trained(device, None, fused, device_ids=[device.index])
try:
    trained(device, None, fused, device_ids=[device.index], gradient_as_bucket_view=True)
    result["bucket view"] = "ran"
except RuntimeError as error:
    result["bucket view"] = str(error)
from engine.distributed import wrap
ours = wrap(torch.nn.Linear(2, 2).to(device), device)
result["ours views buckets"] = ours.gradient_as_bucket_view
"""


@pytest.fixture(scope="module")
def collectives(tmp_path_factory: pytest.TempPathFactory, run_ranks: Callable) -> list[dict]:
    return run_ranks(COLLECTIVES, tmp_path_factory.mktemp("collectives"))


@pytest.fixture(scope="module")
def ddp(tmp_path_factory: pytest.TempPathFactory, run_ranks: Callable) -> list[dict]:
    return run_ranks(DDP, tmp_path_factory.mktemp("ddp"))


@pytest.mark.parametrize("kind", [
    torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.float32,
    torch.bfloat16, torch.uint8])
def test_all_reduce_sums_every_accepted_type(kind: torch.dtype, collectives: list[dict]) -> None:
    expected = torch.tensor([1, 3, 5, 7, 9]).to(kind)
    assert all(torch.equal(found["all_reduce", kind], expected) for found in collectives)


def test_all_reduce_of_float64_is_refused(collectives: list[dict]) -> None:
    assert all("Unsupported data type" in found["all_reduce", torch.float64]
               for found in collectives)


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bool, torch.int64])
def test_broadcast_and_all_gather_take_every_type(kind: torch.dtype,
                                                  collectives: list[dict]) -> None:
    ranks = [(torch.arange(5) + rank).to(kind) for rank in (0, 1)]
    for found in collectives:
        assert torch.equal(found["broadcast", kind], ranks[1])
        assert all(map(torch.equal, found["all_gather", kind], ranks))


def test_a_buffer_larger_than_a_slot_goes_in_pieces(collectives: list[dict]) -> None:
    assert all(found["large"] for found in collectives)


@pytest.mark.parametrize("name, expected", [
    ("MAX", [4.0, -3.0]), ("MIN", [2.0, -6.0]), ("PRODUCT", [8.0, 18.0])])
def test_other_reductions(name: str, expected: list, collectives: list[dict]) -> None:
    assert all(found[name] == expected for found in collectives)


def test_reduce_scatter_gives_each_rank_its_part(collectives: list[dict]) -> None:
    assert [found["reduce_scatter"] for found in collectives] == [[0, 2, 4], [6, 8, 10]]


def test_our_collective_helpers_work_on_cards(collectives: list[dict]) -> None:
    assert all(found["objects"] == [{"rank": 0}, {"rank": 1}] and found["any"] is True
               for found in collectives)


def test_gloo_refuses_tensors_of_a_card(ranks: Callable) -> None:
    assert all("npu" in found["said"] and "ackend" in found["said"] for found in ranks(GLOO))


def test_five_ddp_steps_equal_gloo_on_the_cpu(ddp: list[dict]) -> None:
    for found in ddp:
        assert all(map(torch.equal, found["npu"], found["cpu"]))
    assert all(map(torch.equal, ddp[0]["npu"], ddp[1]["npu"]))


def test_ddp_with_the_fused_adam_equals_torch_adam(ddp: list[dict]) -> None:
    for found in ddp:
        assert max(float((a - b).abs().max())
                   for a, b in zip(found["fused"], found["cpu"], strict=True)) < 1e-6


def test_bucket_views_break_the_fused_adam_and_ours_are_off(ddp: list[dict]) -> None:
    assert all("size" in found["bucket view"] and found["ours views buckets"] is False
               for found in ddp)


def test_a_rank_that_dies_ends_the_others_wait(tmp_path: Path) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(PREAMBLE + """
distributed.barrier()
if rank == 1:
    os._exit(9)
distributed.sum_over_ranks(torch.ones(1, device=device)).item()
""", encoding="utf-8")
    port, processes = free_port(), []
    for rank in (0, 1):     # without torchrun, which would end the other one itself
        settings = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
        processes.append(subprocess.Popen(
            [sys.executable, script], cwd=ROOT, text=True, stderr=subprocess.PIPE,
            env={**os.environ, "MASTER_ADDR": "127.0.0.1", "PYTHONPATH": str(ROOT),
                 "OMP_NUM_THREADS": "1", **{key: str(value) for key, value in settings.items()}}))
    try:
        assert processes[1].wait(timeout=120) == 9
        _, said = processes[0].communicate(timeout=120)
        assert processes[0].returncode and "rank 1 is gone" in said
    finally:
        for process in processes:
            process.kill()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]

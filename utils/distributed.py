"""Process groups: one process per card, started by torchrun or the way ModelZoo jobs are."""
from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from utils import device as devices


def adopt_modelzoo_environment(environ: dict[str, str] | os._Environ = os.environ) -> None:
    """Translate RANK_ID / RANK_SIZE, as Ascend jobs set them, to torch's names.

    Does nothing under torchrun (RANK or WORLD_SIZE present) or with a single card.

    Raises:
        ValueError: RANK_SIZE > 1 without RANK_ID, or no integer.
    """
    if "RANK" in environ or "WORLD_SIZE" in environ:
        return
    size = environ.get("RANK_SIZE", "1")
    rank = environ.get("RANK_ID")
    if not size.isdigit() or (rank is not None and not rank.isdigit()):
        raise ValueError(f"RANK_SIZE and RANK_ID must be integers, got {size!r} and {rank!r}")
    if int(size) <= 1 or rank is None:      # launch scripts export RANK_SIZE=1 alone
        return
    environ.update(RANK=rank, WORLD_SIZE=size,
                   LOCAL_RANK=environ.get("ASCEND_DEVICE_ID", str(int(rank) % 8)))
    environ.setdefault("MASTER_ADDR", "127.0.0.1")
    environ.setdefault("MASTER_PORT", "29688")


def start(device: torch.device, timeout_s: int = 1800) -> None:
    """Join the process group; call after the device was selected. A world of one makes no group.

    Args:
        timeout_s: a collective call that waits longer for another rank ends the process.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group(devices.collective(device), timeout=timedelta(seconds=timeout_s))


def stop() -> None:
    """Leave the process group, if there is one. Not after an error, where other ranks may wait in
    a collective call and leaving can wait for them; ending the process frees them."""
    if dist.is_initialized():
        dist.destroy_process_group()


def recorded(entry: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its exception left for torchrun, which shows the first rank's to fail."""
    from torch.distributed.elastic.multiprocessing.errors import record
    return record(entry)


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """True in the one process that writes files and prints."""
    return rank() == 0


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Sum of a float32 or integer tensor over all ranks, in place (hccl refuses float64)."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def stack_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """A float32 or integer vector (N) of every rank, as (world_size, N) in rank order."""
    rows = values.new_zeros(world_size(), len(values))
    rows[rank()] = values
    return sum_over_ranks(rows)     # exact: everything else in a column is zero


def any_rank(flag: bool, device: torch.device) -> bool:
    """True everywhere when `flag` is true on some rank; a collective call."""
    if not dist.is_initialized():
        return flag
    return bool(sum_over_ranks(torch.tensor(int(flag), device=device)).item())


def gather_from_ranks(value: Any) -> list[Any]:
    """The picklable `value` of every rank, in rank order, on every rank; a collective call."""
    if not dist.is_initialized():
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def share(count: int) -> range:
    """This rank's part of `count` items: contiguous, so that parts in rank order are all in order.
    """
    return range(rank() * count // world_size(), (rank() + 1) * count // world_size())


def copy_buffers(networks: Iterable[torch.nn.Module]) -> None:
    """Give every rank rank 0's buffers, those that are saved; a collective call."""
    if dist.is_initialized():
        for network in networks:
            for buffer in network.buffers():
                dist.broadcast(buffer, 0)


def wrap(network: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """Average the network's gradients over the ranks; the network itself in a world of one.

    Buffers are not broadcast: each rank keeps its own batch statistics, rank 0's are saved.
    """
    if not dist.is_initialized():
        return network
    return torch.nn.parallel.DistributedDataParallel(
        network, device_ids=None if device.type == "cpu" else [device.index],
        broadcast_buffers=False, gradient_as_bucket_view=False)

"""Process groups: one process per card, started by torchrun or the way ModelZoo jobs are."""
from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from engine import device as devices

_joined = ""    # the backend of the group this process is or was in
# DDP wrappers live until the process ends: the destructor of one joins a thread of gloo that may
# wait for the GIL, which hangs the process.
_wrappers: list[torch.nn.Module] = []


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
    global _joined
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        _joined = devices.collective(device)
        dist.init_process_group(_joined, timeout=timedelta(seconds=timeout_s))


def stop() -> None:
    """Leave the process group, if there is one. Not after an error, where other ranks may wait in
    a collective call and leaving can wait for them; ending the process frees them."""
    if dist.is_initialized():
        dist.destroy_process_group()


def leave(status: int) -> NoReturn:
    """End the process with `status`; the last call of an entry.

    After gloo was used the interpreter is not torn down: its threads live on in torch's DDP until
    then, and one that lets go of a tensor late aborts the process ("terminate called without an
    active exception"), which makes torchrun report a failure of a training that succeeded.
    """
    if _joined != "gloo":
        sys.exit(status)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


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


class FailedElsewhere(Exception):
    """What the main process was to do failed, which it reports itself."""


def on_main(call: Callable[[], Any]) -> Any:
    """Run `call` on the main rank; its picklable result on every rank; a collective call.

    Raises:
        OSError, ValueError: what the call raised; on the other ranks FailedElsewhere.
    """
    result, error = None, None
    if is_main():
        try:
            result = call()
        except (OSError, ValueError) as caught:
            error = caught
    result, failed = gather_from_ranks((result, error is not None))[0]
    if error is not None:
        raise error
    if failed:
        raise FailedElsewhere
    return result


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


def copy_weights(network: torch.nn.Module) -> None:
    """Give every rank rank 0's parameters and buffers; a collective call."""
    if dist.is_initialized():
        for tensor in [*network.parameters(), *network.buffers()]:
            dense = tensor.detach().contiguous()    # channels-last ones are copies
            dist.broadcast(dense, 0)
            tensor.detach().copy_(dense)


def average(tensors: list[torch.Tensor], bucket: int = 2 ** 23) -> None:
    """Replace each tensor by its mean over the ranks, in place; a collective call.

    Args:
        tensors: the same shapes and types in the same order on every rank.
        bucket: travel together up to about so many numbers, which are copied for that.
    """
    if not dist.is_initialized():
        return
    batch: list[torch.Tensor] = []
    for index, tensor in enumerate(tensors):
        batch.append(tensor)
        following = tensors[index + 1] if index + 1 < len(tensors) else None
        if following is None or following.dtype != tensor.dtype or sum(
                t.numel() for t in batch) >= bucket:
            flat = torch.cat([t.reshape(-1) for t in batch]).div_(world_size())
            dist.all_reduce(flat)
            torch._foreach_copy_(batch, [part.view(t.shape) for part, t in zip(
                flat.split([t.numel() for t in batch]), batch, strict=True)])
            batch = []


def no_sync(network: torch.nn.Module) -> AbstractContextManager:
    """Inside, a network that `wrap` wrapped keeps its gradients to itself."""
    if isinstance(network, torch.nn.parallel.DistributedDataParallel):
        return network.no_sync()
    return nullcontext()


def wrap(network: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """Average the network's gradients over the ranks; the network itself in a world of one.

    Buffers are not broadcast: each rank keeps its own batch statistics, rank 0's are saved.
    """
    if not dist.is_initialized():
        return network
    wrapper = torch.nn.parallel.DistributedDataParallel
    names = inspect.signature(wrapper.__init__).parameters
    in_forward = ("forward_sync_buffers" if "forward_sync_buffers" in names     # torch >= 2.13
                  else "broadcast_buffers")
    devices_used = None if devices.on_host(device) else [device.index]
    _wrappers.append(wrapper(network, device_ids=devices_used, gradient_as_bucket_view=False,
                             **{in_forward: False}))
    return _wrappers[-1]

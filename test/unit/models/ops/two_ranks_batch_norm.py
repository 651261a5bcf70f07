"""What test_sync_batch_norm.py runs in two processes: python two_ranks_batch_norm.py FOLDER."""
from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
sys.path.insert(0, str(Path(__file__).resolve().parents[4]))

import torch
from torch import nn

from engine import distributed
from models.ops.sync_batch_norm import synchronize_batch_norms

CASES = {"plain": (0.1,), "cumulative": (None,), "no affine": (0.1, False)}
SIZES = (3, 5)      # samples on each rank: batches need not be equal


def make_network(momentum: float | None, affine: bool = True) -> nn.Sequential:
    """A batch norm with values of its own in every parameter and buffer, in float64."""
    torch.manual_seed(1)
    norm = nn.BatchNorm2d(4, momentum=momentum, affine=affine)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return nn.Sequential(norm).double()


def make_data() -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs far from zero, and the weights of a loss; of both ranks."""
    torch.manual_seed(2)
    x = 100 + torch.randn(sum(SIZES), 4, 3, 5, dtype=torch.float64)
    return x, torch.randn_like(x)


def run(network: nn.Module, x: torch.Tensor, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """Output, gradients and running statistics after two steps on one batch."""
    x = x.clone().requires_grad_()
    for _ in range(2):
        out = network(x)
        x.grad = None
        network.zero_grad()
        (out * weight).sum().backward()
    return {"out": out.detach(), "x": x.grad, **network.state_dict(),
            **{f"grad {name}": p.grad for name, p in network.named_parameters()}}


if __name__ == "__main__":
    distributed.start(torch.device("cpu"))
    rank = distributed.rank()
    mine = slice(sum(SIZES[:rank]), sum(SIZES[:rank + 1]))
    results = {}
    for name, settings in CASES.items():
        network = make_network(*settings)
        synchronize_batch_norms(network)
        x, weight = make_data()
        results[name] = run(network, x[mine], weight[mine])
    network = make_network(0.1).to(torch.float32)
    synchronize_batch_norms(network)
    results["half"] = network(make_data()[0][mine].half())
    torch.save(results, Path(sys.argv[1]) / f"rank{rank}.pth")
    distributed.stop()

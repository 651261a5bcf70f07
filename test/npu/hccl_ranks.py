"""What test_npu_ranks.py starts on every rank: python hccl_ranks.py DEVICE FOLDER."""
from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch.distributed as dist

from engine import device as devices
from engine import distributed
from utils.files import to_json, write_text


def refusal(action: Any, *arguments: Any, **settings: Any) -> str:
    """The message of the RuntimeError that a call raises, empty without one."""
    try:
        action(*arguments, **settings)
    except RuntimeError as error:
        return str(error) or type(error).__name__
    return ""


def main(spec: str, folder: Path) -> None:
    npu = devices.open_device(spec)
    distributed.start(npu)
    rank, facts = distributed.rank(), {}
    for name in ("float32", "float16", "bfloat16", "int64", "int32", "int8"):
        value = torch.full((3,), rank + 1, dtype=getattr(torch, name), device=npu)
        facts[name] = distributed.sum_over_ranks(value).float().cpu().tolist()
    facts["float64"] = refusal(dist.all_reduce, torch.ones(2, dtype=torch.float64).to(npu))
    facts["any"] = [distributed.any_rank(flag, npu) for flag in (rank == 1, False)]
    facts["objects"] = distributed.gather_from_ranks({"rank": rank, "text": "x" * (rank + 1)})
    value = torch.full((2,), float(rank), device=npu)
    dist.broadcast(value, src=1)
    facts["broadcast"] = value.cpu().tolist()
    parts = [torch.zeros(1, device=npu) for _ in range(2)]
    dist.all_gather(parts, torch.full((1,), float(rank), device=npu))
    facts["gathered"] = [float(part.cpu()) for part in parts]
    distributed.barrier()
    network = distributed.wrap(torch.nn.Linear(2, 1, bias=False).to(npu), npu)
    network(torch.full((1, 2), rank + 1.0, device=npu)).sum().backward()
    facts["gradient"] = network.module.weight.grad.cpu().tolist()
    facts["backend"] = dist.get_backend()
    facts["gloo"] = refusal(dist.all_reduce, torch.ones(2, device=npu),
                            group=dist.new_group(backend="gloo"))
    write_text(folder / f"rank{rank}.json", to_json(facts) + "\n")
    distributed.stop()
    assert not dist.is_initialized()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

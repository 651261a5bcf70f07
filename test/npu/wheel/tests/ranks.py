"""What every script of a rank begins and ends with; see conftest.run_ranks."""
from __future__ import annotations

PREAMBLE = """
import os, sys
import torch, torch.distributed as dist
from engine import device as devices, distributed
rank = int(os.environ["RANK"])
device = devices.open_device("npu")
distributed.start(device)
result = {}
"""
EPILOGUE = """
torch.save(result, f"{sys.argv[1]}/{rank}.pt")
distributed.stop()
"""

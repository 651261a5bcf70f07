"""Full training as a ModelArts job: python modelarts_entry_acc.py --data_url DIR --train_url DIR

Runs test/train_full_1p.sh, or _8p.sh on several cards, and exits with its status.
"""
from __future__ import annotations

import os

# Before torch, which moxing may import: torch_npu must not be loaded without a usable NPU.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

import sys
from pathlib import Path

from tools.modelarts import run_job

if __name__ == "__main__":
    sys.exit(run_job("train_full", Path(__file__).resolve().parent))

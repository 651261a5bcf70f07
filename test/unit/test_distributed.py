"""Two processes over gloo: the same network on both, files written once, resumable."""
from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from conftest import ROOT, tiny_arguments


def launch(tmp_path: Path, *arguments: object) -> subprocess.CompletedProcess:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2",
         f"--master_port={port}", str(ROOT / "newtrain.py"), *tiny_arguments("sparnet"),
         "--checkpoints_dir", str(tmp_path), "--name", "ddp", "--no-tensorboard",
         "--eval_freq", "2", "--print_freq", "1", *map(str, arguments)],
        capture_output=True, text=True, timeout=240, cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_two_ranks_train_validate_save_and_resume(tmp_path: Path) -> None:
    whole = launch(tmp_path, "--train_steps", 4)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert whole.stdout.count("validation at step 4") == 1
    result = json.loads((tmp_path / "ddp" / "result.json").read_text())
    assert (result["world_size"], result["step"]) == (2, 4)
    expected = torch.load(tmp_path / "ddp" / "latest_net_G.pth", weights_only=True)
    assert launch(tmp_path, "--train_steps", 2).returncode == 0
    again = launch(tmp_path, "--train_steps", 4, "--continue_train")
    assert "continuing after step 2" in again.stdout, again.stderr
    found = torch.load(tmp_path / "ddp" / "latest_net_G.pth", weights_only=True)
    # Running statistics are each rank's own and rank 0's are saved; it goes on with its own.
    assert [key for key in expected if not torch.equal(expected[key], found[key])] == []

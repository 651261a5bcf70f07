"""Tests in the environment of install.sh; they fail, and do not skip, in any other.

    FOLDER/bin/python -m pytest test/npu/wheel/tests

torch_npu is imported and its card opened before anything else: torch's autograd engine counts the
devices once, at the first backward pass of a process.
"""
from __future__ import annotations

import os

os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
for _name in ("ASCEND_HOME_PATH", "ASCEND_OPP_PATH", "FACEZOO_NPU_RUNTIME", "FACEZOO_NPU_SOC",
              "FACEZOO_NPU_CARDS", "TORCH_NPU_FALLBACK_CPU_DISABLE", "RANK", "WORLD_SIZE",
              "LOCAL_RANK", "ASCEND_DEVICE_ID", "ASCEND_RT_VISIBLE_DEVICES"):
    os.environ.pop(_name, None)

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]
if not (Path(sys.prefix) / "npu-runtime" / "installed").exists():
    pytest.exit(f"{sys.executable} is not the environment of test/npu/wheel/install.sh; run "
                f"FOLDER/bin/python -m pytest {Path(__file__).parent.relative_to(ROOT)}", 1)

import torch
from ranks import EPILOGUE, PREAMBLE

from engine import device as devices


@pytest.fixture(scope="session", autouse=True)
def card() -> torch.device:
    """npu:0 of the host runtime, opened as the entries do."""
    return devices.open_device("npu:0")


@pytest.fixture
def python() -> Callable[..., subprocess.CompletedProcess]:
    """Run code, or a script of the repository, in a fresh process with environment variables."""
    def run(*arguments: object, timeout: float = 240,
            **variables: str) -> subprocess.CompletedProcess:
        words = [str(word) for word in arguments]
        if not words[0].endswith(".py"):
            words = ["-c", *words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
        environment = {name: value for name, value in environment.items() if value != "unset"}
        return subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, text=True,
                              capture_output=True, timeout=timeout)
    return run


@pytest.fixture(scope="session")
def run_ranks() -> Callable[[str, Path], list[dict]]:
    """Run code on two ranks under torchrun; each rank's dict `result`, by rank.

    The code finds `rank`, `device` (its card) and an open hccl group, torch and dist imported.
    """
    def run(body: str, folder: Path, timeout: float = 240) -> list[dict]:
        script = folder / "ranks.py"
        script.write_text(PREAMBLE + body + EPILOGUE, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node",
             "2", str(script), str(folder)],
            cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            text=True, capture_output=True, timeout=timeout)
        assert done.returncode == 0, done.stderr[-4000:]
        return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]
    return run


@pytest.fixture
def ranks(run_ranks: Callable, tmp_path: Path) -> Callable[[str], list[dict]]:
    return lambda body: run_ranks(body, tmp_path)

"""What the NPU tests share. Imported before torch: it decides which torch_npu is found."""
from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

# As in every entry: an installed torch_npu must not be loaded by `import torch`.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
os.environ["OMP_NUM_THREADS"] = "1"     # bit for bit comparisons need the same order of additions
FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
sys.path.insert(0, str(ROOT))
TIER = int(os.environ.get("FACEZOO_NPU_TIER")
           or (3 if importlib.util.find_spec("torch_npu") else 1))
os.environ["FACEZOO_NPU_TIER"] = str(TIER)      # for xdist's workers, who find both packages
if TIER == 1:
    sys.path.insert(0, str(FOLDER / "python_device"))
    os.environ["PYTHONPATH"] = os.pathsep.join(     # for children
        [sys.path[0], *filter(None, [os.environ.get("PYTHONPATH")])])

import torch

import data
import models
import newtrain
from options.train_options import TrainOptions

MEANING = {1: "pure Python device; proves placement and order, nothing about torch_npu or kernels",
           3: "published torch_npu on a simulated runtime; kernels are the CPU's"}
# The pure Python device has one card, which every rank of a distributed run opens.
DEVICE_OF_RANKS = "npu:0" if TIER == 1 else "npu"


def load(path: Path) -> ModuleType:
    """A file as a module under a name of its own; both test folders have a conftest."""
    spec = importlib.util.spec_from_file_location(f"npu_suite_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


unit = load(ROOT / "test" / "unit" / "conftest.py")


def arguments_of(name: str, device: str, *more: object) -> list[str]:
    """A tiny training run's command line. Layouts are equal on both devices, as an NPU wants."""
    return [*unit.tiny_arguments(name), "--device", device, "--memory_format", "contiguous",
            "--print_freq", "1", "--eval_freq", "0", "--no-tensorboard", *map(str, more)]


class Run:
    """What a training run left behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = torch.load(folder / "latest_state.pth", weights_only=True)
        # G is what a model trains, but for parse, whose only network is P.
        letter = "G" if (folder / "latest_net_G.pth").exists() else "P"
        self.weights = torch.load(folder / f"latest_net_{letter}.pth", weights_only=True)
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        self.losses = [line["losses"] for line in lines if "losses" in line]
        self.result = json.loads((folder / "result.json").read_text())


def train(folder: Path, name: str, device: str, *more: object) -> Run:
    """Train in this process; the run's folder is `folder`/run."""
    argv = arguments_of(name, device, *more, "--checkpoints_dir", folder, "--name", "run")
    assert newtrain.train(TrainOptions(models, data, "newtrain.py").parse(argv)) == 0
    return Run(folder / "run")


def child(*command: object, timeout: float = 300, env: dict[str, str] | None = None,
          ) -> subprocess.CompletedProcess:
    """Run a Python file, or `-c text`, in a process of its own, as a user would."""
    return subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True,
                          timeout=timeout, cwd=ROOT, env={**os.environ, **(env or {})})


def leaves(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor inside nested dicts, lists and tuples."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from leaves(item)


def differing(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> list[str]:
    """Names whose tensors are not equal bit for bit."""
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]


def farthest(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Largest difference between two state dicts' floating tensors."""
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first
               if first[name].is_floating_point() and first[name].numel())

"""aten operators of one training step, per model, against the kernels the wheel registers.

    python test/npu/operators.py            one line per model: operators per step, missing kernels
    python test/npu/operators.py sparnet    the same with the count of every operator
    FOLDER/bin/python test/npu/operators.py record     write operators.txt from the installed wheel

An operator without kernel would run on the host: slow, or an error with --npu_strict. Models run
tiny and on the CPU; operators that torch makes of others (composite ones) need no kernel.
"""
from __future__ import annotations

import os

os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

import importlib
import importlib.metadata
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RECORD = Path(__file__).with_name("operators.txt")
sys.path[:0] = [str(ROOT), str(ROOT / "test" / "unit")]

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import data
import models
from data.base_dataset import collate
from models.ops import padded_conv
from options.train_options import TrainOptions

# torch's own implementations that work on every device.
GENERIC = ("CompositeExplicitAutograd", "CompositeImplicitAutograd")
# Structured operators are made of their form with given outputs, where a device has that only.
NON_FUNCTIONAL = "CompositeExplicitAutogradNonFunctional"


class Recorder(TorchDispatchMode):
    """Counts the aten operators that run while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (),
                           kwargs: dict | None = None) -> Any:
        self.counts[name_of(func)] += 1
        return func(*args, **(kwargs or {}))


def name_of(operator: Any) -> str:
    """As in operators.txt: `aten::add.Tensor`, without overload name where it is the default."""
    return operator.name().removesuffix(".default")


def registered() -> set[str]:
    """The operators with a kernel for the card in the recorded wheel."""
    lines = RECORD.read_text(encoding="utf-8").splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def needs_kernel(name: str) -> bool:
    """Whether a device must bring a kernel: torch has none that works on every device."""
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    return name.startswith("aten::") and not any(has(name, key) for key in GENERIC)


def served_by_out(name: str, kernels: set[str]) -> bool:
    """Whether torch makes the operator of a form with given outputs that the card has."""
    structured = torch._C._dispatch_has_kernel_for_dispatch_key(name, NON_FUNCTIONAL)
    return structured and any(kernel.startswith(f"{name}.") for kernel in kernels)


def missing(counts: Counter[str], kernels: set[str]) -> list[str]:
    """Operators of a step that no kernel of the card serves."""
    return sorted(name for name in counts if name not in kernels and needs_kernel(name)
                  and not served_by_out(name, kernels))


def record_step(model: Any, batch: dict[str, Any]) -> Counter[str]:
    """Operators of the second training step (the first makes the optimizer's state) and restore."""
    for update in model.precision.steps.values():
        for group in update.optimizer.param_groups:
            group["foreach"] = True         # torch's Adam takes that form on a card by itself
    model.run_step(batch)
    with Recorder() as recorder:
        model.start_step(2, 100, 100)
        model.run_step(batch)
    counts = recorder.counts
    model.eval()
    with torch.no_grad(), Recorder() as restoring:
        model.restore(batch["lq"])
    return counts + restoring.counts


def plain_forms() -> Callable[[], None]:
    """Make networks take the operators they take on a card; returns what puts it back."""
    by_hand = padded_conv.uses_custom_kernel
    padded_conv.uses_custom_kernel = lambda x: False

    def restore() -> None:
        padded_conv.uses_custom_kernel = by_hand
    return restore


def step_of(name: str) -> Counter[str]:
    """Operators of one tiny step of a model, as a card would get them."""
    from conftest import tiny_arguments  # test/unit's; other suites have another one

    opt = TrainOptions(models, data, "operators").parse(
        [*tiny_arguments(name), "--memory_format", "contiguous", "--opt_level", "O0",
         "--optimizer", "adam"])
    torch.manual_seed(0)
    put_back = plain_forms()
    try:
        model = models.create(opt, torch.device("cpu"))
        model.setup()
        model.train()
        dataset = data.create_dataset(opt.dataset_name, "train", opt.degradation, vars(opt))
        batch = model.prepare(collate([dataset[0], dataset[1]]))
        model.start_step(1, 100, 100)
        return record_step(model, batch)
    finally:
        put_back()


def wheel_kernels() -> list[str]:
    """The aten operators for which the installed torch_npu registers a kernel."""
    importlib.import_module("torch_npu")
    names = torch._C._dispatch_get_registrations_for_dispatch_key("PrivateUse1")
    return sorted(name for name in names if name.startswith("aten::"))


def main(arguments: list[str]) -> int:
    if arguments == ["record"]:
        os.environ["FACEZOO_NPU_RUNTIME"] = "null"      # torch_npu's own registrations only
        names = wheel_kernels()
        version = importlib.metadata.version("torch-npu")
        head = f"# aten operators with a PrivateUse1 kernel in torch-npu {version}; made by record"
        RECORD.write_text("\n".join([head, *names, ""]), encoding="utf-8")
        print(f"{RECORD}: {len(names)} operators")
        return 0
    unknown = [name for name in arguments if name not in models.names()]
    if unknown:
        print(f"operators.py: no model {unknown[0]}; known are {', '.join(models.names())}",
              file=sys.stderr)
        return 2
    kernels, found = registered(), 0
    for name in arguments or models.names():
        counts = step_of(name)
        without = missing(counts, kernels)
        found += len(without)
        print(f"{name}: {counts.total()} operators per step and restore, {len(counts)} different, "
              f"missing: {', '.join(without) or 'none'}")
        if arguments:
            for operator, count in counts.most_common():
                print(f"  {count:6d} {operator}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

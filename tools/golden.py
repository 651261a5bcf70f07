"""Golden values: does a network here compute what the published one computes?

A case file records outputs of the publisher's code for weights and inputs that depend only on their
names and shapes (numpy's legacy RandomState seeded by CRC-32), so no weights or images travel. Fill
"v1", with n(key) = standard normal seeded by the key:
    ndim >= 2                n / sqrt(fan_in)
    1-d `weight`             1 + 0.1 n, if longer than one
    running_mean, running_var  0.1 n, 1 + 0.1 |n|
    num_batches_tracked      0
    weight_u, weight_v       n / ||n||
    everything else          0.1 n
"""
from __future__ import annotations

import fnmatch
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

DEFAULT_TOLERANCE = 1e-4
WEIGHTS_VARIABLE = "FACEZOO_TEST_DATA"


class MissingWeights(Exception):
    """A case needs published weights that are not here: it can be neither right nor wrong."""


@dataclass
class Check:
    """One compared record: the largest error relative to the recorded absmax, and its limit."""
    name: str
    error: float
    tolerance: float

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance     # False for NaN


def normal(key: str, shape: Iterable[int]) -> np.ndarray:
    """float32 standard normal values that depend on the key and shape only."""
    state = np.random.RandomState(zlib.crc32(key.encode()))
    return state.standard_normal(tuple(shape)).astype(np.float32)


def value_for(key: str, shape: Iterable[int]) -> np.ndarray:
    """The v1 value of one state-dict entry."""
    leaf, shape = key.rsplit(".", 1)[-1], tuple(shape)
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    n = normal(key, shape)
    if leaf == "running_var":
        return 1 + 0.1 * np.abs(n)
    if leaf in ("weight_u", "weight_v"):
        return n / np.linalg.norm(n)
    if len(shape) >= 2:
        return n * np.float32(np.sqrt(1.0 / max(1, int(np.prod(shape[1:])))))
    if leaf == "weight" and len(shape) == 1 and shape[0] > 1:
        return 1 + 0.1 * n
    return 0.1 * n


@torch.no_grad()
def fill(network: nn.Module, keep: Iterable[str] = (),
         gain: dict[str, float] | None = None) -> None:
    """Replace every state-dict entry in place by its v1 value.

    Args:
        keep: fnmatch patterns of entries that stay as built (fixed filters).
        gain: factors on single entries, applied last.

    Raises:
        ValueError: there is a gain for an entry the network does not have.
    """
    keep, state = list(keep), network.state_dict()
    for key, tensor in state.items():
        if not any(fnmatch.fnmatch(key, pattern) for pattern in keep):
            value = torch.from_numpy(np.asarray(value_for(key, tensor.shape)))
            tensor.copy_(value.to(tensor.dtype))
    for key, factor in (gain or {}).items():
        if key not in state:
            raise ValueError(f"the case has a gain for {key}, which the network does not have")
        state[key].mul_(factor)


def make_input(name: str, shape: Iterable[int], low: float = -1.0, high: float = 1.0) -> Tensor:
    """The recorded input of this name: float32, uniform in [low, high)."""
    state = np.random.RandomState(zlib.crc32(name.encode()))
    return torch.from_numpy(state.uniform(low, high, tuple(shape)).astype(np.float32))


class Inputs:
    """The recorded inputs by the last part of their name, made when asked for."""

    def __init__(self, case: dict[str, Any], device: torch.device) -> None:
        self.device = device
        self.entries = {entry["name"].rsplit(".", 1)[-1]: entry for entry in case["inputs"]}

    def __getitem__(self, name: str) -> Tensor:
        return make_input(**self.entries[name]).to(self.device)

    def series(self, role: str) -> list[Tensor]:
        """Those named `role` and a number, or `role` alone, in numerical order."""
        numbered = sorted((int(name[len(role):] or 0), name) for name in self.entries
                          if _role(name) == role)
        return [self[name] for _, name in numbered]

    def roles(self) -> list[str]:
        """The names without their numbers, in the recorded order."""
        return list(dict.fromkeys(map(_role, self.entries)))


def batches(case: dict[str, Any], device: torch.device, memory_format: torch.memory_format,
            ) -> Iterator[dict[str, Tensor]]:
    """The batch of each iteration, degraded images recorded before targets; a case with fewer
    than iterations starts again."""
    x = Inputs(case, device)
    given = ([x[name]] for name in x.entries) if len(x.entries) == 2 else map(x.series, x.roles())
    lqs, gts = ([image.contiguous(memory_format=memory_format) for image in images]
                for images in given)
    require(case["config"], same_batch_every_step=len(lqs) == 1)
    return ({"lq": lq, "gt": gt} for lq, gt in cycle(list(zip(lqs, gts, strict=True))))


def _role(name: str) -> str:
    return name.rstrip("0123456789")


def require(config: dict[str, Any], **only: Any) -> None:
    """Check what a case sets and our code has one value of.

    Raises:
        ValueError: the case has another value.
    """
    for name, value in only.items():
        if name in config and config[name] != value:
            raise ValueError(f"the case must have {name} {value!r}, got {config[name]!r}")
        if isinstance(value, dict) and name in config:
            without_effect(config[name], *value)


def without_effect(config: dict[str, Any], *names: str) -> None:
    """Name fields of a case that the original ignores, or that change no value it records."""
    for name in names:
        config.get(name)


def mismatch(expected: dict[str, Any], actual: Any) -> float:
    """Largest error over the record's samples, mean and std, relative to its absmax.

    Infinite where the shape differs.
    """
    value = actual.detach().cpu() if isinstance(actual, Tensor) else torch.as_tensor(actual)
    if list(value.shape) != list(expected["shape"]):
        return float("inf")
    flat = value.double().reshape(-1).numpy()
    errors = [abs(flat[i] - sample) for i, sample in expected["samples"]]
    # The moments see what lies between the 64 samples.
    errors += [abs(flat.mean() - expected["mean"])] if "mean" in expected else []
    errors += [abs(flat.std() - expected["std"])] if "std" in expected else []
    return float(np.max(errors)) / max(expected["absmax"], 1e-12)


def tolerance_of(case: dict[str, Any], record: dict[str, Any]) -> float:
    """The limit for a record: its own, else the case's by name (longest match wins), else the
    case's, else 1e-4."""
    if "tolerance" in record:
        return record["tolerance"]
    tables = [case[key] for key in ("tolerances", "tolerance_by_output") if key in case]
    if isinstance(case.get("tolerance"), dict):
        tables.append(case["tolerance"])
    found = {pattern: limit for table in tables for pattern, limit in table.items()
             if pattern == record["name"] or pattern in record["name"]
             or fnmatch.fnmatch(record["name"], pattern)}
    if found:
        return found[max(found, key=len)]
    limit = case.get("tolerance", DEFAULT_TOLERANCE)
    return limit if isinstance(limit, (int, float)) else limit.get("default", DEFAULT_TOLERANCE)


def compare(case: dict[str, Any], record: dict[str, Any], actual: Any, prefix: str = "") -> Check:
    """Check one value against a record of the case."""
    return Check(prefix + record["name"], mismatch(record, actual), tolerance_of(case, record))


def compare_all(case: dict[str, Any], records: Iterable[dict[str, Any]], actual: dict[str, Any],
                prefix: str = "") -> list[Check]:
    """Check values by name; a record without a value counts as infinitely wrong."""
    return [compare(case, record, actual[record["name"]], prefix) if record["name"] in actual
            else Check(f"{prefix}{record['name']} (not computed)", float("inf"), 0.0)
            for record in records]


def check_keys(case: dict[str, Any], network: nn.Module) -> list[Check]:
    """The state dict has exactly the recorded names and shapes."""
    expected = {key: tuple(shape) for key, shape in case.get("state_dict", [])}
    if not expected:
        return []
    found = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    wrong = [key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)]
    checks = [Check(f"state_dict, {len(expected)} entries", float(len(wrong)), 0.0)]
    if "parameters" in case:
        count = sum(p.numel() for p in network.parameters())
        checks.append(Check("parameter count", abs(count - case["parameters"]), 0.0))
    return checks


def set_weights(case: dict[str, Any], network: nn.Module, folder: Path) -> None:
    """Fill the network as the case says, or load the weight file it names.

    Raises:
        MissingWeights: there is no such file.
    """
    if "weights" not in case:
        fill(network, case.get("keep", ()), case.get("gain"))
        return
    from engine import checkpoint
    path = weight_file(case, folder)
    network.load_state_dict(checkpoint.load_weights(path, network.state_dict()))


def weight_file(case: dict[str, Any], folder: Path) -> Path:
    """The case's published weights, relative to the folder above the cases, or by name in the
    folder that FACEZOO_TEST_DATA names.

    Raises:
        MissingWeights: the file is in neither.
    """
    path, data = Path(case["weights"]), os.environ.get(WEIGHTS_VARIABLE)
    places = [folder.parent / path] + ([Path(data) / path.name] if data else [])
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise MissingWeights(f"needs {path.name}, which is not part of the project; "
                             f"{WEIGHTS_VARIABLE} may name its folder")
    return found


def run_network(case: dict[str, Any], network: nn.Module, device: torch.device, folder: Path,
                named: Callable[[Any], dict[str, Tensor]] | None = None,
                memory_format: torch.memory_format = torch.contiguous_format) -> list[Check]:
    """Check a network case: keys, outputs, and where recorded intermediate values, buffers
    afterwards and a second forward in eval mode.

    Args:
        named: from forward's result to outputs by the recorded names; without it the results are
            taken in the recorded order.
    """
    checks = check_keys(case, network)
    if any(not check.ok for check in checks):
        return checks
    set_weights(case, network, folder)
    network.to(device=device, memory_format=memory_format)
    network.train(case.get("mode", "eval") == "train")
    inputs = [make_input(**entry).to(device) for entry in case["inputs"]]
    inputs = [x.contiguous(memory_format=memory_format) if x.ndim == 4 else x for x in inputs]
    call = case.get("call", {})
    positional = call if isinstance(call, list) else []
    keywords = {**case.get("config", {}).get("forward_kwargs", {}),
                **(call if isinstance(call, dict) else {})}

    caught: dict[str, Tensor] = {}
    hooks = [network.get_submodule(record["name"]).register_forward_hook(
        lambda _, args, result, name=record["name"]: caught.update({name: result}))
        for record in case.get("intermediate", [])]
    with torch.no_grad():
        result = network(*inputs, *positional, **keywords)
    for hook in hooks:
        hook.remove()

    def outputs(value: Any) -> dict[str, Any]:
        if named:
            return named(value)
        return dict(zip([r["name"] for r in case["outputs"]], _flatten(value), strict=False))

    checks += compare_all(case, case["outputs"], outputs(result))
    checks += compare_all(case, case.get("intermediate", []), caught, "intermediate ")
    for key in ("buffers_after", "state_after"):
        checks += compare_all(case, case.get(key, []), network.state_dict(), f"{key} ")
    if "eval_after" in case:
        network.eval()
        with torch.no_grad():
            again = network(*inputs, *positional, **keywords)
        checks += compare_all(case, case["eval_after"], outputs(again), "eval_after ")
    return checks


def _flatten(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in _flatten(item)]
    return [] if value is None else [value]

"""PFSRNet's generator files: the published layout, and how far a training came.

The published file is a dict of `step` (the stage), `alpha`, `iteration` and `model_state_dict`.
"""
from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from engine import checkpoint

COUNTER = "num_batches_tracked"
# The last batch norm of each stage, which counts the forward passes in train mode.
COUNTERS = tuple(f"{norm}.{COUNTER}" for norm in ("step1.5", "step2.2", "step3.2"))


def read_generator(path: str | Path, expected: dict[str, Tensor], hint: Any = None
                   ) -> tuple[dict[str, Tensor], tuple[int, float] | None]:
    """Weights of a generator, and the stage and alpha that its file states.

    Args:
        path: a published file, with or without `module.` before its names, or a state dict.
        expected: state dict of the network; only counters of batches may be missing in the file.
        hint: from the file's state dict to advice for a mismatch.

    Raises:
        FileNotFoundError, ValueError: no such file, no checkpoint, or another network's.
    """
    content, stated = checkpoint.read(path), None
    if isinstance(content, dict) and "model_state_dict" in content:
        missing = [key for key in ("step", "alpha") if key not in content]
        if missing:
            raise ValueError(f"{path} has model_state_dict but no {' and no '.join(missing)}")
        stated = int(content["step"]), float(content["alpha"])
        content = content["model_state_dict"]
    state = checkpoint.unwrap(content, path, "G")
    state = {**{key: value.new_zeros(()) for key, value in expected.items()
                if key.endswith(COUNTER)}, **state}
    checkpoint.check_match(state, expected, path, hint(state) if hint else "")
    return state, stated


def reached(state: dict[str, Tensor], fade: float) -> tuple[int, float]:
    """Stage and alpha that a generator was trained up to, from its batch norms' counters.

    A stage's counter moves only in that stage and later ones, equally often in every step. So the
    difference of the first two is the length of the first stage, in the same unit.

    Args:
        fade: part of the first stage's length in which alpha grows from 0 to 1.

    Returns:
        (3, 1.0) for weights without counts.
    """
    counts = [int(state[key]) for key in COUNTERS]
    stage = max((index for index, count in enumerate(counts, 1) if count), default=3)
    length = fade * (counts[0] - counts[1])
    if stage == 1 or not counts[0] or length <= 0:
        return stage, 1.0
    return stage, min(1.0, counts[stage - 1] / length)


def write_published(path: str | Path, state: dict[str, Tensor], stage: int, alpha: float) -> None:
    """Write the four entries that the published evaluation and demo read."""
    iteration = int(state[COUNTERS[stage - 1]]) // 2      # a step runs the generator twice
    content = {"step": stage, "alpha": alpha, "iteration": iteration, "model_state_dict": {
        key: value.detach().cpu().contiguous() for key, value in state.items()}}
    checkpoint.write(path, content)

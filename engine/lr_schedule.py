"""Learning-rate schedules as pure functions, so that resuming needs no state."""
from __future__ import annotations

import math


def learning_rate_factor(policy: str, epoch: float, total_epochs: float, n_epochs: int,
                         n_epochs_decay: int, decay_epochs: int) -> float:
    """Factor on the initial learning rate.

    Args:
        policy: constant; linear (1, then down to 0 over `n_epochs_decay` after `n_epochs`); step
            (a tenth every `decay_epochs`); cosine (down to 0 at `total_epochs`).
        epoch: passes done so far, fractions count (0 at the first step).

    Source: the formulas of chaofengc/Face-SPARNet, where stepping them is commented out.
    """
    if policy == "constant":
        return 1.0
    if policy == "linear":      # whole epochs, as published
        return max(0.0, 1 - max(0, int(epoch) + 1 - n_epochs) / (n_epochs_decay + 1))
    if policy == "step":
        return 0.1 ** (int(epoch) // decay_epochs)
    if policy == "cosine":
        return (1 + math.cos(math.pi * min(1.0, epoch / total_epochs))) / 2
    raise ValueError(f"--lr_policy must be constant, linear, step or cosine, got {policy}")

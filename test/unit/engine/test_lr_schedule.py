"""Learning rates by hand-computed values, and that a model follows them."""
from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.lr_schedule import learning_rate_factor


def factor(policy: str, epoch: float, total: float = 20) -> float:
    return learning_rate_factor(policy, epoch, total, n_epochs=10, n_epochs_decay=10,
                                decay_epochs=5)


@pytest.mark.parametrize("policy, epoch, expected", [
    ("constant", 19.9, 1.0), ("linear", 0, 1.0), ("linear", 9.9, 1.0), ("linear", 10, 10 / 11),
    ("linear", 19.5, 1 / 11), ("linear", 40, 0.0), ("step", 4.9, 1.0), ("step", 5, 0.1),
    ("step", 10.2, 0.01), ("cosine", 0, 1.0), ("cosine", 10, 0.5), ("cosine", 20, 0.0),
    ("cosine", 25, 0.0)])
def test_known_factors(policy: str, epoch: float, expected: float) -> None:
    assert factor(policy, epoch) == pytest.approx(expected)


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="--lr_policy"):
        factor("plateau", 1)


def test_a_model_takes_the_rate_of_its_step(tiny_run: Callable) -> None:
    model, _ = tiny_run("sparnet", "--lr_policy", "step", "--lr_decay_epochs", "2", "--lr", "0.5")
    rates = []
    for step in (1, 20, 21, 41):        # ten steps an epoch
        model.start_step(step, 10, 100)
        rates.append(model.learning_rates()["G"])
    assert rates == pytest.approx([0.5, 0.5, 0.05, 0.005])

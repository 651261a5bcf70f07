"""The order of training samples, as a function of the step."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from utils.text import counted


class StepBatchSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) keys, one per optimizer step, across the borders of epochs.

    One loader serves a whole run, so worker processes never restart, and a run that is
    resumed after any step gets the same batches as without the interruption. Each epoch is a
    permutation of all samples, a function of (seed, epoch); what does not fill a batch on every
    rank is dropped.

    Args:
        num_samples: length of the dataset.
        batch_size: samples per step and rank.
        start_step: steps already done; 0 begins with step 1.
        total_steps: last step; None never ends.
        shuffle: False keeps the order of the dataset.
        rank, world_size: this process takes its slice of each global batch.

    Raises:
        ValueError: an epoch has not even one batch, or a value out of range.
    """

    def __init__(self, num_samples: int, batch_size: int, seed: int, start_step: int = 0,
                 total_steps: int | None = None, shuffle: bool = True, rank: int = 0,
                 world_size: int = 1):
        if batch_size < 1 or not 0 <= rank < world_size or start_step < 0:
            raise ValueError(f"a sampler needs batch_size >= 1, 0 <= rank < world_size and "
                             f"start_step >= 0, got {batch_size}, {rank} of {world_size} and "
                             f"{start_step}")
        self.global_batch = batch_size * world_size
        if num_samples < self.global_batch:
            each = f" on each of {world_size} devices" if world_size > 1 else ""
            raise ValueError(f"--batch_size times --accumulate must be at most "
                             f"{num_samples // world_size}{each} for "
                             f"{counted(num_samples, 'training image')}, got {batch_size}")
        self.num_samples, self.seed, self.shuffle = num_samples, seed, shuffle
        self.start_step, self.total_steps = start_step, total_steps
        self.slice = slice(rank * batch_size, (rank + 1) * batch_size)

    @property
    def steps_per_epoch(self) -> int:
        return self.num_samples // self.global_batch

    def epoch_of(self, steps_done: int) -> int:
        """Epoch, from 0, of the step that follows so many finished ones."""
        return steps_done // self.steps_per_epoch

    def __len__(self) -> int:
        """Steps left.

        Raises:
            TypeError: the sampler never ends.
        """
        if self.total_steps is None:
            raise TypeError("a sampler needs total_steps to have a length")
        return max(0, self.total_steps - self.start_step)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        done, epoch, order = self.start_step, -1, np.empty(0, int)
        while self.total_steps is None or done < self.total_steps:
            if self.epoch_of(done) != epoch:
                epoch = self.epoch_of(done)
                order = self._order(epoch)
            first = done % self.steps_per_epoch * self.global_batch
            batch = order[first:first + self.global_batch][self.slice]
            yield [(epoch, index) for index in batch.tolist()]
            done += 1

    def _order(self, epoch: int) -> np.ndarray:
        if not self.shuffle:
            return np.arange(self.num_samples)
        # The last 1 keeps this stream apart from the samples' (seed, epoch, index): numpy pads
        # such lists with zeros, so (seed, epoch) alone would be that of sample 0.
        return np.random.default_rng([self.seed, epoch, 0, 1]).permutation(self.num_samples)

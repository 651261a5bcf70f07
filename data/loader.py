"""Loaders whose worker processes leave chance and signals to the main process."""
from __future__ import annotations

import random
import signal
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from data.base_dataset import BaseDataset, collate
from data.sampler import StepBatchSampler

SECONDS_AFTER_SIGTERM = 30
# What ends a training: a scheduler, Ctrl-C, a closed terminal, Slurm's warning. Windows has two.
STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1")
                     if hasattr(signal, name))


def create_train_loader(dataset: BaseDataset, sampler: StepBatchSampler, *, num_threads: int,
                        seed: int = 0, pin_memory: bool = False, prefetch_factor: int = 4
                        ) -> DataLoader:
    """Loader for a whole run: one batch per step, in the sampler's order.

    Args:
        num_threads: worker processes; 0 loads in the main process. Samples do not depend on it.
        pin_memory: copy batches to page-locked memory; for accelerators only.
        prefetch_factor: batches each worker prepares ahead.
    """
    return DataLoader(dataset, batch_sampler=sampler, pin_memory=pin_memory,
                      **_worker_settings(num_threads, seed, prefetch_factor))


def create_eval_loader(dataset: BaseDataset, *, batch_size: int = 1, num_threads: int = 0,
                       pin_memory: bool = False, prefetch_factor: int = 2) -> DataLoader:
    """Loader over all samples in order; the last batch may be smaller."""
    return DataLoader(dataset, batch_size=batch_size, shuffle=False, pin_memory=pin_memory,
                      **_worker_settings(num_threads, 0, prefetch_factor))


def _worker_settings(num_threads: int, seed: int, prefetch_factor: int) -> dict[str, Any]:
    # Without a generator of its own, every new iterator draws from torch's global one, and a
    # resumed run would differ from an uninterrupted one.
    return {"num_workers": num_threads, "collate_fn": collate, "worker_init_fn": _init_worker,
            "generator": torch.Generator().manual_seed(seed),
            "prefetch_factor": prefetch_factor if num_threads else None}


def _init_worker(worker: int) -> None:
    """Make a worker process single-threaded, independently seeded, and out of signals' reach.

    STOP_SIGNALS, which some schedulers send to every process of a job, are the main process's
    to handle: it saves, then ends the workers. Until then they go on, but not for ever:
    SIGTERM is also how Python ends them when the main process fails.
    """
    cv2.setNumThreads(0)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(SECONDS_AFTER_SIGTERM))
    # Samples draw from their own generators; this is for code that forgets to.
    seed = torch.initial_seed() % 2**32
    random.seed(seed)
    np.random.seed(seed)

"""Loaders whose worker processes leave chance and signals to the main process."""
from __future__ import annotations

import logging
import os
import random
import signal
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from data.base_dataset import BaseDataset
from data.sampler import StepBatchSampler
from data.watched_loader import WatchedLoader
from utils.system import FORKS
from utils.text import counted

logger = logging.getLogger("facezoo")
SHARED_MEMORY = "/dev/shm"      # workers hand their batches over through it
MIB = 2 ** 20
RESERVE = MIB                   # of it, for semaphores and for rounding up to pages
IN_USE = 2                      # batches that are not freed while the next ones wait
SECONDS_AFTER_SIGTERM = 30
# What ends a training: a scheduler, Ctrl-C, a closed terminal, Slurm's warning. Windows has two.
STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1")
                     if hasattr(signal, name))


def create_train_loader(dataset: BaseDataset, sampler: StepBatchSampler, *, num_threads: int,
                        seed: int = 0, pin_memory: bool = False, prefetch_factor: int = 4
                        ) -> WatchedLoader:
    """Loader for a whole run: one batch per step, in the sampler's order.

    Without its workers it goes on in the main process and says so in `lost`.

    Args:
        num_threads: worker processes; 0 loads in the main process. Samples do not depend on it.
            It and prefetch_factor are reduced where /dev/shm has too little room.
        pin_memory: copy batches to page-locked memory; for accelerators only.
        prefetch_factor: batches each worker prepares ahead.
    """
    return WatchedLoader(
        dataset, batch_sampler=sampler, pin_memory=pin_memory, goes_on=True,
        **_worker_settings(dataset, next(iter(sampler), ()), num_threads, seed, prefetch_factor))


def create_eval_loader(dataset: Dataset, *, batch_size: int = 1, num_threads: int = 0,
                       pin_memory: bool = False, prefetch_factor: int = 2) -> WatchedLoader:
    """Loader over all samples in order; the last batch may be smaller."""
    keys = range(min(batch_size, len(dataset)))
    return WatchedLoader(dataset, batch_size=batch_size, shuffle=False, pin_memory=pin_memory,
                         **_worker_settings(dataset, keys, num_threads, 0, prefetch_factor))


def _worker_settings(dataset: Dataset, keys: Sequence[Any], num_threads: int, seed: int,
                     prefetch_factor: int) -> dict[str, Any]:
    if num_threads and not FORKS:
        logger.warning("loading in the main process: worker processes need a system that can fork")
        num_threads = 0
    if num_threads:
        num_threads, prefetch_factor = _fit_shared_memory(
            num_threads, prefetch_factor, batch_bytes(dataset, keys))
    # Without a generator of its own, every new iterator draws from torch's global one, and a
    # resumed run would differ from an uninterrupted one.
    return {"num_workers": num_threads, "worker_init_fn": _init_worker,
            "multiprocessing_context": "fork" if num_threads else None,
            "generator": torch.Generator().manual_seed(seed),
            "prefetch_factor": prefetch_factor if num_threads else None}


def _fit_shared_memory(num_threads: int, prefetch_factor: int, size: int) -> tuple[int, int]:
    """Workers and batches ahead, reduced to what finds room where workers hand batches over.

    Args:
        size: bytes of one batch.
    """
    if size == 0 or not hasattr(os, "statvfs") or not os.path.isdir(SHARED_MEMORY):
        return num_threads, prefetch_factor
    found = os.statvfs(SHARED_MEMORY)
    free = found.f_bavail * found.f_frsize
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("WORLD_SIZE") or 1)
    need = RESERVE + ranks * size * (num_threads * prefetch_factor + IN_USE)
    if need <= free:
        return num_threads, prefetch_factor
    room = max(0, (free - RESERVE) // (ranks * size) - IN_USE)      # batches for this process
    workers = min(num_threads, room)
    ahead = room // workers if workers else prefetch_factor
    if os.environ.get("LOCAL_RANK", "0") == "0":
        instead = f"{counted(workers, 'worker')} with {ahead} prefetched each"
        logger.warning(
            "%s has %.1f MB free, %d loader workers need %.1f MB; loading with %s. Enlarge it "
            "(docker run --shm-size=%dg) or use fewer --num_threads", SHARED_MEMORY, free / MIB,
            num_threads, need / MIB, instead if workers else "the main process", need // 2**30 + 1)
    return workers, ahead


def batch_bytes(dataset: Dataset, keys: Sequence[Any]) -> int:
    """Bytes of a batch's tensors, estimated from its first readable sample; 0 if there is none.

    Global generators stay as they are. OpenCV starts no threads: forked workers would miss them.
    """
    threads, states = cv2.getNumThreads(), (random.getstate(), np.random.get_state())
    cv2.setNumThreads(0)
    try:
        with torch.random.fork_rng(devices=[]):
            for key in keys:
                sample = dataset[key]
                if "path" in sample:
                    return len(keys) * sum(np.asarray(value).nbytes for name, value
                                           in sample.items() if name not in ("path", "bad"))
    finally:
        cv2.setNumThreads(threads)
        random.setstate(states[0])
        np.random.set_state(states[1])
    return 0


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

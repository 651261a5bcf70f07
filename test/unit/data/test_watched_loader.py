"""Loaders whose workers are killed, stand still, or find no room in shared memory."""
from __future__ import annotations

import logging
import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing import active_children
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import get_worker_info

from data import loader as loaders
from data import watched_loader
from data.base_dataset import BaseDataset, collate
from data.loader import batch_bytes, create_eval_loader, create_train_loader
from data.sampler import StepBatchSampler

MB = 10 ** 6
LAST = 11


class Dataset(BaseDataset):
    """Twelve random images; `trouble` happens in the worker that loads the last one."""
    trouble: Callable[[], None] = staticmethod(lambda: None)

    def find_items(self) -> range:
        return range(LAST + 1)

    def sample(self, index: int, rng: np.random.Generator) -> dict:
        if index == LAST and get_worker_info() is not None:
            self.trouble()
        return {"gt": rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), "path": str(index)}


def dataset(trouble: Callable[[], None] = lambda: None) -> Dataset:
    made = Dataset(BaseDataset.Settings())
    made.trouble = trouble
    return made


def train_loader(source: Dataset, num_threads: int) -> watched_loader.WatchedLoader:
    return create_train_loader(source, StepBatchSampler(12, 2, seed=0, total_steps=18),
                               num_threads=num_threads, prefetch_factor=2)


def same(one: dict, two: dict) -> bool:
    return one["path"] == two["path"] and torch.equal(one["gt"], two["gt"])


def killed_by(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def workers_alive() -> list[int]:
    """Ids of the living workers of this process."""
    return [child.pid for child in active_children()]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers stand still after a second instead of a minute."""
    monkeypatch.setattr(watched_loader, "SLICE_SECONDS", 0.25)
    monkeypatch.setattr(watched_loader, "STILL_SLICES", 3)


# ---- lost workers -------------------------------------------------------------------------------

@pytest.mark.parametrize("number, words", [
    (signal.SIGKILL, "killed by SIGKILL (out of memory?)"),
    (signal.SIGBUS, "killed by SIGBUS (is /dev/shm full?)")])
def test_training_gets_the_same_batches_when_a_worker_is_killed(number: int, words: str,
                                                                impatient: None) -> None:
    loader = train_loader(dataset(killed_by(number)), 2)
    found = list(loader)
    assert words in loader.lost.cause and "--num_threads" in loader.lost.remedy
    expected = list(train_loader(dataset(), 0))
    assert all(same(one, two) for one, two in zip(found, expected, strict=True))


def test_a_loader_that_loses_nothing_says_so() -> None:
    loader = train_loader(dataset(), 2)
    expected = list(train_loader(dataset(), 0))
    assert all(same(one, two) for one, two in zip(loader, expected, strict=True))
    assert loader.lost is None


def test_any_other_iteration_ends_with_one_line() -> None:
    loader = create_eval_loader(dataset(killed_by(signal.SIGKILL)), batch_size=2, num_threads=1)
    with pytest.raises(ChildProcessError, match=r"SIGKILL.*fewer --num_threads"):
        list(loader)


def test_a_death_between_two_batches_is_noticed_at_the_next_one_only() -> None:
    loader = train_loader(dataset(), 2)
    before = signal.getsignal(signal.SIGCHLD)
    batches = iter(loader)
    next(batches)
    assert signal.getsignal(signal.SIGCHLD) is before
    os.kill(workers_alive()[0], signal.SIGKILL)
    time.sleep(0.3)         # torch's handler would raise here
    assert loader.lost is None
    assert len(list(batches)) == 17 and loader.lost is not None


def test_workers_end_with_the_iteration() -> None:
    for trouble in (lambda: None, killed_by(signal.SIGKILL)):
        list(train_loader(dataset(trouble), 2))
        unfinished = iter(train_loader(dataset(), 2))
        next(unfinished)
        unfinished.close()
        for _ in range(50):
            if workers_alive():
                time.sleep(0.1)
        assert workers_alive() == []


def test_an_error_of_the_dataset_stays_what_it_is() -> None:
    def fail() -> None:
        raise RuntimeError("no such thing")
    with pytest.raises(RuntimeError, match="no such thing"):
        list(train_loader(dataset(fail), 2))


# ---- workers that stand still -------------------------------------------------------------------

def test_idle_workers_that_deliver_nothing_are_given_up(impatient: None) -> None:
    loader = train_loader(dataset(lambda: time.sleep(1000)), 2)
    assert len(list(loader)) == 18
    assert "have done nothing for 1.0 s" in loader.lost.cause
    assert "docker run --shm-size" in loader.lost.remedy


def test_slow_workers_are_waited_for(impatient: None) -> None:
    def work() -> None:
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            pass
    loader = create_eval_loader(dataset(work), batch_size=2, num_threads=1)
    assert len(list(loader)) == 6


def test_workers_that_wait_for_a_disk_or_cannot_be_looked_at_are_waited_for(
        impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched_loader, "_cpu_ticks", lambda workers: None)
    loader = create_eval_loader(dataset(lambda: time.sleep(2)), batch_size=2, num_threads=1)
    assert len(list(loader)) == 6


def test_cpu_time_is_that_of_the_workers() -> None:
    me, nobody = SimpleNamespace(pid=os.getpid()), SimpleNamespace(pid=2 ** 30)
    end = time.process_time() + 0.2
    before = watched_loader._cpu_ticks([me])
    while time.process_time() < end:
        pass
    assert 10 <= watched_loader._cpu_ticks([me]) - before <= 40
    assert watched_loader._cpu_ticks([me, nobody]) is None


# ---- shared memory ------------------------------------------------------------------------------

def test_a_worker_without_room_for_its_batch_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensor: torch.Tensor) -> None:
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")
    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    with pytest.raises(ChildProcessError, match=r"no room.*No space left.*docker run --shm-size"):
        list(create_eval_loader(dataset(), batch_size=2, num_threads=1))
    loader = train_loader(dataset(), 2)
    assert len(list(loader)) == 18 and "no room for its batch" in loader.lost.cause


@pytest.fixture
def shared_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets how much is free in /dev/shm, in bytes."""
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)

    def free(count: float) -> None:
        monkeypatch.setattr(loaders, "SHARED_MEMORY", "/")
        monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(
            f_bavail=int(count), f_frsize=1))
    return free


@pytest.mark.parametrize("free, ranks, expected", [
    (25, 1, (4, 4)), (20, 1, (4, 4)), (18, 1, (4, 3)), (8, 1, (4, 1)), (6.1, 1, (3, 1)),
    (4.1, 1, (1, 1)), (3, 1, (0, 4)), (0.2, 1, (0, 4)), (40, 2, (4, 4)), (18, 2, (4, 1))])
def test_workers_and_prefetch_fit_into_shared_memory(
        free: float, ranks: int, expected: tuple[int, int], shared_memory: Callable,
        monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    shared_memory(free * MB)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    monkeypatch.setattr(logging.getLogger("facezoo"), "propagate", True)
    assert loaders._fit_shared_memory(4, 4, MB) == expected
    assert len(caplog.messages) == (expected != (4, 4))
    assert all("docker run --shm-size=1g" in text and "fewer --num_threads" in text
               for text in caplog.messages)


def test_without_room_batches_are_loaded_in_the_main_process_and_stay_the_same(
        shared_memory: Callable) -> None:
    expected = list(train_loader(dataset(), 2))
    shared_memory(0)
    loader = train_loader(dataset(), 2)
    assert loader.num_workers == 0
    assert all(same(one, two) for one, two in zip(loader, expected, strict=True))
    assert create_eval_loader(dataset(), num_threads=2).num_workers == 0


def test_machines_without_shared_memory_keep_their_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaders, "SHARED_MEMORY", "/no/such/folder")
    assert loaders._fit_shared_memory(4, 4, MB) == (4, 4)


def test_the_size_of_a_batch_is_that_of_its_tensors() -> None:
    source = dataset()
    keys = [(0, index) for index in range(3)]
    assert batch_bytes(source, keys) == collate([source[key] for key in keys])["gt"].nbytes
    assert batch_bytes(source, []) == 0


def test_looking_at_a_sample_leaves_chance_alone() -> None:
    class Careless(Dataset):
        def sample(self, index: int, rng: np.random.Generator) -> dict:
            noise = random.random() + np.random.rand() + torch.rand(1).item()
            return {"gt": np.full((1, 1, 3), noise), "path": str(index)}
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert batch_bytes(Careless(BaseDataset.Settings()), [0, 1]) == 48
    assert before == (random.getstate(), np.random.get_state()[1].tolist(),
                      torch.get_rng_state().tolist())

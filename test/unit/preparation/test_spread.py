"""Several processes work for one command: order, errors, a process that is killed."""
from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from preparation._pictures import spread

COUNT = 90      # more than are under way at once


def double(number: int) -> int:
    return 2 * number


def fail_at_50(number: int) -> int:
    if number == 50:
        raise ValueError("50 is too much")
    return number


def die_at_50(number: int) -> int:
    if number == 50:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def note(item: tuple[Path, int]) -> int:
    (item[0] / str(item[1])).touch()
    time.sleep(0.01)
    return item[1]


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order(workers: int) -> None:
    assert list(spread(double, list(range(COUNT)), workers)) == [2 * n for n in range(COUNT)]


def test_an_error_of_a_task_comes_at_its_place() -> None:
    results = spread(fail_at_50, list(range(COUNT)), 2)
    assert [next(results) for _ in range(48)] == list(range(48))     # whole chunks
    with pytest.raises(ValueError, match="50 is too much"):
        list(results)
    assert multiprocessing.active_children() == []


def test_a_killed_process_is_one_line() -> None:
    with pytest.raises(ChildProcessError, match=r"killed \(out of memory\?\); use fewer --workers"):
        list(spread(die_at_50, list(range(COUNT)), 2))
    assert multiprocessing.active_children() == []


def test_a_slow_reader_is_waited_for_and_one_that_leaves_ends_the_processes(tmp_path: Path) -> None:
    results = spread(note, [(tmp_path, number) for number in range(COUNT)], 2)
    assert next(results) == 0
    time.sleep(1)
    assert len(list(tmp_path.iterdir())) == 32
    results.close()
    assert multiprocessing.active_children() == []

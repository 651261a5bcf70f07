"""Files that are damaged at random never end a reader in a traceback; see mutations.py."""
from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from mutations import KINDS, Kind, case_of, failures

# Of kinds that strangers send, 2,000; of others fewer. mutations.py runs more by hand.
CASES = dict.fromkeys(("image", "weights", "safetensors", "pack", "list", "yaml"), 2000)


@pytest.mark.parametrize("part", [0, pytest.param(1, marks=pytest.mark.deep)])
@pytest.mark.parametrize("name", KINDS)
def test_damage_is_one_line_soon_and_cheap(name: str, part: int) -> None:
    most = CASES.get(name, 400)
    assert list(failures(name, range(15, most) if part else range(15))) == []


def test_cases_differ_and_can_be_made_again() -> None:
    made = [case_of("weights", number, seed=0) for number in range(20)]
    assert len(set(made)) > 15 and made[3] == case_of("weights", 3, seed=0)


def fails(path: Path) -> None:
    raise KeyError("a traceback")


def kills(path: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def is_late(path: Path) -> None:
    time.sleep(60)


def is_large(path: Path) -> None:
    np.ones(1 << 27, np.uint8)


@pytest.mark.parametrize("reader, words", [
    (fails, "KeyError"), (kills, "ended with status"), (is_late, "more than 1 s"),
    (is_large, "MiB")])
def test_the_harness_itself_notices(reader, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "odd", Kind(lambda: [b"data"], reader, "x"))
    monkeypatch.setattr("mutations.MAX_SECONDS", 1)
    monkeypatch.setattr("mutations.MAX_BYTES", 1 << 26)
    found = list(failures("odd", range(2)))
    assert len({number for number, _ in found}) == 2 and words in found[0][1]

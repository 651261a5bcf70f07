"""A lock is one process's, and ends with it."""
from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from utils import lock

HOLD = """
import sys, time
from pathlib import Path
from utils import lock
try:
    with lock.held(Path(sys.argv[1]), "--output x"):
        print("held", flush=True)
        sys.stdin.read()
except lock.InUse as error:
    print(error, flush=True)
"""


def start(target: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", HOLD, str(target)], cwd=ROOT, text=True,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@pytest.fixture
def holder(tmp_path: Path) -> subprocess.Popen:
    """A process that holds the lock on tmp_path/run."""
    process = start(tmp_path / "run")
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_and_told_who_holds_it(holder: subprocess.Popen,
                                                           tmp_path: Path) -> None:
    with (pytest.raises(lock.InUse, match="--name run is being written") as caught,
          lock.held(tmp_path / "run", "--name run")):
        pass
    assert f"process {holder.pid} on {socket.gethostname()} since 20" in str(caught.value)


def test_a_lock_ends_with_its_process(holder: subprocess.Popen, tmp_path: Path) -> None:
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with lock.held(tmp_path / "run", "--name run"):
        pass


def test_a_link_has_the_lock_of_what_it_leads_to(holder: subprocess.Popen, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with (pytest.raises(lock.InUse), lock.held(tmp_path / "link", "--name link")):
        pass


def test_workers_do_not_inherit_the_lock(tmp_path: Path) -> None:
    with lock.held(tmp_path / "run", "--name run"):
        worker = os.fork()
        if not worker:
            signal.pause()
    try:
        process = start(tmp_path / "run")
        assert process.stdout.readline() == "held\n"
        process.communicate()
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)


def test_nothing_is_left_of_a_lock(tmp_path: Path) -> None:
    with lock.held(tmp_path / "run", "--name run"), lock.held(tmp_path / "run", "--name run"):
        assert os.listdir(tmp_path) == [".run.lock"]
    assert os.listdir(tmp_path) == []


def test_of_processes_that_start_together_one_gets_the_lock(tmp_path: Path) -> None:
    for _ in range(5):
        processes = [start(tmp_path / "run") for _ in range(4)]
        said = [process.stdout.readline() for process in processes]
        for process in processes:
            process.communicate()
        assert sorted(line == "held\n" for line in said) == [False, False, False, True], said


def test_without_locks_work_goes_on_with_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                   caplog: pytest.LogCaptureFixture) -> None:
    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")
    monkeypatch.setattr(lock.fcntl, "lockf", refuse)
    monkeypatch.setattr(lock.logger, "propagate", True)
    with lock.held(tmp_path / "run", "--name run"):
        pass
    assert "--name run cannot be locked (No locks available)" in caplog.text


def test_windows_has_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "fcntl", None)
    with lock.held(tmp_path / "run", "--name run"):
        assert os.listdir(tmp_path) == []

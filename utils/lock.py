"""Locks on what only one process may write: a run's folder, a pack, a file of notes.

A POSIX record lock (`fcntl.lockf`) ends with its process, is not inherited by worker processes, and
works on network file systems that implement it. Where there is none (Windows, some mounted object
stores) nothing is locked.
"""
from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:         # Windows
    fcntl = None

logger = logging.getLogger("facezoo")
SECONDS_TO_SIGN = 0.2       # between taking a lock and having written who holds it
# Files that this process holds. Closing any other descriptor of one would end its lock.
_held: set[str] = set()


class InUse(ValueError):
    """Another process holds the lock."""


@contextmanager
def held(target: Path, what: str) -> Iterator[None]:
    """Inside, no other process can hold the lock on a file or folder.

    The lock is a file beside the target, `.NAME.lock`, or in it where that place cannot be written.
    Within one process it is no lock: what holds it already may take it again.

    Args:
        target: need not exist.
        what: the flag and what the user calls the target, for the message.

    Raises:
        InUse: another process holds it; names its host, process and start.
        OSError: the lock's file cannot be made.
    """
    path = _file_of(target)
    if fcntl is None or str(path) in _held:
        yield
        return
    handle = _acquire(path, what)
    if handle is None:
        yield
        return
    _held.add(str(path))
    try:
        yield
    finally:
        _held.discard(str(path))
        path.unlink(missing_ok=True)        # first: once it is closed it may be another's
        os.close(handle)


def _file_of(target: Path) -> Path:
    real = Path(os.path.realpath(target))
    real.parent.mkdir(parents=True, exist_ok=True)
    if real.is_dir() and not os.access(real.parent, os.W_OK):
        return real / ".lock"
    return real.with_name(f".{real.name[:200]}.lock")


def _acquire(path: Path, what: str) -> int | None:
    """The open, locked file; None where the file system has no locks."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_still(path, handle):     # its last holder has just removed it
                os.close(handle)
                continue
            os.ftruncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {socket.gethostname()} since "
                             f"{time.strftime('%Y-%m-%d %H:%M:%S')}".encode())
            return handle
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                time.sleep(SECONDS_TO_SIGN)
                holder = os.pread(handle, 1000, 0).decode(errors="replace") or "another process"
                os.close(handle)
                raise InUse(f"{what} is being written by {holder}; wait for it to end or choose "
                            "another name") from None
            os.close(handle)
            if error.errno == errno.ENOSPC:
                raise
            logger.warning("%s cannot be locked (%s); do not start a second process that writes "
                           "it", what, error.strerror)
            return None


def _is_still(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False

"""What not every operating system has: Linux has it all, macOS most, Windows little."""
from __future__ import annotations

import os
import sys
import threading
from typing import IO

try:
    import resource
except ImportError:         # Windows
    resource = None

# Whether worker processes may be copies of this one; on macOS its libraries do not survive that.
FORKS = hasattr(os, "fork") and sys.platform != "darwin"
# Flags of `os.open` for reading what may be a pipe without waiting for its writer.
READ_NOW = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_reading = threading.Lock()


def read_at(file: IO[bytes], length: int, offset: int) -> bytes:
    """So many bytes of an open file from an offset on, by any number of threads and processes.

    Where a file's position is needed for that, threads take turns; no process shares it there.
    """
    if hasattr(os, "pread"):
        return os.pread(file.fileno(), length, offset)
    with _reading:
        file.seek(offset)
        return file.read(length)


def peak_resident() -> int:
    """Peak bytes of this process in memory; 0 where Python does not learn it."""
    if resource is None:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def open_file_limits() -> list[int]:
    """How many files a process may have open, now and at most; -1 where nothing limits them."""
    return list(resource.getrlimit(resource.RLIMIT_NOFILE)) if resource else [-1, -1]

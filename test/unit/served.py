"""A real serve.py for tests: on a free port of loopback, with the smallest network."""
from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from conftest import ROOT

from models.networks.sparnet import SPARNet

SMALL = ("--model", "sparnet", "--load_size", "64", "--res_depth", "0", "--bottleneck_size", "16",
         "--device", "cpu")


class Served:
    """A running service: its process, its port, what it has printed."""

    def __init__(self, process: subprocess.Popen) -> None:
        self.process, self.lines = process, []
        self.ready = threading.Event()
        self.port = 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line)
            found = re.search(r" on http://127\.0\.0\.1:(\d+)$", line.strip())
            if found:
                self.port = int(found[1])
                self.ready.set()
        self.ready.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> int:
        """Exit status after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=90)


def small_weights(path: Path) -> Path:
    """Random weights of the smallest SPARNet."""
    torch.manual_seed(0)
    torch.save(SPARNet(res_depth=0, bottleneck_size=16).state_dict(), path)
    return path


@contextmanager
def served(weights: Path, *arguments: object) -> Iterator[Served]:
    """serve.py, listening; it is killed at the end if it is still there."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "serve.py"), "--port", "0", *SMALL, "--pretrain_model_path",
         str(weights), *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        server = Served(process)
        assert server.ready.wait(120) and server.port, "".join(server.lines)
        yield server
    finally:
        process.kill()
        process.wait()

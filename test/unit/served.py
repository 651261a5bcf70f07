"""What tests of the service share: a real serve.py on a free port of loopback, with the smallest
network, and requests to a service in this process."""
from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from conftest import ROOT
from PIL import Image

from models.networks.sparnet import SPARNet
from serving.app import create_app
from serving.service import Service
from utils.images.io import encode_image

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


# ---- a service in this process ------------------------------------------------------------------

def photo(value: int = 100, width: int = 240) -> np.ndarray:
    """Two faces by Fixed where 240 wide."""
    return np.full((120, width, 3), value, np.uint8)


def png(image: np.ndarray) -> bytes:
    return encode_image(image, ".png")


def client(made: Service, **settings: Any) -> httpx.AsyncClient:
    app = create_app(made, settings.pop("hosts", ["localhost"]), access_log=False)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False),
                             base_url="http://localhost", timeout=60, **settings)


def ask(made: Service, method: str = "POST", path: str = "/v1/restore",
        **settings: Any) -> httpx.Response:
    """One request."""
    async def once() -> httpx.Response:
        async with client(made) as asking:
            return await asking.request(method, path, **settings)
    if method == "POST" and not {"content", "files"} & set(settings):
        settings |= {"content": png(photo())}
    if "content" in settings:
        settings["headers"] = {"Content-Type": "image/png"} | settings.get("headers", {})
    return asyncio.run(once())


def decoded(response: httpx.Response) -> np.ndarray:
    assert response.status_code == 200, response.text
    return np.array(Image.open(io.BytesIO(response.content)).convert("RGB"))

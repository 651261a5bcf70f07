"""The service under many clients at a time.

    python benchmarks/serve_load.py [--clients 200] [--seconds 60] [--people 16] [--json FILE]
                                    [SERVICE ARGUMENTS ...]

Starts serve.py on a free port of this machine with a small SPARNet of random weights. Other
arguments go to serve.py; those of a network must name its weights, too. Each client sends a
synthetic portrait in which the cascade finds a face, as soon as it has its last answer. A refused
client waits as long as Retry-After says. Every answer is compared with the portrait restored in
this process, without other clients. Memory is the server's resident set.
"""
from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

import numpy as np
import torch
from PIL import Image

import data
import models
from data.synthetic.faces import render_face
from engine import entry
from faces.detect import select
from faces.photograph import restore_photograph
from inference import open_detector, open_restorer, paste_settings
from models.networks.sparnet import SPARNet
from options.serve_options import ServeOptions
from utils.images.io import encode_image

SMALL = ["--model", "sparnet", "--load_size", "32", "--res_depth", "0", "--bottleneck_size", "16",
         "--device", "cpu"]
SIDE = 256          # of the portraits


@dataclass
class Tally:
    """What all clients saw."""
    statuses: Counter = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)      # of restored images
    refusals: list[float] = field(default_factory=list)
    exact: int = 0
    close: int = 0          # another batch rounded otherwise: one gray level
    wrong: int = 0
    lost: int = 0           # connections that ended without an answer


def start(arguments: list[str]) -> tuple[subprocess.Popen, int]:
    """A running serve.py and its port."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "serve.py"), "--port", "0", "--no-access_log", *arguments],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    for line in process.stdout:
        found = re.search(r" on http://127\.0\.0\.1:(\d+)$", line.strip())
        if found:
            return process, int(found[1])
    raise SystemExit(process.wait() or 1)


def people(number: int, arguments: list[str]) -> list[tuple[bytes, np.ndarray]]:
    """Images to send, and what must come back."""
    opt = ServeOptions(models, data, "serve_load.py").parse(arguments)
    restorer = open_restorer(opt, entry.open_device(opt))
    detector = open_detector(opt, restorer.device)
    settings = paste_settings(opt)
    found, index = [], 0
    while len(found) < number:
        image = render_face(index, size=SIDE).image
        index += 1
        faces = select(detector(image), image.shape, min_size=opt.min_face, max_faces=opt.max_faces)
        if faces:
            found.append((encode_image(image, ".png"), restore_photograph(
                image, faces, restorer.restore_crops, settings).image))
    return found


async def post(port: int, body: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one restoration, on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"POST /v1/restore HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
                     b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        head, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines if line)
        return int(head.split()[1]), headers, await reader.readexactly(
            int(headers["content-length"]))
    finally:
        writer.close()


async def client(port: int, number: int, pairs: list, until: float, tally: Tally) -> None:
    """Send until time is over, and look at what comes back."""
    body, expected = pairs[number % len(pairs)]
    await asyncio.sleep(number * 0.002)
    while time.perf_counter() < until:
        began = time.perf_counter()
        try:
            status, headers, content = await post(port, body)
        except (OSError, asyncio.IncompleteReadError):
            tally.lost += 1
            continue
        took = time.perf_counter() - began
        tally.statuses[status] += 1
        if status == 200:
            tally.seconds.append(took)
            answer = np.array(Image.open(io.BytesIO(content)))
            off = int(np.abs(answer.astype(int) - expected).max()
                      if answer.shape == expected.shape else 255)
            tally.exact, tally.close = tally.exact + (off == 0), tally.close + (off == 1)
            tally.wrong += off > 1
        else:
            tally.refusals.append(took)
            await asyncio.sleep(float(headers.get("retry-after", 1)))


def memory(process: subprocess.Popen) -> float:
    """Resident megabytes."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024


async def load(process: subprocess.Popen, port: int, clients: int, seconds: float,
               pairs: list) -> tuple[Tally, list[float]]:
    """Run all clients; memory is noted every second."""
    tally, sizes = Tally(), []
    until = time.perf_counter() + seconds
    running = asyncio.gather(*(client(port, number, pairs, until, tally)
                               for number in range(clients)))
    while not running.done():
        sizes.append(memory(process))
        await asyncio.wait([running], timeout=1)
    await running
    return tally, sizes


def percentile(values: list[float], percent: float) -> float:
    return float(np.percentile(values, percent)) if values else float("nan")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--people", type=int, default=16, help="different portraits")
    parser.add_argument("--json", metavar="FILE")
    opt, arguments = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as scratch:
        if not {"--name", "--pretrain_model_path", "--onnx"} & set(arguments):
            torch.manual_seed(0)
            path = Path(scratch) / "small.pth"
            torch.save(SPARNet(res_depth=0, bottleneck_size=16).state_dict(), path)
            arguments = [*SMALL, "--pretrain_model_path", str(path), *arguments]
        pairs = people(opt.people, arguments)
        process, port = start(arguments)
        try:
            tally, sizes = asyncio.run(load(process, port, opt.clients, opt.seconds, pairs))
            crashed = process.poll() is not None
            process.send_signal(signal.SIGTERM)
            status = process.wait(timeout=120)
        finally:
            process.kill()
    at_10, end = sizes[min(10, len(sizes) - 1)], sizes[-1]
    report = {
        "clients": opt.clients, "seconds": opt.seconds, "statuses": dict(tally.statuses),
        "images_per_second": round(len(tally.seconds) / opt.seconds, 1),
        "latency_s": {f"p{percent}": round(percentile(tally.seconds, percent), 3)
                      for percent in (50, 90, 99, 100)},
        "slowest_refusal_s": round(max(tally.refusals, default=0), 3),
        "exact": tally.exact, "one_gray_level": tally.close, "wrong": tally.wrong,
        "lost": tally.lost, "memory_mib": {"at_10_s": round(at_10), "end": round(end),
                                           "most": round(max(sizes))},
        "memory_change_percent": round(100 * (end / at_10 - 1), 1), "crashed": crashed,
        "exit_status": status}
    print(json.dumps(report, indent=1))
    if opt.json:
        Path(opt.json).write_text(json.dumps(report, indent=1))
    return int(bool(tally.wrong or tally.lost or crashed or status))


if __name__ == "__main__":
    sys.exit(main())

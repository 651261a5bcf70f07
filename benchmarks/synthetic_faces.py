"""Drawn faces per second on one core, labels and landmarks included.

    OMP_NUM_THREADS=1 python benchmarks/synthetic_faces.py

Two figures per size: wall clock, and CPU time, which leaves out the time spent waiting for a
busy core. Each is the median over rounds that draw different people.
"""
from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import cv2

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.synthetic.faces import render_face


def seconds_per_face(size: int, count: int, rounds: int) -> tuple[float, float]:
    """Median wall clock and CPU time of one face of `size` pixels."""
    render_face(0, size=size)               # fills the caches of this size
    wall, processor = [], []
    for start in range(0, count * rounds, count):
        clocks = time.perf_counter(), time.process_time()
        for index in range(start, start + count):
            render_face(index, size=size)
        wall.append((time.perf_counter() - clocks[0]) / count)
        processor.append((time.process_time() - clocks[1]) / count)
    return statistics.median(wall), statistics.median(processor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--count", type=int, default=100, help="faces per round at 128 pixels")
    parser.add_argument("--rounds", type=int, default=7)
    opt = parser.parse_args()
    cv2.setNumThreads(1)
    print(f"{'size':>5} {'faces/s':>8} {'faces/s of CPU time':>26}")
    for size in opt.sizes:
        count = max(1, opt.count * 128 // max(size, 128))
        wall, processor = seconds_per_face(size, count, opt.rounds)
        print(f"{size:5d} {1 / wall:8.0f} {1 / processor:26.0f}")


if __name__ == "__main__":
    main()

"""Images per second of the data pipeline.

    OMP_NUM_THREADS=1 python benchmarks/data.py --num_threads 2

1. The celeba pipeline (178 x 218 JPEGs, training augmentation, 128 pixels, x8) in this process on
   one thread, and its parts.
2. The same through the loader with worker processes.
3. Both for the drawn faces.
4. Images from JPEG files against the same images from a pack, in turns, with all files in memory.

"CPU time" leaves out the time spent waiting for a busy core.
"""
from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import data
from data.base_dataset import BaseDataset
from data.celeba_dataset import augment
from data.loader import create_train_loader
from data.sampler import StepBatchSampler
from utils.files import stamp_of
from utils.images.io import list_images, read_image, write_image
from utils.images.pack import write_pack
from utils.images.resize import bicubic

HEIGHT, WIDTH = 218, 178


def jpeg_like(index: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Smooth colors with some noise, which give a JPEG the size of a CelebA image's."""
    rng = np.random.default_rng(index)
    smooth = bicubic(rng.integers(0, 256, (14, 11, 3), np.uint8), height, width)
    noisy = smooth + rng.normal(0, 4, smooth.shape)
    return noisy.round().clip(0, 255).astype(np.uint8)


def seconds_per_call(call: Callable[[int], object], count: int,
                     clock: Callable[[], float] = time.process_time, repeats: int = 5) -> float:
    """Median over the repeats of the mean time of `count` calls."""
    times = []
    for _ in range(repeats):
        start = clock()
        for index in range(count):
            call(index)
        times.append((clock() - start) / count)
    return statistics.median(times)


def report_single(name: str, dataset: BaseDataset, count: int) -> None:
    for clock, meaning in ((time.perf_counter, ""), (time.process_time, ", CPU time")):
        rate = 1 / seconds_per_call(dataset.__getitem__, count, clock)
        report(f"{name}, one process{meaning}", rate)


def loader_rate(dataset: BaseDataset, num_threads: int, num_steps: int, batch_size: int = 32
                ) -> float:
    """Images per second through worker processes, their start left out."""
    warm_up = 4 * num_threads + 2       # what may have been prepared ahead
    sampler = StepBatchSampler(len(dataset), batch_size, seed=0, total_steps=warm_up + num_steps)
    batches = iter(create_train_loader(dataset, sampler, num_threads=num_threads))
    for _ in itertools.islice(batches, warm_up):
        pass
    start = time.perf_counter()
    num_images = sum(len(batch["path"]) for batch in batches)
    return num_images / (time.perf_counter() - start)


def report(name: str, rate: float) -> None:
    print(f"{name:<42}{rate:10.0f} images/s", flush=True)


def benchmark_celeba(folder: Path, options: dict, num_threads: int) -> None:
    paths = [folder / f"{index:06d}.jpg" for index in range(options["num_files"])]
    for index, path in enumerate(paths):
        write_image(path, jpeg_like(index), quality=90)
    size = statistics.mean(path.stat().st_size for path in paths)
    print(f"{len(paths)} JPEGs of {WIDTH} x {HEIGHT}, {size / 1024:.1f} KiB each")
    options = {**options, "dataroot": str(folder), "num_val_images": 0}
    dataset = data.create_dataset("celeba", "train", "bicubic", options)
    report_single("celeba", dataset, len(dataset))

    image = read_image(paths[0])
    rng = np.random.default_rng(0)
    gt = bicubic(image, 128, 128)
    parts = {"read": lambda index: read_image(paths[index]),
             "augment": lambda index: augment(image, rng),
             "augment and resize": lambda index: bicubic(augment(image, rng), 128, 128),
             "degrade": lambda index: dataset.degrade(gt, rng),
             "generator": lambda index: np.random.default_rng([0, 1, index])}
    for name, call in parts.items():
        print(f"    {name:<20}{1e6 * seconds_per_call(call, len(paths)):8.0f} us")
    if num_threads:
        rate = loader_rate(dataset, num_threads, num_steps=40)
        report(f"celeba, {num_threads} worker(s)", rate)
        report("    per worker", rate / num_threads)


def benchmark_synthetic(options: dict, num_threads: int) -> None:
    dataset = data.create_dataset("synthetic", "train", "bicubic", options)
    report_single("synthetic", dataset, 100)
    if num_threads:
        rate = loader_rate(dataset, num_threads, num_steps=10)
        report(f"synthetic, {num_threads} worker(s)", rate)
        report("    per worker", rate / num_threads)


def decoded(paths: dict[str, Path], names: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    for name in names:
        yield name, read_image(paths[name])


def benchmark_packs(folder: Path, num_files: int) -> None:
    """Reading alone, and whole samples of the data sets, from files and from a pack."""
    for name, size, load_size in (("celeba", (HEIGHT, WIDTH), 128), ("ffhq", (512, 512), 512)):
        paths = {"files": folder / name, "packed": folder / f"{name}_packed"}
        for index in range(num_files):
            write_image(paths["files"] / f"{index:06d}.jpg", jpeg_like(index, *size), quality=95)
        originals = {path.name: path for path in list_images(paths["files"])}
        write_pack(paths["packed"], {name: stamp_of(path) for name, path in originals.items()},
                   {"size": None, "filter": None}, partial(decoded, originals), 1 << 30)
        calls: dict[str, dict[str, Callable[[int], object]]] = {"read": {}, "sample": {}}
        for kind, path in paths.items():
            dataset = data.create_dataset(name, "train", "bicubic", {
                "dataroot": str(path), "load_size": load_size, "num_val_images": 0,
                "scale_factor": 8})
            calls["read"][kind], calls["sample"][kind] = dataset.read, dataset.__getitem__
        for what, both in calls.items():
            times: dict[str, list[float]] = {kind: [] for kind in both}
            for _ in range(5):
                for kind, call in both.items():
                    times[kind].append(seconds_per_call(call, num_files, repeats=1))
            for kind in both:
                report(f"{name}, {what}, {kind}, CPU time",
                       1 / statistics.median(times[kind]))
            ratios = [a / b for a, b in zip(times["files"], times["packed"], strict=True)]
            print(f"    packed is {statistics.median(ratios):.2f} times as fast "
                  f"({min(ratios):.2f} to {max(ratios):.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num_threads", type=int, default=2, help="worker processes; 0: none")
    parser.add_argument("--num_files", type=int, default=200, help="JPEGs to generate")
    parser.add_argument("--load_size", type=int, default=128)
    parser.add_argument("--scale_factor", type=int, default=8)
    opt = parser.parse_args()
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        benchmark_celeba(Path(folder), vars(opt), opt.num_threads)
    benchmark_synthetic(vars(opt), opt.num_threads)
    with tempfile.TemporaryDirectory() as folder:
        benchmark_packs(Path(folder), opt.num_files)


if __name__ == "__main__":
    main()

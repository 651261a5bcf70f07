"""PSNR and SSIM of a network, or of a folder of results, next to bicubic enlargement.

python evaluate.py --model sparnet --pretrain_model_path FILE --dataset_name folder --dataroot DIR
python evaluate.py --restored DIR --gt DIR
torchrun --nproc_per_node=8 evaluate.py ...     a network on several cards
"""
from __future__ import annotations

import os

# Before torch: an installed torch_npu must not be loaded on machines without a usable NPU.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

import csv
import hashlib
import io
import logging
import platform
from argparse import Namespace
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import data
import models
from data.base_dataset import BadImageCounter, relative_names
from data.folder_dataset import match_stems
from data.loader import create_eval_loader
from metrics.evaluation import Row, compare, evaluate_loader, further_means, means
from metrics.psnr_ssim import PROTOCOLS, Protocol
from options.test_options import EvaluateOptions
from utils import device as devices
from utils import distributed, entry
from utils.files import sha256, to_json, write_text
from utils.image import BadImage, bicubic, image_grid, read_image, write_image

logger = logging.getLogger("facezoo")
# Per picture: its numbers, the pictures "lq", "restored", "gt", and their SHA-256.
Measured = Iterator[tuple[Row, dict[str, np.ndarray], dict[str, str]]]


def measure_network(opt: Namespace, protocols: list[Protocol], bad: list[str],
                    report: dict[str, Any]) -> Measured:
    """Rows of a network on the test split of a dataset."""
    device = entry.open_device(opt)
    distributed.start(device)
    devices.seed_everything(opt.seed, device)
    model, path = models.load_trained(opt, device)
    report["weights"] = {"file": str(path), "sha256": sha256(path)}
    report["device"] = devices.name_of(device)
    dataset = data.create_dataset(opt.dataset_name, "test", opt.degradation, vars(opt))
    if opt.dataset_name == "synthetic":
        logger.info("evaluating on embedded synthetic faces; give your own with --dataroot DIR")
    if not dataset.has_targets:
        raise ValueError(f"--dataset_name {opt.dataset_name} has no targets to compare with; use "
                         f"folder, or enhance.py to restore pictures without targets")
    mine = torch.utils.data.Subset(dataset, distributed.share(len(dataset)))
    counter = BadImageCounter(opt.max_bad_images, len(mine))
    loader = create_eval_loader(mine, batch_size=opt.batch_size, num_threads=opt.num_threads,
                                pin_memory=devices.pins_memory(device))

    def usable() -> Iterator[dict[str, Any]]:
        for batch in devices.Prefetcher(loader, device, model.prepare):
            counter.add(batch["bad"])
            bad.extend(batch["bad"])
            if batch["path"]:
                yield batch
    for row, pictures in evaluate_loader(model.restore, usable(), protocols, model.measure):
        yield row, pictures, {f"{key}_pixels_sha256": pixel_digest(image)
                              for key, image in pictures.items()}


def measure_folders(opt: Namespace, protocols: list[Protocol], bad: list[str],
                    report: dict[str, Any]) -> Measured:
    """Rows of the pictures in --restored against those of the same name in --gt."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ValueError("--restored and --gt are measured by one process; start without torchrun")
    names = relative_names(opt.gt)
    restored_of = match_stems(opt.gt, opt.restored, ("--gt", "--restored"))
    lq_of = match_stems(opt.gt, opt.lq, ("--gt", "--lq")) if opt.lq else {}
    report["folders"] = {"restored": opt.restored, "gt": opt.gt, "lq": opt.lq}
    counter = BadImageCounter(opt.max_bad_images, len(names))
    for name in names[:opt.max_dataset_size]:
        paths = {"restored": restored_of[name], "gt": Path(opt.gt) / name}
        if lq_of:
            paths["lq"] = lq_of[name]
        try:
            pictures = {key: read_image(path) for key, path in paths.items()}
        except BadImage as error:
            counter.add([str(error)])
            bad.append(str(error))
            continue
        gt = pictures["gt"]
        if lq_of:
            pictures["lq"] = bicubic(pictures["lq"], *gt.shape[:2])
        roundings = [p.rounding for p in protocols]
        candidates = {method: dict.fromkeys(roundings, pictures[key])
                      for method, key in (("bicubic", "lq"), ("restored", "restored"))
                      if key in pictures}
        try:
            row = compare(name, gt, candidates, protocols)
        except ValueError as error:
            raise ValueError(f"{paths['restored']} and {paths['gt']}: {error}") from error
        yield row, pictures, {f"{key}_file_sha256": sha256(path) for key, path in paths.items()}


# ---- reports ------------------------------------------------------------------------------------

def columns(protocols: list[Protocol]) -> list[tuple[str, str]]:
    return [(p.name, key) for p in protocols for key in ("psnr", "ssim")]


def table(mean: dict[str, dict[str, dict[str, float]]], further: dict[str, float],
          protocols: list[Protocol], count: int) -> str:
    """The means as aligned text, one line per method and per further number."""
    head = f"{f'{count} pictures':<16}" + "".join(
        f"{f'{key.upper()} {name}':>18}" for name, key in columns(protocols))
    lines = [f"{method:<16}" + "".join(
        f"{values[name][key]:>18.4f}" for name, key in columns(protocols))
        for method, values in mean.items()]
    if len(mean) == 2:
        gain = [mean["restored"][name][key] - mean["bicubic"][name][key]
                for name, key in columns(protocols)]
        lines.append(f"{'gain':<16}" + "".join(f"{value:>+18.4f}" for value in gain))
    lines += [f"{name:<16}{value:>18.4f}" for name, value in further.items()]
    return "\n".join([head, *lines])


def per_image_csv(rows: list[Row], hashes: list[dict[str, str]],
                  protocols: list[Protocol]) -> str:
    """One line per picture: path, every method's numbers, digests of what was compared."""
    methods = list(rows[0].values)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", *(f"{method}_{name}_{key}" for method in methods
                               for name, key in columns(protocols)), *rows[0].further,
                     *hashes[0]])
    for row, digests in zip(rows, hashes, strict=True):
        writer.writerow([row.path, *(f"{row.values[method][name][key]:.6f}" for method in methods
                                     for name, key in columns(protocols)),
                         *(f"{value:.6f}" for value in row.further.values()), *digests.values()])
    return text.getvalue()


def pixel_digest(image: np.ndarray) -> str:
    """SHA-256 of a picture's shape and bytes: the same for any lossless file of it."""
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()


def versions() -> dict[str, str]:
    """Versions of what decides about the numbers."""
    found = {"python": platform.python_version()}
    for package in ("torch", "numpy", "Pillow", "opencv-python-headless"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def evaluate(opt: Namespace) -> int:
    """Measure, print the table, write table, CSV, JSON and strip; returns the exit status.

    Of several processes each measures its part of the pictures; the main one reports them all.
    """
    entry.set_up_logging(main=os.environ.get("RANK", "0") == "0")
    protocols = [p for name, p in PROTOCOLS.items() if opt.protocol in (name, "both")]
    report: dict[str, Any] = {"protocols": {p.name: p.text for p in protocols}}
    bad: list[str] = []
    folders = opt.restored is not None
    measured = (measure_folders if folders else measure_network)(opt, protocols, bad, report)
    out = Path(opt.results_dir) / (Path(opt.restored).name if folders
                                   else f"{opt.name or opt.model}_{opt.dataset_name}")
    rows, hashes, strip = [], [], []
    for row, pictures, digests in measured:
        rows.append(row)
        hashes.append(digests)
        if len(strip) < opt.strip:
            strip.append([pictures[key] for key in ("lq", "restored", "gt") if key in pictures])
        if opt.save_images and not folders:
            write_image(out / "images" / Path(row.path).with_suffix(".png"), pictures["restored"])
    parts = distributed.gather_from_ranks((rows, hashes, strip, bad))
    rows, hashes, strip, bad = ([item for part in parts for item in part[i]] for i in range(4))
    if distributed.is_main():
        report.update(processes=len(parts), unreadable=bad, versions=versions(), options={
            key: value for key, value in vars(opt).items() if key != "config"})
        write_reports(out, rows, hashes, protocols, report, strip[:opt.strip])
    distributed.stop()
    return 0


def write_reports(out: Path, rows: list[Row], hashes: list[dict[str, str]],
                  protocols: list[Protocol], report: dict[str, Any],
                  strip: list[list[np.ndarray]]) -> None:
    """Print the table and write every file."""
    bad = report["unreadable"]
    if not rows:
        raise ValueError(f"nothing to evaluate: {'; '.join(bad[:3]) or 'the data set is empty'}")
    mean, further = means(rows), further_means(rows)
    text = table(mean, further, protocols, len(rows))
    print(text, flush=True)
    report.update(pictures=len(rows), mean=mean, further=further,
                  per_image=[{"path": row.path, **digests, **row.values, "further": row.further}
                             for row, digests in zip(rows, hashes, strict=True)])
    write_text(out / "table.txt", text + "\n")
    write_text(out / "per_image.csv", per_image_csv(rows, hashes, protocols))
    write_text(out / "report.json", to_json(report) + "\n")
    if strip:
        labels = ["input", "restored", "target"] if len(strip[0]) == 3 else ["restored", "target"]
        write_image(out / "strip.png", image_grid(strip, labels=labels))
    print(f"table, per_image.csv, report.json and strip.png are in {out}")
    if bad:
        print(f"warning: {len(bad)} unreadable picture(s) left out, see report.json")


if __name__ == "__main__":
    options = EvaluateOptions(models, data, "evaluate.py").parse()
    distributed.leave(entry.run(distributed.recorded(evaluate), options, "evaluate.py"))

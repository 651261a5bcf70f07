"""PSNR and SSIM of a network, or of a folder of results, next to bicubic upscaling.

python evaluate.py --model sparnet --pretrain_model_path FILE --dataset_name folder --dataroot DIR
python evaluate.py --restored DIR --gt DIR
python evaluate.py ... --metrics lpips fid --lpips_weights FILE FILE --fid_weights FILE
torchrun --nproc_per_node=8 evaluate.py ...     a network on several cards
"""
from __future__ import annotations

import os

# Before torch: an installed torch_npu must not be loaded on machines without a usable NPU.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

import data
import models
from options.evaluate_options import EvaluateOptions

# Parsed before the imports that take seconds, so that --help answers at once.
if __name__ == "__main__":
    options = EvaluateOptions(models, data, "evaluate.py").parse()

import hashlib
import logging
import platform
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.base_dataset import BadImageCounter, relative_names
from data.folder_dataset import match_stems
from data.loader import create_eval_loader
from engine import device as devices
from engine import distributed, entry
from engine.prefetch import Prefetcher
from metrics import metric_set
from metrics.evaluation import Column, Numbers, Row, compare, evaluate_loader, means
from metrics.metric_set import METRICS, MetricSet, SetState
from metrics.psnr_ssim import PROTOCOLS, Protocol
from metrics.report import Extremes, page
from metrics.tables import json_layout, per_image_csv, per_image_entry, table
from utils.files import sha256, to_json, write_text
from utils.images.convert import NotFinite, check_finite, image_grid
from utils.images.errors import NotWritten
from utils.images.io import BadImage, read_image, root_of, shown, warn_left_out, write_image
from utils.images.resize import bicubic
from utils.text import counted

logger = logging.getLogger("facezoo")
# Options that affect a network's results, shown in report.html.
SETTINGS = ("model", "dataset_name", "dataroot", "degradation", "load_size", "seed", "batch_size",
            "max_dataset_size")
# Per sample: its numbers, and the images "lq", "restored", "gt".
Samples = Iterator[tuple[Row, dict[str, np.ndarray]]]


@dataclass
class Findings:
    """Results of one process; the main process merges those of all.

    Attributes:
        extremes: the worst and the best cases.
        rows: the numbers of each sample.
        strip: the images of the first samples, side by side.
        unreadable: messages about the images that were left out.
        not_written: messages about restored images that could not be saved.
        state: what the metrics of the whole set need.
    """
    extremes: Extremes
    rows: list[Row] = field(default_factory=list)
    strip: list[list[np.ndarray]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    not_written: list[str] = field(default_factory=list)
    state: SetState = field(default_factory=SetState)

    def merge(self, other: Findings) -> None:
        """Append the results of another process."""
        self.rows += other.rows
        self.strip += other.strip
        self.unreadable += other.unreadable
        self.not_written += other.not_written
        self.extremes.merge(other.extremes)
        self.state.merge(other.state)


def measure_network(opt: Namespace, device: torch.device, protocols: list[Protocol],
                    bad: list[str], report: dict[str, Any]) -> Samples:
    """Rows of a network on the test split of a dataset."""
    devices.seed_everything(opt.seed, device)
    model, path = models.load_trained(opt, device)
    report["weights"] = {"file": str(path), "sha256": sha256(path)}
    report["device"] = devices.name_of(device)
    dataset = data.create_dataset(opt.dataset_name, "test", opt.degradation, vars(opt))
    if opt.dataset_name == "synthetic":
        logger.info("evaluating on synthetic faces; use --dataroot DIR for your own images")
    if not dataset.has_targets:
        raise ValueError(f"--dataset_name must be a dataset with targets, got "
                         f"{opt.dataset_name}; use --dataset_name folder, or enhance.py to "
                         f"restore images without targets")
    mine = torch.utils.data.Subset(dataset, distributed.share(len(dataset)))
    counter = BadImageCounter(opt.max_bad_images, len(mine))
    loader = create_eval_loader(mine, batch_size=opt.batch_size, num_threads=opt.num_threads,
                                pin_memory=devices.pins_memory(device))

    names: list[str] = []       # of the batch that is being restored

    def usable() -> Iterator[dict[str, Any]]:
        for batch in Prefetcher(loader, device, model.prepare):
            counter.add(batch["bad"])
            bad.extend(batch["bad"])
            if batch["path"]:
                names[:] = batch["path"]
                yield batch

    def restore(lq: torch.Tensor) -> torch.Tensor:
        restored = model.restore(lq)
        try:
            check_finite(restored)
        except NotFinite as error:
            raise ValueError(f"{names[error.indices[0]]}: {error}") from error
        return restored
    for row, images in evaluate_loader(restore, usable(), protocols, model.measure):
        row.digests = {f"{key}_pixels_sha256": pixel_digest(image)
                       for key, image in images.items()}
        yield row, images


def measure_folders(opt: Namespace, protocols: list[Protocol], bad: list[str],
                    report: dict[str, Any]) -> Samples:
    """Rows of the images in --restored against those of the same name in --gt."""
    root, names = root_of(opt.gt), relative_names(opt.gt)
    warn_left_out(opt.gt)
    restored_of = match_stems(opt.gt, opt.restored, ("--gt", "--restored"))
    lq_of = match_stems(opt.gt, opt.lq, ("--gt", "--lq")) if opt.lq else {}
    report["folders"] = {"restored": opt.restored, "gt": opt.gt, "lq": opt.lq}
    counter = BadImageCounter(opt.max_bad_images, len(names))
    for name in names[:opt.max_dataset_size]:
        paths = {"restored": restored_of[name], "gt": root / name}
        if lq_of:
            paths["lq"] = lq_of[name]
        try:
            images = {key: read_image(path) for key, path in paths.items()}
        except BadImage as error:
            counter.add([str(error)])
            bad.append(str(error))
            continue
        gt = images["gt"]
        if lq_of:
            images["lq"] = bicubic(images["lq"], *gt.shape[:2])
        roundings = [p.rounding for p in protocols]
        candidates = {method: dict.fromkeys(roundings, images[key])
                      for method, key in (("bicubic", "lq"), ("restored", "restored"))
                      if key in images}
        try:
            row = compare(name, gt, candidates, protocols)
        except ValueError as error:     # sizes that differ, or too small for SSIM
            message = f"{shown(paths['restored'])} and {shown(paths['gt'])}: {error}"
            counter.add([message])
            bad.append(message)
            continue
        row.digests = dict(digest(key, path, images[key]) for key, path in paths.items())
        yield row, images


# ---- reports ------------------------------------------------------------------------------------

def digest(key: str, path: Path, image: np.ndarray) -> tuple[str, str]:
    """Name and SHA-256 of an image's file; of its pixels where it lies in a pack."""
    return ((f"{key}_file_sha256", sha256(path)) if path.is_file()
            else (f"{key}_pixels_sha256", pixel_digest(image)))


def pixel_digest(image: np.ndarray) -> str:
    """SHA-256 of an image's shape and bytes: the same for any lossless file of it."""
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()


def versions() -> dict[str, str]:
    """Versions of the packages that affect the results."""
    found = {"python": platform.python_version()}
    for package in ("torch", "numpy", "Pillow", "opencv-python-headless"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def evaluate(opt: Namespace) -> int:
    """Measure, print the table, write every file; returns the exit status.

    With several processes each measures its part of the images, and the main one reports all.
    """
    entry.set_up_logging(main=os.environ.get("RANK", "0") == "0")
    protocols = [p for name, p in PROTOCOLS.items() if opt.protocol in (name, "both")]
    report: dict[str, Any] = {"protocols": {p.name: p.text for p in protocols}}
    device, metrics = prepare(opt, report)
    found = Findings(Extremes(opt.cases))
    folders = opt.restored is not None
    samples = (measure_folders(opt, protocols, found.unreadable, report) if folders
               else measure_network(opt, device, protocols, found.unreadable, report))
    out = Path(opt.results_dir) / (Path(opt.restored).name if folders
                                   else f"{opt.name or opt.model}_{opt.dataset_name}")
    order = Column("restored", "psnr", protocols[-1].name)
    for row, images in samples:
        row.numbers |= metrics.of(images)
        found.rows.append(row)
        found.extremes.add(row.numbers[order], row.path, images)
        if len(found.strip) < opt.strip:
            found.strip.append([images[key] for key in ("lq", "restored", "gt")
                                if key in images])
        if opt.save_images and not folders:
            try:
                write_image(out / "images" / Path(row.path).with_suffix(".png"), images["restored"])
            except NotWritten as error:
                found.not_written.append(str(error))
    found.state = metrics.state
    parts = distributed.gather_from_ranks(found)
    if distributed.is_main():
        found = Findings(Extremes(opt.cases))
        for part in parts:
            found.merge(part)
        metrics.state = found.state
        report.update(processes=len(parts), unreadable=found.unreadable,
                      not_written=found.not_written, versions=versions(),
                      options={key: value for key, value in vars(opt).items() if key != "config"})
        write_reports(out, found, report, metrics)
    distributed.stop()
    return 0


def prepare(opt: Namespace, report: dict[str, Any]) -> tuple[torch.device, MetricSet]:
    """Open the device, join the other processes, and load what --metrics asks for."""
    device = torch.device("cpu")
    if opt.restored is None:
        device = entry.open_device(opt)
        distributed.start(device)
    elif os.environ.get("WORLD_SIZE", "1") != "1":
        raise ValueError(f"--restored and --gt need a single process, got "
                         f"{os.environ['WORLD_SIZE']}; start without torchrun")
    elif any(METRICS[name][0] for name in opt.metrics):
        device = entry.open_device(opt)
    weights = {name: getattr(opt, flag.removeprefix("--"))
               for name, (flag, _) in METRICS.items() if flag}
    metrics, described, remarks = metric_set.create(opt.metrics, weights, opt.fid_stats,
                                                            device)
    report.update(metrics=described, remarks=remarks)
    return device, metrics


def write_reports(out: Path, found: Findings, report: dict[str, Any],
                  metrics: MetricSet) -> None:
    """Print the table and write every file."""
    rows, bad, strip = found.rows, found.unreadable, found.strip[:report["options"]["strip"]]
    if not rows:
        raise ValueError(f"no image could be evaluated: "
                         f"{'; '.join(bad[:3]) or 'the dataset is empty'}")
    of_the_set, remarks = metrics.of_the_set()
    report["remarks"] |= remarks
    numbers = means(rows) | of_the_set
    text = table(numbers, len(rows))
    print(text, flush=True)
    report.update(pictures=len(rows), **json_layout(numbers),
                  per_image=[per_image_entry(row) for row in rows])
    write_text(out / "table.txt", text + "\n")
    write_text(out / "per_image.csv", per_image_csv(rows))
    write_text(out / "report.json", to_json(report) + "\n")
    write_text(out / "report.html", html_page(found, numbers, report))
    if strip:
        labels = ["input", "restored", "target"] if len(strip[0]) == 3 else ["restored", "target"]
        write_image(out / "strip.png", image_grid(strip, labels=labels))
    print(f"wrote table.txt, per_image.csv, report.json, report.html"
          f"{' and strip.png' if strip else ''} to {out}")
    for name, remark in report["remarks"].items():
        print(f"--metrics {name}: {remark}")
    if bad:
        print(f"warning: skipped {counted(len(bad), 'unreadable image')}; report.json lists "
              f"{'it' if len(bad) == 1 else 'them'}")
    if lost := found.not_written:
        print(f"warning: {counted(len(lost), 'restored image')} could not be saved: {lost[0]}"
              + ("; report.json lists them" if len(lost) > 1 else ""))


def html_page(found: Findings, numbers: Numbers, report: dict[str, Any]) -> str:
    """report.html; it depends neither on the number of processes nor on the output folder."""
    opt, folders = report["options"], report.get("folders")
    title = (f"{folders['restored']} compared with {folders['gt']}" if folders else
             f"{opt['name'] or opt['model']} on {opt['dataset_name']}")
    every = "".join(digest for row in found.rows for digest in row.digests.values())
    facts = {**report["versions"], "unreadable images, skipped": len(report["unreadable"]),
             "SHA-256 of all images' SHA-256 in per_image.csv":
                 hashlib.sha256(every.encode()).hexdigest()}
    if folders:
        facts |= {f"--{key}": value for key, value in folders.items() if value}
    else:
        facts |= {"weights": report["weights"]["file"],
                  "SHA-256 of the weights": report["weights"]["sha256"], "device": report["device"]}
        facts |= {f"--{key}": opt[key] for key in SETTINGS}
    for name, described in report["metrics"].items():
        facts |= {f"{name}: {file}": digest for file, digest in described["files"].items()}
    protocols = {**report["protocols"],
                 **{name: described["text"] for name, described in report["metrics"].items()}}
    return page(title=title, rows=found.rows, numbers=numbers, protocols=protocols, facts=facts,
                remarks=report["remarks"], extremes=found.extremes,
                figures=[] if folders else list(models.find(opt["model"]).figures),
                order=f"PSNR {list(report['protocols'])[-1]}")


if __name__ == "__main__":
    distributed.leave(entry.run(distributed.recorded(evaluate), options, "evaluate.py"))

"""What the parsing network learns on synthetic faces within some minutes of a CPU.

    python benchmarks/parse_iou.py [--steps 900] [--images 100] [--output DIR] [--json FILE]
                                   [TRAINING ARGUMENTS ...]

Trains a small network of --model parse; other arguments go to newtrain.py. Prints the intersection
over union of each region on held-out people, over the pixels of all images, and the mean over the
regions present. Faces are not degraded, like those that `prepare.py masks` parses. With the
published degradation it takes longer.
"""
from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch

import data
import models
from data.labels import LABELS, NUM_LABELS
from data.loader import create_eval_loader
from engine import device as devices
from engine.prefetch import Prefetcher
from metrics.segmentation import mean_iou, overlaps
from options.evaluate_options import EvaluateOptions

SMALL = ["--load_size", "128", "--parse_channels", "16", "--parse_depth", "1", "--batch_size", "8",
         "--lr", "1.2e-3", "--lr_policy", "cosine", "--lq_size", "127", "128", "--blur_prob", "0",
         "--noise_prob", "0", "--jpeg_prob", "0", "--num_threads", "1"]


def train(folder: Path, steps: int, arguments: list[str]) -> float:
    """Train; returns the seconds it took."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, str(ROOT / "newtrain.py"), "--model", "parse", *SMALL, "--train_steps",
         str(steps), "--checkpoints_dir", str(folder), "--name", "parse", "--print_freq", "50",
         "--eval_freq", "200", "--num_val_images", "20", *arguments], check=True)
    return time.perf_counter() - began


def measure(folder: Path, num_images: int) -> tuple[torch.Tensor, torch.Tensor]:
    """IoU of each region over all held-out images, and which regions there are."""
    opt = EvaluateOptions(models, data).parse(
        ["--name", "parse", "--checkpoints_dir", str(folder), "--max_dataset_size",
         str(num_images)])
    device = devices.open_device(opt.device)
    model, _ = models.load_trained(opt, device)
    dataset = data.create_dataset(opt.dataset_name, "test", opt.degradation, vars(opt))
    both, either = torch.zeros(2, NUM_LABELS).double()
    seen = torch.zeros(NUM_LABELS).double()
    for batch in Prefetcher(create_eval_loader(dataset, batch_size=8), device,
                                    model.prepare):
        labels = batch["labels"]
        found = overlaps(model.parse(batch["lq"]), labels, NUM_LABELS)
        both, either = both + found[0].sum(0), either + found[1].sum(0)
        seen += torch.bincount(labels.long().flatten().cpu(), minlength=NUM_LABELS)
    return both / either.clamp(min=1), seen > 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--images", "--pictures", type=int, default=100, help="held-out people")
    parser.add_argument("--output", metavar="DIR", help="keep the run here")
    parser.add_argument("--json", metavar="FILE")
    opt, arguments = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(opt.output or scratch)
        seconds = train(folder, opt.steps, arguments)
        iou, present = measure(folder, opt.images)
    mean = float(mean_iou(iou, torch.ones_like(iou), present))
    for name, value, there in zip(LABELS, iou.tolist(), present.tolist(), strict=True):
        print(f"{name:<12}{value:8.3f}" if there else f"{name:<12}  absent")
    print(f"mean        {mean:8.3f}   {opt.steps} steps in {seconds / 60:.1f} min")
    if opt.json:
        Path(opt.json).write_text(json.dumps({
            "mean_iou": mean, "seconds": seconds, "iou": dict(zip(LABELS, iou.tolist(),
                                                                  strict=True))}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

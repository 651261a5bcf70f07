"""GFP-GAN at 512 pixels: speed of restoring, memory of a training step.

    python benchmarks/gfpgan_512.py forward [--size 512] [--repeats 5] [--threads N] [--json FILE]
    python benchmarks/gfpgan_512.py memory  [--size 512] [--batch_size 1] [--checkpointing]

`forward` alternates the published formulation of the original network (--preset 1) with ours, with
the same weights, after comparing their results. The published formulation has the operators of
benchmarks/style_ops.py, upsamples the skip before its convolution and writes no result in place.
The ratio is that of the best runs, because another process can only make a run slower.

`memory` takes one step with every loss and the gradient penalty, all networks at their published
width, fp32, and prints this process's largest resident size. Fixed networks have random weights,
which cost what the published ones do.
"""
from __future__ import annotations

import os

os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

import argparse
import contextlib
import copy
import json
import math
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from style_ops import PUBLISHED
from torch import Tensor

import data
import models
from models.networks import gfpgan_decoder, gfpgan_layers, stylegan2
from models.networks.gfpgan import GFPGAN, PRESETS
from options.train_options import TrainOptions

GIB = 2 ** 30


def published_up(block: gfpgan_layers.EqualUp, x: Tensor) -> Tensor:
    skip = PUBLISHED["equal_conv2d"](gfpgan_layers.doubled(x), block.skip.weight)
    return (block.conv2(block.conv1(x)) + skip) / math.sqrt(2)


def published_modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    first, last = torch.split(x, x.shape[1] // 2, dim=1)
    return torch.cat([first, last * scale + shift], dim=1)


@contextlib.contextmanager
def published_formulation() -> Iterator[None]:
    """Let the network compute as the released code does."""
    replaced = [(module, name, value) for module in (stylegan2, gfpgan_layers)
                for name, value in PUBLISHED.items() if hasattr(module, name)]
    replaced += [(gfpgan_layers, "channels_last", lambda x: x),
                 (gfpgan_decoder, "modulate", published_modulate),
                 (gfpgan_layers.EqualUp, "forward", published_up)]
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced]
    for owner, name, value in replaced:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in kept:
            setattr(owner, name, value)


def forward(options: argparse.Namespace) -> dict[str, object]:
    torch.manual_seed(0)
    network = GFPGAN(**PRESETS["1"], size=options.size).eval()
    for name, strength in network.named_parameters():
        if name.endswith(("style_conv1.weight", *(f"style_convs.{k}.weight" for k in range(14)))):
            torch.nn.init.constant_(strength, 0.5)
    x = torch.rand(1, 3, options.size, options.size) * 2 - 1
    times: dict[str, list[float]] = {"published": [], "ours": []}
    results: dict[str, Tensor] = {}
    # As released, and as newtrain.py and enhance.py lay weights out on the CPU.
    ours = copy.deepcopy(network).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        for _ in range(options.repeats + 1):
            for label in times:
                start = time.perf_counter()
                if label == "published":
                    with published_formulation():
                        results[label] = network(x)[0]
                else:
                    results[label] = ours(x)[0]
                times[label].append(time.perf_counter() - start)
    error = float((results["ours"] - results["published"]).norm() / results["published"].norm())
    if not error < 1e-4:
        raise SystemExit(f"results differ by {error:.1e} of their norm")
    best = {label: min(values[1:]) for label, values in times.items()}
    middle = {label: statistics.median(values[1:]) for label, values in times.items()}
    row = {"size": options.size, "threads": torch.get_num_threads(), **best, "error": error,
           "ratio": best["published"] / best["ours"],
           "ratio_of_medians": middle["published"] / middle["ours"]}
    print(f"{options.size} px, {row['threads']} threads: published {best['published']:.2f} s, ours "
          f"{best['ours']:.2f} s, ratio {row['ratio']:.2f} (of medians "
          f"{row['ratio_of_medians']:.2f}); results differ by {error:.1e}")
    return row


def memory(options: argparse.Namespace) -> dict[str, object]:
    opt = TrainOptions(models, data, "gfpgan_512.py").parse(
        ["--model", "gfpgan", "--preset", "1", "--dataset_name", "synthetic", "--opt_level", "O0",
         "--device", "cpu", "--load_size", str(options.size), "--batch_size",
         str(options.batch_size), "--vgg_weights", "random", "--id_weights", "random",
         "--decoder_weights", "random", *(["--checkpointing"] if options.checkpointing else [])])
    torch.manual_seed(0)
    model = models.create(opt, torch.device("cpu"))
    model.setup()
    model.train()
    built = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    lq, gt = (torch.rand(options.batch_size, 3, options.size, options.size) * 2 - 1
              for _ in range(2))
    model.start_step(opt.r1_every, 10 ** 6, 10 ** 6)
    start = time.perf_counter()
    losses = model.run_step({"lq": lq, "gt": gt})
    row = {"size": options.size, "batch_size": options.batch_size,
           "checkpointing": options.checkpointing, "seconds": time.perf_counter() - start,
           "built_gib": built / GIB,
           "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB,
           "losses": {name: float(loss) for name, loss in losses.items()}}
    print(f"{options.size} px, batch {options.batch_size}: peak {row['peak_gib']:.2f} GiB, "
          f"{row['built_gib']:.2f} GiB before the step, which took {row['seconds']:.0f} s and had "
          f"{len(losses)} losses: {', '.join(losses)}")
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("forward", "memory"))
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--threads", type=int, default=0, help="0 leaves torch's choice")
    parser.add_argument("--json", default="", help="also write the figures to this file")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    row = forward(options) if options.what == "forward" else memory(options)
    if options.json:
        Path(options.json).write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Speed of SPARNet's upsampling convolutions: published operators against the phase form.

    python benchmarks/upsample_conv.py [--batch_size 8] [--repeats 9] [--threads N] [--json FILE]

Published: nearest upsampling, reflection padding, 3x3 convolution, in both memory formats. Ours:
models.ops.padded_conv.upsample_conv in channels_last, with its size limit off. One row per
shape that SPARNet x8 has at 128 px; milliseconds of forward and backward together, the best of
several runs in turn, because another process can only make a run slower.
"""
from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.nn.functional as F
from torch import Tensor

from models.ops import padded_conv

# Input channels, output channels, side of the source, and how many of them the network has.
SHAPES = ((64, 64, 64, 1), (64, 32, 64, 2), (128, 64, 32, 2), (64, 64, 32, 3), (128, 128, 16, 2),
          (64, 64, 16, 5), (64, 64, 8, 16), (64, 64, 4, 16))


def published(x: Tensor, weight: Tensor) -> Tensor:
    upsampled = F.interpolate(x, scale_factor=2.0, mode="nearest")
    return F.conv2d(F.pad(upsampled, (1, 1, 1, 1), mode="reflect"), weight)


def with_backward(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor,
                  grad: Tensor, layout: torch.memory_format) -> Callable[[], list[Tensor]]:
    """A function of nothing that runs one forward and backward and returns all three results."""
    x, weight, grad = (tensor.contiguous(memory_format=layout) for tensor in (x, weight, grad))
    x.requires_grad_(), weight.requires_grad_()

    def run() -> list[Tensor]:
        result = function(x, weight)
        return [result.detach(), *torch.autograd.grad(result, (x, weight), grad)]

    return run


def best_milliseconds(runs: dict[str, Callable], repeats: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: min(values) for name, values in times.items()}


def compare(batch_size: int, in_channels: int, out_channels: int, side: int,
            repeats: int) -> dict[str, float]:
    """Check that the three agree, then time them."""
    x = torch.randn(batch_size, in_channels, side, side)
    weight = torch.randn(out_channels, in_channels, 3, 3) / (9 * in_channels) ** 0.5
    grad = torch.randn(batch_size, out_channels, 2 * side, 2 * side)
    runs = {
        "published": with_backward(published, x, weight, grad, torch.contiguous_format),
        "channels_last": with_backward(published, x, weight, grad, torch.channels_last),
        "ours": with_backward(padded_conv.upsample_conv, x, weight, grad, torch.channels_last)}
    for expected, got in zip(runs["published"](), runs["ours"](), strict=True):
        if not (expected - got).abs().max() < 1e-4 * expected.abs().max():
            raise SystemExit(f"results differ at {in_channels} to {out_channels}, side {side}")
    return best_milliseconds(runs, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=0, help="0 leaves torch's choice")
    parser.add_argument("--json", default="", help="also write the figures to this file")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    padded_conv.MIN_PHASE_NUMEL = 0
    rows = []
    print("channels   side  units  published  channels_last  ours (ms)  ratio")
    for in_channels, out_channels, side, units in SHAPES:
        row = compare(options.batch_size, in_channels, out_channels, side, options.repeats)
        ratio = row["published"] / row["ours"]
        print(f"{in_channels:3} to {out_channels:3} {side:4}  {units:5}  {row['published']:9.2f}  "
              f"{row['channels_last']:13.2f}  {row['ours']:9.2f}  {ratio:5.2f}")
        rows.append({"in_channels": in_channels, "out_channels": out_channels, "side": side,
                     "units": units, "ratio": ratio, **row})
    total = {name: sum(row["units"] * row[name] for row in rows) for name in ("published", "ours")}
    print(f"all units: {total['published'] / total['ours']:.2f} times as fast")
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

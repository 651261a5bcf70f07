"""Speed of the semantic-aware style loss: a loop over masked copies against gathered regions.

    python benchmarks/style_loss.py [--size 512] [--batch_size 1] [--repeats 3] [--threads 1]
                                    [--labels synthetic] [--json FILE]

The loop masks the whole feature map once per region, as the published code does, except that the
target's matrices need no graph in either form. Features are random, of VGG19's layers 2 to 4 at
the image's size; labels are those of a drawn face, or squares of random regions. Times are
milliseconds of forward and backward, the best of several runs in turn. The script ends if the forms
disagree.
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

from data.synthetic.faces import render_face
from models.losses.style import region_grams
from models.networks.parsenet import NUM_LABELS, one_hot

# Channels, and how much smaller than the image the map is.
LAYERS = {"conv3_4": (256, 4), "conv4_4": (512, 8), "conv5_4": (512, 16)}
SQUARES = 16
Grams = Callable[[Tensor, Tensor], Tensor]


def masked_loop(features: Tensor, labels: Tensor) -> Tensor:
    mask = F.interpolate(one_hot(labels), size=features.shape[2:])
    grams = []
    for region in range(NUM_LABELS):
        inside = (features * mask[:, region:region + 1]).flatten(2)
        area = mask[:, region].sum(dim=(1, 2))[:, None, None] + 1e-8
        grams.append(torch.bmm(inside, inside.transpose(1, 2)) / (features.shape[1] * area))
    return torch.stack(grams, dim=1)


def gathered(features: Tensor, labels: Tensor) -> Tensor:
    return region_grams(features, labels, NUM_LABELS)


def labels_for(kind: str, size: int, batch_size: int) -> Tensor:
    if kind == "synthetic":
        faces = [render_face(person, size=size).labels for person in range(batch_size)]
        return torch.stack([torch.from_numpy(face).long() for face in faces])
    cells = torch.randint(0, NUM_LABELS, (batch_size, SQUARES, SQUARES))
    side = size // SQUARES
    return cells.repeat_interleave(side, 1).repeat_interleave(side, 2)


def run(grams: Grams, features: Tensor, target: Tensor, labels: Tensor) -> list[Tensor]:
    """The loss and its gradient for one layer."""
    with torch.no_grad():
        wanted = grams(target, labels)
    loss = F.mse_loss(grams(features, labels), wanted)
    return [loss.detach(), *torch.autograd.grad(loss, features)]


def compare(channels: int, side: int, labels: Tensor, repeats: int) -> dict[str, float]:
    """Check that both agree on a layer, then time them."""
    shape = (len(labels), channels, side, side)
    features, target = torch.randn(shape).requires_grad_(), torch.randn(shape)
    forms = {"loop": masked_loop, "ours": gathered}
    expected, found = (run(grams, features, target, labels) for grams in forms.values())
    for one, other in zip(expected, found, strict=True):
        if not (one - other).abs().max() < 1e-4 * one.abs().max():
            raise SystemExit(f"the forms differ at {channels} channels, side {side}")
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(repeats):
        for name, grams in forms.items():
            start = time.perf_counter()
            run(grams, features, target, labels)
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: min(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="0 leaves torch's choice")
    parser.add_argument("--labels", "--picture", choices=("synthetic", "squares"),
                        default="synthetic")
    parser.add_argument("--json", default="", help="also write the figures to this file")
    options = parser.parse_args()
    if options.size % SQUARES:
        parser.error(f"--size must be a multiple of {SQUARES}, got {options.size}")
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    labels = labels_for(options.labels, options.size, options.batch_size)
    print(f"{options.size} pixels, batch {options.batch_size}, {len(labels.unique())} regions seen")
    rows, total = {}, {"loop": 0.0, "ours": 0.0}
    for name, (channels, factor) in LAYERS.items():
        rows[name] = compare(channels, options.size // factor, labels, options.repeats)
        total = {form: total[form] + rows[name][form] for form in total}
    rows["all"] = total
    print("layer     loop (ms)  ours (ms)  ratio")
    for name, row in rows.items():
        row["ratio"] = row["loop"] / row["ours"]
        print(f"{name:8} {row['loop']:10.1f} {row['ours']:10.1f} {row['ratio']:6.2f}")
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

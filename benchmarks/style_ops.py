"""Speed of StyleGAN2's operators and of GPEN's networks: published formulation against ours.

    python benchmarks/style_ops.py [--only operators networks] [--batch_size 1 4] [--size 256 512]
                                   [--repeats 3] [--threads N] [--json FILE]

Published: the native form that the released code uses without its compiled extension, written
plainly below: zeros inserted by a padded six-dimensional view, one
filter over (B C, 1, H, W), a weight per image and convolution in groups. Both run the same modules
with the same weights, and their results are compared first. Times are in milliseconds, and runs
alternate. The ratio is that of the best runs, because another process can only make a run slower;
the ratio of the medians stands beside it.
"""
from __future__ import annotations

import argparse
import contextlib
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.nn.functional as F
from torch import Tensor

from models.networks import stylegan2
from models.networks.gpen import FullGenerator
from models.networks.stylegan2 import Discriminator
from models.ops import style_ops

# As the released files: GPEN-BFR-256 and those of 512 and more.
WIDTHS = {256: {"channel_multiplier": 1, "narrow": 0.5}}
MODES = ("forward", "backward", "second")
Run = Callable[[], list[Tensor]]


# ---- the published formulation ------------------------------------------------------------------

def upfirdn2d(x: Tensor, kernel: Tensor, *, up: int = 1, down: int = 1,
              pad: tuple[int, int] = (0, 0)) -> Tensor:
    batch, channels, height, width = x.shape
    x = F.pad(x.reshape(-1, height, 1, width, 1, 1), (0, 0, 0, up - 1, 0, 0, 0, up - 1))
    x = F.pad(x.reshape(-1, 1, height * up, width * up), (*pad, *pad))
    x = F.conv2d(x, kernel.flip((0, 1))[None, None])
    return x.view(batch, channels, *x.shape[2:])[:, :, ::down, ::down]


def fused_leaky_relu(x: Tensor, bias: Tensor) -> Tensor:
    bias = bias.view(1, -1, *[1] * (x.ndim - 2))
    return math.sqrt(2) * F.leaky_relu(x + bias, 0.2)


def equal_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1,
                 padding: int = 0, activate: bool = False) -> Tensor:
    weight = weight / math.sqrt(weight[0].numel())
    y = F.conv2d(x, weight, None if activate else bias, stride=stride, padding=padding)
    return fused_leaky_relu(y, bias) if activate else y


def modulated_conv2d(x: Tensor, weight: Tensor, style: Tensor, *, demodulate: bool = True,
                     sample: str = "none", kernel: Tensor | None = None) -> Tensor:
    batch, side = x.shape[0], weight.shape[-1]
    weight = weight / math.sqrt(weight[0, 0].numel()) * style.view(batch, 1, -1, 1, 1)
    if demodulate:
        weight = weight * torch.rsqrt(weight.pow(2).sum((2, 3, 4), keepdim=True) + 1e-8)
    if sample == "up":
        weight = weight.transpose(1, 2).flatten(0, 1)
        y = F.conv_transpose2d(x.reshape(1, -1, *x.shape[2:]), weight, stride=2, groups=batch)
        y = y.view(batch, -1, *y.shape[2:])
        return upfirdn2d(y, kernel, pad=(1, 1))
    if sample == "down":
        x = upfirdn2d(x, kernel, pad=(2, 2))
    y = F.conv2d(x.reshape(1, -1, *x.shape[2:]), weight.flatten(0, 1), groups=batch,
                 stride=2 if sample == "down" else 1, padding=0 if sample == "down" else side // 2)
    return y.view(batch, -1, *y.shape[2:])


def styled_conv(x: Tensor, weight: Tensor, style: Tensor, bias: Tensor, strength: Tensor,
                noise: Tensor | None = None, *, concat: bool = True, sample: str = "none",
                kernel: Tensor | None = None) -> Tensor:
    y = modulated_conv2d(x, weight, style, sample=sample, kernel=kernel)
    noise = strength * (torch.randn_like(y) if noise is None else noise)
    return fused_leaky_relu(torch.cat((y, noise), dim=1) if concat else y + noise, bias)


PUBLISHED = {"upfirdn2d": upfirdn2d, "fused_leaky_relu": fused_leaky_relu,
             "equal_conv2d": equal_conv2d, "modulated_conv2d": modulated_conv2d,
             "styled_conv": styled_conv}


@contextlib.contextmanager
def published_operators() -> Iterator[None]:
    """Let the networks compute with the functions above."""
    kept = {name: getattr(stylegan2, name) for name in PUBLISHED}
    vars(stylegan2).update(PUBLISHED)
    try:
        yield
    finally:
        vars(stylegan2).update(kept)


# ---- measuring ----------------------------------------------------------------------------------

def derived(function: Callable[..., Tensor], leaves: list[Tensor], mode: str) -> Run:
    """A run of function(): its result, gradients, or also those of the first gradient's square."""
    def run() -> list[Tensor]:
        if mode == "forward":
            with torch.no_grad():
                return [function()]
        result = function()
        if mode == "backward":
            return [result.detach(), *torch.autograd.grad(result.square().mean(), leaves)]
        grad, = torch.autograd.grad(result.square().mean(), leaves[0], create_graph=True)
        return [grad.detach(), *torch.autograd.grad(grad.square().sum(), leaves,
                                                    allow_unused=True)]
    return run


def compare(name: str, published: Run, ours: Run, repeats: int) -> dict[str, object]:
    """Check that both agree, then time them alternately and print a row."""
    for expected, got in zip(published(), ours(), strict=True):
        if expected is None and got is None:
            continue
        # Not the largest error: where rounding turns a sign, leaky ReLU's slope jumps at one place.
        error = float((expected - got).norm() / expected.norm().clamp_min(1e-30))
        if not error < 1e-3:
            raise SystemExit(f"{name}: results differ by {error:.1e} of their norm")
    times: dict[str, list[float]] = {"published": [], "ours": []}
    pair = [("published", published), ("ours", ours)]
    for _ in range(repeats):
        pair.reverse()      # whoever comes second finds warmer caches
        for label, run in pair:
            start = time.perf_counter()
            run()
            times[label].append(1e3 * (time.perf_counter() - start))
    best = {label: min(values) for label, values in times.items()}
    median = {label: statistics.median(values) for label, values in times.items()}
    ratio, middle = (t["published"] / t["ours"] for t in (best, median))
    print(f"{name:<46} {best['published']:10.2f} {best['ours']:10.2f} {ratio:7.2f} {middle:7.2f}",
          flush=True)
    return {"name": name, "published": best["published"], "ours": best["ours"], "ratio": ratio,
            "ratio_of_medians": middle}


def operator_runs(batch: int) -> Iterator[tuple[str, Callable[..., Tensor], list[Tensor], dict]]:
    """Per operator and shape of the 256 and 512 networks: name, inputs, settings."""
    def leaf(*shape: int) -> Tensor:
        return torch.randn(shape, requires_grad=True)

    up, down = (style_ops.fir_kernel((1, 3, 3, 1), gain) for gain in (4, 1))
    for channels, side in ((512, 16), (256, 64), (64, 128)):
        x = leaf(batch, channels, side, side)
        shape = f"{channels} at {side}"
        yield f"blur after upsampling, {shape}", "upfirdn2d", [x], {"kernel": up, "pad": (1, 1)}
        yield f"blur before halving, {shape}", "upfirdn2d", [x], {"kernel": down, "pad": (2, 2)}
        yield f"filter at every second sample, {shape}", "upfirdn2d", [x], {
            "kernel": down, "down": 2, "pad": (1, 1)}
        yield f"bias and activation, {shape}", "fused_leaky_relu", [x, leaf(channels)], {}
        weight, style = leaf(1, channels // 2, channels, 3, 3), leaf(batch, channels)
        for sample, kernel in (("none", None), ("up", up), ("down", down)):
            yield f"modulated, {sample}, {shape}", "modulated_conv2d", [x, weight, style], {
                "sample": sample, "kernel": kernel}
        yield f"to RGB, {shape}", "modulated_conv2d", [x, leaf(1, 3, channels, 1, 1), style], {
            "demodulate": False}
    for side in (32, 128, 256):
        yield f"upsample RGB at {side}", "upfirdn2d", [leaf(batch, 3, side, side)], {
            "kernel": up, "up": 2, "pad": (2, 1)}


def operators(batch: int, repeats: int) -> list[dict]:
    rows = []
    for name, operator, leaves, settings in operator_runs(batch):
        def bound(function: Callable, leaves: list = leaves, settings: dict = settings) -> Callable:
            fixed = dict(settings)
            kernel = [fixed.pop("kernel")] if function.__name__ == "upfirdn2d" else []
            return lambda: function(*leaves, *kernel, **fixed)

        pair = bound(PUBLISHED[operator]), bound(getattr(style_ops, operator))
        for mode in MODES:
            runs = [derived(function, leaves, mode) for function in pair]
            rows.append(compare(f"{name}, batch {batch}, {mode}", *runs, repeats))
    return rows


def network_runs(size: int, batch: int) -> Iterator[tuple[str, Run]]:
    """Forward and backward of the generator, forward and R1 of the discriminator."""
    widths = WIDTHS.get(size, {})
    gpen, network_d = FullGenerator(size=size, **widths), Discriminator(size=size, **widths)
    for name, strength in gpen.named_parameters():
        if name.endswith("noise.weight"):
            torch.nn.init.constant_(strength, 0.5)
    x = torch.rand(batch, 3, size, size) * 2 - 1
    image = x.clone().requires_grad_()
    weights = list(gpen.parameters())
    yield "generator, forward", derived(lambda: gpen(x)[0], [], "forward")
    yield "generator, backward", derived(lambda: gpen(x)[0], weights, "backward")
    yield "discriminator, backward", derived(lambda: network_d(image), [*network_d.parameters()],
                                             "backward")
    yield "discriminator, R1", derived(lambda: network_d(image).sum(),
                                       [image, *network_d.parameters()], "second")


def networks(size: int, batch: int, repeats: int) -> list[dict]:
    def published(run: Run) -> Run:
        def with_published() -> list[Tensor]:
            with published_operators():
                return run()
        return with_published
    return [compare(f"{size} {name}, batch {batch}", published(run), run, repeats)
            for name, run in network_runs(size, batch)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=("operators", "networks"),
                        default=["operators", "networks"])
    parser.add_argument("--batch_size", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--size", nargs="+", type=int, default=[256, 512])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="0 leaves torch's choice")
    parser.add_argument("--json", default="", help="also write the figures to this file")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rows = []
    print(f"{'milliseconds, best of each':<46} {'published':>10} {'ours':>10} {'ratio':>7} "
          f"{'medians':>7}")
    for batch in options.batch_size:
        if "operators" in options.only:
            rows += operators(batch, options.repeats)
        if "networks" in options.only:
            for size in options.size:
                rows += networks(size, batch, options.repeats)
    slower = [row["name"] for row in rows if row["ratio"] < 1]
    print(f"slower than published: {', '.join(slower) or 'none'}")
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

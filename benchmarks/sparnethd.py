"""Memory and speed of one SPARNetHD training step, published size, fp32.

    python benchmarks/sparnethd.py memory [--size 512] [--batch_size 1] [VARIANT ...]
    python benchmarks/sparnethd.py time   [--size 256] [--repeats 3] [VARIANT VARIANT]

Variants: `plain`, and the model as newtrain.py runs it: `contiguous`, `channels_last`, and each
with `+checkpointing`. Plain is the published iteration: upsampling, padding, convolution and
torch's instance norm as separate operators, a whole forward of H at every step, gradients of G's
loss for D's weights too, and the default torch.optim.Adam.

`memory` takes one step in a process of its own per variant and prints its largest resident size.
`time` alternates the steps of two variants in one process; both must give the same first losses.
The perceptual loss has random weights, which cost what the published ones do.
"""
from __future__ import annotations

import os

os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import data
import models
from models.base_model import BaseModel
from models.losses.gan import discriminator_loss, feature_matching_loss, generator_loss
from models.losses.perceptual import feature_l1
from models.ops.blocks import InstanceNorm2d, SampledConv2d
from options.train_options import TrainOptions

CPU = torch.device("cpu")
KINDS = ("contiguous", "channels_last")
VARIANTS = ("plain", *KINDS, *(f"{kind}+checkpointing" for kind in KINDS))
GIB = 2 ** 30
Step = Callable[[Tensor, Tensor], dict[str, Tensor]]


class PlainConv2d(SampledConv2d):
    """The published chain of operators."""

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "up":
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        if self.pad:
            x = F.pad(x, (1, 1, 1, 1), mode="reflect")
        return F.conv2d(x, self.weight, self.bias, self.stride)


def make_plain(network: nn.Module) -> nn.Module:
    """Give convolutions and instance norms of a network the published forward, in place."""
    for module in network.modules():
        if isinstance(module, SampledConv2d):
            module.__class__ = PlainConv2d
        elif isinstance(module, InstanceNorm2d):
            module.__class__ = nn.InstanceNorm2d
    return network


def build(variant: str, size: int) -> BaseModel:
    """The model with the published options, the same start weights for every variant."""
    kind, _, checkpointing = variant.partition("+")
    opt = TrainOptions(models, data, "sparnethd.py").parse(
        ["--model", "sparnethd", "--dataset_name", "synthetic", "--opt_level", "O0",
         "--vgg_weights", "random", "--load_size", str(size), "--lq_size", "32", str(size // 4),
         "--memory_format", "contiguous" if kind == "plain" else kind,
         *(["--checkpointing"] if checkpointing else []),
         *(["--optimizer", "adam"] if kind == "plain" else [])])
    torch.manual_seed(0)
    model = models.create(opt, CPU)
    if kind == "plain":
        for network in model.unwrapped.values():
            make_plain(network)
    model.setup()
    model.train()
    return model


def published_step(model: BaseModel, lq: Tensor, gt: Tensor) -> dict[str, Tensor]:
    """One iteration in the order and with all the work of the original."""
    nets, opt = model.unwrapped, model.opt
    optimizers = {name: step.optimizer for name, step in model.precision.steps.items()}
    restored = nets["G"](lq)
    real_logits, gt_features = nets["D"](gt)
    fake_logits, _ = nets["D"](restored.detach())
    logits, features = nets["D"](restored)
    losses = {
        "Pix": opt.lambda_pix * F.l1_loss(restored, gt),
        "PCP": opt.lambda_pcp * feature_l1(nets["VGG"](restored), nets["VGG"](gt)),
        "FM": opt.lambda_fm * feature_matching_loss(gt_features, features),
        "G": opt.lambda_g * generator_loss(logits, opt.gan_mode)}
    with torch.no_grad():
        ema, origin = nets["H"].state_dict(), nets["G"].state_dict()
        for key, value in ema.items():
            value.copy_(opt.ema_decay * value + (1 - opt.ema_decay) * origin[key])
        nets["H"](lq)
    optimizers["G"].zero_grad()
    sum(losses.values()).backward()
    optimizers["G"].step()
    losses["D"] = discriminator_loss(real_logits, fake_logits, opt.gan_mode)
    optimizers["D"].zero_grad()
    losses["D"].backward()
    optimizers["D"].step()
    return {name: loss.detach() for name, loss in losses.items()}


def step_of(variant: str, size: int) -> Step:
    """The step of a variant on a batch, of its own model."""
    model = build(variant, size)

    def ours(lq: Tensor, gt: Tensor) -> dict[str, Tensor]:
        model.start_step(model.step + 1, 10 ** 6, 10 ** 6)
        return model.run_step({"lq": lq.contiguous(memory_format=model.memory_format),
                                 "gt": gt.contiguous(memory_format=model.memory_format)})
    return (lambda lq, gt: published_step(model, lq, gt)) if variant == "plain" else ours


def random_images(size: int, batch_size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    lq, gt = (torch.rand(batch_size, 3, size, size, generator=generator) * 2 - 1 for _ in range(2))
    return lq, gt


# ---- memory --------------------------------------------------------------------------------------

def one_step(variant: str, size: int, batch_size: int) -> None:
    """What the process of a variant does: one step; prints its figures as JSON."""
    step = step_of(variant, size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    start = time.perf_counter()
    losses = step(*random_images(size, batch_size))
    print(json.dumps({
        "variant": variant, "built_gib": before / GIB, "seconds": time.perf_counter() - start,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB,
        "losses": {name: loss.item() for name, loss in losses.items()}}))


def memory(options: argparse.Namespace) -> list[dict]:
    rows = []
    for variant in options.variants or ("plain", "contiguous", "contiguous+checkpointing"):
        done = subprocess.run(
            [sys.executable, __file__, "one_step", "--size", str(options.size), "--batch_size",
             str(options.batch_size), variant], stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        row = rows[-1]
        print(f"{variant:24} peak {row['peak_gib']:5.2f} GiB, {row['built_gib']:.2f} GiB before "
              f"the step, which took {row['seconds']:.1f} s", flush=True)
    return rows


# ---- time ----------------------------------------------------------------------------------------

def timed(options: argparse.Namespace) -> dict:
    """Alternate two variants; times, and ratios of the pairs."""
    names = options.variants or ("plain", "contiguous")
    if len(names) != 2:
        raise SystemExit(f"time compares two variants, got {len(names)}")
    batch = random_images(options.size, options.batch_size)
    steps = {name: step_of(name, options.size) for name in names}
    first = [sum(step(*batch).values()).item() for step in steps.values()]     # also warms up
    if not abs(first[0] - first[1]) < 1e-4 * abs(first[0]):
        raise SystemExit(f"first losses differ: {first}")
    times: dict[str, list[float]] = {name: [] for name in names}
    cpu_times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.repeats):
        for name, step in steps.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            step(*batch)
            times[name].append(time.perf_counter() - start)
            cpu_times[name].append(time.process_time() - cpu_start)
    a, b = names
    ratios = [slow / fast for slow, fast in zip(times[a], times[b], strict=True)]
    result = {"seconds": times, "cpu_seconds": cpu_times, "first_losses": first,
              "ratio_median": statistics.median(ratios), "ratios": ratios,
              "best_ratio": min(times[a]) / min(times[b]),
              "cpu_ratio": statistics.median(cpu_times[a]) / statistics.median(cpu_times[b])}
    print(f"{options.size} px, batch {options.batch_size}, {torch.get_num_threads()} threads: "
          + ", ".join(f"{name} {statistics.median(times[name]):.1f} s" for name in names))
    print(f"{a} / {b}: {result['ratio_median']:.2f}, pairs from {min(ratios):.2f} to "
          f"{max(ratios):.2f}; best runs {result['best_ratio']:.2f}, CPU time "
          f"{result['cpu_ratio']:.2f}")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("memory", "time", "one_step"),
                        help="one_step is what memory starts for each variant")
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=", ".join(VARIANTS))
    parser.add_argument("--size", type=int, help="side in pixels (default: 512 memory, 256 time)")
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="0 leaves torch's choice")
    parser.add_argument("--json", default="", help="also write the figures to this file")
    options = parser.parse_intermixed_args()
    unknown = set(options.variants) - set(VARIANTS)
    if unknown:
        parser.error(f"unknown variant {', '.join(sorted(unknown))}; known: {', '.join(VARIANTS)}")
    options.size = options.size or (256 if options.what == "time" else 512)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.what == "one_step":
        one_step(options.variants[0], options.size, options.batch_size)
        return
    result = timed(options) if options.what == "time" else memory(options)
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

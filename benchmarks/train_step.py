"""Training speed of SPARNet x8 against the plain published form, in one process.

    python benchmarks/train_step.py [--batch_size 8] [--size 128] [--repeats 5] [--threads N]
                                    [--device cpu] [--json FILE]

Plain: contiguous tensors, upsampling, padding, convolution, norm and activation as separate
modules, torch.optim.Adam as it comes. Ours: the model, as newtrain.py runs it in fp32.
Both take a whole step: forward, L1 loss, backward, Adam. The two run strictly in turn, and before
any clock starts both must give the same output and the same first losses from the same weights.
Processor time is shown beside the clock, since other processes disturb it less.
"""
from __future__ import annotations

import os

os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

import argparse
import json
import statistics
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
from engine import device as devices
from models.base_model import BaseModel
from options.train_options import TrainOptions

ADAM = {"lr": 2e-4, "betas": (0.9, 0.99)}


class PlainUnit(nn.Module):
    """Published conv unit: upsampling, reflection padding, convolution, norm, activation."""

    def __init__(self, in_channels: int, out_channels: int, mode: str = "none", norm: bool = True,
                 activation: bool = True) -> None:
        super().__init__()
        self.up = nn.Upsample(scale_factor=2, mode="nearest") if mode == "up" else nn.Identity()
        self.reflection_pad = nn.ReflectionPad2d(1)
        stride = 2 if mode == "down" else 1
        self.conv2d = nn.Conv2d(in_channels, out_channels, 3, stride, bias=not norm)
        self.norm = PlainNorm(out_channels) if norm else nn.Identity()
        self.relu = nn.LeakyReLU(0.2) if activation else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.norm(self.conv2d(self.reflection_pad(self.up(x)))))


class PlainNorm(nn.Module):
    """Batch norm under the published name."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class PlainHourglass(nn.Module):
    """Published hourglass attention, one map for all channels."""

    def __init__(self, depth: int, channels: int) -> None:
        super().__init__()
        self.depth = depth
        for level in range(depth, 0, -1):
            width = channels if level == depth else 64
            self.add_module(f"b1_{level}", PlainUnit(width, 64))
            self.add_module(f"b2_{level}", PlainUnit(width, 64, "down"))
            self.add_module(f"b3_{level}", PlainUnit(64, 64, "up"))
        self.b2_plus_1 = PlainUnit(64, 64)
        self.out_block = nn.Sequential(PlainUnit(64, 1, norm=False, activation=False), nn.Sigmoid())

    def raise_level(self, x: Tensor, level: int) -> Tensor:
        units = dict(self.named_children())
        inner = units[f"b2_{level}"](x)
        inner = self.raise_level(inner, level - 1) if level > 1 else self.b2_plus_1(inner)
        return units[f"b1_{level}"](x) + units[f"b3_{level}"](inner)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.out_block(self.raise_level(x, self.depth))


class PlainBlock(nn.Module):
    """Published residual block with attention."""

    def __init__(self, in_channels: int, out_channels: int, mode: str, depth: int) -> None:
        super().__init__()
        same = mode == "none" and in_channels == out_channels
        self.shortcut_func = nn.Identity() if same else PlainUnit(
            in_channels, out_channels, mode, norm=False, activation=False)
        self.preact_func = nn.Sequential(PlainNorm(in_channels), nn.LeakyReLU(0.2))
        self.conv1 = PlainUnit(in_channels, out_channels, "up" if mode == "up" else "none")
        self.conv2 = PlainUnit(out_channels, out_channels, "down" if mode == "down" else "none",
                               activation=False)
        self.att_func = PlainHourglass(depth, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut_func(x) + self.att_func(self.conv2(self.conv1(self.preact_func(x))))


class PlainSPARNet(nn.Module):
    """Published SPARNet x8 with 10 residual blocks, for inputs with sides divisible by 32."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            PlainUnit(3, 32, norm=False, activation=False), PlainBlock(32, 64, "down", 4),
            PlainBlock(64, 128, "down", 3), PlainBlock(128, 128, "down", 2))
        self.res_layers = nn.Sequential(*(PlainBlock(128, 128, "none", 2) for _ in range(10)))
        self.decoder = nn.Sequential(
            PlainBlock(128, 128, "up", 3), PlainBlock(128, 64, "up", 4),
            PlainBlock(64, 32, "up", 5))
        self.out_conv = PlainUnit(32, 3, norm=False, activation=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_conv(self.decoder(self.res_layers(self.encoder(x))))


def plain_step(net: PlainSPARNet, lq: Tensor, gt: Tensor) -> Callable[[], Tensor]:
    """The baseline's step on a fixed batch; it returns the loss."""
    optimizer = torch.optim.Adam(net.parameters(), **ADAM)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = F.l1_loss(net(lq), gt)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def our_step(model: BaseModel, lq: Tensor, gt: Tensor) -> Callable[[], Tensor]:
    """The model's step on the same batch."""
    batch = {key: image.contiguous(memory_format=model.memory_format)
             for key, image in (("lq", lq), ("gt", gt))}

    def step() -> Tensor:
        model.start_step(model.step + 1, 10 ** 6, 10 ** 6)
        return model.run_step(batch)["Pix"]

    return step


def our_model(size: int, device: torch.device) -> BaseModel:
    """SPARNet with the published options in fp32, ready to train."""
    opt = TrainOptions(models, data, "train_step.py").parse(
        ["--opt_level", "O0", "--load_size", str(size), "--lr", str(ADAM["lr"])])
    model = models.create(opt, device)
    model.setup()
    return model


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """How long the device is busy with one call."""
    watch = devices.Stopwatch(device)
    watch.start()
    function()
    watch.stop()
    return watch.seconds()


def matmul_gflops(device: torch.device, side: int = 2048, repeats: int = 5) -> float:
    """Rate of the device's best large fp32 matrix product, in GFLOP/s."""
    a, b = (torch.randn(side, side, device=device) for _ in range(2))
    return 2 * side ** 3 / min(seconds(lambda: a @ b, device) for _ in range(repeats)) / 1e9


def check_equal(plain: nn.Module, ours: nn.Module, lq: Tensor) -> float:
    """Largest difference of the eval outputs over the largest output; exits if too large."""
    with torch.no_grad():
        expected, got = (net.eval()(lq) for net in (plain, ours))
    plain.train(), ours.train()
    error = ((expected - got).abs().max() / expected.abs().max()).item()
    if not error < 1e-4:
        raise SystemExit(f"the two networks differ by {error:.1e} of the largest output")
    return error


def check_losses(plain: float, ours: float) -> None:
    if not abs(plain - ours) < 1e-4 * plain:
        raise SystemExit(f"first losses differ: plain {plain:.7f}, ours {ours:.7f}")


def measure(options: argparse.Namespace) -> dict[str, object]:
    """Set both up, check that they agree, time them in turn."""
    device = devices.open_device(options.device)
    torch.manual_seed(0)
    shape = (options.batch_size, 3, options.size, options.size)
    lq, gt = ((torch.rand(shape) * 2 - 1).to(device) for _ in range(2))
    model, plain = our_model(options.size, device), PlainSPARNet().to(device)
    plain.load_state_dict(model.weights()["G"])
    error = check_equal(plain, model.unwrapped["G"], lq)
    steps = {"plain": plain_step(plain, lq, gt), "ours": our_step(model, lq, gt)}
    first = {name: step().item() for name, step in steps.items()}          # also warms up
    check_losses(first["plain"], first["ours"])
    peak = matmul_gflops(device)
    times: dict[str, list[float]] = {name: [] for name in steps}
    cpu_times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.repeats):
        for name, step in steps.items():
            cpu_start = time.process_time()
            times[name].append(seconds(step, device))
            cpu_times[name].append(time.process_time() - cpu_start)
    cpu = {name: statistics.median(values) for name, values in cpu_times.items()}
    ratios = [slow / fast for slow, fast in zip(times["plain"], times["ours"], strict=True)]
    gflop = 3 * model.forward_flops(model.opt) / 1e9 * options.batch_size
    peak = max(peak, matmul_gflops(device))
    result: dict[str, object] = {
        "batch_size": options.batch_size, "size": options.size, "threads": torch.get_num_threads(),
        "device": devices.name_of(device),
        "torch": torch.__version__, "output_difference": error, "first_loss": first,
        "matmul_gflops": peak, "ratio_median": statistics.median(ratios), "ratios": ratios,
        "best_ratio": min(times["plain"]) / min(times["ours"]),
        "cpu_ratio": cpu["plain"] / cpu["ours"]}
    for name, values in times.items():
        median = statistics.median(values)
        result[name] = {"images_per_second": options.batch_size / median,
                        "best_images_per_second": options.batch_size / min(values),
                        "fraction_of_matmul_rate": gflop / median / peak, "seconds": values,
                        "cpu_seconds": cpu_times[name]}
    return result


def report(result: dict) -> None:
    print(f"batch {result['batch_size']}, {result['size']} px, {result['threads']} threads, "
          f"matmul {result['matmul_gflops']:.0f} GFLOP/s, "
          f"outputs equal to {result['output_difference']:.0e}")
    for name in ("plain", "ours"):
        row = result[name]
        print(f"{name:6} {row['images_per_second']:.2f} images/s (best "
              f"{row['best_images_per_second']:.2f}), {row['fraction_of_matmul_rate']:.0%} of the "
              "matmul rate")
    ratios = result["ratios"]
    print(f"ratio  {result['ratio_median']:.2f}, pairs from {min(ratios):.2f} to "
          f"{max(ratios):.2f}; best runs {result['best_ratio']:.2f}, CPU time "
          f"{result['cpu_ratio']:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--size", type=int, default=128, help="side in pixels, divisible by 32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="0 leaves torch's choice")
    parser.add_argument("--device", default="cpu", help="auto, npu, cuda or cpu")
    parser.add_argument("--json", default="", help="also write the figures to this file")
    options = parser.parse_args()
    if options.size % 32 or options.size < 64:
        raise SystemExit(f"--size must be a multiple of 32 from 64 up, got {options.size}")
    if options.threads:
        torch.set_num_threads(options.threads)
    result = measure(options)
    report(result)
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

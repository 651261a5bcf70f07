"""Export a network: python export_onnx.py --pretrain_model_path FILE --output FACE.onnx

The graph takes `input`, float32 RGB (B, 3, H, W) in [-1, 1]; its first output is the restored
face. It is kept only if it computes what the network does. A JSON file next to it has its metadata
and the command of Ascend's compiler. --to_bin and --from_bin convert images to ais_bench's files
and back.
"""
from __future__ import annotations

import os

# Before torch: an installed torch_npu must not be loaded on machines without a usable NPU.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

import data
import models
from options.export_options import ExportOptions

# Parsed before the imports that take seconds, so that --help answers at once.
if __name__ == "__main__":
    options = ExportOptions(models, data, "export_onnx.py").parse()

import logging
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from engine import device as devices
from engine import entry
from export import check_packages
from utils.text import counted

logger = logging.getLogger("facezoo")


def export(opt: Namespace) -> int:
    """Write the graph and its JSON, or raw files; returns the exit status."""
    entry.set_up_logging()
    if opt.to_bin:
        return write_bins(opt)
    if opt.from_bin:
        return read_bins(opt)
    check_packages()
    path = Path(opt.output or f"./results/onnx/{opt.model}_{opt.load_size}.onnx")
    if path.suffix != ".onnx":
        raise ValueError(f"--output must end in .onnx, got {path}")
    device = entry.open_device(opt)
    devices.seed_everything(opt.seed, device)
    model, weights = models.load_trained(opt, device)
    write_graph(model, opt, path, weights)
    return 0


def write_graph(model: Any, opt: Namespace, path: Path, weights: Path) -> None:
    """Export a model with its weights; writes nothing if the graph differs from the network."""
    # Only now: the packages they need are an extra.
    from export import graph, metadata, smaller
    proto, opset, max_error = graph.make(model, model.input_size(opt), batch=opt.batch_size,
                                         dynamic=opt.dynamic_batch, opset=opt.opset)
    extra = {"max_relative_error": max_error}
    logger.info("the graph uses opset %d and differs from the network by a relative error of %.1e",
                opset, max_error)
    if opt.fp16:
        side = metadata.shape_of(proto.graph.input[0])[2]
        proto, extra["fp16_psnr"] = smaller.checked_half(proto, side)
        logger.info("the graph in half precision has a PSNR of %.1f dB against float32",
                    extra["fp16_psnr"])
    metadata.stamp(proto, options=metadata.network_options(opt, models.option_setter(opt.model)),
                   weights=str(weights),
                   licence=opt.license or metadata.license_text(model.weights_license),
                   precision="fp16" if opt.fp16 else "fp32")
    metadata.save(proto, path, **extra)
    print(f"wrote {path} and {path.with_suffix('.json').name}: "
          f"{counted(len(proto.graph.node), 'operator')}, "
          f"{path.stat().st_size / 2 ** 20:.1f} MiB, {model.forward_flops(opt) / 1e9:.1f} GFLOP "
          f"for one image")
    print(f"to compile it for an Ascend chip: "
          f"{metadata.atc_commands(proto, path)[metadata.CHIPS[1]]}")


def write_bins(opt: Namespace) -> int:
    from export import ais_bench
    preprocess = models.find(opt.model).preprocess
    made = ais_bench.to_bins(opt.to_bin, Path(opt.output), lambda image: preprocess(image, opt))
    print(f"wrote {counted(len(made), 'file')} of {made[0].stat().st_size} bytes to {opt.output}")
    return 0


def read_bins(opt: Namespace) -> int:
    from export import ais_bench
    restored = ais_bench.from_bins(opt.from_bin, Path(opt.output))
    print(f"wrote {counted(len(restored), 'image')} to {opt.output}")
    if opt.gt:
        print(f"the mean PSNR in RGB is {ais_bench.mean_psnr(restored, opt.gt):.4f} dB")
    return 0


if __name__ == "__main__":
    sys.exit(entry.run(export, options, "export_onnx.py"))

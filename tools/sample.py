"""Grids of what a prior makes: python -m tools.sample --name RUN --output grid.png

For --model stylegan2. The same seed gives the same images on every device, up to rounding.
"""
from __future__ import annotations

import os

# Before torch: an installed torch_npu must not be loaded on machines without a usable NPU.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

import argparse
import sys
from argparse import Namespace

import data
import models
from engine import entry
from options.parser import OneLineParser, positive_int
from options.test_options import TestOptions
from utils.images.convert import image_grid, to_image
from utils.images.io import write_image


class SampleOptions(TestOptions):
    """Options of tools.sample."""
    uses_dataset = False
    description = "Write a grid of pictures made by a generative prior."

    def initialize(self, parser: argparse.ArgumentParser) -> None:
        super().initialize(parser)
        parser.set_defaults(model="stylegan2")
        group = parser.add_argument_group("samples")
        group.add_argument("--output", "-o", default="./results/samples.png", metavar="FILE",
                           help="picture to write")
        group.add_argument("--rows", type=positive_int, default=4, help="rows of the grid")
        group.add_argument("--columns", type=positive_int, default=8, help="columns of the grid")
        group.add_argument("--truncation", type=float, default=0.7,
                           help="0 shows the mean face, 1 the whole variety")

    def finish(self, opt: argparse.Namespace, parser: OneLineParser) -> None:
        super().finish(opt, parser)
        if not 0 <= opt.truncation <= 1:
            raise ValueError(f"--truncation must be from 0 to 1, got {opt.truncation}")
        if not (opt.pretrain_model_path or opt.name):
            raise ValueError("give --pretrain_model_path FILE or --name RUN")
        if not self.models.find(opt.model).makes_samples:
            raise ValueError(f"--model {opt.model} is no prior: it makes pictures out of pictures; "
                             f"see enhance.py")


def sample(opt: Namespace) -> int:
    """Write the grid; returns the exit status."""
    entry.set_up_logging()
    device = entry.open_device(opt)
    model, _ = models.load_trained(opt, device)
    codes = model.draw_codes(opt.rows * opt.columns, opt.seed).to(device)
    made = [picture for part in codes.split(opt.batch_size)
            for picture in to_image(model.sample(part, opt.seed, opt.truncation))]
    rows = [made[start:start + opt.columns] for start in range(0, len(made), opt.columns)]
    write_image(opt.output, image_grid(rows, gap=0))
    print(f"{len(made)} pictures in {opt.output}")
    return 0


if __name__ == "__main__":
    options = SampleOptions(models, data, "tools.sample").parse()
    sys.exit(entry.run(sample, options, "tools.sample"))

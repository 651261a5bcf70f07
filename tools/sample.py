"""Grids of what a prior makes: python -m tools.sample --name RUN --output grid.png

For --model stylegan2. The same seed gives the same images on every device, up to rounding.
"""
from __future__ import annotations

import os

# Before torch: an installed torch_npu must not be loaded on machines without a usable NPU.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

import data
import models
from options.sample_options import SampleOptions

# Parsed before the imports that take seconds, so that --help answers at once.
if __name__ == "__main__":
    options = SampleOptions(models, data, "tools.sample").parse()

import sys
from argparse import Namespace

from engine import entry
from utils.images.convert import image_grid, to_image
from utils.images.io import write_image
from utils.text import counted


def sample(opt: Namespace) -> int:
    """Write the grid; returns the exit status."""
    entry.set_up_logging()
    device = entry.open_device(opt)
    model, _ = models.load_trained(opt, device)
    codes = model.draw_codes(opt.rows * opt.columns, opt.seed).to(device)
    made = [image for part in codes.split(opt.batch_size)
            for image in to_image(model.sample(part, opt.seed, opt.truncation))]
    rows = [made[start:start + opt.columns] for start in range(0, len(made), opt.columns)]
    write_image(opt.output, image_grid(rows, gap=0))
    print(f"wrote a grid of {counted(len(made), 'image')} to {opt.output}")
    return 0


if __name__ == "__main__":
    sys.exit(entry.run(sample, options, "tools.sample"))

"""Convert a bilinear GFP-GAN network to the clean network that computes the same.

    python prepare.py clean --input runs/mine/latest_net_H.pth --output GFPGANmine.pth
"""
from __future__ import annotations

import argparse
import logging
from pathlib import Path

from engine import checkpoint
from models.networks.gfpgan import layout_of
from models.networks.gfpgan_convert import bilinear_to_clean
from options.base_options import read_yaml
from utils.text import counted

logger = logging.getLogger("facezoo")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input", required=True, metavar="FILE",
                        help="weights trained with --preset bilinear; those of --preset 1 have the "
                             "same keys, but cannot be converted")
    parser.add_argument("--output", required=True, metavar="FILE",
                        help="file to write, as published (params_ema)")


def run(opt: argparse.Namespace) -> int:
    """Write the converted file; returns the exit status.

    Raises:
        FileNotFoundError, ValueError: no such file, or it is not of a bilinear network.
    """
    state = checkpoint.unwrap(checkpoint.read(opt.input), opt.input, "G")
    if layout_of(state) != "equalized":
        raise ValueError(f"--input must hold weights of a bilinear GFP-GAN network, got "
                         f"{layout_of(state) or 'another network'} in {opt.input}")
    _check_preset(Path(opt.input))
    clean = {key: value.contiguous() for key, value in bilinear_to_clean(state).items()}
    checkpoint.write(opt.output, {"params_ema": clean})
    print(f"wrote a clean network of {counted(len(clean), 'tensor')} to {opt.output}; "
          "use it with --preset 1.3")
    return 0


def _check_preset(path: Path) -> None:
    """Refuse weights of --preset 1, which only the options of their run tell from bilinear ones."""
    options = path.parent / "train_opt.yaml"
    preset = read_yaml(options).get("preset") if options.is_file() else None
    if preset is None:
        logger.warning("nothing beside %s says that it was trained with --preset bilinear; from "
                       "weights of --preset 1 the result is 15 to 48 gray levels off", path)
    elif preset != "bilinear":
        raise ValueError(f"--input must be weights of --preset bilinear, got {path} of --preset "
                         f"{preset}, which no clean network computes")

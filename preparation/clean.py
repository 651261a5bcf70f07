"""Turn weights of a bilinear GFP-GAN network into those of the clean one that does the same.

    python prepare.py clean --input runs/mine/latest_net_H.pth --output GFPGANmine.pth
"""
from __future__ import annotations

import argparse
from pathlib import Path

import torch

from engine import checkpoint
from models.networks.gfpgan import layout_of
from models.networks.gfpgan_convert import bilinear_to_clean
from utils.files import write_atomically
from utils.text import counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input", required=True, metavar="FILE",
                        help="weights trained with --preset bilinear; files of the original "
                             "network (--preset 1) look the same and cannot be converted")
    parser.add_argument("--output", required=True, metavar="FILE",
                        help="file to write, in the published layout (params_ema)")


def run(opt: argparse.Namespace) -> int:
    """Write the converted file; returns the exit status.

    Raises:
        FileNotFoundError, ValueError: no such file, or it is not of a bilinear network.
    """
    state = checkpoint.unwrap(checkpoint.read(opt.input), opt.input, "G")
    if layout_of(state) != "equalized":
        raise ValueError(f"--input must hold weights of a bilinear GFP-GAN network, got "
                         f"{layout_of(state) or 'another network'} in {opt.input}")
    clean = {key: value.contiguous() for key, value in bilinear_to_clean(state).items()}
    write_atomically(Path(opt.output), lambda file: torch.save({"params_ema": clean}, file))
    print(f"wrote a clean network of {counted(len(clean), 'tensor')} to {opt.output}; "
          "use it with --preset 1.3")
    return 0

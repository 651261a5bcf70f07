"""Weights of --model pfsrnet as the published code reads them.

python -m tools.pfsrnet_checkpoint RUN/best_net_G.pth generator_checkpoint.ckpt
"""
from __future__ import annotations

import os

# Before torch: an installed torch_npu must not be loaded on machines without a usable NPU.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

import sys

from options.parser import OneLineParser, fraction


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = OneLineParser(prog="tools.pfsrnet_checkpoint", description=(
        "Convert weights of --model pfsrnet to a checkpoint of the published code."))
    parser.add_argument("weights", help="*_net_G.pth of a run")
    parser.add_argument("output", help="file to write")
    parser.add_argument("--fade", type=fraction, default=0.5, metavar="FRACTION",
                        help="--fade of the run")
    opt = parser.parse_args(argv)
    # Both import torch, which --help does not need.
    from engine import checkpoint
    from models.pfsrnet_checkpoint import COUNTERS, reached, write_published

    try:
        state = checkpoint.unwrap(checkpoint.read(opt.weights), opt.weights, "G")
        absent = [key for key in COUNTERS if key not in state]
        if absent:
            raise ValueError(f"{opt.weights} must hold network G of --model pfsrnet, but has no "
                             f"{absent[0]}")
        stage, alpha = reached(state, opt.fade)
        write_published(opt.output, state, stage, alpha)
    except (ValueError, OSError) as error:
        print(f"tools.pfsrnet_checkpoint: error: {error}", file=sys.stderr)
        return 2
    print(f"wrote stage {stage} with alpha {alpha:g} to {opt.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Extract the tensors of a pickled module without running any of its code.

python -m tools.legacy_pickle compressed_model_011000.pth fan.pth
"""
from __future__ import annotations

import os

# Before torch: an installed torch_npu must not be loaded on machines without a usable NPU.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

import sys

from options.parser import OneLineParser
from utils.text import counted


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = OneLineParser(prog="tools.legacy_pickle", description=(
        "Extract the tensors of a pickled module without running any of its code."))
    parser.add_argument("input", help="pickled module")
    parser.add_argument("output", help="state dict to write")
    opt = parser.parse_args(argv)
    # Not needed by --help.
    from engine import checkpoint
    from engine.legacy_pickle import read_legacy_module

    try:
        state = read_legacy_module(opt.input)
        checkpoint.write(opt.output, state)
    except (ValueError, OSError) as error:
        print(f"tools.legacy_pickle: error: {error}", file=sys.stderr)
        return 2
    values = sum(tensor.numel() for tensor in state.values())
    print(f"wrote {counted(len(state), 'tensor')} with {values:,} values to {opt.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Prepare images, label maps and weights for training: python prepare.py COMMAND --help

Every command can be stopped and started again: what is written already is left alone.
"""
from __future__ import annotations

import os

# Before torch: an installed torch_npu must not be loaded on machines without a usable NPU.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

import argparse
import sys
from typing import NoReturn

import preparation
from options.parser import OneLineParser, add_memory_flag


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; on any mistake print one line and exit with status 2."""
    argv = sys.argv[1:] if argv is None else argv
    parser = OneLineParser(prog="prepare.py", description=__doc__.split(":")[0] + ".",
                           epilog="prepare.py COMMAND --help shows the options of a command.")
    commands = parser.add_subparsers(title="commands", dest="command", required=True,
                                     metavar="COMMAND")
    for name in preparation.names():
        summary = preparation.summary(name)
        own = commands.add_parser(name, help=summary, description=summary)
        if name in argv:        # the others are not imported
            preparation.find(name).add_arguments(own)
        add_memory_flag(own)
        own.add_argument("--verbose", action="store_true", help="print the traceback of an error"
                         ).rare = True
    return parser.parse_args(argv)


def main() -> NoReturn:
    opt = parse()
    # Imports torch, which --help does not need.
    from engine import entry
    entry.set_up_logging()
    sys.exit(entry.run(preparation.find(opt.command).run, opt, f"prepare.py {opt.command}"))


if __name__ == "__main__":
    main()

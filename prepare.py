"""Make what a training needs beside images: python prepare.py COMMAND --help

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
from engine import entry
from options.parser import OneLineParser


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; on any mistake print one line and exit with status 2."""
    parser = OneLineParser(prog="prepare.py", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in preparation.names():
        command = preparation.find(name)
        summary = command.__doc__.splitlines()[0]
        own = commands.add_parser(name, help=summary, description=summary)
        command.add_arguments(own)
        own.add_argument("--verbose", action="store_true", help="print tracebacks of user errors")
    return parser.parse_args(argv)


def main() -> NoReturn:
    opt = parse()
    entry.set_up_logging()
    sys.exit(entry.run(preparation.find(opt.command).run, opt, f"prepare.py {opt.command}"))


if __name__ == "__main__":
    main()

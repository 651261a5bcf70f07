"""Options of tools.selftest."""
from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from options.parser import OneLineParser

GOLDEN = Path(__file__).resolve().parents[1] / "test" / "golden"


def parse(argv: list[str] | None = None) -> Namespace:
    """Read the command line; on any mistake print one line and exit with status 2."""
    parser = OneLineParser(prog="tools.selftest", description="Compare every network with recorded "
                           "values of the published one.")
    parser.add_argument("--golden", default=str(GOLDEN), metavar="DIR",
                        help="folder of case files, or one file (default: test/golden)")
    parser.add_argument("--device", default="auto", help="auto, npu, cuda or cpu; npu:3 is card 3")
    parser.add_argument("--json", metavar="FILE", help="also write the table as JSON")
    parser.add_argument("--verbose", action="store_true", help="print the traceback of an error"
                        ).rare = True
    opt, unknown = parser.parse_known_args(argv)
    parser.reject_unknown(unknown)
    return opt

"""Options of tools.quantize."""
from __future__ import annotations

from argparse import Namespace

from options.parser import OneLineParser, positive_int


def parse(argv: list[str] | None = None) -> Namespace:
    """Read the command line; on any mistake print one line and exit with status 2."""
    parser = OneLineParser(prog="tools.quantize", description=(
        "Write float16 and int8 versions of an ONNX graph, and a table of what they lose."))
    parser.add_argument("--onnx", metavar="FILE", required=True,
                        help="float32 graph of export_onnx.py")
    parser.add_argument("--calibration", metavar="DIR", required=True,
                        help="low-quality images, from which the int8 ranges are measured")
    parser.add_argument("--max_calibration", type=positive_int, default=64, metavar="N",
                        help="use only the first N of them")
    parser.add_argument("--lq", metavar="DIR",
                        help="low-quality images for the table (default: those of --calibration)")
    parser.add_argument("--gt", metavar="DIR",
                        help="targets of the same names as in --lq, for the table")
    parser.add_argument("--keep_float", nargs="+", default=[], metavar="NAME",
                        help="keep convolutions in float32 whose names contain one of these; the "
                             "first and last ones always are").rare = True
    parser.add_argument("--verbose", action="store_true", help="print the traceback of an error"
                        ).rare = True
    return parser.parse_args(argv)

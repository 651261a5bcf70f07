"""Options of export_onnx.py."""
from __future__ import annotations

import argparse

from options.layers import Layer
from options.parser import OneLineParser, positive_int
from options.test_options import TestOptions, graph_options


class ExportOptions(TestOptions):
    """Options of export_onnx.py."""
    uses_dataset = False
    description = "Write a network as an ONNX graph for other runtimes and for Ascend's compiler."

    def initialize(self, parser: argparse.ArgumentParser) -> None:
        super().initialize(parser)
        group = parser.add_argument_group("export")
        group.add_argument("--output", "-o", metavar="PATH",
                           help="the graph's file (default: ./results/onnx/MODEL_SIZE.onnx), or "
                                "the folder of --to_bin and --from_bin")
        group.add_argument("--opset", type=positive_int, metavar="N",
                           help="version of ONNX's operators (default: the lowest from 11 that "
                                "works)")
        group.add_argument("--dynamic_batch", action=argparse.BooleanOptionalAction, default=False,
                           help="any number of pictures at a time instead of --batch_size")
        group.add_argument("--fp16", action=argparse.BooleanOptionalAction, default=False,
                           help="weights and most operators in half precision; input and outputs "
                                "stay float32")
        group.add_argument("--licence", metavar="TEXT",
                           help="licence of the weights, for the metadata (default: that of the "
                                "published ones)")
        group.add_argument("--to_bin", metavar="PATH",
                           help="instead: pictures as raw input files of ais_bench")
        group.add_argument("--from_bin", metavar="DIR",
                           help="instead: ais_bench's results as PNG")
        group.add_argument("--gt", metavar="DIR",
                           help="with --from_bin: targets of the same names; prints the PSNR")
        group.add_argument("--onnx", metavar="FILE",
                           help="with --to_bin: the graph the pictures are for; the JSON beside it "
                                "tells --model and --load_size")

    def _layers(self, first: argparse.Namespace) -> list[Layer]:
        """The options a graph was made with come below everything else."""
        return [*graph_options(first.onnx), *super()._layers(first)]

    def _add_plugin_flags(self, parser: OneLineParser, first: argparse.Namespace,
                          layers: list[Layer]) -> dict[str, str]:
        choice = super()._add_plugin_flags(parser, first, layers)
        parser.set_defaults(batch_size=1)       # a model's own default is for measuring
        return choice

    def finish(self, opt: argparse.Namespace, parser: OneLineParser) -> None:
        super().finish(opt, parser)
        if opt.to_bin and opt.from_bin:
            raise ValueError("--to_bin and --from_bin exclude each other")
        if opt.gt and not opt.from_bin:
            raise ValueError("--gt belongs to --from_bin")
        if opt.onnx and not opt.to_bin:
            raise ValueError("--onnx belongs to --to_bin")
        if (opt.to_bin or opt.from_bin) and not opt.output:
            raise ValueError("--output is missing: give a folder for the files")
        if not (opt.to_bin or opt.from_bin or opt.pretrain_model_path or opt.name):
            raise ValueError("give --pretrain_model_path FILE or --name RUN")

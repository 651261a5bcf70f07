"""Options of export_onnx.py."""
from __future__ import annotations

import argparse
from typing import Any

from options.layers import Layer
from options.parser import OneLineParser, positive_int
from options.test_options import TestOptions, graph_options


class ExportOptions(TestOptions):
    """Options of export_onnx.py."""
    uses_dataset = False
    usage = "(--pretrain_model_path FILE | --name RUN) --output FILE [options]"
    description = "Export a network to ONNX, for other runtimes and for Ascend's ATC compiler."

    def initialize(self, parser: argparse.ArgumentParser) -> None:
        group = parser.add_argument_group("export")
        group.add_argument("--output", "-o", metavar="PATH",
                           help="ONNX file to write (default: ./results/onnx/MODEL_SIZE.onnx); a "
                                "folder with --to_bin and --from_bin")
        group.add_argument("--opset", type=positive_int, metavar="N",
                           help="ONNX opset version (default: the lowest that works, from 11)")
        group.add_argument("--dynamic_batch", action=argparse.BooleanOptionalAction, default=False,
                           help="export a graph that takes any batch size")
        group.add_argument("--fp16", action=argparse.BooleanOptionalAction, default=False,
                           help="store weights and most operators as float16; input and outputs "
                                "stay float32")
        group.add_argument("--license", "--licence", metavar="TEXT",
                           help="license of the weights, for the metadata (default: that of the "
                                "published weights)").rare = True
        group = parser.add_argument_group("files for ais_bench, instead of a graph")
        group.add_argument("--to_bin", metavar="PATH",
                           help="convert these images to raw input files of ais_bench")
        group.add_argument("--from_bin", metavar="DIR",
                           help="convert ais_bench's results to PNG")
        group.add_argument("--gt", metavar="DIR",
                           help="with --from_bin: targets of the same names; prints the PSNR")
        group.add_argument("--onnx", metavar="FILE",
                           help="with --to_bin: the graph that takes the input; --model and "
                                "--load_size are read from the JSON file next to it")
        super().initialize(parser)

    def _layers(self, first: argparse.Namespace) -> list[Layer]:
        """The options a graph was made with come below everything else."""
        return [*graph_options(first.onnx), *super()._layers(first)]

    def _add_plugin_flags(self, parser: OneLineParser, named: dict[str, Any]) -> dict[str, str]:
        choice = super()._add_plugin_flags(parser, named)
        parser.set_defaults(batch_size=1)       # a model's own default is for measuring
        return choice

    def finish(self, opt: argparse.Namespace, parser: OneLineParser) -> None:
        super().finish(opt, parser)
        if opt.to_bin and opt.from_bin:
            raise ValueError("--to_bin and --from_bin cannot be used together")
        if opt.gt and not opt.from_bin:
            raise ValueError("--gt needs --from_bin")
        if opt.onnx and not opt.to_bin:
            raise ValueError("--onnx needs --to_bin")
        if (opt.to_bin or opt.from_bin) and not opt.output:
            raise ValueError("--output is missing: give a folder for the files")
        if not (opt.to_bin or opt.from_bin or opt.pretrain_model_path or opt.name):
            raise ValueError("give --pretrain_model_path FILE or --name RUN")

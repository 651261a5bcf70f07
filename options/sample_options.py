"""Options of tools.sample."""
from __future__ import annotations

import argparse

from options.parser import OneLineParser, positive_int
from options.test_options import TestOptions


class SampleOptions(TestOptions):
    """Options of tools.sample."""
    uses_dataset = False
    usage = "(--pretrain_model_path FILE | --name RUN) --output FILE [options]"
    description = "Draw a grid of faces from a generative prior."

    def initialize(self, parser: argparse.ArgumentParser) -> None:
        group = parser.add_argument_group("samples")
        group.add_argument("--output", "-o", default="./results/samples.png", metavar="FILE",
                           help="image to write")
        group.add_argument("--rows", type=positive_int, default=4, help="rows of the grid")
        group.add_argument("--columns", type=positive_int, default=8, help="columns of the grid")
        group.add_argument("--truncation", type=float, default=0.7,
                           metavar="FRACTION",
                           help="truncation of the latent codes: 0 gives the mean face only, 1 the "
                                "most variety")
        super().initialize(parser)
        parser.set_defaults(model="stylegan2")

    def finish(self, opt: argparse.Namespace, parser: OneLineParser) -> None:
        super().finish(opt, parser)
        if not 0 <= opt.truncation <= 1:
            raise ValueError(f"--truncation must be from 0 to 1, got {opt.truncation}")
        if not (opt.pretrain_model_path or opt.name):
            raise ValueError("give --pretrain_model_path FILE or --name RUN")
        if not self.models.find(opt.model).makes_samples:
            raise ValueError(f"--model must be a prior such as stylegan2, got {opt.model}; use "
                             f"enhance.py to restore images")

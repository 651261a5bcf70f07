"""Options of everything that restores images: enhance.py and serve.py."""
from __future__ import annotations

import argparse
from typing import Any

from options.layers import Layer
from options.parser import OneLineParser, count, fraction, positive, positive_int
from options.test_options import TestOptions, graph_options


class RestoreOptions(TestOptions):
    """What restoring images takes, whatever they come from: the network or a graph, how faces
    are found and how they are pasted."""
    uses_dataset = False

    def _layers(self, first: argparse.Namespace) -> list[Layer]:
        """The options a graph was made with come below everything else."""
        return [*graph_options(first.onnx), *super()._layers(first)]

    @staticmethod
    def _add_engine_flags(group: Any) -> None:
        group.add_argument("--rounding", default="round", choices=("auto", "round", "truncate"),
                           help="how floats become bytes; auto is what the model's published "
                                "program does")
        group.add_argument("--engine", default="torch", choices=("torch", "onnx"),
                           help="onnx runs a graph of export_onnx.py, without weights and networks")
        group.add_argument("--onnx", metavar="FILE",
                           help="the graph of --engine onnx; the JSON beside it tells --model and "
                                "--load_size")

    @staticmethod
    def _add_detector_flags(group: Any) -> None:
        group.add_argument("--detector", default="auto",
                           choices=("auto", "retinaface", "yunet", "cascade"),
                           help="auto is OpenCV's cascade, for frontal faces, unless "
                                "--detector_weights names a better one")
        group.add_argument("--detector_weights", metavar="FILE",
                           help="RetinaFace's published weights (detection_Resnet50_Final.pth, "
                                "mobilenet 0.25) or YuNet's ONNX file")
        group.add_argument("--detector_threshold", type=fraction, metavar="SCORE",
                           help="least score of a face (default: the detector's published one)")

    @staticmethod
    def _add_paste_flags(group: Any) -> None:
        group.add_argument("--template", default=None, metavar="NAME",
                           help="alignment the network expects (default: the model's own)")
        group.add_argument("--upscale", type=positive, default=1.0, metavar="N",
                           help="enlarge the photographs so many times")
        group.add_argument("--strength", type=fraction, default=1.0,
                           help="1 pastes the restored face, 0 keeps the photograph")
        group.add_argument("--only_center_face", action=argparse.BooleanOptionalAction,
                           default=False,
                           help="only the face nearest to the middle, of those that --min_face "
                                "leaves")
        group.add_argument("--min_face", type=count, default=0, metavar="PIXELS",
                           help="leave faces as they are whose box has a side below this")
        group.add_argument("--max_faces", type=positive_int, metavar="N",
                           help="only the N largest faces")
        group.add_argument("--match_colours", action=argparse.BooleanOptionalAction,
                           default=False, help="give restored faces the colours of the photograph")
        group.add_argument("--mask_weights", metavar="FILE",
                           help="parsing network (parsing_parsenet.pth, ParseNet-latest.pth, "
                                "parse_multi_iter_90000.pth) that outlines what is pasted; without "
                                "it a square with a soft edge is")

    def finish(self, opt: argparse.Namespace, parser: OneLineParser) -> None:
        super().finish(opt, parser)
        if (opt.engine == "onnx") != bool(opt.onnx):
            raise ValueError("--engine onnx and --onnx FILE belong together: give both or neither")
        if opt.onnx and (opt.pretrain_model_path or opt.name):
            raise ValueError("--onnx FILE holds its weights; leave --pretrain_model_path and "
                             "--name out")
        if not (opt.pretrain_model_path or opt.name or opt.onnx):
            raise ValueError("give --pretrain_model_path FILE or --name RUN")

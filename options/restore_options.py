"""Options of everything that restores images: enhance.py and serve.py."""
from __future__ import annotations

import argparse
from typing import Any

from options.layers import Layer
from options.parser import OneLineParser, anchors, count, fraction, positive, positive_int
from options.test_options import TestOptions, graph_options


class RestoreOptions(TestOptions):
    """Options for restoring images: the network or graph, face detection and pasting."""
    uses_dataset = False

    def _layers(self, first: argparse.Namespace) -> list[Layer]:
        """The options a graph was made with come below everything else."""
        return [*graph_options(first.onnx), *super()._layers(first)]

    @staticmethod
    def _add_engine_flags(group: Any) -> None:
        group.add_argument("--engine", default="torch", choices=("torch", "onnx"),
                           help="onnx runs a graph of export_onnx.py instead of a network"
                           ).rare = True
        group.add_argument("--onnx", metavar="FILE",
                           help="graph for --engine onnx; --model and --load_size are read from "
                                "the JSON file next to it").rare = True
        group.add_argument("--rounding", default="auto", choices=("auto", "round", "truncate"),
                           help="how floats become bytes; auto: as in the model's published code"
                           ).rare = True

    @staticmethod
    def _add_detector_flags(group: Any) -> None:
        group.add_argument("--detector", default="auto",
                           choices=("auto", "retinaface", "yunet", "cascade"),
                           help="face detector; auto is the one of --detector_weights, else "
                                "OpenCV's cascade, which finds frontal faces only")
        group.add_argument("--detector_weights", metavar="FILE",
                           help="RetinaFace's published weights (detection_Resnet50_Final.pth, "
                                "mobilenet0.25_Final.pth) or YuNet's ONNX file")
        group.add_argument("--detector_threshold", type=fraction, metavar="SCORE",
                           help="min score of a face, 0 to 1 (default: 0.6; 0.97 for RetinaFace "
                                "with ResNet-50)").rare = True
        group.add_argument("--detector_anchors", type=anchors, metavar="SIZES",
                           help="anchors of RetinaFace in pixels, such as 16,32/64,128/256,512 "
                                "(default: auto, those with which it finds drawn faces)"
                           ).rare = True

    @staticmethod
    def _add_paste_flags(group: Any) -> None:
        group.add_argument("--upscale", type=positive, default=1.0, metavar="N",
                           help="upscale the photographs by this factor")
        group.add_argument("--strength", type=fraction, default=1.0, metavar="FRACTION",
                           help="blend: 1 is the restored face, 0 the original one")
        group.add_argument("--only_center_face", action=argparse.BooleanOptionalAction,
                           default=False, help="restore only the face closest to the center")
        group.add_argument("--max_faces", type=positive_int, metavar="N",
                           help="restore only the N largest faces of a photograph")
        group.add_argument("--min_face", type=count, default=0, metavar="PIXELS",
                           help="skip faces whose box has a side shorter than this").rare = True
        group.add_argument("--mask_weights", metavar="FILE",
                           help="face parsing network (parsing_parsenet.pth, ParseNet-latest.pth, "
                                "parse_multi_iter_90000.pth); its parsing mask is pasted instead "
                                "of a square with soft edges")
        group.add_argument("--match_colors", "--match_colours",
                           action=argparse.BooleanOptionalAction, default=False,
                           help="match the restored faces' colors to the photograph").rare = True
        group.add_argument("--strip_metadata", action=argparse.BooleanOptionalAction,
                           default=False, help="write photographs without color profile (as "
                           "sRGB), EXIF and resolution; by default the input's are kept"
                           ).rare = True
        group.add_argument("--template", metavar="NAME",
                           help="face alignment (default: the model's own)").rare = True

    def finish(self, opt: argparse.Namespace, parser: OneLineParser) -> None:
        super().finish(opt, parser)
        if (opt.engine == "onnx") != bool(opt.onnx):
            raise ValueError("--engine onnx and --onnx FILE must be given together")
        if opt.onnx and (opt.pretrain_model_path or opt.name):
            raise ValueError("--onnx FILE has its own weights; leave out --pretrain_model_path "
                             "and --name")
        if not (opt.pretrain_model_path or opt.name or opt.onnx):
            raise ValueError("give --pretrain_model_path FILE or --name RUN")

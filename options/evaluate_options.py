"""Options of evaluate.py."""
from __future__ import annotations

import argparse

from options.parser import OneLineParser, count
from options.test_options import TestOptions

# The metrics of evaluate.py that need a network, and the flag of its weights.
METRIC_WEIGHTS = {"lpips": "lpips_weights", "fid": "fid_weights", "id": "arcface_weights",
                  "landmarks": "landmark_weights", "iou": "parsing_weights"}


class EvaluateOptions(TestOptions):
    """Options of evaluate.py."""
    description = ("PSNR and SSIM of a network on a dataset, or of two folders of pictures, next "
                   "to bicubic enlargement.")

    def initialize(self, parser: argparse.ArgumentParser) -> None:
        super().initialize(parser)
        group = parser.add_argument_group("evaluation")
        group.add_argument("--restored", metavar="DIR",
                           help="measure the pictures of this folder instead of a network's")
        group.add_argument("--gt", metavar="DIR", help="targets that belong to --restored, by name")
        group.add_argument("--lq", metavar="DIR",
                           help="low-quality pictures that belong to --restored, for the bicubic "
                                "row")
        group.add_argument("--protocol", default="both", choices=("published", "standard", "both"),
                           help="published: truncated Y channel; standard: RGB in floating point")
        group.add_argument("--results_dir", default="./results", metavar="DIR",
                           help="where tables and pictures go")
        group.add_argument("--save_images", action=argparse.BooleanOptionalAction, default=False,
                           help="also write the restored pictures")
        group.add_argument("--strip", type=count, default=8, metavar="N",
                           help="pictures in the comparison strip, 0 for none")
        group.add_argument("--cases", type=count, default=6, metavar="N",
                           help="worst and best pictures shown in report.html, 0 for none")
        self._add_metric_flags(parser)

    def _add_metric_flags(self, parser: argparse.ArgumentParser) -> None:
        group = parser.add_argument_group("metrics besides PSNR and SSIM, see docs/metrics.md")
        group.add_argument("--metrics", nargs="+", default=[], metavar="NAME",
                           choices=("ms_ssim", "psnr_pooled", *METRIC_WEIGHTS),
                           help="ms_ssim, psnr_pooled, and those that need a network's published "
                                f"weights: {', '.join(METRIC_WEIGHTS)}; without its weights a "
                                "metric is left out")
        group.add_argument("--lpips_weights", nargs="+", metavar="FILE",
                           help="linear heads (alex.pth or vgg.pth) and torchvision's backbone, or "
                                "one file with both")
        group.add_argument("--fid_weights", metavar="FILE",
                           help="pt_inception-2015-12-05-6726825d.pth; or torchvision's vgg16 or "
                                "vgg19, arcface_resnet18.pth, or any feature network as an ONNX "
                                "graph, whose distance is not called FID")
        group.add_argument("--fid_stats", metavar="FILE",
                           help=".npz with mu and sigma, or BasicSR's .pth, to compare with, "
                                "instead of the targets")
        group.add_argument("--arcface_weights", metavar="FILE",
                           help="arcface_resnet18.pth or model_ir_se50.pth")
        group.add_argument("--landmark_weights", metavar="FILE",
                           help="PFSRNet's landmark network as tensors, or "
                                "2DFAN4-11f355bf06.pth.tar")
        group.add_argument("--parsing_weights", metavar="FILE",
                           help="parsing network, e.g. parse_multi_iter_90000.pth or "
                                "parsing_parsenet.pth")

    def finish(self, opt: argparse.Namespace, parser: OneLineParser) -> None:
        super().finish(opt, parser)
        if (opt.restored is None) != (opt.gt is None):
            raise ValueError("--restored and --gt belong together: give both or neither")
        if opt.lq is not None and opt.restored is None:
            raise ValueError("--lq belongs to --restored and --gt; for a network's own input use "
                             "--dataset_name folder --lq_dataroot")
        if opt.restored is None and not (opt.pretrain_model_path or opt.name):
            raise ValueError("give --pretrain_model_path FILE or --name RUN, or two folders with "
                             "--restored and --gt")
        needed = {"fid_stats": "fid"} | {flag: name for name, flag in METRIC_WEIGHTS.items()}
        for flag, name in needed.items():
            if getattr(opt, flag) and name not in opt.metrics:
                raise ValueError(f"--{flag} has no effect without --metrics {name}")

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
    usage = "(--pretrain_model_path FILE | --name RUN | --restored DIR --gt DIR) [options]"
    description = ("Measure PSNR, SSIM and other metrics of a network on a dataset, or between two "
                   "folders of images.")

    def initialize(self, parser: argparse.ArgumentParser) -> None:
        super().initialize(parser)
        group = parser.add_argument_group("evaluation")
        group.add_argument("--restored", metavar="DIR",
                           help="measure the images in this folder; no network is run")
        group.add_argument("--gt", metavar="DIR",
                           help="targets of the same names as in --restored")
        group.add_argument("--lq", metavar="DIR",
                           help="low-quality images of the same names, for the bicubic row")
        group.add_argument("--protocol", default="both", choices=("published", "standard", "both"),
                           help="published: Y channel, truncated; standard: RGB, floating point")
        group.add_argument("--results_dir", "--output_path", default="./results", metavar="DIR",
                           help="folder for tables and images")
        group.add_argument("--save_images", action=argparse.BooleanOptionalAction, default=False,
                           help="also save the restored images")
        group.add_argument("--strip", type=count, default=8, metavar="N",
                           help="images in strip.png, 0 for none").rare = True
        group.add_argument("--cases", type=count, default=6, metavar="N",
                           help="best and worst images in report.html, 0 for none").rare = True
        self._add_metric_flags(parser)

    def _add_metric_flags(self, parser: argparse.ArgumentParser) -> None:
        group = parser.add_argument_group("extra metrics (see docs/metrics.md)")
        group.add_argument("--metrics", nargs="+", default=[], metavar="NAME",
                           choices=("ms_ssim", "psnr_pooled", *METRIC_WEIGHTS),
                           help="ms_ssim, psnr_pooled; with the weights below: "
                                f"{', '.join(METRIC_WEIGHTS)} (skipped without them)")
        group.add_argument("--lpips_weights", nargs="+", metavar="FILE",
                           help="linear layers (alex.pth or vgg.pth) and torchvision's backbone, "
                                "or one file with both")
        group.add_argument("--fid_weights", metavar="FILE",
                           help="pt_inception-2015-12-05-6726825d.pth; also torchvision's vgg16 or "
                                "vgg19, arcface_resnet18.pth or an ONNX graph, whose distance is "
                                "not called FID")
        group.add_argument("--fid_stats", metavar="FILE",
                           help="FID against this file instead of the targets: .npz with mu and "
                                "sigma, or BasicSR's .pth")
        group.add_argument("--arcface_weights", metavar="FILE",
                           help="for id: arcface_resnet18.pth or model_ir_se50.pth")
        group.add_argument("--landmark_weights", metavar="FILE",
                           help="PFSRNet's landmark network (plain tensors) or "
                                "2DFAN4-11f355bf06.pth.tar")
        group.add_argument("--parsing_weights", metavar="FILE",
                           help="for iou: parse_multi_iter_90000.pth or parsing_parsenet.pth")

    def finish(self, opt: argparse.Namespace, parser: OneLineParser) -> None:
        super().finish(opt, parser)
        if (opt.restored is None) != (opt.gt is None):
            raise ValueError("--restored and --gt must be given together")
        if opt.lq is not None and opt.restored is None:
            raise ValueError("--lq needs --restored and --gt; for a network's input use "
                             "--dataset_name folder --lq_dataroot DIR")
        if opt.restored is None and not (opt.pretrain_model_path or opt.name):
            raise ValueError("give --pretrain_model_path FILE or --name RUN, or two folders with "
                             "--restored and --gt")
        needed = {"fid_stats": "fid"} | {flag: name for name, flag in METRIC_WEIGHTS.items()}
        for flag, name in needed.items():
            if getattr(opt, flag) and name not in opt.metrics:
                raise ValueError(f"--{flag} has no effect without --metrics {name}")

"""Options of evaluate.py, enhance.py and export_onnx.py."""
from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from options.base_options import BaseOptions, read_yaml
from options.parser import (
    OneLineParser,
    count,
    fraction,
    non_negative,
    positive,
    positive_int,
)

# What a run's own options say about its network; where the data lies is the caller's business, and
# the weights a run started from are not those it ended with.
NOT_IMPLIED = {"dataroot", "dataset_name", "name", "checkpoints_dir", "device", "batch_size",
               "num_threads", "max_dataset_size", "max_bad_images", "verbose", "seed",
               "synthetic_size", "memory_format", "pretrain_model_path"}


# The metrics of evaluate.py that need a network, and the flag of its weights.
METRIC_WEIGHTS = {"lpips": "lpips_weights", "fid": "fid_weights", "id": "arcface_weights",
                  "landmarks": "landmark_weights", "iou": "parsing_weights"}


class TestOptions(BaseOptions):
    """Adds the choice of weights. Options of the run called --name are taken over from its
    folder, so that a network is rebuilt as it was trained."""
    __test__ = False    # not a test class, whatever pytest thinks of the name

    def initialize(self, parser: argparse.ArgumentParser) -> None:
        super().initialize(parser)
        parser.set_defaults(batch_size=8)
        group = parser.add_argument_group("weights")
        group.add_argument("--pretrain_model_path", "--pth_path", metavar="FILE",
                           help="weights of network G, ours or published")
        group.add_argument("--epoch", default="best",
                           help="without --pretrain_model_path: which weights of the run --name, "
                                "`best`, `latest` or an epoch number; best falls back to latest")
        group.add_argument("--load_iter", type=count, default=0,
                           help="the numbered weights of this step instead, 0 for none")

    def _config_values(self, first: argparse.Namespace) -> dict[str, Any]:
        """The options the run's weights were trained with come below those of --config."""
        implied: dict[str, Any] = {}
        folder = run_folder_of(first)
        saved = folder / "train_opt.yaml" if folder else None
        if saved is not None and saved.exists():
            implied = {key: value for key, value in read_yaml(saved).items()
                       if key not in NOT_IMPLIED}
        return {**implied, **super()._config_values(first), "__implied__": set(implied)}

    def _add_plugin_flags(self, parser: OneLineParser, first: argparse.Namespace,
                          values: dict[str, Any]) -> dict[str, str]:
        implied = values.pop("__implied__")
        choice = super()._add_plugin_flags(parser, first, values)
        for name in implied - set(parser.by_name()):    # training-only flags of that run
            values.pop(name, None)
        return choice


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


class RestoreOptions(TestOptions):
    """What restoring pictures takes, whatever they come from: the network or a graph, how faces
    are found and how they are pasted."""
    uses_dataset = False

    def _config_values(self, first: argparse.Namespace) -> dict[str, Any]:
        """The options a graph was made with come below everything else."""
        return with_graph_options(first.onnx, super()._config_values(first))

    @staticmethod
    def _add_engine_flags(group: Any) -> None:
        group.add_argument("--rounding", default="round", choices=("round", "truncate"),
                           help="how floats become bytes; the published code truncates")
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


class EnhanceOptions(RestoreOptions):
    """Options of enhance.py."""
    description = "Restore pictures: a file, a folder or a pattern."

    def initialize(self, parser: argparse.ArgumentParser) -> None:
        super().initialize(parser)
        group = parser.add_argument_group("enhancement")
        group.add_argument("--input", "-i", "--test_img_path", "--dataroot", "--data_path",
                           "--data_url", metavar="PATH",
                           help="picture, folder (with its subfolders) or quoted pattern")
        group.add_argument("--output", "-o", "--results_dir", "--save_as_dir",
                           default="./results/enhanced",
                           metavar="DIR", help="folder for the restored pictures")
        group.add_argument("--ext", default="png", choices=("png", "jpg", "webp", "same"),
                           help="format of the results; same keeps each input's")
        group.add_argument("--compare", action=argparse.BooleanOptionalAction, default=False,
                           help="also write low quality and result side by side, below compare/")
        group.add_argument("--simulate_lq", action=argparse.BooleanOptionalAction, default=False,
                           help="degrade the inputs first, as in training, to try a network on "
                                "good pictures")
        self._add_engine_flags(group)
        self._add_photograph_flags(parser)

    def _add_photograph_flags(self, parser: argparse.ArgumentParser) -> None:
        group = parser.add_argument_group("whole photographs")
        group.add_argument("--photos", action=argparse.BooleanOptionalAction, default=False,
                           help="the inputs are whole photographs or videos: find their faces, "
                                "restore each, paste them back; without it they are pictures of "
                                "single, aligned faces")
        self._add_detector_flags(group)
        group.add_argument("--faces", metavar="FILE",
                           help="JSON with faces marked by hand, used instead of a detector: "
                                '{NAME: [{"points": five [x, y]}]}, or {"box": [x1, y1, x2, y2]} '
                                "from forehead to chin, in which the eyes are looked for")
        group.add_argument("--detect_size", type=positive_int, metavar="PIXELS",
                           help="longer side of the copy that faces are looked for in; a larger "
                                "one shows smaller faces (default: 1000 for the cascade, "
                                "1500 for networks)")
        group.add_argument("--keep_grey", action=argparse.BooleanOptionalAction, default=False,
                           help="restored faces become grey in photographs without colour")
        group.add_argument("--background_weights", metavar="FILE",
                           help="network that enlarges what lies around the faces "
                                "(RealESRGAN_x2plus.pth, RealESRGAN_x4plus.pth, realesrnet_x2.pth "
                                "...); without it Lanczos does")
        group.add_argument("--background_tile", type=count, default=400, metavar="PIXELS",
                           help="side of the pieces that network takes at a time, which bounds "
                                "memory; 0 takes a photograph whole")
        group.add_argument("--smoothing", type=non_negative, default=0.1, metavar="SECONDS",
                           help="videos: over how long landmarks are smoothed, 0 for not at all")
        group.add_argument("--video_codec", default="auto",
                           choices=("auto", "mp4v", "avc1", "mjpg", "ffv1"),
                           help="videos: mp4v or avc1 in .mp4, mjpg in .avi, ffv1 (lossless) in "
                                ".mkv; auto is mp4v, or the next of them that OpenCV can write")
        self._add_paste_flags(group)
        self.for_photos = [each.dest for each in group._group_actions if each.dest != "photos"]

    def finish(self, opt: argparse.Namespace, parser: OneLineParser) -> None:
        if not opt.input:
            raise ValueError("--input is missing: give a picture, a folder or a quoted pattern")
        super().finish(opt, parser)
        if opt.only_center_face and opt.max_faces:
            raise ValueError("--only_center_face leaves one face; leave --max_faces out")
        for name in self.for_photos:
            if not opt.photos and getattr(opt, name) != parser.get_default(name):
                raise ValueError(f"--{name} has no effect without --photos")
        if not opt.background_weights and (
                opt.background_tile != parser.get_default("background_tile")):
            raise ValueError("--background_tile has no effect without --background_weights")
        if opt.photos and opt.simulate_lq:
            raise ValueError("--simulate_lq is for single faces; leave --photos out")


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

    def _config_values(self, first: argparse.Namespace) -> dict[str, Any]:
        """The options a graph was made with come below everything else."""
        return with_graph_options(first.onnx, super()._config_values(first))

    def _add_plugin_flags(self, parser: OneLineParser, first: argparse.Namespace,
                          values: dict[str, Any]) -> dict[str, str]:
        choice = super()._add_plugin_flags(parser, first, values)
        parser.set_defaults(batch_size=1)       # a recipe's own default is for measuring
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


def with_graph_options(graph: str | None, values: dict[str, Any]) -> dict[str, Any]:
    """Option values, with those from the JSON beside a graph below them, if there is one."""
    beside = Path(graph).with_suffix(".json") if graph else None
    if beside is None or not beside.is_file():
        return values
    made = read_yaml(beside).get("options", {})     # JSON is YAML, too
    return {**made, **values, "__implied__": values["__implied__"] | set(made)}


def run_folder_of(opt: argparse.Namespace) -> Path | None:
    """Folder of the run the weights come from: that of --name, or of the weight file."""
    path = getattr(opt, "pretrain_model_path", None)
    if path:
        return Path(path).parent
    return Path(opt.checkpoints_dir) / opt.name if opt.name else None

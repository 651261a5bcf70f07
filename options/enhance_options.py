"""Options of enhance.py."""
from __future__ import annotations

import argparse

from options.parser import OneLineParser, count, non_negative, positive_int
from options.restore_options import RestoreOptions


class EnhanceOptions(RestoreOptions):
    """Options of enhance.py."""
    usage = "--input PATH --output DIR [--photos] [options]"
    description = "Restore face images or, with --photos, the faces in photographs and videos."

    def initialize(self, parser: argparse.ArgumentParser) -> None:
        group = parser.add_argument_group("input and output")
        group.add_argument("--input", "-i", "--test_img_path", "--dataroot", "--data_path",
                           "--data_url", metavar="PATH",
                           help="image, folder (including subfolders) or quoted pattern")
        group.add_argument("--output", "-o", "--output_path", "--results_dir", "--save_as_dir",
                           default="./results/enhanced", metavar="DIR",
                           help="folder for the restored images")
        group.add_argument("--photos", action=argparse.BooleanOptionalAction, default=False,
                           help="the input is photographs or videos: detect, restore and paste "
                                "back their faces; without it each image is one aligned face")
        group.add_argument("--ext", default="png", choices=("png", "jpg", "webp", "same"),
                           help="file format of the results; same: that of the input")
        group.add_argument("--compare", action=argparse.BooleanOptionalAction, default=False,
                           help="also save input and result side by side, in OUTPUT/compare")
        group.add_argument("--simulate_lq", action=argparse.BooleanOptionalAction, default=False,
                           help="degrade the input first, as in training").rare = True
        super().initialize(parser)
        self._add_photograph_flags(parser)
        self._add_engine_flags(parser.add_argument_group("engine"))

    def _add_photograph_flags(self, parser: argparse.ArgumentParser) -> None:
        group = parser.add_argument_group("photographs (with --photos)")
        self._add_detector_flags(group)
        group.add_argument("--faces", metavar="FILE",
                           help="JSON file with the positions of the faces, used instead of a "
                                'detector: {NAME: [{"points": five [x, y]}]}, or {"box": [x1, y1, '
                                'x2, y2]} from forehead to chin').rare = True
        group.add_argument("--detect_size", type=positive_int, metavar="PIXELS",
                           help="longer side to which photographs are resized for detection; a "
                                "larger one finds smaller faces (default: 1500, for the cascade "
                                "1000)").rare = True
        self._add_paste_flags(group)
        group.add_argument("--keep_gray", "--keep_grey", action=argparse.BooleanOptionalAction,
                           default=False, help="make restored faces gray where the photograph is"
                           ).rare = True
        group.add_argument("--background_weights", metavar="FILE",
                           help="network that upscales the background (RealESRGAN_x2plus.pth, "
                                "RealESRGAN_x4plus.pth, realesrnet_x2.pth ...); without it, "
                                "Lanczos is used")
        group.add_argument("--background_tile", type=count, default=400, metavar="PIXELS",
                           help="tile size of the background network; smaller tiles need less "
                                "memory, 0 turns tiling off").rare = True
        group.add_argument("--smoothing", type=non_negative, default=0.1, metavar="SECONDS",
                           help="time over which face landmarks are smoothed in videos, 0 for none"
                           ).rare = True
        group.add_argument("--video_codec", default="auto",
                           choices=("auto", "mp4v", "avc1", "mjpg", "ffv1"),
                           help="mp4v or avc1 in .mp4, mjpg in .avi, ffv1 (lossless) in .mkv; auto "
                                "is the first that OpenCV can write").rare = True
        self.for_photos = [each.dest for each in group._group_actions]

    def finish(self, opt: argparse.Namespace, parser: OneLineParser) -> None:
        if not opt.input:
            raise ValueError("--input is missing: give an image, a folder or a quoted pattern")
        super().finish(opt, parser)
        if opt.only_center_face and opt.max_faces:
            raise ValueError("--only_center_face restores one face; leave --max_faces out")
        for name in self.for_photos:
            if not opt.photos and getattr(opt, name) != parser.get_default(name):
                raise ValueError(f"--{name} has no effect without --photos")
        if not opt.background_weights and (
                opt.background_tile != parser.get_default("background_tile")):
            raise ValueError("--background_tile has no effect without --background_weights")
        if opt.photos and opt.simulate_lq:
            raise ValueError("--simulate_lq works on aligned faces only; leave --photos out")

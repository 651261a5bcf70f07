"""Options of enhance.py."""
from __future__ import annotations

import argparse

from options.parser import OneLineParser, count, non_negative, positive_int
from options.restore_options import RestoreOptions


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

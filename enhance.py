"""Restore images: python enhance.py --pretrain_model_path FILE --input PATH --output DIR

An image of any size is resized by the model's own preprocessing. With --photos the inputs are whole
photographs and videos, whose faces are detected, restored and pasted back.
"""
from __future__ import annotations

import os

# Before torch: an installed torch_npu must not be loaded on machines without a usable NPU.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

import data
import models
from options.enhance_options import EnhanceOptions

# Parsed before the imports that take seconds, so that --help answers at once.
if __name__ == "__main__":
    options = EnhanceOptions(models, data, "enhance.py").parse()

import logging
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import inference
from engine import device as devices
from engine import entry
from faces import detect
from faces.background import network_upscaler
from faces.paste import size_at, upscale
from faces.photograph import restore_photograph
from faces.video import restore_video
from utils.files import check_folder
from utils.images.convert import NotFinite, image_grid
from utils.images.deep import Layers, read_layers, write_layers
from utils.images.errors import ImageError, OutOfMemory
from utils.images.io import BadImage, find_images, left_out, shown, write_image
from utils.images.names import folder_beside, output_stems
from utils.images.video import (
    CODECS,
    VIDEO_EXTENSIONS,
    BadVideo,
    find_videos,
    is_video,
    usable_codec,
)
from utils.text import counted

logger = logging.getLogger("facezoo")
WRITABLE = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MAX_NOTES = 20      # lines on how images were read
SOME_FAILED = 1     # exit status when some inputs could not be restored


def output_paths(root: Path, inputs: list[Path], folder: Path, ext: str) -> list[Path]:
    """Where each result goes: the input's name of `output_stems`, with the extension.

    With --ext same, an input whose format can be written keeps its whole name.
    """
    return [folder / (path.relative_to(root) if ext == "same" and path.suffix.lower() in WRITABLE
                      else f"{stem}.{'png' if ext == 'same' else ext}")
            for path, stem in zip(inputs, output_stems(root, inputs), strict=True)]


def find_inputs(pattern: str) -> tuple[Path, list[Path]]:
    """Images and videos, as `find_images` finds images."""
    videos = find_videos(pattern)
    try:
        root, images = find_images(pattern)
    except ValueError:
        if not videos:
            raise
        below = pattern if Path(pattern).is_dir() else os.path.commonpath(
            [video.parent for video in videos])
        root, images = Path(below), []
    return root, sorted({*images, *videos}) if videos else images


def refuse_overwriting(inputs: list[Path], written: list[Path]) -> None:
    """Raise ValueError if a result would overwrite an input or another result."""
    twice = [path for path, count in Counter(written).items() if count > 1]
    if twice:
        raise ValueError(f"two inputs have the same result {twice[0]}; rename one of them")
    originals = {os.path.realpath(path) for path in inputs}     # resolve() raises at circular links
    clash = next((path for path in written if os.path.realpath(path) in originals), None)
    if clash is not None:
        raise ValueError(f"--output would overwrite the input {clash}; choose another folder")


def aspect(image: np.ndarray) -> float:
    """Width over height, to two digits."""
    return round(image.shape[1] / image.shape[0], 2)


def batches(paths: list[Path], outputs: list[tuple[Path, Path]], size: int) -> Iterator[list]:
    pairs = list(zip(paths, outputs, strict=True))
    for first in range(0, len(pairs), size):
        yield pairs[first:first + size]


class Job:
    """What both ways of restoring share: inputs, the network, the images that failed."""
    noun = "image"
    find = staticmethod(find_images)

    def __init__(self, opt: Namespace) -> None:
        self.opt = opt
        self.root, self.inputs = self.find(opt.input)
        self.folder = Path(opt.output)
        self.failed: list[str] = []
        missed = left_out(opt.input, VIDEO_EXTENSIONS if opt.photos else ())
        self.notes = [missed] if missed else []

    def open(self) -> None:
        """Load the network, after everything that may be refused sooner."""
        device = entry.open_device(self.opt)
        self.open_helpers(device)
        self.restorer = inference.open_restorer(self.opt, device)
        check_folder(self.folder)

    def open_helpers(self, device: torch.device) -> None:
        """Load the other networks."""

    @contextmanager
    def one(self, path: Path) -> Iterator[None]:
        """What is wrong with one input does not end the job; `finish` reports it."""
        try:
            yield
        except (BadImage, BadVideo) as error:   # these name the file
            self.failed.append(str(error))
        except ImageError as error:
            self.failed.append(f"{shown(path)}: {error}")
        except Exception as error:
            if not devices.is_out_of_memory(error):
                raise
            self.failed.append(f"{shown(path)}: out of memory")

    def read(self, path: Path) -> Layers:
        image = read_layers(path)
        self.notes += [f"note: {shown(path)}: {note}" for note in image.notes]
        return image

    def restored(self, paths: list[Path], images: list[np.ndarray]
                 ) -> list[tuple[int, np.ndarray]]:
        """Restored faces with their indices, without those that `finish` reports as failed."""
        try:
            return list(enumerate(self.restorer.restore(images))) if images else []
        except (NotFinite, OutOfMemory):
            done = []       # one at a time, to see which
            for index, image in enumerate(images):
                with self.one(paths[index]):
                    done.append((index, self.restorer.restore([image])[0]))
            return done

    def bar(self) -> tqdm:
        return tqdm(total=len(self.inputs), unit="image", disable=not sys.stderr.isatty())

    def finish(self, *remarks: str) -> int:
        """Say what was done; returns the exit status."""
        print(f"restored {len(self.inputs) - len(self.failed)} of "
              f"{counted(len(self.inputs), self.noun)}; results are in {self.folder}")
        for remark in (*remarks, *self.notes[:MAX_NOTES]):
            print(remark)
        if len(self.notes) > MAX_NOTES:
            print(f"note: {len(self.notes) - MAX_NOTES} more notes are not shown")
        for message in self.failed:
            print(f"not restored: {message}", file=sys.stderr)
        return SOME_FAILED if self.failed else 0


def enhance(opt: Namespace) -> int:
    """Restore every input; returns the exit status."""
    entry.set_up_logging()
    return (photographs if opt.photos else single_faces)(opt)


def single_faces(opt: Namespace) -> int:
    """Restore images that show one aligned face each."""
    job = Job(opt)
    if is_video(job.inputs[0]):
        raise ValueError(f"--input {job.inputs[0]} is a video; add --photos")
    outputs = output_paths(job.root, job.inputs, job.folder, opt.ext)
    beside = folder_beside(outputs, job.folder, "compare")
    strips = [beside / f"{stem}.png" for stem in output_stems(job.root, job.inputs)]
    refuse_overwriting(job.inputs, outputs + (strips if opt.compare else []))
    job.open()
    degrade = data.create_degradation(opt.degradation, vars(opt)) if opt.simulate_lq else None
    done, distorted = 0, 0
    with job.bar() as bar:
        for pairs in batches(job.inputs, list(zip(outputs, strips, strict=True)), opt.batch_size):
            paths, images, targets = [], [], []
            for index, (path, target) in enumerate(pairs, done):
                with job.one(path):
                    original = job.read(path).srgb()
                    image = job.restorer.preprocess(original)
                    distorted += aspect(original) != aspect(image)
                    if degrade:
                        image = degrade(image, np.random.default_rng([opt.seed, 0, index]))
                    paths.append(path)
                    images.append(image)
                    targets.append(target)
            for index, result in job.restored(paths, images):
                image, (target, strip) = images[index], targets[index]
                with job.one(paths[index]):
                    write_image(target, result)
                    if opt.compare:
                        write_image(strip, image_grid([[image, result]],
                                                      labels=["input", "restored"]))
            done += len(pairs)
            bar.update(len(pairs))
    return job.finish(*([
        f"{counted(distorted, 'image')} with another aspect ratio "
        f"{'was' if distorted == 1 else 'were'} distorted to {opt.load_size}x{opt.load_size}; crop "
        "the faces first or use --photos"] if distorted else []))


class PhotographJob(Job):
    """Whole photographs and videos; results go to the folders users of GFP-GAN know."""
    find = staticmethod(find_inputs)

    def __init__(self, opt: Namespace) -> None:
        super().__init__(opt)
        self.marked = detect.read_faces(opt.faces) if opt.faces else {}
        images = [path for path in self.inputs if not is_video(path)]
        videos = [path for path in self.inputs if is_video(path)]
        if opt.faces:
            self._check_marked(images)
        if videos and opt.faces:
            raise ValueError(f"--faces works with images only; {videos[0]} is a video")
        self.stem_of = dict(zip(images, output_stems(self.root, images), strict=True))
        self.target_of = dict(zip(images, output_paths(
            self.root, images, self.folder / "restored_imgs", opt.ext), strict=True))
        if videos:
            self.noun = "input" if images else "video"
            self.codec = usable_codec(opt.video_codec)
            self.target_of |= zip(videos, output_paths(
                self.root, videos, self.folder / "restored_videos", CODECS[self.codec][1][1:]),
                strict=True)
        refuse_overwriting(self.inputs, list(self.target_of.values()))
        self.settings = inference.paste_settings(opt)
        self.settings.keep_gray = opt.keep_gray
        self.found, self.without = 0, []

    def _check_marked(self, images: list[Path]) -> None:
        """Report the names of --faces that no image has; refuse it if that is all of them."""
        known = {path.relative_to(self.root).as_posix() for path in images}
        unknown = sorted(self.marked.keys() - known)
        if not unknown:
            return
        shown_names = ", ".join(unknown[:5]) + (" ..." if len(unknown) > 5 else "")
        if len(unknown) == len(self.marked):
            raise ValueError(f"--faces {self.opt.faces} must name images below {self.root}, got "
                             f"{shown_names}")
        self.notes.append(f"note: --faces names {counted(len(unknown), 'image')} that --input does "
                          f"not have: {shown_names}")

    def open_helpers(self, device: torch.device) -> None:
        opt = self.opt
        self.detector = (None if opt.faces
                         else inference.open_detector(opt, device, opt.detect_size))
        self.mask = inference.open_mask(opt, device)
        if opt.background_weights:
            self.settings.background = network_upscaler(opt.background_weights, device,
                                                        opt.background_tile)

    def chosen(self, faces: list[detect.Face], shape: tuple[int, ...]) -> list[detect.Face]:
        return detect.select(faces, shape, min_size=self.opt.min_face, max_faces=self.opt.max_faces,
                             only_center=self.opt.only_center_face)

    def count(self, path: Path, faces: int) -> None:
        self.found += faces
        self.without += [] if faces else [path.relative_to(self.root).as_posix()]

    def image(self, path: Path) -> None:
        """Restore a photograph; alpha, 16 bits and metadata stay where the format has them."""
        target = self.target_of[path]
        photo = self.read(path).for_file(target.suffix.lower(), self.opt.strip_metadata)
        seen, name = photo.srgb(), path.relative_to(self.root).as_posix()
        faces = (self.detector(seen) if self.detector
                 else detect.with_points(self.marked.get(name, []), seen))
        faces = self.chosen(faces, seen.shape)
        size_at(self.settings.scale, seen.shape)    # refuses one that leaves nothing
        result = restore_photograph(photo.pixels, faces, self.restorer.restore_crops,
                                    self.settings, self.mask, photo.metadata.space)
        alpha = None if photo.alpha is None else upscale(photo.alpha, self.settings.scale)
        write_layers(target, Layers(result.image, alpha, photo.metadata))
        stem = self.stem_of[path]
        for index, (crop, face) in enumerate(zip(result.crops, result.restored, strict=True)):
            for kind, image in (("cropped_faces", crop), ("restored_faces", face),
                                ("cmp", np.concatenate([crop, face], axis=1))):
                write_image(self.folder / kind / f"{stem}_{index:02d}.png", image)
        self.count(path, len(faces))

    def video(self, path: Path) -> None:
        """Restore a video frame by frame."""
        with tqdm(unit="frame", desc=path.name, leave=False,
                  disable=not sys.stderr.isatty()) as bar:
            done = restore_video(
                path, self.target_of[path],
                lambda frame: self.chosen(self.detector(frame), frame.shape),
                self.restorer.restore_crops, self.settings, self.mask, codec=self.codec,
                smoothing=self.opt.smoothing, bar=bar)
        if done.frames < done.expected:
            self.failed.append(f"{path} ends after frame {done.frames} of {done.expected}")
        self.count(path, done.faces)


def photographs(opt: Namespace) -> int:
    """Restore the faces of whole photographs and videos."""
    job = PhotographJob(opt)
    job.open()
    with job.bar() as bar:
        for path in job.inputs:
            with job.one(path):
                (job.video if is_video(path) else job.image)(path)
            bar.update(1)
    without = job.without
    return job.finish(f"restored {counted(job.found, 'face')}", *([
        f"found no face in {counted(len(without), job.noun)}: {', '.join(without[:5])}"
        + (" ..." if len(without) > 5 else "")] if without else []))


if __name__ == "__main__":
    sys.exit(entry.run(enhance, options, "enhance.py"))

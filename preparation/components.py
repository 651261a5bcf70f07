"""Write eye and mouth positions of each image, from 68 landmarks, for --model gfpgan.

    python prepare.py components --landmarks FILE --output PARTS.json
    python prepare.py components --input FACES --weights FAN.pth --output PARTS.json

FILE is FFHQ's ffhq-dataset-v2.json; any JSON {NAME: [[x, y], ... 68 points]}, with --size saying
in images of which side; or the published FFHQ_eye_mouth_landmarks_512.pth, to be made plain.
FACES are images aligned as FFHQ's, in which a landmark network finds the points.
"""
from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset
from tqdm import tqdm

from data.components import read_components, write_components
from data.loader import create_eval_loader
from data.single_dataset import SingleDataset
from engine import device as devices
from engine.prefetch import Prefetcher
from models.networks.pretrained.landmark_maps import landmark_maps
from options.parser import count, fraction, positive_int
from preparation import _pictures
from preparation._landmarks import parts_of_maps
from utils.face_parts import REFERENCE, parts_of_landmarks
from utils.files import parse_json, sha256
from utils.images.convert import to_tensor
from utils.images.io import shown
from utils.images.pack import stamp_or_none
from utils.text import counted

NUM_POINTS = 68


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--landmarks", metavar="FILE",
                        help="ffhq-dataset-v2.json, a JSON file with 68 points for each image, or "
                             "the published .pth")
    source.add_argument("--input", metavar="PATH",
                        help="faces aligned as in FFHQ: a folder, a list or a quoted pattern; "
                             "needs --weights")
    parser.add_argument("--output", required=True, metavar="FILE",
                        help="file for --component_file")
    parser.add_argument("--size", type=positive_int, default=None, metavar="PIXELS",
                        help="side of the images in which the points of --landmarks were measured "
                             "(default: as in FFHQ's file, else 512)")
    group = parser.add_argument_group("with --input")
    group.add_argument("--weights", metavar="FILE",
                       help="landmark network: PFSRNet's, one of --model fan, or 2DFAN-4")
    group.add_argument("--min_score", type=fraction, default=0.3, metavar="SCORE",
                       help="min mean peak of the heat maps, 0 to 1; faces below are left out")
    group.add_argument("--batch_size", type=positive_int, default=8, help="faces per batch")
    group.add_argument("--num_threads", type=count, default=2, help="data loading processes")
    group.add_argument("--device", default="auto", help="auto, npu, cuda or cpu; npu:3 is card 3")


def run(opt: argparse.Namespace) -> int:
    """Write the component file; 1 if an image of --input has no entry.

    Raises:
        ValueError: options that do not go together; as `convert` and `find`.
    """
    if bool(opt.input) != bool(opt.weights):
        raise ValueError("--input and --weights must be given together")
    parts, failed = find(opt) if opt.input else (convert(opt.landmarks, opt.size), [])
    if not parts:
        raise ValueError(f"no face was found in --input {opt.input}; "
                         f"the first failure is {' '.join(failed[:1])}")
    write_components(opt.output, parts, REFERENCE)
    print(f"wrote eyes and mouth of {counted(len(parts), 'image')} to {opt.output}, in pixels of "
          f"{REFERENCE} x {REFERENCE} images")
    return _pictures.conclude(failed)


def find(opt: argparse.Namespace) -> tuple[dict[str, Tensor], list[str]]:
    """Parts (3, 3) by image name, and what could not be done.

    What was found is noted in OUTPUT.jsonl at once, where a run that was stopped goes on; an image
    that has changed is looked at again.

    Raises:
        ValueError: no images, --size, or weights that do not fit.
    """
    if opt.size is not None:
        raise ValueError("--size has no effect with --input; it is the size of --landmarks")
    device = devices.open_device(opt.device)
    maps, side = landmark_maps(opt.weights, device, "--weights")
    dataset = SingleDataset(SingleDataset.Settings(dataroot=opt.input, load_size=side),
                            split="test")
    weights = sha256(opt.weights)
    stamps = {name: stamp_or_none(dataset.root / name) for name in dataset.items}
    notes = Path(f"{opt.output}.jsonl")
    done = {note["name"]: note
            for note in _pictures.complete_records(notes, "name", "stamp", "weights", "parts",
                                                   "score")
            if note["stamp"] == stamps.get(note["name"]) and note["weights"] == weights}
    waiting = [at for at, name in enumerate(dataset.items) if name not in done]
    loader = create_eval_loader(Subset(dataset, waiting), batch_size=opt.batch_size,
                                num_threads=opt.num_threads,
                                pin_memory=devices.pins_memory(device))
    failed: list[str] = []
    notes.parent.mkdir(parents=True, exist_ok=True)
    with (tqdm(total=len(waiting), unit="face", disable=None) as bar,
          notes.open("a", encoding="utf-8") as file):
        for batch in Prefetcher(loader, device, _prepare):
            failed += batch["bad"]
            if batch["path"]:
                with torch.inference_mode():
                    parts, scores = parts_of_maps(maps(batch["lq"]))
                for name, part, score in zip(batch["path"], parts, scores, strict=True):
                    done[name] = {"name": name, "stamp": stamps[name], "weights": weights,
                                  "parts": part.tolist(), "score": float(score)}
                    file.write(json.dumps(done[name]) + "\n")
                file.flush()
            bar.update(len(batch["path"]) + len(batch["bad"]))
    unsure = {name for name, note in done.items() if note["score"] < opt.min_score}
    failed += [f"{shown(dataset.root / name)}: the face's score {done[name]['score']:.2f} is below "
               f"--min_score {opt.min_score:g}" for name in sorted(unsure)]
    return {name: torch.tensor(note["parts"], dtype=torch.float64)
            for name, note in done.items() if name not in unsure}, failed


def _prepare(batch: dict[str, Any]) -> dict[str, Any]:
    return {**batch, "lq": to_tensor(batch["lq"]) * 0.5 + 0.5} if batch["path"] else batch


def convert(path: str | Path, size: int | None = None) -> dict[str, Tensor]:
    """Parts (3, 3) by image name, in pixels of 512.

    Raises:
        ValueError: unreadable, or points that are not 68 pairs of finite numbers; names
            --landmarks.
    """
    if Path(path).suffix in (".pth", ".pt"):
        return read_components(path)[0]
    try:
        content = parse_json(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ValueError(f"--landmarks {path} cannot be read as JSON ({error})") from error
    if not isinstance(content, dict) or not content:
        raise ValueError(f"--landmarks {path} must hold points by image name, got "
                         f"{type(content).__name__}")
    return dict(_entry(path, key, value, size) for key, value in content.items())


def _entry(path: str | Path, key: str, value: Any, size: int | None) -> tuple[str, Tensor]:
    name = key
    if isinstance(value, dict):     # FFHQ: numbered, with several sizes of each image
        image = value.get("image", {})
        value, side = image.get("face_landmarks"), image.get("pixel_size", [1024])[0]
        name = Path(image.get("file_path", key)).name
        size = side if size is None else size
    try:
        points = torch.tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        points = torch.zeros(0)
    if points.shape != (NUM_POINTS, 2) or not torch.isfinite(points).all():
        raise ValueError(f"--landmarks {path}: {key} must have {NUM_POINTS} finite points (x, y), "
                         f"got shape {tuple(points.shape)}")
    return name, parts_of_landmarks(points * (REFERENCE / (size or REFERENCE)), REFERENCE)

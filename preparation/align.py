"""Crop and align the faces in photographs, as in FFHQ."""
from __future__ import annotations

import argparse
import json
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from faces import align, detect
from models.networks.pretrained.retinaface import Anchors
from options.parser import anchors, count, fraction, positive_int
from preparation import _pictures
from utils.images.errors import ImageError
from utils.images.io import BadImage, read_image, write_image
from utils.text import counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _pictures.add_arguments(parser, "photographs")
    parser.add_argument("--size", type=positive_int, default=512, metavar="PIXELS",
                        help="side of the aligned faces")
    parser.add_argument("--template", default="ffhq", choices=tuple(align.TEMPLATES),
                        help="positions of eyes, nose and mouth")
    parser.add_argument("--detector", default="auto", choices=detect.KINDS,
                        help="face detector, run on the CPU by each worker; auto is the one of "
                             "--detector_weights, else OpenCV's cascade")
    parser.add_argument("--detector_weights", metavar="FILE",
                        help="RetinaFace's published weights or YuNet's ONNX file")
    parser.add_argument("--detector_threshold", type=fraction, metavar="SCORE",
                        help="min score of a face, 0 to 1 (default: 0.6; 0.97 for RetinaFace with "
                             "ResNet-50)").rare = True
    parser.add_argument("--detector_anchors", type=anchors, metavar="SIZES",
                        help="anchors of RetinaFace in pixels, such as 16,32/64,128/256,512 "
                             "(default: auto, those with which it finds drawn faces)").rare = True
    parser.add_argument("--min_face", type=count, default=0, metavar="PIXELS",
                        help="skip faces whose box has a side shorter than this")
    parser.add_argument("--max_faces", type=positive_int, metavar="N",
                        help="take only the N largest faces of a photograph")


def run(opt: argparse.Namespace) -> int:
    """Write NAME_00.png, NAME_01.png, ... of every photograph not done yet.

    `faces.jsonl` in the output folder gets a line per photograph with boxes and points; a
    photograph that has one is done.
    """
    # Refused here, not by a worker.
    detect.create(opt.detector, opt.detector_weights, anchors=opt.detector_anchors)
    targets = _pictures.targets_of(opt.input, Path(opt.output), opt.ext)
    notes = Path(opt.output) / "faces.jsonl"
    done = {str(record["name"]) for record in _pictures.complete_records(notes, "name")}
    waiting = [pair for pair in targets.items() if _name(pair[1], notes.parent) not in done]
    failed, written, empty = [], 0, 0
    notes.parent.mkdir(parents=True, exist_ok=True)
    with notes.open("a", encoding="utf-8") as file:
        for note, message in _pictures.spread(partial(_align_one, vars(opt)), waiting,
                                              opt.workers):
            if message:
                failed.append(message)
                continue
            written += len(note["faces"])
            empty += not note["faces"]
            file.write(json.dumps(note) + "\n")
            file.flush()
    print(f"wrote {counted(written, 'face')} of "
          f"{counted(len(waiting) - len(failed), 'photograph')}; {notes} lists them"
          + (f"; {counted(empty, 'photograph')} had no face" if empty else "")
          + (f"; {counted(len(done), 'photograph')} had been done before" if done else ""))
    return _pictures.conclude(failed)


def _name(target: Path, folder: Path) -> str:
    return target.relative_to(folder).with_suffix("").as_posix()


@lru_cache(maxsize=1)
def _detector(kind: str, weights: str | None, threshold: float | None, anchors: Anchors | None
              ) -> detect.Detector:
    """One per process."""
    return detect.create(kind, weights, threshold=threshold, anchors=anchors)


def _align_one(settings: dict[str, Any], pair: tuple[Path, Path]) -> tuple[dict[str, Any], str]:
    path, target = pair
    try:
        return _aligned(settings, path, target), ""
    except BadImage as error:
        return {}, str(error)
    except ImageError as error:
        return {}, f"{path}: {error}"


def _aligned(settings: dict[str, Any], path: Path, target: Path) -> dict[str, Any]:
    photo = read_image(path)
    find = _detector(settings["detector"], settings["detector_weights"],
                     settings["detector_threshold"], settings["detector_anchors"])
    faces = detect.select(find(photo), photo.shape, min_size=settings["min_face"],
                          max_faces=settings["max_faces"])
    template = align.template(settings["template"], settings["size"])
    for index, face in enumerate(faces):
        cut = align.crop(photo, align.similarity(face.points, template), settings["size"])
        write_image(target.with_name(f"{target.stem}_{index:02d}{target.suffix}"), cut)
    return {"name": _name(target, Path(settings["output"])), "source": str(path),
            "faces": [{"box": face.box.tolist(), "points": face.points.tolist(),
                       "score": face.score} for face in faces]}

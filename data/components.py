"""Files that say where eyes and mouth are in each image of a dataset.

Own files are JSON: {"size": 512, "parts": {NAME: {"left_eye": [x, y, half], "right_eye": ...,
"mouth": ...}}}, numbers in pixels of an image of that side, NAME the image's path below its folder.
The published one (FFHQ_eye_mouth_landmarks_512.pth) is a pickled dict whose keys are numbers of
eight digits; it is read without executing anything but NumPy's scalars.
"""
from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.face_parts import PARTS, REFERENCE
from utils.files import check_expansion, is_zip, parse_json, write_text

# What NumPy's pickled numbers are made of; older NumPy calls its module numpy.core.
SCALAR = np.float64(0).__reduce__()[0]
ALLOWED = [(SCALAR, "numpy.core.multiarray.scalar"), (SCALAR, "numpy._core.multiarray.scalar"),
           np.dtype, *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8"))]


def read_components(path: str | Path) -> tuple[dict[str, Tensor], int]:
    """Parts (3, 3) float64 by image name, and the side of the images they were measured in.

    Raises:
        ValueError: missing, damaged, or not a component file; names --component_file.
    """
    try:
        table, size = _read(Path(path))
        parts = {str(name): torch.tensor([[float(v) for v in entry[part]] for part in PARTS],
                                         dtype=torch.float64) for name, entry in table.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError,
            pickle.UnpicklingError, zipfile.BadZipFile) as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"--component_file {path} must hold eye and mouth positions "
                         f"({first})") from error
    wrong = [name for name, value in parts.items()
             if value.shape != (3, 3) or not torch.isfinite(value).all()]
    if wrong or size < 1:
        raise ValueError(f"--component_file {path} must have three finite numbers per part and a "
                         f"positive size, got size {size} and {len(wrong)} wrong, such as "
                         f"{', '.join(wrong[:3]) or 'none'}")
    return parts, size


def _read(path: Path) -> tuple[Mapping[str, Any], int]:
    if path.suffix in (".pth", ".pt"):
        check_expansion(path)
        if is_zip(path):        # torch.load compares no checksum
            with zipfile.ZipFile(path) as archive:
                if (damaged := archive.testzip()) is not None:
                    raise ValueError(f"the checksum of its record {damaged} is wrong")
        # Since torch 2.6; older ones have no allow-list that names modules.
        with torch.serialization.safe_globals(ALLOWED):
            return torch.load(path, map_location="cpu", weights_only=True), REFERENCE
    content = parse_json(path.read_text(encoding="utf-8-sig"))
    return content["parts"], int(content["size"])


def write_components(path: str | Path, parts: Mapping[str, Tensor], size: int) -> None:
    """Write a component file; see the module's text."""
    table = {name: {part: [float(v) for v in row]
                    for part, row in zip(PARTS, value, strict=True)}
             for name, value in sorted(parts.items())}
    write_text(Path(path), json.dumps({"size": size, "parts": table}, indent=0) + "\n")


def parts_of_names(parts: Mapping[str, Tensor], names: Sequence[str],
                   path: str | Path) -> list[Tensor]:
    """The entry of each image: under its name, its name without folder or ending, or its number.

    Raises:
        ValueError: images without entry.
    """
    found, missing = [], []
    for name in names:
        stem = PurePosixPath(name).stem
        keys = (name, PurePosixPath(name).name, stem,
                f"{int(stem):08d}" if stem.isdecimal() else stem)
        key = next((key for key in keys if key in parts), None)
        if key is None:
            missing.append(name)
        else:
            found.append(parts[key])
    if missing:
        raise ValueError(f"--component_file {path} has no entry for {len(missing)} of {len(names)} "
                         f"images, such as {', '.join(missing[:3])}")
    return found

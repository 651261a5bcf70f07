"""Restoring with an exported graph instead of a network."""
from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from engine import device as devices
from utils.files import sha256
from utils.images.convert import to_tensor

CPU = "CPUExecutionProvider"
Preprocess = Callable[[np.ndarray, argparse.Namespace], np.ndarray]


def check_digest(path: Path) -> None:
    """Compare a graph with the JSON that its export wrote beside it, if that is still there.

    Raises:
        ValueError: the graph has changed since.
    """
    about = path.with_suffix(".json")
    try:
        expected = json.loads(about.read_text(encoding="utf-8")).get("sha256")
    except (OSError, ValueError, AttributeError):       # none, or a file of somebody else
        return
    if expected is not None and expected != sha256(path):
        raise ValueError(f"--onnx {path} is damaged or was changed after its export; its SHA-256 "
                         f"is not the one in {about}")


class OnnxModel:
    """A graph of export_onnx.py in the place of a model: preprocess, prepare, restore.

    Args:
        path: the graph.
        preprocess: that of the model whose graph it is.
        opt: options; must describe the graph's network.
        device: on the CPU type nothing but the CPU is used, else whatever onnxruntime has.

    Raises:
        ValueError: no graph, or one of another network than the options describe.
    """

    def __init__(self, path: str | Path, preprocess: Preprocess, opt: argparse.Namespace,
                 device: torch.device) -> None:
        self.preprocess, self.opt, self.path = preprocess, opt, path
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        settings.intra_op_num_threads = torch.get_num_threads()
        providers = [CPU] if devices.on_host(device) else onnxruntime.get_available_providers()
        if not Path(path).is_file():
            raise ValueError(f"--onnx {path} does not exist")
        check_digest(Path(path))
        try:
            self.session = onnxruntime.InferenceSession(str(path), settings, providers=providers)
        except Exception as error:      # onnxruntime's own errors have no common base class
            raise ValueError(f"--onnx {path} cannot be read as a graph ({error})") from error
        given, = self.session.get_inputs()
        self.input, (self.batch, *self.shape) = given.name, given.shape
        self.output = self.session.get_outputs()[0].name
        self._check(self.session.get_modelmeta().custom_metadata_map)

    def _check(self, about: dict[str, str]) -> None:
        """A graph of another program says nothing; one of export_onnx.py must fit."""
        made = json.loads(about.get("options", "{}"))
        for name in ("model", "load_size"):
            if name in made and made[name] != getattr(self.opt, name):
                raise ValueError(f"--{name} must be {made[name]} for --onnx {self.path}, got "
                                 f"{getattr(self.opt, name)}; give that flag, or put the JSON of "
                                 f"the export beside the graph")

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"lq": to_tensor(batch["lq"])}

    def restore(self, lq: Tensor) -> Tensor:
        """Restored faces of (B, 3, H, W) in [-1, 1]; in parts where the graph's batch is fixed."""
        x = lq.cpu().numpy()
        if list(x.shape[1:]) != list(self.shape):
            raise ValueError(f"--onnx {self.path} takes images of shape {self.shape}, got "
                             f"{list(x.shape[1:])}")
        step = self.batch if isinstance(self.batch, int) else len(x)
        made = [self._run(x[start:start + step], step) for start in range(0, len(x), step)]
        return torch.from_numpy(np.concatenate(made))

    def _run(self, x: np.ndarray, batch: int) -> np.ndarray:
        missing = batch - len(x)
        if missing:
            x = np.concatenate([x, np.repeat(x[-1:], missing, axis=0)])
        result, = self.session.run([self.output], {self.input: x})
        return result[:batch - missing].astype(np.float32, copy=False)

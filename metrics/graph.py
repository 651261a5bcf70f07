"""Any feature network as an ONNX graph, for Frechet distances of features that are no Inception's.

A graph is data: unlike TorchScript it cannot run code of its own choice.
"""
from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engine import device as devices

_ANY = 64       # side for trying a graph that takes any


class GraphFeatures:
    """Features (B, D) of RGB images (B, 3, H, W) in [-1, 1] by an ONNX graph.

    The graph takes float32 of that kind, of any size or of one, to which images are then resized;
    of maps (B, D, h, w) the means are taken. Other ranges and orders belong into the graph.

    Attributes:
        dimensions: D.

    Raises:
        FileNotFoundError, ValueError: no such file, no graph, or one with another signature; or
            onnxruntime is not installed.
    """

    def __init__(self, path: str | Path, flag: str) -> None:
        self.path, self.flag = path, flag
        if not Path(path).is_file():
            raise FileNotFoundError(f"{flag}: {path} does not exist")
        self._open(["CPUExecutionProvider"])
        given = self.session.get_inputs()
        self.shape = given[0].shape if given else []
        if len(given) != 1 or given[0].type != "tensor(float)" or len(self.shape) != 4 or (
                isinstance(self.shape[1], int) and self.shape[1] != 3):
            raise ValueError(f"{flag}: {path} must take one float32 input (B, 3, H, W), got "
                             f"{', '.join(f'{x.name} {x.type} {x.shape}' for x in given)}")
        if isinstance(self.shape[0], int) and self.shape[0] > 1:
            raise ValueError(f"{flag}: {path} must take one image or any number, got a batch of "
                             f"{self.shape[0]}; export it again")
        self.input, self.output = given[0].name, self.session.get_outputs()[0].name
        self.dimensions = self(torch.zeros(1, 3, _ANY, _ANY)).shape[1]

    def _open(self, providers: list[str]) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise ValueError(f"{self.flag} needs onnxruntime for an ONNX graph; run pip "
                             f"install -r requirements-export.txt") from error
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4
        settings.intra_op_num_threads = torch.get_num_threads()
        try:
            self.session = onnxruntime.InferenceSession(str(self.path), settings,
                                                        providers=providers)
        except Exception as error:      # onnxruntime's own errors have no common base class
            raise ValueError(f"{self.flag}: {self.path} cannot be read as a graph "
                             f"({' '.join(str(error).split())})") from error

    def to(self, device: torch.device) -> GraphFeatures:
        """On another device than the CPU whatever onnxruntime has is used."""
        if not devices.on_host(device):
            import onnxruntime
            self._open(onnxruntime.get_available_providers())
        return self

    def __call__(self, images: Tensor) -> Tensor:
        height, width = (side if isinstance(side, int) else given
                         for side, given in zip(self.shape[2:], images.shape[2:], strict=True))
        if tuple(images.shape[2:]) != (height, width):
            images = F.interpolate(images, (height, width), mode="bilinear", align_corners=False,
                                   antialias=True)
        x = images.cpu().numpy()
        # Graphs are often exported for one image at a time.
        parts = [x] if not isinstance(self.shape[0], int) else np.split(x, len(x))
        try:
            made = [self.session.run([self.output], {self.input: part})[0] for part in parts]
        except Exception as error:      # as above
            raise ValueError(f"{self.flag}: {self.path} fails on images of {width}x{height} "
                             f"({' '.join(str(error).split())})") from error
        features = torch.from_numpy(np.concatenate(made)).float()
        if features.ndim == 4:
            features = features.mean(dim=(2, 3))
        if features.ndim != 2 or len(features) != len(images):
            raise ValueError(f"{self.flag}: {self.path} must give (B, D) or (B, D, h, w), got "
                             f"{tuple(features.shape)}")
        return features

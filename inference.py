"""What enhance.py and serve.py share: networks and settings built from their options."""
from __future__ import annotations

from argparse import Namespace
from typing import Any

import torch

import models
from engine import device as devices
from faces import align, detect
from faces.parsing_mask import open_parsing_mask
from faces.photograph import Mask, Settings
from faces.restorer import FaceRestorer


def open_restorer(opt: Namespace, device: torch.device) -> FaceRestorer:
    """The network that the options name, or the graph of --onnx."""
    devices.seed_everything(opt.seed, device)
    if opt.engine == "onnx":
        model = open_graph(opt, device)
    else:
        model, _ = models.load_trained(opt, device)
    return FaceRestorer(model, device, rounding_of(opt))


def rounding_of(opt: Namespace) -> str:
    """How results become bytes: --rounding, where `auto` is as the model's published program."""
    return models.find(opt.model).rounding if opt.rounding == "auto" else opt.rounding


def open_graph(opt: Namespace, device: torch.device) -> Any:
    """The graph of --onnx, used instead of the network; needs an extra package."""
    try:
        from export.engine import OnnxModel
    except ModuleNotFoundError as error:
        raise ValueError(f"--engine onnx needs the package {error.name}; run pip install -r "
                         f"requirements-export.txt") from error
    return OnnxModel(opt.onnx, models.find(opt.model).preprocess, opt, device)


def paste_settings(opt: Namespace) -> Settings:
    """How faces are cropped from photographs and pasted back.

    Raises:
        ValueError: the alignment template does not exist for this size.
    """
    model = models.find(opt.model)
    template = opt.template or model.template
    align.template(template, opt.load_size)
    return Settings(opt.load_size, template, model.crop_filter, model.robust_alignment,
                    opt.upscale, opt.strength, opt.match_colors, opt.batch_size)


def open_mask(opt: Namespace, device: torch.device) -> Mask | None:
    """The network of --mask_weights, which masks a face for pasting; None without it."""
    return open_parsing_mask(opt.mask_weights, device) if opt.mask_weights else None


def open_detector(opt: Namespace, device: torch.device, longest: int | None = None
                  ) -> detect.Detector:
    """The detector of --detector and --detector_weights; `longest` as in `detect.create`."""
    return detect.create(opt.detector, opt.detector_weights, device=device,
                         threshold=opt.detector_threshold, longest=longest,
                         anchors=opt.detector_anchors)

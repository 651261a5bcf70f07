"""LPIPS, the learned distance between two images, of AlexNet's or VGG16's features.

Source: Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric (arXiv
1801.03924), version 0.1; linear heads `alex.pth`, `vgg.pth` of richzhang/PerceptualSimilarity on
torchvision's `alexnet-owt-7be5be79.pth`, `vgg16-397923af.pth`.
"""
from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.checkpoint import check_match, named_by, read, unwrap
from models.networks.pretrained.vgg import MEAN, STD, VGGFeatures

# What is compared: the activations after these layers of torchvision's `features`.
LAYERS = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29)}
CHANNELS = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}
MIN_SIZE = 32
# Of the linear heads of version 0.1; files of 0.0 have the same names and shapes.
HEAD_SUMS = {"alex": (2.3495, 16.143, 39.2684, 27.1972, 20.3172),
             "vgg": (6.926, 8.8583, 17.515, 51.5213, 47.0349)}
logger = logging.getLogger("facezoo")
_EPS = 1e-10


class AlexFeatures(nn.Module):
    """Activations after AlexNet's five convolutions, of RGB images in [-1, 1]."""

    # Names follow torchvision's file: features.<index>.weight and bias.
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1), nn.ReLU())
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = ((x + 1) / 2 - self.mean) / self.std
        found = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in LAYERS["alex"]:
                found.append(x)
        return found


class LPIPS(nn.Module):
    """Distance of images, 0 for equal ones; frozen, always in eval mode.

    Args:
        net: "alex" or "vgg".
    """

    # lin<k>.model.1.weight are the names of the published heads; model.0 was their dropout.
    def __init__(self, net: str) -> None:
        super().__init__()
        if net not in LAYERS:
            raise ValueError(f"net must be one of {', '.join(LAYERS)}, got {net!r}")
        self.net = net
        self.backbone = AlexFeatures() if net == "alex" else VGGFeatures("vgg16", LAYERS["vgg"])
        self.heads = nn.ParameterList(torch.ones(1, channels, 1, 1) for channels in CHANNELS[net])
        self.requires_grad_(False).eval()

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Distances (B,) of RGB images (B, 3, H, W) in [-1, 1]; the second may be one for all.

        Raises:
            ValueError: a side below 32 pixels.
        """
        if min(first.shape[2:]) < MIN_SIZE:
            raise ValueError(f"LPIPS needs images of at least {MIN_SIZE}x{MIN_SIZE} pixels, got "
                             f"{first.shape[3]}x{first.shape[2]}")
        return sum(self.layer_distances(first, second))

    def layer_distances(self, first: Tensor, second: Tensor) -> list[Tensor]:
        """What each layer adds, (B,) each."""
        layers = zip(self.heads, self.backbone(first), self.backbone(second), strict=True)
        return [(head * (_unit(one) - _unit(other)).square()).sum(1).mean(dim=(1, 2))
                for head, one, other in layers]

    def train(self, mode: bool = True) -> LPIPS:
        """Stays in eval mode: it is never trained."""
        return super().train(False)

    def published_state(self) -> dict[str, Tensor]:
        """The weights by the names of the published files."""
        return {**{f"lin{index}.model.1.weight": head for index, head in enumerate(self.heads)},
                **self.backbone.state_dict()}


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(1, keepdim=True).sqrt() + _EPS)


def lpips_network(paths: Sequence[str | Path], flag: str = "--lpips_weights") -> LPIPS:
    """The network of these files: AlexNet's or VGG16's, as their shapes say.

    Args:
        paths: the linear heads and torchvision's file of the backbone, in any order, or one file
            with both (also the state dict of the `lpips` package's module).
        flag: named in errors.

    Raises:
        FileNotFoundError, ValueError: no such file, no state dict, a part missing or not fitting.
    """
    state: dict[str, Tensor] = {}
    for path in paths:
        with named_by(flag):
            content = unwrap(read(path), path)
        part = {_torchvision_name(key): value for key, value in content.items()
                if not key.startswith(("classifier.", "lins.", "scaling_layer."))}
        if twice := part.keys() & state.keys():
            raise ValueError(f"{flag} must be the heads and the backbone of one network, got "
                             f"{min(twice)} twice; the second time in {path}")
        state |= part
    given = " ".join(map(str, paths))
    # The second head tells the backbones apart; both have 64 channels in the first.
    head = state.get("lin1.model.1.weight")
    if head is None:
        raise ValueError(f"{flag} must include the linear heads (lin0.model.1.weight ...), got "
                         f"{given}; add alex.pth or vgg.pth of PerceptualSimilarity 0.1")
    network = LPIPS("alex" if head.numel() == CHANNELS["alex"][1] else "vgg")
    if "features.0.weight" not in state:
        backbone = "alexnet" if network.net == "alex" else "vgg16"
        raise ValueError(f"{flag} must include the backbone (features.0.weight ...), got {given}; "
                         f"add torchvision's {backbone} file")
    expected = network.published_state()
    try:
        check_match(state, expected, given)
    except ValueError as error:
        raise ValueError(f"{flag}: {error}") from error
    with torch.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(state[name])
    sums = [float(head.double().sum()) for head in network.heads]
    if any(not math.isclose(found, expected, rel_tol=1e-3)
           for found, expected in zip(sums, HEAD_SUMS[network.net], strict=True)):
        logger.warning("%s: the linear heads are not those of LPIPS 0.1, so the values cannot be "
                       "compared with published ones; version 0.0 gives about a quarter less", flag)
    return network


def _torchvision_name(key: str) -> str:
    """The lpips package cuts the backbone into slices, but keeps its indices."""
    return re.sub(r"^net\.slice\d+\.", "features.", key)

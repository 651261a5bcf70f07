"""PFSRNet's landmark network: 68 heat-maps of the input's size, distilled from 2DFAN-4.

Source: DeokyunKim/Progressive-Face-Super-Resolution (arXiv 1908.08239); the layers are those of its
published weights.
"""
from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from engine import checkpoint, legacy_pickle
from engine.recompute import Recomputable
from models.ops.checkpointing import checkpointed
from models.ops.fixed import load_fixed, peeked

NUM_LANDMARKS = 68
PUBLISHED_WIDTH = 128
WIDTH_MULTIPLE = 4


class FAN(Recomputable):
    """Heat-maps of the 68 landmarks (iBUG order: jaw, brows, nose, eyes, mouth).

    Args:
        width: channels of the widest layers, 128 as published.

    The receptive field is 13 x 13 pixels, and there is no pooling.
    """

    # Names follow the released checkpoint.
    def __init__(self, *, width: int = PUBLISHED_WIDTH) -> None:
        super().__init__()
        if width < WIDTH_MULTIPLE or width % WIDTH_MULTIPLE:
            raise ValueError(f"--fan_width must be a positive multiple of {WIDTH_MULTIPLE}, got "
                             f"{width}")
        plan = (width // 4, width // 2, width, width)
        self.conv = nn.Conv2d(3, plan[0], 5, padding=2)
        layers: list[nn.Module] = []
        for inside, outside in pairwise(plan):
            layers += [nn.Conv2d(inside, outside, 3, padding=1), nn.BatchNorm2d(outside),
                       nn.LeakyReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, NUM_LANDMARKS, 3, padding=1),
                                    nn.LeakyReLU())

    def forward(self, x: Tensor) -> Tensor:
        """RGB (B, 3, H, W) in [0, 1] to (B, 68, H, W), about 0 to 1."""
        x = self.conv(x)
        if self.checkpointing and torch.is_grad_enabled():
            return checkpointed(self.layers, x)
        return self.layers(x)


def landmark_network(path: str | Path, flag: str = "--fan_weights",
                     width: int | None = None) -> FAN:
    """The network with the weights of a file, fixed and in eval mode.

    Args:
        path: a state dict, or "random" for smoke runs.
        flag: named in errors.
        width: FAN's; None takes the file's.

    Raises:
        FileNotFoundError, ValueError: no such file, no state dict, or one of another network.
    """
    network = FAN(width=_width_of(peeked(path)) if width is None else width)
    load_fixed(network, path, flag, lambda path: read_landmark_weights(network, path),
               draw=(NUM_LANDMARKS, 2.0),
               warning="HEAT-MAPS COME FROM AN UNTRAINED NETWORK. This is for smoke runs only")
    return network.requires_grad_(False).eval()


def read_landmark_weights(network: FAN, path: str | Path) -> dict[str, Tensor]:
    """A state dict that fits; the published pickled module is refused with advice.

    Raises:
        FileNotFoundError, ValueError: as `landmark_network`.
    """
    if Path(path).is_file() and legacy_pickle.holds_module(path):
        raise ValueError(f"{path} must hold tensors, got a pickled module, which can run code; "
                         f"extract its tensors with python -m tools.legacy_pickle {path} fan.pth")
    return checkpoint.load_weights(path, network.state_dict(), "G", _width_hint)


def _width_of(state: dict[str, Tensor]) -> int:
    first = state.get("conv.bias")
    return PUBLISHED_WIDTH if first is None else WIDTH_MULTIPLE * len(first)


def _width_hint(state: dict[str, Tensor]) -> str:
    return f"These weights need --fan_width {_width_of(state)}" if "conv.bias" in state else ""


def peaks(maps: Tensor) -> Tensor:
    """Pixel of each map's maximum: (B, N, H, W) to (B, N, 2), x before y."""
    flat = maps.flatten(2).argmax(dim=2)
    width = maps.shape[3]
    return torch.stack([flat % width, flat // width], dim=2)

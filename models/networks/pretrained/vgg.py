"""VGG features for perceptual losses, from torchvision's published classification weights.

Source: arXiv 1409.1556; weights `vgg16-397923af.pth`, `vgg19-dcbb9e9d.pth`.
"""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import checkpoint
from models.ops.fixed import FixedNetwork
from utils.text import counted

# Convolutions per block; each block doubles the channels up to 512 and ends in a pooling.
BLOCKS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INPUT_SIZE = 224


class VGGFeatures(FixedNetwork):
    """Activations of a frozen VGG at the given layers of its `features` stack.

    Args:
        arch: "vgg16" or "vgg19".
        layers: indices into the published stack, ascending; what follows the last is not built.
        resize: upscale images narrower than 224 pixels to 224 x 224, as published for SPARNetHD.

    Raises:
        ValueError: an unknown architecture or a layer it does not have.
    """

    flag, published = "--vgg_weights", "torchvision's file"
    use = "THE PERCEPTUAL LOSS COMPARES FEATURES OF"
    draw = (19, 2.0)

    # Names follow the published files: features.<index>.weight and bias.
    def __init__(self, arch: str, layers: Sequence[int], *, resize: bool = False) -> None:
        super().__init__()
        self.kind = arch.upper()
        if arch not in BLOCKS:
            raise ValueError(f"arch must be one of {', '.join(BLOCKS)}, got {arch!r}")
        stack = _stack(BLOCKS[arch])
        if not layers or max(layers) >= len(stack):
            raise ValueError(f"{arch} has layers 0 to {len(stack) - 1}, got {list(layers)}")
        self.arch, self.layers, self.resize = arch, tuple(layers), resize
        self.features = nn.Sequential(*stack[:max(layers) + 1])
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features in the order of `layers` of RGB images (B, 3, H, W) in [-1, 1]."""
        x = ((x + 1) / 2 - self.mean) / self.std
        if self.resize and x.shape[3] < INPUT_SIZE:
            x = F.interpolate(x, size=(INPUT_SIZE, INPUT_SIZE), mode="bilinear",
                              align_corners=False)
        found = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.layers:
                found.append(x)
        return found

    def read(self, path: str | Path) -> dict[str, Tensor]:
        """The weights needed from torchvision's file, by its own key names; skips the classifier.

        Raises:
            FileNotFoundError, ValueError: no such file, no checkpoint, or another architecture.
        """
        content = checkpoint.read(path)
        content = content if isinstance(content, dict) else {}
        state = self.state_dict()
        wrong = [key for key, value in state.items()
                 if getattr(content.get(key), "shape", None) != value.shape]
        # vgg16 and vgg19 agree in their first layers; later names tell them apart.
        wrong += sorted(key for key in content if key.startswith("features.")
                        and key not in {f"features.{index}.{kind}" for kind in ("weight", "bias")
                                        for index in _convolutions(BLOCKS[self.arch])})
        if wrong:
            raise ValueError(f"{path} is not torchvision's {self.arch} file: "
                             f"{counted(len(wrong), 'mismatch', 'mismatches')} in names or "
                             f"shapes, such as {', '.join(wrong[:3])}")
        return {key: content[key] for key in state}


def _convolutions(blocks: Sequence[int]) -> list[int]:
    """Indices of the convolutions in the published stack."""
    return [index for index, layer in enumerate(_stack(blocks, meta=True))
            if isinstance(layer, nn.Conv2d)]


def _stack(blocks: Sequence[int], meta: bool = False) -> list[nn.Module]:
    """The published `features` stack; ReLUs out of place, so that collected features stay."""
    layers: list[nn.Module] = []
    channels = 3
    for block, count in enumerate(blocks):
        width = min(64 * 2 ** block, 512)
        for _ in range(count):
            layers += [nn.Conv2d(channels, width, 3, padding=1,
                                 device="meta" if meta else None), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return layers

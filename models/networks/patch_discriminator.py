"""Multi-scale patch discriminator of SPARNetHD and PSFR-GAN, after pix2pixHD (arXiv 1711.11585)."""
from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from models.ops.blocks import ConvUnit
from utils.text import counted

MAX_CHANNELS = 512


class PatchLayers(nn.Module):
    """Layers whose features count, then a map of logits."""

    # Names follow the released checkpoints: `model.<k>`, `score_out`.
    def __init__(self, layers: list[ConvUnit], channels: int) -> None:
        super().__init__()
        self.model = nn.ModuleList(layers)
        self.score_out = ConvUnit(channels, 1, pad=False)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits (B, 1, h, w) and the features of every layer before them, in order."""
        features = []
        for unit in self.model:
            x = unit(x)
            features.append(x)
        return self.score_out(x), features


class PatchDiscriminator(PatchLayers):
    """Convolution to `base_channels`, `n_layers` halvings, then a map of logits.

    Args:
        in_channels: of the images, a parsing map included where there is one.
        base_channels: after the first convolution; doubled at each halving up to 512.
        n_layers: stride-2 convolutions.
        norm: of those, one of `blocks.NORMS`.
    """

    def __init__(self, *, in_channels: int = 3, base_channels: int = 64, n_layers: int = 4,
                 norm: str = "none") -> None:
        widths = [min(base_channels * 2 ** k, MAX_CHANNELS) for k in range(n_layers + 1)]
        units = [ConvUnit(in_channels, widths[0], activation=True)]
        units += [ConvUnit(start, end, mode="down", norm=norm, activation=True)
                  for start, end in pairwise(widths)]
        super().__init__(units, widths[-1])


class MultiScale(nn.Module):
    """The same discriminator, with weights of its own, on the input and halved copies of it.

    Args:
        discriminators: one per scale; scale 0 sees the full input.
        min_size: smallest side the last scale takes, in pixels of the input.
    """

    def __init__(self, discriminators: Iterable[nn.Module], min_size: int) -> None:
        super().__init__()
        self.D_pool = nn.ModuleList(discriminators)     # name of the released checkpoints
        self.min_size = min_size

    def halve(self, x: Tensor) -> Tensor:
        """The input of the next scale."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Classify the patches of images as real or fake.

        Args:
            x: (B, in_channels, H, W) in [-1, 1]; both sides at least `min_size`.

        Returns:
            Logits per scale, and per scale the features of each layer.

        Raises:
            ValueError: a side is too small for the last scale.
        """
        if min(x.shape[2:]) < self.min_size:
            raise ValueError(f"{counted(len(self.D_pool), 'scale')} of the discriminator need "
                             f"sides of at least {self.min_size} pixels, got "
                             f"{x.shape[2]}x{x.shape[3]}")
        logits, features = [], []
        for index, discriminator in enumerate(self.D_pool):
            x = self.halve(x) if index else x
            score, layers = discriminator(x)
            logits.append(score)
            features.append(layers)
        return logits, features


class MultiScaleDiscriminator(MultiScale):
    """SPARNetHD's: patch discriminators of the image at several scales.

    Args:
        num_scales: how many.
        in_channels, base_channels, n_layers, norm: see PatchDiscriminator.

    Source: chaofengc/Face-SPARNet.
    """

    def __init__(self, *, num_scales: int = 3, in_channels: int = 3, base_channels: int = 64,
                 n_layers: int = 4, norm: str = "none") -> None:
        super().__init__((PatchDiscriminator(
            in_channels=in_channels, base_channels=base_channels, n_layers=n_layers, norm=norm)
            for _ in range(num_scales)), smallest_image(num_scales, n_layers))

    def halve(self, x: Tensor) -> Tensor:
        # scale_factor, not size: the published form samples at exact halves of odd sides.
        return F.interpolate(x, scale_factor=0.5, mode="bicubic", align_corners=False)


def smallest_image(num_scales: int, n_layers: int) -> int:
    """Smallest side whose last scale still leaves 3 pixels for the last convolution."""
    side = 3
    for _ in range(n_layers):
        side = 2 * side - 1         # a stride-2 unit maps n to ceil(n / 2)
    return side * 2 ** (num_scales - 1)

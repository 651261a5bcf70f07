"""Face parsing network of PSFR-GAN: labels of 19 face regions, and a restored image.

GPEN and facexlib publish weights of the same layout. Source: arXiv 2009.08709, chaofengc/PSFRGAN.
"""
from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine import checkpoint
from engine.recompute import Recomputable
from models.ops.blocks import NORMS, ConvUnit
from models.ops.checkpointing import run_blocks
from models.ops.fixed import load_fixed, peeked

NUM_LABELS = 19
MIN_CHANNELS = 32


class ParseBlock(nn.Module):
    """shortcut(x) + conv2(conv1(x)), nothing before and nothing after the sum.

    Args:
        in_channels, out_channels: feature channels.
        mode: "none", "down" (stride 2 in conv2) or "up" (in conv1); the shortcut does the same.
        norm: one of NORMS.
    """

    def __init__(self, in_channels: int, out_channels: int, *, mode: str = "none",
                 norm: str = "bn") -> None:
        super().__init__()
        # Unlike in SPARNet, only batch norm removes the bias, and instance norm has no gain.
        settings = {"norm": norm, "bias": norm != "bn", "affine": norm != "in"}
        if mode == "none" and in_channels == out_channels:
            self.shortcut_func = nn.Identity()
        else:
            self.shortcut_func = ConvUnit(in_channels, out_channels, mode=mode)
        self.conv1 = ConvUnit(in_channels, out_channels, mode="up" if mode == "up" else "none",
                              activation=True, **settings)
        self.conv2 = ConvUnit(out_channels, out_channels, mode="down" if mode == "down" else "none",
                              **settings)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut_func(x) + self.conv2(self.conv1(x))


class ParseNet(Recomputable):
    """Logits of face regions and an image from a degraded face; fully convolutional.

    Args:
        size: nominal side the channel plan is made for, in pixels.
        feat_size: side of the body's feature maps at the nominal size.
        base_channels: after the first convolution, within min_channels to max_channels.
        min_channels, max_channels: limits of the channel plan.
        num_labels: regions to tell apart.
        res_depth: blocks in the body.
        norm: one of NORMS, any case.

    Attributes:
        min_size: smallest side it can work on, in pixels.
        checkpointing: compute the blocks' insides again in the backward pass; less memory.

    Raises:
        ValueError: an argument outside what it may be.
    """

    # Names follow the released checkpoints: encoder, body, decoder, out_img_conv, out_mask_conv.
    def __init__(self, *, size: int = 512, feat_size: int = 32, base_channels: int = 64,
                 min_channels: int = MIN_CHANNELS, max_channels: int = 256,
                 num_labels: int = NUM_LABELS, res_depth: int = 10, norm: str = "bn") -> None:
        super().__init__()
        norm = norm.lower()
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
        if not min_channels <= base_channels <= max_channels:
            raise ValueError(f"base_channels must be from {min_channels} to {max_channels}, "
                             f"got {base_channels}")
        steps = int(math.log2(size // min(size, feat_size)))
        widths = [min(base_channels * 2 ** k, max_channels) for k in range(steps + 1)]
        encoder: list[nn.Module] = [ConvUnit(3, base_channels)]
        encoder += [ParseBlock(widths[k], widths[k + 1], mode="down", norm=norm)
                    for k in range(steps)]
        self.encoder = nn.Sequential(*encoder)
        self.body = nn.Sequential(*(ParseBlock(widths[-1], widths[-1], norm=norm)
                                    for _ in range(res_depth)))
        self.decoder = nn.Sequential(*(ParseBlock(widths[k], widths[k - 1], mode="up", norm=norm)
                                       for k in range(steps, 0, -1)))
        self.out_img_conv = ConvUnit(widths[0], 3)
        self.out_mask_conv = ConvUnit(widths[0], num_labels)
        self.min_size = 2 ** steps + 1      # the body pads by reflection, which takes two pixels
        self.num_labels = num_labels

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Parse images.

        Args:
            x: (B, 3, H, W) in [-1, 1]; both sides at least `min_size`.

        Returns:
            Logits (B, num_labels, H', W') and images (B, 3, H', W'), unbounded; sides rounded up
            to multiples of size / feat_size.

        Raises:
            ValueError: a side is too small.
        """
        height, width = x.shape[2:]
        if min(height, width) < self.min_size:
            raise ValueError(f"the parsing network needs sides of at least {self.min_size} pixels, "
                             f"got {height}x{width}")
        features = run_blocks(self.encoder, x, self.checkpointing)
        features = features + run_blocks(self.body, features, self.checkpointing)
        features = run_blocks(self.decoder, features, self.checkpointing)
        return self.out_mask_conv(features), self.out_img_conv(features)


def labels_of(logits: Tensor) -> Tensor:
    """Most likely region per pixel: (B, K, H, W) logits to (B, H, W) int64; ties take the first.

    In float32: half precision makes ties of what is none.
    """
    return logits.float().max(dim=1).indices        # torch-npu has no kernel for argmax


def one_hot(labels: Tensor, num_labels: int = NUM_LABELS) -> Tensor:
    """Labels (B, H, W), any integer type, to a float32 mask (B, num_labels, H, W).

    A label outside 0 to num_labels - 1 belongs to no region: its pixel is 0 in every channel.
    """
    regions = torch.arange(num_labels, device=labels.device).view(1, -1, 1, 1)
    return (labels[:, None] == regions).float()


def config_of(state: dict[str, Tensor]) -> dict[str, Any]:
    """ParseNet's arguments as far as its state dict shows them; instance norm, pixel norm and none
    look alike.

    Raises:
        ValueError: the entries are not a ParseNet's.
    """
    first = state.get("encoder.0.conv2d.weight")
    if first is None or "out_mask_conv.conv2d.weight" not in state:
        raise ValueError("holds no parsing network")
    norm = "encoder.1.conv1.norm.norm."
    shown = ({"norm": "bn"} if f"{norm}running_mean" in state
             else {"norm": "gn"} if f"{norm}weight" in state else {})
    return {"base_channels": len(first), "min_channels": min(MIN_CHANNELS, len(first)),
            "res_depth": len({key.split(".")[1] for key in state if key.startswith("body.")}),
            **shown}


def parsing_network(weights: str | Path, flag: str, **settings: Any) -> ParseNet:
    """A fixed parsing network, in eval mode, with weights from a file.

    Args:
        weights: an own or a published file, or "random" for a seeded draw (smoke runs only).
        flag: carried the file's name; named in errors.
        settings: ParseNet's arguments, instead of those that the file shows.

    Raises:
        FileNotFoundError, ValueError: no such file, or it does not fit.
    """
    try:
        settings = {**config_of(peeked(weights, "P")), **settings}
    except ValueError:      # loading says what is wrong with the file
        pass
    with torch.random.fork_rng(devices=[]):         # always the same draw, and no other moved
        torch.manual_seed(NUM_LABELS)
        network = ParseNet(**settings)
    load_fixed(network, weights, flag,
               lambda path: checkpoint.load_weights(path, network.state_dict(), "P"),
               warning="PARSING MAPS COME FROM AN UNTRAINED NETWORK. This is for smoke runs only; "
                       "give parse_multi_iter_90000.pth or one trained here with --model parse")
    return network.requires_grad_(False).eval()

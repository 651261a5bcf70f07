"""GFP-GAN: a U-Net that removes degradation and steers a StyleGAN2 decoder.

Source: arXiv 2101.04061, TencentARC/GFPGAN.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from engine.recompute import Recomputable
from models.networks.gfpgan_decoder import Decoder
from models.networks.gfpgan_layers import (
    condition_net,
    conv_layer,
    down_block,
    linear,
    pointwise_to_rgb,
    up_block,
    without_saved_filters,
)
from models.networks.stylegan2 import TAPS, channels_at, check_size
from models.ops.style_ops import channels_last
from utils.text import counted

# What --preset calls the published networks; 1.2, 1.3 and 1.4 differ in their weights only.
PRESETS = {
    "1": {"arch": "original", "channel_multiplier": 1},
    "bilinear": {"arch": "bilinear", "channel_multiplier": 2},
    **{version: {"arch": "clean", "channel_multiplier": 2} for version in ("1.2", "1.3", "1.4")}}


class GFPGAN(Recomputable):
    """GFP-GAN's restoration network; images must have the size it is built for.

    Args:
        arch, size, style_dim, num_mlp, channel_multiplier, narrow, lr_mlp, taps: see Decoder;
            `narrow` must leave the decoder even widths.
        input_is_latent: the U-Net's code is w; the mapping network is then there but unused.
        different_w: a code for each layer instead of one for all.
        sft_half: conditions act on half of the decoder's channels.

    Attributes:
        checkpointing: compute the levels' insides again in the backward pass; less memory.

    Raises:
        ValueError: another size or architecture, or an odd width.
    """

    # Names and their order follow the released checkpoints.
    def __init__(self, *, arch: str, size: int, style_dim: int = 512, channel_multiplier: int = 2,
                 num_mlp: int = 8, input_is_latent: bool = True, different_w: bool = True,
                 narrow: float = 1.0, sft_half: bool = True, lr_mlp: float = 0.01,
                 taps: Sequence[float] = TAPS) -> None:
        super().__init__()
        levels = check_size(size)
        width, whole = (channels_at(channel_multiplier, n) for n in (narrow / 2, narrow))
        sides = [2 ** k for k in range(3, levels + 1)]
        odd = [side for side in (4, *sides) if 2 * width[side] != whole[side] or not width[side]]
        if odd:
            raise ValueError(f"narrow must give the decoder even numbers of channels, got "
                             f"{whole[odd[0]]} at {odd[0]} pixels with narrow {narrow:g}")
        self.conv_body_first = conv_layer(3, width[size], 1, arch)
        self.conv_body_down = nn.ModuleList(
            down_block(width[side], width[side // 2], arch) for side in reversed(sides))
        self.final_conv = conv_layer(width[4], width[4], 3, arch)
        self.conv_body_up = nn.ModuleList(
            up_block(width[side // 2], width[side], arch) for side in sides)
        self.toRGB = nn.ModuleList(pointwise_to_rgb(width[side], arch) for side in sides)
        num_codes = 2 * levels - 2 if different_w else 1
        self.final_linear = linear(16 * width[4], num_codes * style_dim, arch)
        self.stylegan_decoder = Decoder(
            arch=arch, size=size, style_dim=style_dim, num_mlp=num_mlp, narrow=narrow,
            channel_multiplier=channel_multiplier, lr_mlp=lr_mlp, taps=taps)
        out = width if sft_half else whole
        self.condition_scale = nn.ModuleList(
            condition_net(width[side], out[side], arch, 1.0) for side in sides)
        self.condition_shift = nn.ModuleList(
            condition_net(width[side], out[side], arch, 0.0) for side in sides)
        self.size, self.style_dim = size, style_dim
        self.input_is_latent, self.different_w = input_is_latent, different_w
        if input_is_latent:
            self.stylegan_decoder.style_mlp.requires_grad_(False)
        without_saved_filters(self)

    def forward(self, x: Tensor, *, return_rgb: bool = False,
                randomize_noise: bool = False) -> tuple[Tensor, list[Tensor]]:
        """Restore images.

        Args:
            x: (B, 3, size, size) in [-1, 1].
            return_rgb: also make the U-Net's own images, which the pyramid loss compares.
            randomize_noise: draw the decoder's noise instead of taking the stored maps.

        Returns:
            Images (B, 3, size, size), unbounded; and those of the U-Net with the sides
            8, 16, ..., size, or none.

        Raises:
            ValueError: x has another size.
        """
        if tuple(x.shape[2:]) != (self.size, self.size):
            raise ValueError(f"the network restores {self.size}x{self.size} images, got "
                             f"{x.shape[3]}x{x.shape[2]}")
        repeats = self.checkpointing and torch.is_grad_enabled()
        self.stylegan_decoder.checkpointing = repeats
        x = self.conv_body_first(channels_last(x))
        skips = []
        for block in self.conv_body_down:
            x = checkpoint(block, x, use_reentrant=False) if repeats else block(x)
            skips.append(x)
        x = self.final_conv(x)
        # Channels come first in the published linear layer, whatever the memory format.
        code = self.final_linear(x.flatten(1))
        if self.different_w:
            code = code.view(x.shape[0], -1, self.style_dim)
        conditions, rgbs = [], []
        for index in range(len(self.conv_body_up)):
            inputs = (index, x, skips.pop(), return_rgb)
            x, condition, rgb = (checkpoint(self._level, *inputs, use_reentrant=False) if repeats
                                 else self._level(*inputs))
            conditions.append(condition)
            rgbs += rgb
        image, _ = self.stylegan_decoder([code], conditions, randomize_noise=randomize_noise,
                                         input_is_latent=self.input_is_latent)
        return image, rgbs

    def _level(self, index: int, x: Tensor, skip: Tensor, return_rgb: bool
               ) -> tuple[Tensor, tuple[Tensor, Tensor], list[Tensor]]:
        """Features of twice the sides, what they do to the decoder's, and their colors."""
        x = self.conv_body_up[index](x + skip)
        condition = self.condition_scale[index](x), self.condition_shift[index](x)
        return x, condition, [self.toRGB[index](x)] if return_rgb else []


# ---- what a file says about its network ---------------------------------------------------------

def layout_of(state: Mapping[str, Tensor]) -> str:
    """What a state dict belongs to: "clean", "equalized" (original or bilinear), "decoder" (a
    StyleGAN2 prior), or "" for something else."""
    if "conv_body_first.weight" in state and "stylegan_decoder.constant_input.weight" in state:
        return "clean"
    if "conv_body_first.0.weight" in state and "stylegan_decoder.constant_input.weight" in state:
        return "equalized"
    return "decoder" if "constant_input.weight" in state and "style_conv1.weight" in state else ""


def config_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """GFPGAN's arguments but `arch`, as far as its state dict shows them.

    Raises:
        ValueError: the entries are not a GFPGAN's.
    """
    layout = layout_of(state)
    if layout not in ("clean", "equalized"):
        raise ValueError("holds no GFP-GAN network" + (
            "; it is a StyleGAN2 prior, which --decoder_weights takes" if layout == "decoder"
            else f": no conv_body_first in {counted(len(state), 'entry', 'entries')}"))
    decoder = "stylegan_decoder."
    needed = (f"{decoder}to_rgb1.modulated_conv.modulation.weight", "condition_scale.0.2.weight",
              "final_linear.bias")
    missing = [key for key in needed if key not in state]
    if missing:
        raise ValueError(f"holds no whole GFP-GAN network: no {missing[0]} in "
                         f"{counted(len(state), 'entry', 'entries')}")
    width = state[f"{decoder}constant_input.weight"].shape[1]
    style_dim = state[needed[0]].shape[1]
    levels = len([key for key in state if key.startswith("toRGB.") and key[-7:] == ".weight"]) + 2
    num_mlp = len([key for key in state
                   if key.startswith(f"{decoder}style_mlp.") and key[-7:] == ".weight"])
    first = "conv_body_first.weight" if layout == "clean" else "conv_body_first.0.weight"
    narrow, size = width / 512, 2 ** levels
    found = [m for m in (1, 2) if channels_at(m, narrow / 2)[size] == state[first].shape[0]]
    scale = state["condition_scale.0.2.weight"]
    return {"size": size, "style_dim": style_dim, "num_mlp": num_mlp, "narrow": narrow,
            "channel_multiplier": found[-1] if found else 2,
            "different_w": state["final_linear.bias"].shape[0] != style_dim,
            "sft_half": scale.shape[0] == scale.shape[1]}

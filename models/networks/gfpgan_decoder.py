"""GFP-GAN's decoder: StyleGAN2 whose features a U-Net may scale and shift (CS-SFT).

Without conditions it is the plain generator, so a file of the prior loads into it.

Source: GFP-GAN (arXiv 2101.04061), TencentARC/GFPGAN, XPixelGroup/BasicSR.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.networks.gfpgan_layers import (
    ARCHITECTURES,
    StyleConv,
    ToRGB,
    style_mlp,
    without_saved_filters,
)
from models.networks.stylegan2 import TAPS, channels_at, check_size
from models.ops import padded_conv


class ConstantInput(nn.Module):
    """The learned 4x4 map that every image starts from."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, channels, 4, 4))


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Scale and shift the last channels of x, as many as scale has; the first pass unchanged.

    Args:
        x: (B, C, H, W).
        scale, shift: (B, c, H, W), c from 1 to C.

    Source: GFP-GAN (arXiv 2101.04061), channel-split spatial feature transform.
    """
    kept = x.shape[1] - scale.shape[1]
    if not kept:
        return torch.addcmul(shift, x, scale)
    if padded_conv.uses_custom_kernel(x) and not torch.is_grad_enabled():
        last = x[:, kept:]
        torch.addcmul(shift, last, scale, out=last)
        return x
    first, last = x.split((kept, scale.shape[1]), dim=1)
    return torch.cat((first, torch.addcmul(shift, last, scale)), dim=1)


class Decoder(nn.Module):
    """StyleGAN2's generator with conditions.

    Args:
        arch: "original", "bilinear" or "clean", see gfpgan_layers.
        size: side of the images, a power of two from 8 to 1024.
        style_dim: length of z and w.
        num_mlp: layers of the mapping network.
        channel_multiplier: of the widths above 32 pixels.
        narrow: of all widths.
        lr_mlp: learning-rate factor of the mapping network; has no meaning for "clean".
        taps: of the filters, architecture "original".

    Raises:
        ValueError: another size or architecture.
    """

    # Names and their order follow the released checkpoints.
    def __init__(self, *, arch: str, size: int, style_dim: int = 512, num_mlp: int = 8,
                 channel_multiplier: int = 2, narrow: float = 1.0, lr_mlp: float = 0.01,
                 taps: Sequence[float] = TAPS) -> None:
        super().__init__()
        if arch not in ARCHITECTURES:
            raise ValueError(f"arch must be one of {', '.join(ARCHITECTURES)}, got {arch!r}")
        levels, widths = check_size(size), channels_at(channel_multiplier, narrow)
        self.style_mlp = style_mlp(style_dim, num_mlp, arch, lr_mlp)
        self.constant_input = ConstantInput(widths[4])
        self.style_conv1 = StyleConv(widths[4], widths[4], style_dim, arch)
        self.to_rgb1 = ToRGB(widths[4], style_dim, arch, up=False)
        self.style_convs, self.to_rgbs = nn.ModuleList(), nn.ModuleList()
        for level in range(3, levels + 1):
            below, width = widths[2 ** (level - 1)], widths[2 ** level]
            self.style_convs.append(StyleConv(below, width, style_dim, arch, up=True, taps=taps))
            self.style_convs.append(StyleConv(width, width, style_dim, arch))
            self.to_rgbs.append(ToRGB(width, style_dim, arch, taps=taps))
        self.num_latents, self.num_noises = 2 * levels - 2, 2 * levels - 3
        self.checkpointing = False      # set by the network around it
        self.noises = nn.Module()
        for index in range(self.num_noises):
            side = 2 ** ((index + 5) // 2)
            self.noises.register_buffer(f"noise{index}", torch.randn(1, 1, side, side))
        without_saved_filters(self)

    def latents(self, styles: Sequence[Tensor], *, input_is_latent: bool = False,
                inject_index: int | None = None, truncation: float = 1.0,
                truncation_latent: Tensor | None = None) -> Tensor:
        """(B, num_latents, style_dim) from one code, or from two that are mixed; see forward."""
        if len(styles) not in (1, 2):
            raise ValueError(f"styles must hold one or two codes, got {len(styles)}")
        codes = list(styles) if input_is_latent else [self.style_mlp(z) for z in styles]
        if truncation < 1:
            if truncation_latent is None:
                raise ValueError(f"truncation {truncation} needs truncation_latent, the mean w, "
                                 "got None")
            codes = [truncation_latent + truncation * (w - truncation_latent) for w in codes]
        if len(codes) == 1:
            w, = codes
            return w if w.ndim == 3 else w[:, None].repeat(1, self.num_latents, 1)
        if inject_index is None:
            inject_index = int(torch.randint(1, self.num_latents, (1,)))
        counts = (inject_index, self.num_latents - inject_index)
        return torch.cat([w[:, None].repeat(1, count, 1)
                          for w, count in zip(codes, counts, strict=True)], dim=1)

    def noise_maps(self, like: Tensor, randomize: bool) -> list[Tensor]:
        """The stored maps, or new ones of the batch size, type and device of `like`."""
        stored = [self.noises.get_buffer(f"noise{k}") for k in range(self.num_noises)]
        if not randomize:
            return [noise.to(like.dtype) for noise in stored]
        return [torch.randn((like.shape[0], *noise.shape[1:]), dtype=like.dtype, device=like.device)
                for noise in stored]

    def forward(self, styles: Sequence[Tensor], conditions: Sequence[tuple[Tensor, Tensor]] = (),
                *, randomize_noise: bool = False, return_latents: bool = False,
                **latent_options) -> tuple[Tensor, Tensor | None]:
        """Make images.

        Args:
            styles: one code (B, style_dim) or (B, num_latents, style_dim), or two to mix.
            conditions: scale and shift of the features at 8, 16, ... pixels, as far as they go.
            randomize_noise: draw the noise instead of taking the stored maps.
            return_latents: whether the second result is the latents.
            latent_options: of `latents`: input_is_latent (codes are w, not z), inject_index
                (number of latents from the first of two codes; drawn without it), truncation
                (below 1, latents move towards truncation_latent, the mean w).

        Returns:
            Images (B, 3, size, size), unbounded, and the latents or None.

        Raises:
            ValueError: the number of codes is wrong, or the mean w is missing.
        """
        latents = self.latents(styles, **latent_options)
        w, noise = latents.unbind(1), self.noise_maps(latents, randomize_noise)
        x = self.constant_input.weight.expand(latents.shape[0], -1, -1, -1)
        x = self.style_conv1(x, w[0], noise[0])
        rgb = self.to_rgb1(x, w[1])
        for level in range(len(self.to_rgbs)):
            index = 2 * level + 1       # an image layer has the same w as the next upscaling
            condition = conditions[level] if level < len(conditions) else None
            inputs = (level, x, rgb, w[index:index + 3], noise[index:index + 2], condition)
            x, rgb = (checkpoint(self._level, *inputs, use_reentrant=False)
                      if self.checkpointing else self._level(*inputs))
        return rgb, latents if return_latents else None

    def _level(self, level: int, x: Tensor, rgb: Tensor, w: Sequence[Tensor],
               noise: Sequence[Tensor], condition: tuple[Tensor, Tensor] | None
               ) -> tuple[Tensor, Tensor]:
        """Features and colors of twice the sides."""
        x = self.style_convs[2 * level](x, w[0], noise[0])
        if condition is not None:
            x = modulate(x, *condition)
        x = self.style_convs[2 * level + 1](x, w[1], noise[1])
        return x, self.to_rgbs[level](x, w[2], rgb)

"""GPEN: an encoder whose deepest map becomes the code of a StyleGAN2 and whose maps its noise.

Source: arXiv 2105.06070.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from engine.recompute import Recomputable
from models.networks.stylegan2 import (
    SIZES,
    TAPS,
    ConvLayer,
    EqualLinear,
    Generator,
    channels_at,
    check_size,
    repeated,
)
from models.ops.style_ops import channels_last
from utils.text import counted


class FullGenerator(Recomputable):
    """GPEN's restoration network; images must have the size it is built for.

    Args:
        size, style_dim, n_mlp, channel_multiplier, narrow, blur_kernel, lr_mlp, isconcat: see
            Generator; the encoder always filters with [1, 3, 3, 1].

    Raises:
        ValueError: another size.
    """

    # Names and their order follow the released checkpoints: `generator`, `ecd<k>`, `final_linear`.
    def __init__(self, *, size: int, style_dim: int = 512, n_mlp: int = 8,
                 channel_multiplier: int = 2, narrow: float = 1.0,
                 blur_kernel: Sequence[float] = TAPS, lr_mlp: float = 0.01,
                 isconcat: bool = True) -> None:
        super().__init__()
        levels, widths = check_size(size), channels_at(channel_multiplier, narrow)
        self.generator = Generator(
            size=size, style_dim=style_dim, n_mlp=n_mlp, channel_multiplier=channel_multiplier,
            narrow=narrow, blur_kernel=blur_kernel, lr_mlp=lr_mlp, isconcat=isconcat)
        self.ecd0 = nn.Sequential(ConvLayer(3, widths[size], 1))
        self.num_maps = levels - 1
        for index in range(1, self.num_maps):
            side = size >> index
            layer = ConvLayer(widths[2 * side], widths[side], 3, down=True)
            self.add_module(f"ecd{index}", nn.Sequential(layer))
        self.final_linear = nn.Sequential(EqualLinear(16 * widths[4], style_dim, activate=True))
        self.size = size
        self._checkpointing = False

    @property
    def checkpointing(self) -> bool:
        """Whether insides are computed again in the backward pass; less memory."""
        return self._checkpointing

    @checkpointing.setter
    def checkpointing(self, wanted: bool) -> None:
        self._checkpointing = self.generator.checkpointing = wanted

    def forward(self, x: Tensor, *, return_latents: bool = False, inject_index: int | None = None,
                truncation: float = 1.0, truncation_latent: Tensor | None = None,
                input_is_latent: bool = False) -> tuple[Tensor, Tensor | None]:
        """Restore images.

        Args:
            x: (B, 3, size, size) in [-1, 1].
            return_latents, inject_index, truncation, truncation_latent, input_is_latent: see
                Generator; the code that the encoder makes is z, not w.

        Returns:
            Images (B, 3, size, size), unbounded, and the latents or None.

        Raises:
            ValueError: x has another size.
        """
        if tuple(x.shape[2:]) != (self.size, self.size):
            raise ValueError(f"the network restores {self.size}x{self.size} images, got "
                             f"{x.shape[3]}x{x.shape[2]}")
        x, maps = channels_last(x), []
        for index in range(self.num_maps):
            x = repeated(self.checkpointing, self.get_submodule(f"ecd{index}"), x)
            maps.append(x)
        code = self.final_linear(x.flatten(1))
        # Both convolutions of a resolution get that resolution's map; at 4x4 there is only one.
        noise = [each for each in reversed(maps) for _ in range(2)][1:]
        return self.generator([code], noise=noise, return_latents=return_latents,
                              inject_index=inject_index, truncation=truncation,
                              truncation_latent=truncation_latent, input_is_latent=input_is_latent)


def _multiplier(size: int, width: int, narrow: float) -> int:
    """The channel_multiplier with which the first layer has this width.

    Sides up to 32 do not depend on it and get the usual 2.
    """
    if size <= 32:
        return 2
    found = [m for m in (1, 2, 4, 8) if channels_at(m, narrow)[size] == width]
    if not found:
        raise ValueError(f"no channel_multiplier gives {width} channels at {size} pixels with "
                         f"narrow {narrow:g}")
    return found[0]


def _checked_size(levels: int, what: str) -> int:
    if 2 ** levels not in SIZES:
        raise ValueError(f"holds no network of GPEN: {what} would mean a size of {2 ** levels}")
    return 2 ** levels


def _require(state: Mapping[str, Tensor], what: str, *names: str) -> None:
    missing = [name for name in names if name not in state]
    if missing:
        raise ValueError(f"holds no {what}: no {missing[0]} in "
                         f"{counted(len(state), 'entry', 'entries')}")


def generator_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Generator's arguments, as far as its state dict shows them.

    Raises:
        ValueError: the entries are not a Generator's.
    """
    _require(state, "StyleGAN2 generator", "input.input", "conv1.activate.bias",
             "conv1.conv.modulation.weight")
    levels = len({key.split(".")[1] for key in state if key.startswith("to_rgbs.")}) + 2
    size, width = _checked_size(levels, f"{levels - 2} outputs"), state["input.input"].shape[1]
    _require(state, "StyleGAN2 generator", last := f"convs.{2 * levels - 5}.conv.weight")
    layers = [key for key in state if key.startswith("style.") and key[-7:] == ".weight"]
    return {"size": size, "style_dim": state["conv1.conv.modulation.weight"].shape[1],
            "n_mlp": len(layers), "narrow": width / 512,
            "channel_multiplier": _multiplier(size, state[last].shape[1], width / 512),
            "isconcat": len(state["conv1.activate.bias"]) == 2 * width}


def full_generator_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """FullGenerator's arguments, as far as its state dict shows them.

    Raises:
        ValueError: the entries are not a FullGenerator's.
    """
    _require(state, "GPEN generator", "ecd0.0.0.weight", "final_linear.0.weight")
    return generator_config({key.removeprefix("generator."): value for key, value in state.items()
                             if key.startswith("generator.")})


def discriminator_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Discriminator's arguments, from its state dict.

    Raises:
        ValueError: the entries are not a Discriminator's.
    """
    _require(state, "GPEN discriminator", "convs.0.0.weight", "final_linear.0.weight")
    blocks = {key.split(".")[1] for key in state if key.startswith("convs.")} - {"0"}
    size = _checked_size(len(blocks) + 2, f"{len(blocks)} blocks")
    narrow = state["final_linear.0.weight"].shape[0] / 512
    return {"size": size, "narrow": narrow,
            "channel_multiplier": _multiplier(size, state["convs.0.0.weight"].shape[0], narrow)}

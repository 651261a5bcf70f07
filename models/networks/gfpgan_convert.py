"""From a GFP-GAN "bilinear" state dict to the "clean" one that computes the same.

Equalized layers divide stored weights by sqrt(fan in) at run time and multiply activations by
sqrt(2). Both are positive constants, so a plain layer can hold them in its weights.

Source: TencentARC/GFPGAN, scripts/convert_gfpganv_to_clean.py; the FIR network has no counterpart.
"""
from __future__ import annotations

import math
import re
from collections.abc import Mapping

from torch import Tensor

from models.ops.style_ops import GAIN

MLP_RATE = 0.01
# Pattern of the source key, its clean spelling, and what the value is multiplied by: a constant and
# whether 1 / sqrt(fan in) joins it. The first that fits is taken.
RULES: tuple[tuple[str, str, float, bool], ...] = (
    (r"(conv_body_first|final_conv)\.0\.weight", r"\1.weight", GAIN, True),
    (r"(conv_body_first|final_conv)\.1\.bias", r"\1.bias", GAIN, False),
    (r"(conv_body_\w+\.\d+\.conv1)\.0\.weight", r"\1.weight", GAIN, True),
    (r"(conv_body_\w+\.\d+\.conv1)\.1\.bias", r"\1.bias", GAIN, False),
    # The block's 1 / sqrt(2) cancels the activation's sqrt(2).
    (r"(conv_body_\w+\.\d+\.conv2)\.(?:1\.)?weight", r"\1.weight", 1.0, True),
    (r"(conv_body_\w+\.\d+\.conv2)\.(?:2|activation)\.bias", r"\1.bias", 1.0, False),
    (r"(conv_body_\w+\.\d+\.skip)\.(?:1\.)?weight", r"\1.weight", 1 / GAIN, True),
    (r"((?:toRGB\.\d+|final_linear)\.weight)", r"\1", 1.0, True),
    (r"((?:toRGB\.\d+|final_linear)\.bias)", r"\1", 1.0, False),
    (r"(condition_\w+\.\d+\.0\.weight)", r"\1", GAIN, True),
    (r"(condition_\w+\.\d+\.0\.bias)", r"\1", GAIN, False),
    (r"(condition_\w+\.\d+\.2\.weight)", r"\1", 1.0, True),
    (r"(condition_\w+\.\d+\.2\.bias)", r"\1", 1.0, False),
    (r"(.*\.modulation\.weight)", r"\1", 1.0, True),
    (r"(.*\.modulation\.bias)", r"\1", 1.0, False),
    (r"(.*\.modulated_conv\.weight)", r"\1", 1.0, True),
    (r"(.*\.style_conv\w*(?:\.\d+)?\.weight)", r"\1", GAIN, False),
    (r"(.*\.style_conv\w*(?:\.\d+)?)\.activate\.bias", r"\1.bias", GAIN, False),
    (r"(.*\.(?:to_rgb1|to_rgbs\.\d+)\.bias|.*\.constant_input\.weight|.*\.noises\.\w+)", r"\1",
     1.0, False))


def _fan_in(key: str, value: Tensor) -> int:
    # Modulated weights are (1, O, I, k, k).
    return math.prod(value.shape[2:] if value.ndim == 5 else value.shape[1:])


def _convert_mapping(key: str, value: Tensor) -> tuple[str, Tensor] | None:
    """The mapping network: layer k of equalized ones is layer 2 k - 1, activations between."""
    match = re.fullmatch(r"(.*style_mlp)\.(\d+)\.(weight|bias)", key)
    if match is None:
        return None
    factor = MLP_RATE * GAIN
    if match[3] == "weight":
        factor /= math.sqrt(value.shape[1])
    return f"{match[1]}.{2 * int(match[2]) - 1}.{match[3]}", value * factor


def _convert_entry(key: str, value: Tensor) -> tuple[str, Tensor]:
    if (mapping := _convert_mapping(key, value)) is not None:
        return mapping
    for pattern, spelling, constant, scaled in RULES:
        match = re.fullmatch(pattern, key)
        if match is None:
            continue
        factor = constant / math.sqrt(_fan_in(key, value)) if scaled else constant
        name, value = match.expand(spelling), value * factor
        return name, value.view(1, -1, 1, 1) if key.endswith(".activate.bias") else value
    raise ValueError(f"the weights must be of a bilinear GFP-GAN network, got the entry {key}")


def bilinear_to_clean(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The "clean" state dict that computes what a "bilinear" one does; copies everything.

    Args:
        state: of a bilinear network whose mapping network has learning-rate factor 0.01. The
            "original" network has the same entries and no clean counterpart: the caller must know
            which it is.

    Raises:
        ValueError: an entry that a bilinear network does not have.
    """
    return dict(_convert_entry(key, value.detach()) for key, value in state.items())

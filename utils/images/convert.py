"""Images between arrays, tensors and grids to look at.

Arrays are uint8 RGB (H, W, 3), tensors float32 RGB (B, 3, H, W) in [-1, 1].
"""
from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from utils.images.errors import ImageError


def to_tensor(images: np.ndarray | Tensor,
              memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
    """uint8 (H, W, 3) or (B, H, W, 3) to float32 (B, 3, H, W) in [-1, 1], on the input's device.

    Exactly x / 255, then (x - 0.5) / 0.5, in float32 on every device. `torch.channels_last` costs
    no copy: it is how the input already lies in memory.
    """
    if isinstance(images, np.ndarray):      # torch takes no flipped views, and warns of read-only
        images = torch.from_numpy(np.require(images, requirements=["C", "W"]))
    x = images
    if x.dtype != torch.uint8 or x.ndim not in (3, 4) or x.shape[-1] != 3:
        raise ValueError(f"images must be uint8 (H, W, 3) or (B, H, W, 3), got {x.dtype} "
                         f"{tuple(x.shape)}")
    x = x if x.ndim == 4 else x[None]
    x = x.permute(0, 3, 1, 2).contiguous(memory_format=memory_format).float()
    # CUDA turns division by a Python number into a product with its reciprocal: one bit less.
    return x.div_(x.new_full((), 255.0)).sub_(0.5).div_(0.5)


def levels_to_tensor(levels: Tensor) -> Tensor:
    """float32 gray levels (B, H, W, 3), 0 to 255, to (B, 3, H, W) in [-1, 1]."""
    return (levels / 255 * 2 - 1).movedim(-1, 1).contiguous()


class NotFinite(ImageError):
    """A network gave NaN or infinity; `indices` are the images of its batch that hold them."""

    def __init__(self, indices: list[int]) -> None:
        super().__init__("the network gave NaN or infinity; --opt_level O0 may help")
        self.indices = indices


def check_finite(x: Tensor) -> None:
    """Raise NotFinite unless all of a network's images (B, 3, H, W) are numbers."""
    wrong = ~x.isfinite().flatten(1).all(dim=1)
    if wrong.any():
        raise NotFinite(wrong.nonzero().flatten().tolist())


def to_image(x: Tensor, rounding: str = "round") -> np.ndarray:
    """float (3, H, W) or (B, 3, H, W) in [-1, 1] to uint8 (H, W, 3) or (B, H, W, 3).

    Args:
        x: values outside [-1, 1] are clipped; any device.
        rounding: `round` to nearest, or `truncate`, as SPARNet's published code does.
    """
    if rounding not in ("round", "truncate"):
        raise ValueError(f"rounding must be round or truncate, got {rounding!r}")
    gray_levels = ((x.detach().float() + 1) / 2 * 255).clamp(0, 255)
    if rounding == "round":
        gray_levels = gray_levels.round()
    return gray_levels.to(torch.uint8).movedim(-3, -1).contiguous().cpu().numpy()


def image_grid(rows: Sequence[Sequence[np.ndarray]], gap: int = 4,
               labels: Sequence[str] | None = None) -> np.ndarray:
    """Lay images out in rows and columns on white, for previews and strips.

    Args:
        rows: uint8 (H, W, 3) arrays of any sizes; a smaller one sits in its cell's upper left.
        gap: pixels between cells.
        labels: a title above each column.

    Returns:
        uint8 (H, W, 3).
    """
    widths = [max(row[column].shape[1] for row in rows if column < len(row))
              for column in range(max(len(row) for row in rows))]
    heights = [max(cell.shape[0] for cell in row) for row in rows]
    top = 20 if labels else 0
    grid = np.full((top + sum(heights) + gap * (len(heights) - 1),
                    sum(widths) + gap * (len(widths) - 1), 3), 255, np.uint8)
    lefts = [sum(widths[:column]) + gap * column for column in range(len(widths))]
    for row, height in zip(rows, heights, strict=True):
        for cell, left in zip(row, lefts, strict=False):
            grid[top:top + cell.shape[0], left:left + cell.shape[1]] = cell
        top += height + gap
    for label, left, width in zip(labels or (), lefts, widths, strict=False):
        _write_label(grid[:20, left:left + width], label)
    return grid


def _write_label(strip: np.ndarray, label: str) -> None:
    """Draw black text into a (20, W, 3) view, shrunk until it fits."""
    (width, _), _ = cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, 1.0, 1)
    size = min(0.45, (strip.shape[1] - 2) / max(width, 1))
    drawn = np.ascontiguousarray(strip)
    cv2.putText(drawn, label, (1, 14), cv2.FONT_HERSHEY_SIMPLEX, size, (0, 0, 0), 1, cv2.LINE_AA)
    strip[:] = drawn

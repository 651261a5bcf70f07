"""Upscale a whole photograph with a network, in tiles, for what lies around its faces."""
from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engine import device as devices
from faces.paste import size_at
from faces.photograph import Upscale
from models.networks.pretrained.rrdbnet import RRDBNet, upscaling_network

# Pixels around a tile that the network sees too. Published tools take 10; seams vanish with more.
MARGIN = 32
SMALLEST_TILE = 64      # where there is too little memory for the tiles asked for
logger = logging.getLogger("facezoo")


def network_upscaler(weights: str | Path, device: torch.device, tile: int = 400) -> Upscale:
    """A function that upscales a photograph by any factor: by the network's own, then Lanczos.

    Args:
        weights: Real-ESRGAN's or GPEN's published file, see `models.networks.pretrained.rrdbnet`.
        tile: side of the pieces, in pixels, that bounds memory; 0 takes the photograph whole. It
            is halved where the device has too little.

    Raises:
        FileNotFoundError, ValueError: no such file, or one of another network.
    """
    network = upscaling_network(weights).to(device, memory_format=torch.channels_last)

    def upscale(photo: np.ndarray, scale: float) -> np.ndarray:
        nonlocal tile
        size = size_at(scale, photo.shape)
        while True:
            try:
                large = in_tiles(network, photo, device, tile)
                break
            except Exception as error:
                side = tile or max(photo.shape[:2])
                if not devices.is_out_of_memory(error) or side <= SMALLEST_TILE:
                    raise
                error.__traceback__ = None      # its frames hold what filled the memory
            tile = max(SMALLEST_TILE, side // 2)
            logger.warning("the device is out of memory with tiles of %d pixels; going on with %d",
                           side, tile)
            devices.empty_cache(device)
        if large.shape[1::-1] == size:
            return large
        return cv2.resize(large, size, interpolation=cv2.INTER_LANCZOS4)
    return upscale


@torch.inference_mode()
def in_tiles(network: RRDBNet, photo: np.ndarray, device: torch.device, tile: int) -> np.ndarray:
    """The photograph at the network's scale, the same type; 16 bits go through float32.

    Args:
        photo: uint8 or uint16 RGB (H, W, 3).
        tile: see `network_upscaler`.
    """
    scale, white = network.scale, np.iinfo(photo.dtype).max
    height, width = photo.shape[:2]
    result = np.empty((height * scale, width * scale, 3), photo.dtype)
    for rows, columns in _tiles(height, width, tile):
        # With its margin, as far as the photograph goes.
        top, left = max(0, rows.start - MARGIN), max(0, columns.start - MARGIN)
        piece = photo[top:rows.stop + MARGIN, left:columns.stop + MARGIN]
        x = torch.from_numpy(piece.astype(np.float32)).to(device).div(white)
        y = _whole(network, x.permute(2, 0, 1)[None])[0].mul(white).round().clamp(0, white)
        inner = tuple(slice((part.start - start) * scale, (part.stop - start) * scale)
                      for part, start in ((rows, top), (columns, left)))
        made = y.permute(1, 2, 0)[inner].cpu().numpy().astype(photo.dtype)
        result[rows.start * scale:rows.stop * scale,
               columns.start * scale:columns.stop * scale] = made
    return result


def _tiles(height: int, width: int, tile: int) -> Iterator[tuple[slice, slice]]:
    tile = tile or max(height, width)
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            yield (slice(top, min(top + tile, height)), slice(left, min(left + tile, width)))


def _whole(network: RRDBNet, x: Tensor) -> Tensor:
    """The network's result for sides of any length: mirrored to a multiple, cut again."""
    height, width = x.shape[2:]
    more = [-side % network.unshuffled for side in (width, height)]
    # Sides of one pixel have nothing to mirror.
    mode = "reflect" if min(height, width) > max(more) else "replicate"
    if any(more):
        x = F.pad(x, (0, more[0], 0, more[1]), mode=mode)
    return network(x)[:, :, :height * network.scale, :width * network.scale]

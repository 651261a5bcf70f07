"""Restore images of single faces with a network or a graph, arrays in and out."""
from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from engine import device as devices
from utils.images.convert import NotFinite, check_finite, levels_to_tensor, to_image
from utils.images.errors import OutOfMemory

logger = logging.getLogger("facezoo")


class FaceRestorer:
    """A model that is ready to restore, or what stands in for one, for uint8 RGB images.

    Args:
        model: has `opt`, `preprocess`, `prepare` and `restore`, as models and `export.engine` have.
        device: where it runs.
        rounding: how floats become bytes, see `utils.images.io.to_image`.
    """

    def __init__(self, model: Any, device: torch.device, rounding: str = "round") -> None:
        self.model, self.device, self.rounding = model, device, rounding
        self.largest_batch: int | None = None       # what memory allows, once it was not enough

    def preprocess(self, image: np.ndarray) -> np.ndarray:
        """An image of any size, uint8 (H, W, 3), as the network takes it.

        A crop in float32 has the network's size already and is not rounded.
        """
        return (image if image.dtype == np.float32
                else self.model.preprocess(image, self.model.opt))

    def restore(self, images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """Restored faces, uint8 (N, S, S, 3), of preprocessed images.

        What the device has no memory for is restored in smaller batches, now and from then on.

        Raises:
            NotFinite: the network, in half precision mostly, gave something that is no image.
            OutOfMemory: not even one image fits.
        """
        done: list[np.ndarray] = []
        while len(done) < len(images):
            part = images[len(done):][:self.largest_batch]
            try:
                done += list(self._restore(part))
            except NotFinite as error:
                raise NotFinite([len(done) + index for index in error.indices]) from error
            except Exception as error:
                if not devices.is_out_of_memory(error):
                    raise
                error.__traceback__ = None      # its frames hold what filled the memory
                if len(part) == 1:
                    raise OutOfMemory from None
                self.largest_batch = len(part) // 2
                logger.warning("the device is out of memory with a batch of %d; going on with %d",
                               len(part), self.largest_batch)
                devices.empty_cache(self.device)
        return np.stack(done)

    def _restore(self, images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        batch = torch.from_numpy(np.stack(images)).to(self.device)
        with torch.inference_mode():
            lq = (levels_to_tensor(batch) if batch.is_floating_point()
                  else self.model.prepare({"lq": batch})["lq"])
            restored = self.model.restore(lq)
        check_finite(restored)
        return to_image(restored, self.rounding)

    def restore_crops(self, crops: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """Restored faces of aligned crops; some networks take smaller images than they give."""
        return self.restore([self.preprocess(crop) for crop in crops])

"""The mask of a face, by a parsing network."""
from __future__ import annotations

import numpy as np
import torch

from faces.paste import parsing_mask
from faces.photograph import Mask
from models.networks.parsenet import labels_of, parsing_network
from utils.images.convert import to_tensor
from utils.images.resize import bicubic

PARSING_SIZE = 512      # of the images that parsing networks were made for


def open_parsing_mask(weights: str, device: torch.device) -> Mask:
    """A function from a restored face to how much of it is pasted.

    Args:
        weights: published or own file of a parsing network, see `--mask_weights`.

    Raises:
        ValueError: no such file, or not of a parsing network.
    """
    network = parsing_network(weights, "--mask_weights").to(device)

    def mask(face: np.ndarray) -> np.ndarray:
        x = to_tensor(torch.from_numpy(bicubic(face, PARSING_SIZE, PARSING_SIZE)).to(device))
        with torch.inference_mode():
            labels = labels_of(network(x)[0])[0].cpu().numpy()
        return parsing_mask(labels, len(face))
    return mask

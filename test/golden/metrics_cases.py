"""How the golden cases of metrics are built: PSNR and SSIM of PSFR-GAN's tables, LPIPS, Inception.

The LPIPS cases name weights as torchvision's file and the published heads do; heads are not
negative, so their values are |fill|.
"""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metrics import ms_ssim
from metrics.psnr_ssim import pooled_psnr
from models.networks.pretrained.inception import Inception
from models.networks.pretrained.lpips import LPIPS
from tools.golden import Check, Inputs, compare_all, make_input, run_network, value_for


def image_metrics(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    """PSNR over all images at once, SSIM as the mean over images."""
    images, peak = Inputs(case, torch.device("cpu")), case["config"]["data_range"]
    pairs = [(sr.double(), hr.double()) for sr, hr in zip(images.series("sr"), images.series("hr"),
                                                          strict=True)]
    errors = [(float((sr - hr).square().mean()), sr.numel()) for sr, hr in pairs]
    found = torch.cat([ms_ssim.similarity(sr, hr, peak)[0].mean(dim=1) for sr, hr in pairs])
    return compare_all(case, case["outputs"], {"psnr": pooled_psnr(errors, peak),
                                               "ssim": found.mean()})


def inception(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    return run_network(case, Inception(), device, folder)


@torch.no_grad()
def lpips(case: dict[str, Any], device: torch.device, folder: Path) -> list[Check]:
    network = LPIPS(case["network"].rpartition(".")[2])
    state = network.published_state()
    recorded = {key: tuple(shape) for key, shape in case["state_dict"]}
    wrong = recorded.items() ^ {key: tuple(value.shape) for key, value in state.items()}.items()
    for key, tensor in state.items():
        value = value_for(key, tensor.shape)
        tensor.copy_(torch.from_numpy(np.abs(value) if key.startswith("lin") else value))
    network.to(device)
    first, second = (make_input(**entry).to(device) for entry in case["inputs"])
    layers = network.layer_distances(first, 0.5 * first + 0.5 * second)
    found: dict[str, Tensor] = {"distance": sum(layers)}
    found |= {f"layer{index}": value for index, value in enumerate(layers)}
    return [Check("names of the weights", float(len(wrong)), 0.0),
            *compare_all(case, case["outputs"], found)]


CASES = [
    ("chaofengc/PSFRGAN", "image_metrics", image_metrics),
    ("mseitzer/pytorch-fid", "fid.InceptionV3", inception),
    ("richzhang/PerceptualSimilarity", "lpips.LPIPS.*", lpips),
]

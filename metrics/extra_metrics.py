"""Numbers of single images that networks give: LPIPS, identity, landmarks, parsing.

A metric takes restored images (M, 3, H, W) and their common target (1, 3, H, W), RGB in [-1, 1] on
the device, to numbers by name, each a list of M. Its network comes from a published file.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import checkpoint
from metrics import ms_ssim
from metrics.segmentation import iou_per_image
from models.networks import fan
from models.networks.parsenet import NUM_LABELS, labels_of, parsing_network
from models.networks.pretrained import arcface
from models.networks.pretrained.irse import IRSE50, face_crop
from models.networks.pretrained.landmark_maps import landmark_maps
from models.networks.pretrained.lpips import lpips_network

Metric = Callable[[Tensor, Tensor], dict[str, list[float]]]
PARSING_SIZE = 512      # the side that the parsing network was trained for
# Outer corners of the eyes among 68 points, whose distance in the target is the unit.
EYE_CORNERS = (36, 45)


def keys_of(path: str | Path, flag: str) -> set[str]:
    """Names of a weight file's tensors.

    Raises:
        FileNotFoundError, ValueError: no such file, or no state dict; names the flag.
    """
    with checkpoint.named_by(flag):
        return set(checkpoint.unwrap(checkpoint.read(path), path))


def resize(x: Tensor, side: int) -> Tensor:
    """Square images of this side: bilinear where they grow, means over areas where they shrink,
    which every device computes alike."""
    if min(x.shape[2:]) > side:
        return F.adaptive_avg_pool2d(x, side)
    return F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)


def structure_metric(restored: Tensor, gt: Tensor) -> dict[str, list[float]]:
    """MS-SSIM of images of 16 x 16 pixels or more; no network."""
    restored, gt = ms_ssim.float_images(restored), ms_ssim.float_images(gt)
    return {"ms_ssim": ms_ssim.ms_ssim(restored, gt.expand_as(restored)).tolist()}


def lpips_metric(paths: Sequence[str | Path], device: torch.device,
                flag: str = "--lpips_weights") -> Metric:
    """LPIPS, called by its backbone: `lpips_alex`, `lpips_vgg`."""
    network = lpips_network(paths, flag).to(device)

    def metric(restored: Tensor, gt: Tensor) -> dict[str, list[float]]:
        return {f"lpips_{network.net}": network(restored, gt).tolist()}
    return metric


# ---- identity ------------------------------------------------------------------------------------

def identity_metric(path: str | Path, device: torch.device,
                   flag: str = "--arcface_weights") -> Metric:
    """Cosine and angle in degrees between recognition vectors: arcface_resnet18.pth, with which
    GFP-GAN's "Deg." is measured, or model_ir_se50.pth, on the crop of GPEN's identity loss.

    Raises:
        FileNotFoundError, ValueError: no such file, or of another network.
    """
    keys = keys_of(path, flag)
    if "fc5.weight" in keys:
        network, prepare = arcface.ArcFace(), arcface.gray_input
    elif "input_layer.0.weight" in keys:
        network, prepare = IRSE50(), face_crop
    else:
        raise ValueError(f"{flag}: {path} is neither arcface_resnet18.pth nor model_ir_se50.pth")
    network.load_published(path, flag)
    return identity_of(network.to(device), prepare)


def identity_of(network: nn.Module, prepare: Callable[[Tensor], Tensor]) -> Metric:
    """The metric of a network that takes prepared images to vectors (B, N) of any length."""
    def metric(restored: Tensor, gt: Tensor) -> dict[str, list[float]]:
        vectors = network(prepare(torch.cat([restored, gt]))).float().cpu().double()
        cosine = F.cosine_similarity(vectors[:-1], vectors[-1:]).clamp(-1, 1)
        return {"id_cosine": cosine.tolist(), "id_degrees": cosine.acos().rad2deg().tolist()}
    return metric


# ---- landmarks -----------------------------------------------------------------------------------

def landmark_metric(path: str | Path, device: torch.device,
                   flag: str = "--landmark_weights") -> Metric:
    """Distance of the landmarks seen in the result from those seen in the target, by PFSRNet's
    distilled network or by 2DFAN-4.

    Raises:
        FileNotFoundError, ValueError: no such file, or of another network.
    """
    return landmarks_of(*landmark_maps(path, device, flag))


def landmarks_of(maps_of: Callable[[Tensor], Tensor], side: int) -> Metric:
    """The metric of a network from RGB (B, 3, side, side) in [0, 1] to heat-maps (B, 68, h, w).

    `landmark_pixels` is the mean distance in pixels of the images' height, `landmark_nme` in
    distances between the target's outer eye corners, or one pixel where that is less.
    """
    def metric(restored: Tensor, gt: Tensor) -> dict[str, list[float]]:
        maps = maps_of(resize(0.5 * torch.cat([restored, gt]) + 0.5, side)).float().cpu()
        scale = torch.tensor([gt.shape[3] / maps.shape[3], gt.shape[2] / maps.shape[2]])
        points = fan.peaks(maps) * scale                        # (M + 1, 68, 2)
        distance = (points[:-1] - points[-1:]).norm(dim=2).mean(dim=1)
        first, second = points[-1, list(EYE_CORNERS)]
        unit = float((first - second).norm().clamp(min=1))
        return {"landmark_pixels": distance.tolist(), "landmark_nme": (distance / unit).tolist()}
    return metric


# ---- parsing -------------------------------------------------------------------------------------

def parsing_metric(path: str | Path, device: torch.device,
                  flag: str = "--parsing_weights") -> Metric:
    """Mean intersection over union of the regions seen in the result and in the target.

    Raises:
        FileNotFoundError, ValueError: no such file, or of another network.
    """
    keys_of(path, flag)         # a file in any case: "random" is for training's smoke runs
    return parsing_of(parsing_network(path, flag).to(device), PARSING_SIZE)


def parsing_of(network: Callable[[Tensor], tuple[Tensor, Tensor]], side: int) -> Metric:
    """The metric of a network from RGB (B, 3, side, side) to logits of the regions, and more."""
    def metric(restored: Tensor, gt: Tensor) -> dict[str, list[float]]:
        labels = labels_of(network(resize(torch.cat([restored, gt]), side))[0])
        target = labels[-1:].expand(len(restored), -1, -1)
        return {"parsing_iou": iou_per_image(labels[:-1], target, NUM_LABELS)}
    return metric

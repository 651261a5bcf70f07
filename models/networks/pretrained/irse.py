"""IR-SE50, the face recognition network behind GPEN's identity loss.

Source: ArcFace (arXiv 1801.07698), squeeze and excitation (arXiv 1709.01507); weights
`model_ir_se50.pth`.
"""
from __future__ import annotations

import logging
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import checkpoint
from models.ops.init import draw_fixed

INPUT_SIZE = 112
# What of an aligned image of 256 pixels shows the face: rows, then columns.
CROP, CROP_SIZE = ((35, 256 - 33), (32, 256 - 36)), 256
# Channels and number of units of each stage; a stage's first unit halves the sides.
STAGES = ((64, 3), (128, 4), (256, 14), (512, 3))
REDUCTION = 16
logger = logging.getLogger("facezoo")


def face_crop(images: Tensor) -> Tensor:
    """The face of aligned images, as the network wants it.

    Args:
        images: (B, C, H, W), aligned as FFHQ is. Published for multiples of 256; at other sizes the
            crop is scaled and cut to whole pixels.

    Returns:
        (B, C, 112, 112).
    """
    rows, columns = (slice(*(edge * side // CROP_SIZE for edge in edges))
                     for edges, side in zip(CROP, images.shape[2:], strict=True))
    return F.adaptive_avg_pool2d(images[:, :, rows, columns], INPUT_SIZE)


class SqueezeExcitation(nn.Module):
    """Scales channels by what their means say."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // REDUCTION, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // REDUCTION, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(mean))))


class Unit(nn.Module):
    """Residual unit; its shortcut is a convolution where the channels change."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        if in_channels != channels:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))
        else:
            self.shortcut_layer = None
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(in_channels), nn.Conv2d(in_channels, channels, 3, 1, 1, bias=False),
            nn.PReLU(channels), nn.Conv2d(channels, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels), SqueezeExcitation(channels))

    def forward(self, x: Tensor) -> Tensor:
        if self.shortcut_layer is None:
            shortcut = x[:, :, ::self.stride, ::self.stride]
        else:
            shortcut = self.shortcut_layer(x)
        return shortcut + self.res_layer(x)


class IRSE50(nn.Module):
    """Unit vectors that tell people apart; frozen, always in eval mode."""

    # Names follow the published file; dropout and flattening of its output layer have no weights.
    def __init__(self) -> None:
        super().__init__()
        self.input_layer = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64),
                                         nn.PReLU(64))
        last = STAGES[-1][0]
        side = INPUT_SIZE >> len(STAGES)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(last), nn.Identity(), nn.Flatten(),
            nn.Linear(last * side * side, 512), nn.BatchNorm1d(512))
        units, width = [], 64
        for channels, count in STAGES:
            for index in range(count):
                units.append(Unit(width, channels, 1 if index else 2))
                width = channels
        self.body = nn.Sequential(*units)
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        """(B, 512) of length 1 for RGB faces (B, 3, 112, 112) in [-1, 1]."""
        return F.normalize(self.output_layer(self.body(self.input_layer(x))))

    def train(self, mode: bool = True) -> IRSE50:
        """Stays in eval mode: it is never trained."""
        return super().train(False)

    def load_published(self, path: str | Path, flag: str = "--id_weights") -> None:
        """Load model_ir_se50.pth.

        Args:
            path: the file, or "random" to keep the seeded draw (smoke runs only).
            flag: named in errors.

        Raises:
            FileNotFoundError, ValueError: no such file, no checkpoint, or another network's.
        """
        if str(path) == checkpoint.RANDOM:
            logger.warning("%s %s: THE IDENTITY LOSS COMPARES FEATURES OF AN UNTRAINED NETWORK. "
                           "This is for smoke runs only; give model_ir_se50.pth to train a network "
                           "worth keeping", flag, checkpoint.RANDOM)
            draw_fixed(self, 50, 1.0)
            return
        with checkpoint.named_by(flag):
            state = checkpoint.load_weights(path, self.state_dict())
        self.load_state_dict(state)

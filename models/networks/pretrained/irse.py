"""IR-SE50, the face recognition network behind GPEN's identity loss.

Source: ArcFace (arXiv 1801.07698), squeeze and excitation (arXiv 1709.01507); weights
`model_ir_se50.pth`.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.ops.fixed import FixedNetwork

INPUT_SIZE = 112
# The face in an aligned image of 256 pixels: rows, then columns.
CROP, CROP_SIZE = ((35, 256 - 33), (32, 256 - 36)), 256
# Channels and number of units of each stage; a stage's first unit halves the sides.
STAGES = ((64, 3), (128, 4), (256, 14), (512, 3))
REDUCTION = 16


def face_crop(images: Tensor) -> Tensor:
    """The face of aligned images, as the network wants it.

    Args:
        images: (B, C, H, W), aligned as FFHQ is. Published for multiples of 256; at other sizes the
            crop is scaled and rounded to whole pixels.

    Returns:
        (B, C, 112, 112).
    """
    rows, columns = (slice(*(edge * side // CROP_SIZE for edge in edges))
                     for edges, side in zip(CROP, images.shape[2:], strict=True))
    return F.adaptive_avg_pool2d(images[:, :, rows, columns], INPUT_SIZE)


class SqueezeExcitation(nn.Module):
    """Scales channels by weights computed from their means."""

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


class IRSE50(FixedNetwork):
    """Unit vectors that identify people; frozen, always in eval mode."""
    flag, published = "--id_weights", "model_ir_se50.pth"
    use = "THE IDENTITY LOSS COMPARES FEATURES OF"
    draw = (50, 1.0)

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

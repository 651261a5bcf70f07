"""RetinaFace: finds faces and five points of each in an image of any size.

Source: arXiv 1905.00641; layouts of biubug6/Pytorch_Retinaface as used by xinntao/facexlib and
yangxy/GPEN (`detection_Resnet50_Final.pth`, `RetinaFace-R50.pth`, MobileNet 0.25).
"""
from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDES = (8, 16, 32)
Anchors = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
ANCHORS: Anchors = ((16, 32), (64, 128), (256, 512))
# The second: biubug6/Face-Detector-1MB-with-landmark, whose MobileNet has plain ReLUs.
KNOWN_ANCHORS: tuple[Anchors, ...] = (ANCHORS, ((10, 20), (32, 64), (128, 256)))
VARIANCES = (0.1, 0.2)
# Of BGR images in 0..255, subtracted before the network.
MEAN_BGR = (104.0, 117.0, 123.0)
BACKBONES = ("resnet50", "mobile0.25")


class Variant(NamedTuple):
    """What names and shapes of a weight file do not tell; the defaults are Pytorch_Retinaface's.

    Attributes:
        anchors: two sides in pixels for each of STRIDES.
        plain_relu: MobileNet's ReLUs are plain ones instead of leaky; ResNet-50's always are.
        rgb: images are RGB; the numbers of MEAN_BGR are subtracted in the same order.
    """
    anchors: Anchors = ANCHORS
    plain_relu: bool = False
    rgb: bool = False


class RetinaFace(nn.Module):
    """Box, score and landmark regressions for two anchors per cell of three levels.

    Args:
        backbone: one of BACKBONES.

    Raises:
        ValueError: no such backbone.
    """

    # Names follow the released checkpoints: body, fpn, ssh1..3, ClassHead, BboxHead, LandmarkHead.
    def __init__(self, backbone: str = "resnet50") -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"backbone must be one of {', '.join(BACKBONES)}, got {backbone!r}")
        large = backbone == "resnet50"
        self.body = ResNet50() if large else MobileNet()
        width, slope = (256, 0.0) if large else (64, 0.1)
        self.slope = slope
        self.fpn = FeaturePyramid((512, 1024, 2048) if large else (64, 128, 256), width, slope)
        for level in (1, 2, 3):
            setattr(self, f"ssh{level}", ContextModule(width, slope))
        for name, values in (("ClassHead", 2), ("BboxHead", 4), ("LandmarkHead", 10)):
            setattr(self, name, nn.ModuleList(Head(width, values) for _ in STRIDES))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Raw predictions, anchors in the order of `anchors`.

        Args:
            x: (B, 3, H, W) BGR in 0..255 minus MEAN_BGR.

        Returns:
            Boxes (B, N, 4), softmax of background and face (B, N, 2), points (B, N, 10).
        """
        maps = [getattr(self, f"ssh{level}")(feature)
                for level, feature in enumerate(self.fpn(self.body(x)), 1)]
        boxes, scores, points = (
            torch.cat([head(feature) for head, feature in zip(heads, maps, strict=True)], dim=1)
            for heads in (self.BboxHead, self.ClassHead, self.LandmarkHead))
        return boxes, scores.softmax(dim=-1), points

    def set_plain_relu(self, plain: bool) -> None:
        """Make all leaky ReLUs plain ones, or leaky again; see `Variant`."""
        for module in self.modules():
            if isinstance(module, nn.LeakyReLU):
                module.negative_slope = 0.0 if plain else self.slope


def anchors(height: int, width: int, device: torch.device | None = None,
            table: Anchors = ANCHORS) -> Tensor:
    """Anchors (N, 4) as center x, center y, width, height in units of the image's sides.

    Args:
        table: two sides in pixels for each of STRIDES.
    """
    parts = []
    for stride, sizes in zip(STRIDES, table, strict=True):
        rows, columns = math.ceil(height / stride), math.ceil(width / stride)
        y, x, size = torch.meshgrid(
            (torch.arange(rows, device=device) + 0.5) * stride / height,
            (torch.arange(columns, device=device) + 0.5) * stride / width,
            torch.tensor(sizes, dtype=torch.float32, device=device), indexing="ij")
        parts.append(torch.stack([x, y, size / width, size / height], dim=-1).view(-1, 4))
    return torch.cat(parts)


def decode_boxes(raw: Tensor, priors: Tensor) -> Tensor:
    """Regressions (..., N, 4) to corners x1, y1, x2, y2 in units of the image's sides."""
    center = priors[:, :2] + VARIANCES[0] * raw[..., :2] * priors[:, 2:]
    size = priors[:, 2:] * torch.exp(VARIANCES[1] * raw[..., 2:])
    return torch.cat([center - size / 2, center + size / 2], dim=-1)


def decode_points(raw: Tensor, priors: Tensor) -> Tensor:
    """Regressions (..., N, 10) to five points x, y in units of the image's sides."""
    points = raw.unflatten(-1, (5, 2))
    return (priors[:, None, :2] + VARIANCES[0] * points * priors[:, None, 2:]).flatten(-2)


# ---- parts ---------------------------------------------------------------------------------------

def unit(in_channels: int, out_channels: int, kernel: int = 3, *, stride: int = 1,
         slope: float | None = 0.0) -> nn.Sequential:
    """Convolution and batch norm, then a leaky ReLU unless `slope` is None."""
    layers = [nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
              nn.BatchNorm2d(out_channels)]
    return nn.Sequential(*layers, *([] if slope is None else [nn.LeakyReLU(slope)]))


class FeaturePyramid(nn.Module):
    """Three levels of one width, the finer ones with what the coarser ones know."""

    def __init__(self, channels: tuple[int, int, int], width: int, slope: float) -> None:
        super().__init__()
        for level, each in enumerate(channels, 1):
            setattr(self, f"output{level}", unit(each, width, 1, slope=slope))
        self.merge1 = unit(width, width, slope=slope)
        self.merge2 = unit(width, width, slope=slope)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        fine, middle, coarse = (getattr(self, f"output{level}")(feature)
                                for level, feature in enumerate(features, 1))
        middle = self.merge2(middle + F.interpolate(coarse, size=middle.shape[2:]))
        fine = self.merge1(fine + F.interpolate(middle, size=fine.shape[2:]))
        return [fine, middle, coarse]


class ContextModule(nn.Module):
    """Looks at each place with fields of 3, 5 and 7 pixels."""

    # Upper and lower case follow the released checkpoints.
    def __init__(self, width: int, slope: float) -> None:
        super().__init__()
        half, quarter = width // 2, width // 4
        self.conv3X3 = unit(width, half, slope=None)
        self.conv5X5_1 = unit(width, quarter, slope=slope)
        self.conv5X5_2 = unit(quarter, quarter, slope=None)
        self.conv7X7_2 = unit(quarter, quarter, slope=slope)
        self.conv7x7_3 = unit(quarter, quarter, slope=None)

    def forward(self, x: Tensor) -> Tensor:
        shared = self.conv5X5_1(x)
        return F.relu(torch.cat([self.conv3X3(x), self.conv5X5_2(shared),
                                 self.conv7x7_3(self.conv7X7_2(shared))], dim=1))


class Head(nn.Module):
    """(B, C, H, W) to (B, 2 H W, values): two anchors per cell."""

    def __init__(self, width: int, values: int) -> None:
        super().__init__()
        self.values = values
        self.conv1x1 = nn.Conv2d(width, 2 * values, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv1x1(x).permute(0, 2, 3, 1).reshape(len(x), -1, self.values)


class Bottleneck(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = 4 * channels
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = (unit(in_channels, out_channels, 1, stride=stride, slope=None)
                           if stride > 1 or in_channels != out_channels else nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.downsample(x))


class ResNet50(nn.Module):
    """The last three stages of ResNet-50 (arXiv 1512.03385), torchvision's key names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        in_channels = 64
        for index, (channels, depth) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), 1):
            blocks = [Bottleneck(in_channels, channels, 1 if index == 1 else 2)]
            in_channels = 4 * channels
            blocks += [Bottleneck(in_channels, channels, 1) for _ in range(depth - 1)]
            setattr(self, f"layer{index}", nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.layer1(F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1))
        fine = self.layer2(x)
        middle = self.layer3(fine)
        return [fine, middle, self.layer4(middle)]


class MobileNet(nn.Module):
    """MobileNet of a quarter's width (arXiv 1704.04861), the output of its three stages."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(unit(3, 8, stride=2, slope=0.1),
                                    *_separable((8, 16, 32, 32, 64, 64), (1, 2, 1, 2, 1)))
        self.stage2 = nn.Sequential(*_separable((64, *[128] * 6), (2, 1, 1, 1, 1, 1)))
        self.stage3 = nn.Sequential(*_separable((128, 256, 256), (2, 1)))

    def forward(self, x: Tensor) -> list[Tensor]:
        fine = self.stage1(x)
        middle = self.stage2(fine)
        return [fine, middle, self.stage3(middle)]


def _separable(channels: tuple[int, ...], strides: tuple[int, ...]) -> list[nn.Sequential]:
    """Depthwise and pointwise convolutions, each with batch norm and leaky ReLU."""
    return [nn.Sequential(
        nn.Conv2d(before, before, 3, stride, 1, groups=before, bias=False),
        nn.BatchNorm2d(before), nn.LeakyReLU(0.1),
        nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after), nn.LeakyReLU(0.1))
        for (before, after), stride in zip(pairwise(channels), strides, strict=True)]

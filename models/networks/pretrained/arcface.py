"""ArcFace's ResNet-18 for gray faces, the network of GFP-GAN's identity loss.

Source: ArcFace (arXiv 1801.07698); TencentARC/GFPGAN; weights `arcface_resnet18.pth`.
"""
from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from models.ops.fixed import FixedNetwork

INPUT_SIZE = 128
LUMA = (0.2989, 0.5870, 0.1140)


class SqueezeExcitation(nn.Module):
    """Channel weights computed from the channels' means."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(channels, channels // reduction), nn.PReLU(),
                                nn.Linear(channels // reduction, channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(x.mean(dim=(2, 3)))[..., None, None]


class IRBlock(nn.Module):
    """Residual block with a batch norm before everything; one PReLU serves twice."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, use_se: bool) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.prelu = nn.PReLU()
        self.conv2 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels))
        if use_se:
            self.se = SqueezeExcitation(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.prelu(self.bn1(self.conv1(self.bn0(x))))
        y = self.bn2(self.conv2(y))
        y = self.se(y) if hasattr(self, "se") else y
        return self.prelu(y + (self.downsample(x) if hasattr(self, "downsample") else x))


class ArcFace(FixedNetwork):
    """ResNet with IR blocks, frozen, in eval mode for good.

    Args:
        layers: blocks of the four stages.
        use_se: squeeze-and-excitation in every block.
        widths: channels of the stages.
    """
    flag, published = "--id_weights", "arcface_resnet18.pth"
    use = "THE IDENTITY LOSS COMPARES FEATURES OF"
    draw = (18, 1.0)

    # Names follow the released checkpoint.
    def __init__(self, layers: tuple[int, ...] = (2, 2, 2, 2), *, use_se: bool = False,
                 widths: tuple[int, ...] = (64, 128, 256, 512)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.prelu = nn.PReLU()
        self.maxpool = nn.MaxPool2d(2)
        channels = widths[0]
        for stage, (count, width) in enumerate(zip(layers, widths, strict=True), 1):
            blocks = []
            for index in range(count):
                stride = 2 if stage > 1 and index == 0 else 1
                blocks.append(IRBlock(channels, width, stride, use_se))
                channels = width
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.bn4 = nn.BatchNorm2d(channels)
        self.fc5 = nn.Linear(channels * (INPUT_SIZE // 16) ** 2, 512)
        self.bn5 = nn.BatchNorm1d(512)
        self.num_stages = len(layers)
        self.requires_grad_(False).eval()

    def forward(self, gray: Tensor) -> Tensor:
        """(B, 512), of any length, for gray faces (B, 1, 128, 128) in [-1, 1]."""
        x = self.maxpool(self.prelu(self.bn1(self.conv1(gray))))
        for stage in range(1, self.num_stages + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        return self.bn5(self.fc5(self.bn4(x).flatten(1)))



def gray_input(image: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1] as the network takes them: gray, 128 x 128, bilinear.

    Faces are not aligned again; the published weights were trained with FFHQ-like crops in mind.
    """
    gray = sum(weight * image[:, channel:channel + 1] for channel, weight in enumerate(LUMA))
    return F.interpolate(gray, size=(INPUT_SIZE, INPUT_SIZE), mode="bilinear", align_corners=False)

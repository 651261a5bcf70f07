"""GFP-GAN's discriminators: of the whole image, and of an eye or the mouth.

Source: GFP-GAN (arXiv 2101.04061), TencentARC/GFPGAN; StyleGAN2 (arXiv 1912.04958).
"""
from __future__ import annotations

import torch
from torch import Tensor, nn

from models.networks.gfpgan_layers import BiasedEqualConv2d, without_saved_filters
from models.networks.stylegan2 import ConvLayer, EqualLinear, ResBlock, channels_at, check_size
from models.ops.style_ops import EPS, channels_last, to_float32

GROUP = 4


def with_group_deviation(x: Tensor, group: int = GROUP) -> Tensor:
    """x and one more channel: its standard deviation over groups of images, as one number.

    Args:
        x: (B, C, H, W).
        group: images per group; where it does not divide the batch, the largest divisor below.
            The published layer fails there unless the batch is smaller.

    Returns:
        (B, C + 1, H, W); with n groups sample b is in group b mod n.
    """
    batch = x.shape[0]
    size = max(count for count in range(1, group + 1) if batch % count == 0)
    groups = to_float32(x).reshape(size, batch // size, *x.shape[1:])
    # In half precision the epsilon is 0, and the root of a single image's variance has no slope.
    deviation = torch.sqrt(groups.var(dim=0, unbiased=False) + EPS).mean(dim=(1, 2, 3))
    channel = deviation.to(x.dtype).repeat(size).view(batch, 1, 1, 1)
    return torch.cat((x, channel.expand(-1, 1, *x.shape[2:])), dim=1)


class StyleGAN2Discriminator(nn.Module):
    """StyleGAN2's residual discriminator; the logits of four images depend on each other.

    Args:
        size: side of the images, a power of two from 8 to 1024.
        channel_multiplier: of the widths above 32 pixels.
        narrow: of all widths.
        group: see with_group_deviation.
    """

    # Names and their order follow the released checkpoints.
    def __init__(self, *, size: int, channel_multiplier: int = 2, narrow: float = 1.0,
                 group: int = GROUP) -> None:
        super().__init__()
        levels, widths = check_size(size), channels_at(channel_multiplier, narrow)
        blocks = [ResBlock(widths[2 ** k], widths[2 ** (k - 1)]) for k in range(levels, 2, -1)]
        self.conv_body = nn.Sequential(ConvLayer(3, widths[size], 1), *blocks)
        self.final_conv = ConvLayer(widths[4] + 1, widths[4], 3)
        self.final_linear = nn.Sequential(EqualLinear(16 * widths[4], widths[4], activate=True),
                                          EqualLinear(widths[4], 1))
        self.group = group
        without_saved_filters(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 1) of images (B, 3, size, size)."""
        x = self.final_conv(with_group_deviation(self.conv_body(channels_last(x)),
                                                 self.group))
        return self.final_linear(x.flatten(1))


class FacialComponentDiscriminator(nn.Module):
    """Discriminator of crops of one facial component, of any size.

    Args:
        channels: of the first layer; 64 is published.
    """

    # Names follow the released checkpoints.
    def __init__(self, *, channels: int = 64) -> None:
        super().__init__()
        one, two, four = channels, 2 * channels, 4 * channels
        self.conv1 = ConvLayer(3, one, 3)
        self.conv2 = ConvLayer(one, two, 3, down=True)
        self.conv3 = ConvLayer(two, two, 3)
        self.conv4 = ConvLayer(two, four, 3, down=True)
        self.conv5 = ConvLayer(four, four, 3)
        self.final_conv = nn.Sequential(BiasedEqualConv2d(four, 1, 3))
        without_saved_filters(self)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits (B, 1, H/4, W/4) of crops (B, 3, H, W), and the two features that the style loss
        compares: (B, 2 channels, H/2, W/2) and (B, 4 channels, H/4, W/4)."""
        first = self.conv3(self.conv2(self.conv1(channels_last(x))))
        second = self.conv5(self.conv4(first))
        return self.final_conv(second), [first, second]

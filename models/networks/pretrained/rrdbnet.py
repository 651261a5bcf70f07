"""RRDBNet: super-resolution of a photograph's background.

Source: ESRGAN (arXiv 1809.00219), Real-ESRGAN (arXiv 2107.10833); the layout of the released
`RealESRGAN_x2plus.pth`, `RealESRGAN_x4plus.pth` and GPEN's `realesrnet_x1.pth`, `_x2`, `_x4`.
"""
from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import checkpoint

SLOPE = 0.2
RESIDUAL = 0.2      # factor on the branch of a dense block, and on that of three of them
# Factor of the sides before the two doublings, by the network's scale.
UNSHUFFLED = {1: 4, 2: 2, 4: 1}


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees what all before it gave."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        for index in range(4):
            setattr(self, f"conv{index + 1}",
                    nn.Conv2d(channels + index * growth, growth, 3, padding=1))
        self.conv5 = nn.Conv2d(channels + 4 * growth, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        known = x
        for index in range(4):
            new = F.leaky_relu(getattr(self, f"conv{index + 1}")(known), SLOPE, inplace=True)
            known = torch.cat((known, new), dim=1)
        return torch.add(x, self.conv5(known), alpha=RESIDUAL)


class RRDB(nn.Module):
    """Residual in residual: three dense blocks."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        for index in (1, 2, 3):
            setattr(self, f"rdb{index}", DenseBlock(channels, growth))

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.rdb3(self.rdb2(self.rdb1(x))), alpha=RESIDUAL)


class RRDBNet(nn.Module):
    """Upscales an image by 1, 2 or 4.

    Args:
        scale: 1, 2 or 4.
        channels: width of the trunk.
        num_blocks: of three dense blocks each.
        growth: channels a convolution of a dense block adds.

    Raises:
        ValueError: another scale.
    """

    # Names follow the released checkpoints: conv_first, body.N.rdbM.convK, conv_body, conv_up1, ...
    def __init__(self, scale: int = 2, channels: int = 64, num_blocks: int = 23,
                 growth: int = 32) -> None:
        super().__init__()
        if scale not in UNSHUFFLED:
            raise ValueError(f"scale must be one of {', '.join(map(str, UNSHUFFLED))}, got {scale}")
        self.scale, self.unshuffled = scale, UNSHUFFLED[scale]
        self.conv_first = nn.Conv2d(3 * self.unshuffled ** 2, channels, 3, padding=1)
        self.body = nn.Sequential(*(RRDB(channels, growth) for _ in range(num_blocks)))
        for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
            setattr(self, name, nn.Conv2d(channels, channels, 3, padding=1))
        self.conv_last = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """The upscaled image, not clipped.

        Args:
            x: (B, 3, H, W) RGB in [0, 1]; sides are multiples of 4 / scale.

        Returns:
            (B, 3, scale H, scale W).
        """
        first = self.conv_first(F.pixel_unshuffle(x, self.unshuffled))
        y = first + self.conv_body(self.body(first))
        for conv in (self.conv_up1, self.conv_up2):
            y = F.interpolate(y, scale_factor=2, mode="nearest")
            y = F.leaky_relu(conv(y), SLOPE, inplace=True)
        return self.conv_last(F.leaky_relu(self.conv_hr(y), SLOPE, inplace=True))


def upscaling_network(path: str | Path, flag: str = "--background_weights") -> RRDBNet:
    """The network of a weight file, whose shapes tell scale and widths, ready for inference.

    Raises:
        FileNotFoundError, ValueError: no such file, or one of another network; names the flag.
    """
    with checkpoint.named_by(flag):
        state = checkpoint.unwrap(checkpoint.read(path), path)
        first, growing = state.get("conv_first.weight"), state.get("body.0.rdb1.conv1.weight")
        scales = {3 * factor ** 2: scale for scale, factor in UNSHUFFLED.items()}
        if first is None or growing is None or first.shape[1] not in scales:
            raise ValueError(f"{path} must hold an RRDBNet, such as RealESRGAN_x2plus.pth or "
                             f"realesrnet_x2.pth")
        num_blocks = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("body."))
        network = RRDBNet(scales[first.shape[1]], first.shape[0], num_blocks, growing.shape[0])
        checkpoint.check_match(state, network.state_dict(), path)
    network.load_state_dict(state)
    return network.requires_grad_(False).eval()

"""Flags of the adversarial training of SPARNetHD and PSFR-GAN."""
from __future__ import annotations

import argparse
from typing import Any

from models.losses.gan import TERMS
from models.ops.blocks import NORMS

# The published learning rates are 1e-4 and 4e-4.
D_RATE = 4.0


def add_gan_flags(parser: Any, weights: dict[str, tuple[float, str]], vgg_for: str) -> None:
    """Add the flags.

    Args:
        weights: by name of a loss its default weight and what it is, for --lambda_NAME.
        vgg_for: the losses that need --vgg_weights.
    """
    for name, (default, text) in weights.items():
        parser.add_argument(f"--lambda_{name}", type=float, default=default,
                            help=f"weight of the {text}")
    parser.add_argument("--vgg_weights", metavar="FILE",
                        help=f"torchvision's vgg19-dcbb9e9d.pth for {vgg_for}; `random` for quick "
                             "tests only")
    parser.add_argument("--g_lr", type=float, help="learning rate of G (default: --lr)")
    parser.add_argument("--d_lr", type=float,
                        help=f"learning rate of D (default: {D_RATE:g} times that of G)")
    parser.add_argument("--gan_mode", default="hinge", choices=tuple(TERMS),
                        help="GAN loss").rare = True
    parser.add_argument("--Dnorm", default="in", choices=NORMS,
                        help="norm layers of the discriminator").rare = True
    parser.add_argument("--num_D", "--D_num", type=int, default=3, metavar="N",
                        help="number of discriminators, one per scale").rare = True
    parser.add_argument("--n_layers_D", type=int, default=4, metavar="N",
                        help="downsampling layers of each discriminator").rare = True
    parser.add_argument("--ndf", type=int, default=64, metavar="N",
                        help="channels of each discriminator's first layer").rare = True


def discriminator_settings(opt: argparse.Namespace) -> dict[str, Any]:
    """Arguments of a MultiScale discriminator out of the flags."""
    return {"num_scales": opt.num_D, "n_layers": opt.n_layers_D, "base_channels": opt.ndf,
            "norm": opt.Dnorm}


def learning_rates(opt: argparse.Namespace) -> dict[str, float]:
    """Learning rate of each optimizer, by letter."""
    g_lr = opt.lr if opt.g_lr is None else opt.g_lr
    return {"G": g_lr, "D": D_RATE * g_lr if opt.d_lr is None else opt.d_lr}

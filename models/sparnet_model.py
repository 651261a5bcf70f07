"""SPARNet: face super-resolution by spatial attention residual networks."""
from __future__ import annotations

import argparse
import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metrics.published import Figure
from models.base_model import BaseModel
from models.networks.sparnet import ATTENTION_MAP_SIZE, ATTENTIONS, SPARNet
from models.ops.blocks import NORMS
from models.ops.init import init_weights

HELEN = ("Helen's test split of DICNet, 16 to 128 pixels, Y truncated to bytes (--protocol "
         "published); trained on CelebA")
SOURCE = "chaofengc/Face-SPARNet, README"
NON_COMMERCIAL = "CC BY-NC-SA 4.0"
# Of a residual block.
LAST_CONV = "conv2.conv2d.weight"


class SPARNetModel(BaseModel):
    """SPARNet, x8 face super-resolution with an L1 loss (arXiv 2012.01211).

    Train:   python newtrain.py --model sparnet --scale_factor 8 --dataroot FACES
    Setting: batch 32, Adam 2e-4 (0.9, 0.99), 20 epochs of CelebA faces, 128 x 128
    Source:  chaofengc/Face-SPARNet
    """
    rounding = "truncate"
    weights_license = NON_COMMERCIAL
    figures = (
        Figure("SPARNet, paper", {"PSNR": 26.97, "SSIM": 0.8026}, HELEN, SOURCE),
        Figure("SPARNet, released", {"PSNR": 27.43, "SSIM": 0.8201}, HELEN, SOURCE),
        Figure("SPARNet light 3D, released", {"PSNR": 27.39, "SSIM": 0.8189}, HELEN, SOURCE))
    size_multiple = 8       # three halvings; other sizes come back larger than they went in

    @staticmethod
    def modify_commandline_options(parser: Any, is_train: bool) -> None:
        add_network_flags(parser, norm="bn")
        if is_train:
            parser.add_argument("--lambda_pix", type=float, default=1.0, help="weight of the L1")

    @classmethod
    def build(cls, opt: argparse.Namespace) -> dict[str, nn.Module]:
        return {"G": SPARNet(**network_settings(opt))}

    @classmethod
    def settings_of(cls, state: dict[str, Tensor]) -> dict[str, Any]:
        return network_settings_of(state, halvings=3, name="SPARNet")

    def __init__(self, opt: argparse.Namespace, device: torch.device) -> None:
        super().__init__(opt, device)
        network = self.build(opt)["G"]
        if self.is_train:
            init_weights(network, opt.init_type, opt.init_gain)
        self.add_network("G", network)
        if self.is_train:
            self.add_optimizer("G", lr=opt.lr, betas=(opt.beta1, 0.99))

    def train_step(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        pixel = F.l1_loss(self.restore(batch["lq"]), batch["gt"])
        self.optimize("G", self.opt.lambda_pix * pixel)
        return {"Pix": self.opt.lambda_pix * pixel.detach()}

    def restore(self, lq: Tensor) -> Tensor:
        return self.networks["G"](lq)


def add_network_flags(parser: Any, norm: str) -> None:
    """The flags of SPARNet and SPARNetHD; `norm` is the default of --Gnorm."""
    parser.add_argument("--res_depth", type=int, default=10,
                        help="blocks of the body; 1 is the published light network")
    parser.add_argument("--att_name", default="spar", choices=ATTENTIONS,
                        help="one attention map, or one per channel")
    parser.add_argument("--bottleneck_size", type=int, default=4,
                        help="side of the innermost attention map: 2, 4, 8 or 16")
    parser.add_argument("--Gnorm", default=norm, choices=NORMS,
                        help="normalisation of the generator")


def network_settings(opt: argparse.Namespace) -> dict[str, Any]:
    """Arguments of SPARNet out of the shared flags."""
    return {"res_depth": opt.res_depth, "att_name": opt.att_name, "norm": opt.Gnorm,
            "bottleneck_size": opt.bottleneck_size}


def network_settings_of(state: dict[str, Tensor], halvings: int, name: str) -> dict[str, Any]:
    """The shared flags that a state dict shows.

    Args:
        halvings: what sets SPARNetHD (4) and SPARNet (3) apart, and counts the blocks of the body.
        name: of the network, for messages.

    Raises:
        ValueError: the entries are not this network's.
    """
    attention = state.get("encoder.1.att_func.out_block.0.conv2d.weight")
    if (attention is None or f"encoder.{halvings}.{LAST_CONV}" not in state
            or _count(state, r"decoder\.(\d+)\.") != halvings):
        raise ValueError(f"holds no {name}")
    depth = _count(state, r"encoder\.1\.att_func\.b1_(\d+)\.")
    norm = "encoder.1.conv1.norm.norm."
    return {"res_depth": _count(state, r"res_layers\.(\d+)\.") + halvings - 3,
            "att_name": "spar" if attention.shape[0] == 1 else "spar3d",
            "bottleneck_size": ATTENTION_MAP_SIZE >> depth,
            "Gnorm": "bn" if f"{norm}running_mean" in state
            else ("in", "gn") if f"{norm}weight" in state else ("none", "pixel")}


def _count(state: dict[str, Tensor], pattern: str) -> int:
    """How many different numbers the pattern finds in the names."""
    return len({match[1] for key in state if (match := re.match(pattern, key))})

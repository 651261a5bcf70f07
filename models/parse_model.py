"""Face parsing: the network that finds the regions of a face for PSFR-GAN."""
from __future__ import annotations

import argparse
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metrics.segmentation import iou_per_image
from models.base_model import BaseModel
from models.networks.parsenet import MIN_CHANNELS, NUM_LABELS, ParseNet, config_of, labels_of
from models.ops.blocks import NORMS

SIZE_MULTIPLE = 16


class ParseModel(BaseModel):
    """Face parsing network, cross entropy of 19 regions and L1 of the image (arXiv 2009.08709).

    Train:   python newtrain.py --model parse --dataroot CelebAMask-HQ --lq_size 32 255
    Setting: batch 8, Adam 2e-4 (0.9, 0.999), 512 x 512, CelebAMask-HQ
    Source:  chaofengc/PSFRGAN; its published weights are for non-commercial use

    Its weights, `<S>_net_P.pth`, are what --model psfrgan takes as --parse_weights.
    """
    dataset = "celebahqmask"
    degradation = "blind"
    size_multiple = SIZE_MULTIPLE
    inference_network = "P"
    best_by = "mIoU"
    rounding = "truncate"
    extra_outputs = {"labels": "parse"}
    weights_license = "CC BY-NC-SA 4.0"

    @staticmethod
    def modify_commandline_options(parser: Any, is_train: bool) -> None:
        add_parse_flags(parser)
        if is_train:
            parser.add_argument("--parse_map", type=float, default=1.0, metavar="WEIGHT",
                                help="weight of the parsing map's cross entropy")
            parser.add_argument("--parse_sr", type=float, default=1.0, metavar="WEIGHT",
                                help="weight of the restored image's L1 loss")

    @classmethod
    def defaults(cls, is_train: bool) -> dict[str, Any]:
        common = {"load_size": 512}
        return {**common, "batch_size": 8, "lr": 2e-4} if is_train else common

    @classmethod
    def build(cls, opt: argparse.Namespace) -> dict[str, nn.Module]:
        return {"P": ParseNet(**parse_settings(opt))}

    @classmethod
    def settings_of(cls, state: dict[str, Tensor]) -> dict[str, Any]:
        shown = config_of(state)
        return {"Pnorm": shown.get("norm", ("in", "none", "pixel")),
                "parse_channels": shown["base_channels"], "parse_depth": shown["res_depth"]}

    def __init__(self, opt: argparse.Namespace, device: torch.device) -> None:
        super().__init__(opt, device)
        # No init_weights: it keeps PyTorch's draw, biases included, as published.
        self.add_network("P", self.build(opt)["P"])
        if self.is_train:
            self.add_optimizer("P", lr=opt.lr, betas=(opt.beta1, 0.999))

    def train_step(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        if "labels" not in batch:
            raise ValueError("--model parse needs a dataset with labels, such as celebahqmask or "
                             f"synthetic, got --dataset_name {self.opt.dataset_name}")
        logits, restored = self.networks["P"](batch["lq"])
        losses = {
            "P": self.opt.parse_map * F.cross_entropy(logits, batch["labels"].long()),
            "SR": self.opt.parse_sr * F.l1_loss(restored, batch["gt"])}
        self.optimize("P", sum(losses.values()))
        return {name: loss.detach() for name, loss in losses.items()}

    @torch.no_grad()
    def parse(self, image: Tensor) -> Tensor:
        """Labels (B, H, W) int64 of images (B, 3, H, W) in [-1, 1]."""
        return labels_of(self.networks["P"](image)[0])

    def measure(self, batch: dict[str, Any], restored: Tensor) -> dict[str, list[float]]:
        """Mean intersection over union over the regions of each image, where it has labels."""
        if "labels" not in batch:
            return {}
        return {"mIoU": iou_per_image(self.parse(batch["lq"]), batch["labels"], NUM_LABELS)}

    def restore(self, lq: Tensor) -> Tensor:
        return self.networks["P"](lq)[1]


def add_parse_flags(parser: Any, fixed: bool = False) -> None:
    """The flags that describe the parsing network.

    Args:
        fixed: it is only used; what the user leaves out is then read from its weights.
    """
    own = " (default: that of the weights)" if fixed else ""
    norm, channels, depth = (None, None, None) if fixed else ("bn", 64, 10)
    parser.add_argument("--Pnorm", default=norm, choices=NORMS,
                        help=f"norm layers of the parsing network{own}").rare = True
    parser.add_argument("--parse_channels", type=int, default=channels, metavar="N",
                        help=f"channels of the parsing network's first layer, up to 256{own}"
                        ).rare = True
    parser.add_argument("--parse_depth", type=int, default=depth, metavar="N",
                        help=f"residual blocks in the parsing network's middle{own}").rare = True


def parse_settings(opt: argparse.Namespace) -> dict[str, Any]:
    """Arguments of ParseNet from those flags that are given."""
    settings = {"norm": opt.Pnorm, "base_channels": opt.parse_channels,
                "res_depth": opt.parse_depth}
    if opt.parse_channels is not None:
        settings["min_channels"] = min(MIN_CHANNELS, opt.parse_channels)
    return {name: value for name, value in settings.items() if value is not None}

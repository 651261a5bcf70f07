"""GPEN: blind restoration by a StyleGAN2 whose noise and code come from an encoder."""
from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import checkpoint
from metrics.published import Figure
from models.losses.identity import identity_loss
from models.networks.gpen import FullGenerator, full_generator_config
from models.networks.pretrained.irse import IRSE50
from models.style_options import add_network_flags, add_training_flags, settings_of
from models.style_training import StyleTraining
from utils.images.resize import opencv_bilinear

# YUV's Y of RGB, as OpenCV has it.
LUMA = (0.299, 0.587, 0.114)
logger = logging.getLogger("facezoo")


class GPENModel(StyleTraining):
    """GPEN: adversarial, smooth L1 and identity losses, lazy R1 and path length (arXiv 2105.06070).

    Train:   python newtrain.py --model gpen --preset 512 --dataroot FFHQ --id_weights
             model_ir_se50.pth --prior RUN/latest_net_H.pth --d_weights RUN/latest_net_D.pth
    Setting: batch 1 or 2, Adam 0.002 times 4/5 (G), 16/17 (D), betas (0, 0.99) to those powers
    Source:  yangxy/GPEN; its weights are for academic, non-commercial use only

    H is the moving average of G, what restores images; published files hold H's weights. Other
    tasks are other data: see docs/gpen.md for colorization, inpainting and seg2face.
    """
    degradation = "gpen"
    template = "gpen"
    rounding = "truncate"
    weights_license = "academic and non-commercial use"
    figures = (
        Figure("GPEN-BFR-512, fp32, third party", {"PSNR": 25.983},
               "first 1000 pairs of CelebAMask-HQ, GFP-GAN's degradation, unseeded, as JPEG; at "
               "512 pixels, RGB, over all pixels; degraded anew about 0.2 dB apart",
               "Vastai/VastModelZOO"),)
    generator = FullGenerator

    # -- options ----------------------------------------------------------------------------------

    @staticmethod
    def modify_commandline_options(parser: Any, is_train: bool) -> None:
        add_network_flags(parser)
        parser.add_argument("--unit_range", action=argparse.BooleanOptionalAction, default=False,
                            help="the network's images are in [0, 1] instead of [-1, 1], as for "
                                 "GPEN-Seg2face-512.pth")
        parser.add_argument("--keep_luminance", action=argparse.BooleanOptionalAction,
                            default=False,
                            help="keep the input's luminance, for colorization; has no effect on "
                                 "the losses")
        if not is_train:
            return
        add_training_flags(parser, path_batch_shrink=1)
        parser.add_argument("--decoder_lr", type=float,
                            help="learning rate of G's StyleGAN2 decoder (default: --lr)")
        parser.add_argument("--prior", metavar="FILE",
                            help="initial weights of G's StyleGAN2 decoder, of --model stylegan2 "
                                 "or another StyleGAN2 with the same keys")
        for name, text in (("pix", "smooth L1 loss"), ("id", "identity loss")):
            parser.add_argument(f"--lambda_{name}", type=float, default=1.0,
                                help=f"weight of the {text}")
        parser.add_argument("--id_weights", metavar="FILE",
                            help="model_ir_se50.pth for the identity loss; `random` for quick "
                                 "tests only")

    @classmethod
    def check(cls, opt: argparse.Namespace) -> None:
        super().check(opt)
        if not opt.is_train or opt.preview_degradation:
            return
        if opt.lambda_id and not opt.id_weights:
            raise ValueError("--id_weights is missing: give model_ir_se50.pth, or leave the "
                             "identity loss out with --lambda_id 0")
        if opt.prior and opt.pretrain_model_path:
            raise ValueError("--prior and --pretrain_model_path must not be given together, since "
                             "both start G")

    @classmethod
    def settings_of(cls, state: dict[str, Tensor]) -> dict[str, Any]:
        return settings_of(full_generator_config(state))

    # -- building ---------------------------------------------------------------------------------

    def __init__(self, opt: argparse.Namespace, device: torch.device) -> None:
        super().__init__(opt, device)
        if self.is_train and opt.lambda_id:
            network = IRSE50()
            network.load_published(opt.id_weights)
            self.add_network("ID", network, saved=False)

    def _groups(self, factor: float) -> Callable[[nn.Module], list[dict]] | None:
        if self.opt.decoder_lr is None:
            return None

        def groups(network: nn.Module) -> list[dict]:
            decoder = [p for key, p in network.named_parameters() if key.startswith("generator.")]
            encoder = [p for key, p in network.named_parameters()
                       if not key.startswith("generator.")]
            return [{"params": encoder}, {"params": decoder, "lr": self.opt.decoder_lr * factor}]
        return groups

    def setup(self, state: dict[str, Any] | None = None) -> None:
        if self.is_train and state is None and self.opt.prior:
            for name in ("G", "H"):
                load_prior(self.unwrapped[name].generator, self.opt.prior)
        super().setup(state)

    # -- training ---------------------------------------------------------------------------------

    def _make(self, batch: dict[str, Any], stream: int) -> Tensor:
        return self._restored_by("G", batch["lq"])

    def _images_and_latents(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        return self._in_fp32("G", self._scaled(batch["lq"]), return_latents=True)

    def _losses(self, made: Tensor, batch: dict[str, Any]) -> dict[str, Tensor]:
        opt, gt = self.opt, batch["gt"]
        losses = {"Pix": opt.lambda_pix * F.smooth_l1_loss(made, gt)}
        if opt.lambda_id:
            losses["ID"] = opt.lambda_id * identity_loss(self.networks["ID"], made, gt)
        return losses

    # -- restoring --------------------------------------------------------------------------------

    @staticmethod
    def preprocess(image: np.ndarray, opt: argparse.Namespace) -> np.ndarray:
        """Bilinear to --load_size squared, as the original does."""
        return opencv_bilinear(image, opt.load_size, opt.load_size)

    def restore(self, lq: Tensor) -> Tensor:
        restored = self._restored_by("H" if self.is_train else "G", lq)
        if not self.opt.keep_luminance:
            return restored
        # Equal amounts in all channels change Y only, not U and V.
        weights = lq.new_tensor(LUMA).view(1, 3, 1, 1)
        return restored + ((lq - restored) * weights).sum(1, keepdim=True)

    def _restored_by(self, name: str, lq: Tensor) -> Tensor:
        made = self.networks[name](self._scaled(lq))[0]
        return made * 2 - 1 if self.opt.unit_range else made

    def _scaled(self, lq: Tensor) -> Tensor:
        """Images in [-1, 1] in the range of the generator."""
        return (lq + 1) / 2 if self.opt.unit_range else lq


def load_prior(network: nn.Module, path: str) -> None:
    """Load a StyleGAN2's weights into the generator inside G, and log what was skipped.

    Args:
        network: the Generator inside a FullGenerator.
        path: plain weights of a generator, a training checkpoint that holds them as g_ema, or
            weights of a FullGenerator, whose encoder is skipped.

    Raises:
        FileNotFoundError, ValueError: no such file, no checkpoint, or another network's.
    """
    with checkpoint.named_by("--prior"):
        state = checkpoint.unwrap(checkpoint.read(path), path, "G")
        if any(key.startswith("generator.") for key in state):
            inner = {key.removeprefix("generator."): value for key, value in state.items()
                     if key.startswith("generator.")}
        else:       # noise maps kept by other implementations are drawn anew here
            inner = {key: value for key, value in state.items() if not key.startswith("noises.")}
        checkpoint.check_match(inner, network.state_dict(), path)
    network.load_state_dict(inner)
    logger.info("the prior starts from %d of %d entries in %s", len(inner), len(state), path)

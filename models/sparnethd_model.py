"""SPARNetHD: blind restoration of aligned 512-pixel faces with adversarial training."""
from __future__ import annotations

import argparse
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metrics.published import Figure
from models.base_model import BaseModel, frozen
from models.gan_options import add_gan_flags, discriminator_settings, learning_rates
from models.losses.gan import discriminator_loss, feature_matching_loss, generator_loss
from models.losses.perceptual import feature_l1
from models.networks.patch_discriminator import MultiScaleDiscriminator
from models.networks.pretrained.vgg import VGGFeatures
from models.networks.sparnet import SPARNet
from models.ops.init import init_weights
from models.ops.spectral import apply_spectral_norm, iterate_spectral_norms
from models.sparnet_model import (
    LAST_CONV,
    NON_COMMERCIAL,
    SOURCE,
    add_network_flags,
    network_settings,
    network_settings_of,
)

# relu1_2, relu2_2, relu3_4, relu4_4 and conv5_4 before its ReLU: the published slices end before
# ReLUs that then overwrite them in place, all but the last.
VGG_LAYERS = (3, 8, 17, 26, 34)
TEST_N = "FID of CelebA-TestN (1117 images) to CelebAHQ-Test-HR, pytorch-fid"


class SPARNetHDModel(BaseModel):
    """SPARNetHD: L1, VGG19 perceptual, feature-matching and hinge losses (arXiv 2012.01211).

    Train:   python newtrain.py --model sparnethd --dataroot FFHQ --vgg_weights vgg19-dcbb9e9d.pth
    Setting: batch 2, Adam 1e-4 (G), 4e-4 (D), betas (0.5, 0.99), 10 epochs of FFHQ, 512 x 512
    Source:  chaofengc/Face-SPARNet

    H is the moving average of G, what restores images; published files hold H's weights.
    """
    dataset = "ffhq"
    degradation = "blind"
    loss_scale = "dynamic"      # the weight of the L1 times 128 overflows fp16 gradients
    size_multiple = 16      # four halvings; other sizes come back larger than they went in
    inference_network = "H"
    crop_filter = "bicubic"
    rounding = "truncate"
    weights_license = NON_COMMERCIAL
    figures = (
        Figure("SPARNetHD, paper", {"FID": 27.16}, TEST_N, SOURCE),
        Figure("SPARNetHD 2D, released", {"FID": 26.72}, TEST_N, SOURCE),
        Figure("SPARNetHD 3D, released", {"FID": 28.42}, TEST_N, SOURCE))

    @staticmethod
    def modify_commandline_options(parser: Any, is_train: bool) -> None:
        add_network_flags(parser, norm="in")
        parser.add_argument("--max_channels", type=int, default=512, metavar="N",
                            help="max channels of a layer of G; below 512 is for quick tests, "
                                 "published weights do not fit").rare = True
        if not is_train:
            return
        add_gan_flags(parser, {"pix": (100.0, "L1 loss"), "pcp": (1.0, "perceptual loss"),
                               "fm": (10.0, "feature matching loss"), "g": (1.0, "GAN loss")},
                      vgg_for="the perceptual loss")
        parser.add_argument("--ema_decay", type=float, default=0.999,
                            help="decay per step of the EMA weights H").rare = True

    @classmethod
    def defaults(cls, is_train: bool) -> dict[str, Any]:
        common = {"load_size": 512}
        return {**common, "batch_size": 2, "lr": 1e-4, "beta1": 0.5, "total_epochs": 10,
                "init_type": "default"} if is_train else common

    @classmethod
    def check(cls, opt: argparse.Namespace) -> None:
        super().check(opt)
        if not opt.is_train:
            return
        if not 0 <= opt.ema_decay < 1:
            raise ValueError(f"--ema_decay must be from 0 to below 1, got {opt.ema_decay}")
        if opt.lambda_pcp and not (opt.vgg_weights or opt.preview_degradation):
            raise ValueError("--vgg_weights is missing: give torchvision's vgg19-dcbb9e9d.pth, or "
                             "leave the perceptual loss out with --lambda_pcp 0")

    @classmethod
    def build(cls, opt: argparse.Namespace) -> dict[str, nn.Module]:
        networks: dict[str, nn.Module] = {"G": SPARNet(
            size=512, feat_size=32, max_channels=opt.max_channels, **network_settings(opt))}
        if opt.is_train:
            networks["D"] = MultiScaleDiscriminator(**discriminator_settings(opt))
        return networks

    @classmethod
    def settings_of(cls, state: dict[str, Tensor]) -> dict[str, Any]:
        plain = {key.replace("weight_orig", "weight"): value for key, value in state.items()}
        found = network_settings_of(plain, halvings=4, name="SPARNetHD")
        return found | {"max_channels": len(plain[f"encoder.4.{LAST_CONV}"])}

    def __init__(self, opt: argparse.Namespace, device: torch.device) -> None:
        super().__init__(opt, device)
        for name, network in self.build(opt).items():
            if self.is_train:       # before wrapping, so that u and v belong to the weights
                init_weights(network, opt.init_type, opt.init_gain)
            self.add_network(name, apply_spectral_norm(network))
        if not self.is_train:
            return
        self.add_ema("H", of="G")
        for name, lr in learning_rates(opt).items():
            self.add_optimizer(name, lr=lr, betas=(opt.beta1, 0.99))
        if opt.lambda_pcp:
            vgg = VGGFeatures("vgg19", VGG_LAYERS, resize=True)
            vgg.load_published(opt.vgg_weights)
            self.add_network("VGG", vgg, saved=False)

    def train_step(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        opt, gt = self.opt, batch["gt"]
        restored = self.networks["G"](batch["lq"])
        # Each forward of D is one power iteration, so their order matters.
        real_logits, gt_features = self.networks["D"](gt)
        fake_logits, _ = self.networks["D"](restored.detach())
        with frozen(self.unwrapped["D"]):
            logits, features = self.networks["D"](restored)
        losses = {
            "Pix": opt.lambda_pix * F.l1_loss(restored, gt),
            "FM": opt.lambda_fm * feature_matching_loss(gt_features, features),
            "G": opt.lambda_g * generator_loss(logits, opt.gan_mode)}
        if opt.lambda_pcp:
            losses["PCP"] = opt.lambda_pcp * self._perceptual(restored, gt)
        self.optimize("G", sum(losses.values()))
        losses["D"] = discriminator_loss(real_logits, fake_logits, opt.gan_mode)
        self.optimize("D", losses["D"])
        return {name: loss.detach() for name, loss in losses.items()}

    def before_backward(self) -> None:
        self.update_ema("H", self.opt.ema_decay)    # H lags by one step, as published
        iterate_spectral_norms(self.unwrapped["H"])

    def _perceptual(self, restored: Tensor, gt: Tensor) -> Tensor:
        with torch.no_grad():
            gt_features = self.networks["VGG"](gt)
        return feature_l1(self.networks["VGG"](restored), gt_features)

    def restore(self, lq: Tensor) -> Tensor:
        return self.networks["H" if self.is_train else "G"](lq)

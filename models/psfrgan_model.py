"""PSFR-GAN: blind restoration of aligned faces, steered by a parsing map at every scale."""
from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metrics.published import Figure
from models.base_model import BaseModel, frozen
from models.gan_options import add_gan_flags, discriminator_settings, learning_rates
from models.losses.gan import discriminator_loss, generator_loss
from models.losses.style import feature_mse, style_loss
from models.networks.parsenet import NUM_LABELS, labels_of, one_hot, parsing_network
from models.networks.pretrained.vgg import VGGFeatures
from models.networks.psfrgan import FEAT_SIZE, NORMS, ParsedDiscriminator, PSFRGenerator
from models.ops.init import init_weights
from models.ops.spectral import apply_spectral_norm
from models.parse_model import add_parse_flags, parse_settings

# relu1_2, relu2_2, relu3_4, relu4_4 and conv5_4 before its ReLU: the published slices end before
# ReLUs that then overwrite them in place, all but the last. The style loss takes the last three.
VGG_LAYERS = (3, 8, 17, 26, 34)
STYLE_FROM = 2
PCP_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
CELEBA_HQ = ("2800 images of CelebA-HQ at 512 pixels, an unseeded choice; JPEG of quality 75; PSNR "
             "over all images at once (psnr_pooled), RGB; LPIPS of VGG; FID to the targets")
REIMPLEMENTED = "a published re-implementation of PSFR-GAN, its README"


class PSFRGANModel(BaseModel):
    """PSFR-GAN: L1, style per face region, feature matching and hinge losses (arXiv 2009.08709).

    Train:   python newtrain.py --model psfrgan --dataroot FFHQ --lq_size 32 255
             --parse_weights parse_multi_iter_90000.pth --vgg_weights vgg19-dcbb9e9d.pth
    Setting: batch 4, Adam 1e-4 (G), 4e-4 (D), betas (0.5, 0.999), 20 epochs of FFHQ, 512 x 512
    Source:  chaofengc/PSFRGAN; its published weights are for non-commercial use

    The parsing network P is fixed and not saved. Samples that bring no labels are labeled by it
    too, from the target, which is how the published training's were made.
    """
    dataset = "ffhq"
    degradation = "blind"
    loss_scale = "dynamic"      # the weight of the L1 times 128 overflows fp16 gradients
    size_multiple = FEAT_SIZE
    crop_filter = "bicubic"
    rounding = "truncate"
    extra_outputs = {"labels": "parse"}
    weights_license = "CC BY-NC-SA 4.0"
    figures = (
        Figure("psfrgan_epoch15_net_G.pth, 70,000 FFHQ images",
               {"PSNR": 24.8226, "SSIM": 0.6729, "LPIPS": 0.3347, "FID": 12.0026}, CELEBA_HQ,
               REIMPLEMENTED),
        Figure("epoch_20_net_gen.pth, 35,000 images, batch 4",
               {"PSNR": 24.5472, "SSIM": 0.6648, "LPIPS": 0.3290, "FID": 11.9687}, CELEBA_HQ,
               REIMPLEMENTED))
    min_size = 2 * FEAT_SIZE        # the parsing network's is 17

    @staticmethod
    def modify_commandline_options(parser: Any, is_train: bool) -> None:
        parser.add_argument("--parse_weights", "--parse_net_weight", metavar="FILE",
                            help="parsing network: parse_multi_iter_90000.pth or one of --model "
                                 "parse; `random` for quick tests only")
        add_parse_flags(parser, fixed=True)
        parser.add_argument("--Gnorm", default="spade", choices=NORMS,
                            help="norm layers of G; only spade uses image and parsing map"
                            ).rare = True
        parser.add_argument("--max_channels", type=int, default=1024, metavar="N",
                            help="max channels of a layer of G; below 1024 is for quick tests, "
                                 "published weights do not fit").rare = True
        if is_train:
            add_gan_flags(parser, {
                "pix": (10.0, "L1 loss"), "pcp": (0.0, "perceptual loss"),
                "fm": (10.0, "feature matching loss"),
                "g": (1.0, "GAN loss"),
                "ss": (100.0, "style loss of each face region; the published command has 1000")},
                vgg_for="style and perceptual loss")

    @classmethod
    def defaults(cls, is_train: bool) -> dict[str, Any]:
        common = {"load_size": 512}
        return {**common, "batch_size": 4, "lr": 1e-4, "beta1": 0.5,
                "total_epochs": 20} if is_train else common

    @classmethod
    def check(cls, opt: argparse.Namespace) -> None:
        super().check(opt)
        if opt.is_train and opt.preview_degradation:    # which needs no network
            return
        if not opt.parse_weights:
            raise ValueError("--parse_weights is missing: give parse_multi_iter_90000.pth or the "
                             "weights of a run of --model parse")
        if opt.is_train and (opt.lambda_ss or opt.lambda_pcp) and not opt.vgg_weights:
            raise ValueError("--vgg_weights is missing: give torchvision's vgg19-dcbb9e9d.pth, or "
                             "leave the style loss out with --lambda_ss 0")

    @classmethod
    def build(cls, opt: argparse.Namespace) -> dict[str, nn.Module]:
        return dict(cls._built(opt))

    @staticmethod
    def _built(opt: argparse.Namespace) -> Iterator[tuple[str, nn.Module]]:
        """What `build` gives, one at a time: G's spectral norm draws before D's weights do."""
        yield "G", PSFRGenerator(size=opt.load_size, norm=opt.Gnorm, max_channels=opt.max_channels,
                                 min_channels=min(32, opt.max_channels))
        if opt.is_train:
            yield "D", ParsedDiscriminator(**discriminator_settings(opt))

    @staticmethod
    def example_inputs(opt: argparse.Namespace) -> tuple[Any, ...]:
        size = opt.load_size
        return torch.zeros(1, 3, size, size), torch.zeros(1, NUM_LABELS, size, size)

    @classmethod
    def settings_of(cls, state: dict[str, Tensor]) -> dict[str, Any]:
        if "const_input" not in state:
            raise ValueError("holds no generator of PSFR-GAN")
        if any(key.startswith("to_rgb") for key in state):
            raise ValueError("is of PSFR-GAN's design before March 2021, which is not supported; "
                             "use psfrgan_epoch15_net_G.pth")
        stages = {key.split(".")[1] for key in state if key.startswith("body.")}
        return {"load_size": FEAT_SIZE * 2 ** len(stages),
                "max_channels": state["const_input"].shape[1],
                "Gnorm": "spade" if any(".gamma_conv." in key for key in state) else "in"}

    def __init__(self, opt: argparse.Namespace, device: torch.device) -> None:
        super().__init__(opt, device)
        for name, network in self._built(opt):
            # --init_type is D's: G keeps PyTorch's draw, biases included, as published.
            if name == "D":         # before wrapping, so that u and v belong to the weights
                init_weights(network, opt.init_type, opt.init_gain)
            self.add_network(name, apply_spectral_norm(network))
        parser = parsing_network(opt.parse_weights, "--parse_weights", **parse_settings(opt))
        self.add_network("P", parser, saved=False)
        if not self.is_train:
            return
        for name, lr in learning_rates(opt).items():
            self.add_optimizer(name, lr=lr, betas=(opt.beta1, 0.999))
        if opt.lambda_ss or opt.lambda_pcp:
            vgg = VGGFeatures("vgg19", VGG_LAYERS, resize=True)
            vgg.load_published(opt.vgg_weights)
            self.add_network("VGG", vgg, saved=False)

    def train(self) -> None:
        super().train()
        self.unwrapped["P"].eval()       # batch statistics of a fixed network would be an accident

    def train_step(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        opt, gt = self.opt, batch["gt"]
        labels = batch["labels"] if "labels" in batch else self.parse(gt)
        mask = one_hot(labels)
        restored = self.restore(batch["lq"])
        # Each forward of D is one power iteration, so their order matters.
        real_logits, gt_features = self.networks["D"](gt, mask)
        fake_logits, _ = self.networks["D"](restored.detach(), mask)
        with frozen(self.unwrapped["D"]):
            logits, features = self.networks["D"](restored, mask)
        matching = [feature_mse(restored_features, target)
                    for restored_features, target in zip(features, gt_features, strict=True)]
        losses = {
            "Pix": opt.lambda_pix * F.l1_loss(restored, gt),
            "FM": opt.lambda_fm * torch.stack(matching).mean(),
            "G": opt.lambda_g * generator_loss(logits, opt.gan_mode),
            **self._vgg_losses(restored, gt, labels)}
        self.optimize("G", sum(losses.values()))
        losses["D"] = discriminator_loss(real_logits, fake_logits, opt.gan_mode)
        self.optimize("D", losses["D"])
        return {name: loss.detach() for name, loss in losses.items()}

    def _vgg_losses(self, restored: Tensor, gt: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The losses on VGG features whose weight is not 0."""
        opt, losses = self.opt, {}
        if not (opt.lambda_ss or opt.lambda_pcp):
            return losses
        with torch.no_grad():
            gt_features = self.networks["VGG"](gt)
        restored_features = self.networks["VGG"](restored)
        if opt.lambda_ss:
            losses["SS"] = opt.lambda_ss * style_loss(
                restored_features[STYLE_FROM:], gt_features[STYLE_FROM:], labels, NUM_LABELS)
        if opt.lambda_pcp:
            losses["PCP"] = opt.lambda_pcp * feature_mse(restored_features, gt_features,
                                                        PCP_WEIGHTS)
        return losses

    @torch.no_grad()
    def parse(self, image: Tensor) -> Tensor:
        """Labels (B, H, W) int64 of images (B, 3, H, W) in [-1, 1]."""
        return labels_of(self.networks["P"](image)[0])

    def restore(self, lq: Tensor) -> Tensor:
        return self.networks["G"](lq, one_hot(self.parse(lq)))

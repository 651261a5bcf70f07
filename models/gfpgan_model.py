"""GFP-GAN: blind restoration of aligned faces with a generative prior."""
from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from engine import checkpoint
from metrics.published import Figure
from models.base_model import BaseModel, frozen
from models.gfpgan_options import (
    DEFAULT_PRESET,
    add_network_flags,
    add_training_flags,
    agrees,
    check_training_flags,
    network_settings,
    settings_of,
)
from models.losses.gan import fake_term, generator_term, real_term
from models.losses.perceptual import feature_l1, pyramid_losses
from models.losses.regularizers import r1_penalty
from models.losses.style import gram_l1
from models.networks.gfpgan import GFPGAN
from models.networks.gfpgan_discriminators import (
    FacialComponentDiscriminator,
    StyleGAN2Discriminator,
)
from models.networks.pretrained.arcface import ArcFace, gray_input
from models.networks.pretrained.vgg import VGGFeatures
from models.ops.roi_align import roi_align
from models.ops.style_ops import to_float32
from utils import face_parts
from utils.face_parts import PARTS
from utils.images.resize import opencv_bilinear

# conv1_2, conv2_2, conv3_4, conv4_4 and conv5_4 before their ReLUs, and what they weigh.
VGG_LAYERS, VGG_WEIGHTS = (2, 7, 16, 25, 34), (0.1, 0.1, 1.0, 1.0, 1.0)
COMPONENT_STYLE_WEIGHTS = (0.5, 1.0)
COMPONENTS = {part: f"D_{part}" for part in PARTS}
COMPONENT_BETAS = (0.9, 0.99)
# Lazy regularization: D's second beta counts the steps that R1 would have had of its own.
LAZY_BETA = 0.99 ** (16 / 17)
REMOVED = 1e-12
# Plain layers take the full learning rate; equalized ones divide it by sqrt(fan in), 20 and more.
CLEAN_RATE = 1 / 20
logger = logging.getLogger("facezoo")


class GFPGANModel(BaseModel):
    """GFP-GAN with all losses of the published training (arXiv 2101.04061).

    Train:   python newtrain.py --config options/gfpgan_v1.yaml --dataroot FFHQ
             --component_file PARTS.json
    Setting: batch 12, Adam 2e-3, 800,000 steps, halved at 600,000 and 700,000; 512 x 512
    Source:  TencentARC/GFPGAN, options/train_gfpgan_v1.yml and train_gfpgan_v1_simple.yml

    H is the moving average of G, what restores images; published files hold its weights under
    `params_ema`. Discriminators of eyes and mouth are D_left_eye, D_right_eye and D_mouth; samples
    that bring no boxes get them from their landmarks, or from the template of FFHQ-aligned faces.
    """
    dataset = "components"
    degradation = "gfpgan"
    loss_scale = "dynamic"      # the weight of the component style loss overflows fp16 gradients
    inference_network = "H"
    robust_alignment = True     # facexlib's, which the published program uses
    weights_license = "Apache-2.0"
    figures = (
        Figure("GFP-GAN, retrained by PaddleGAN, 210,000 steps",
               {"PSNR": 22.94, "LPIPS": 0.3817, "FID": 36.8068},
               "the tutorial's test images, LPIPS net not noted; PSNR is printed as 65.0461, "
               "from images in [-1, 1] with a peak of 255, here with their peak of 2",
               "PaddlePaddle/PaddleGAN, tutorial"),)
    file_keys = {"H": "params_ema"}
    gradients = "average"       # R1 is differentiated twice

    @staticmethod
    def modify_commandline_options(parser: Any, is_train: bool) -> None:
        add_network_flags(parser)
        if is_train:
            add_training_flags(parser)

    @classmethod
    def defaults(cls, is_train: bool) -> dict[str, Any]:
        common = {"load_size": 512}
        return {**common, "batch_size": 3, "lr": 2e-3, "beta1": 0.0,
                "init_type": "default"} if is_train else common

    @classmethod
    def resolve(cls, opt: argparse.Namespace) -> None:
        if opt.preset == "auto":        # and no weight file has decided it
            opt.preset = DEFAULT_PRESET[opt.is_train]

    @classmethod
    def check(cls, opt: argparse.Namespace) -> None:
        if opt.is_train:
            check_training_flags(opt)
        super().check(opt)

    @classmethod
    def build(cls, opt: argparse.Namespace) -> dict[str, nn.Module]:
        settings = network_settings(opt)
        networks: dict[str, nn.Module] = {"G": GFPGAN(**settings)}
        if not opt.is_train:
            return networks
        widths = {key: settings[key] for key in ("size", "channel_multiplier", "narrow")}
        if opt.D_channel_multiplier:
            widths["channel_multiplier"] = opt.D_channel_multiplier
        networks["D"] = StyleGAN2Discriminator(**widths, group=opt.stddev_group)
        return networks | {name: FacialComponentDiscriminator(channels=opt.component_channels)
                           for name in component_discriminators(opt).values()}

    @classmethod
    def settings_of(cls, state: dict[str, Tensor]) -> dict[str, Any]:
        return settings_of(state)

    @classmethod
    def agrees(cls, name: str, value: Any, shown: Any) -> bool:
        return agrees(name, value, shown)

    # -- building ---------------------------------------------------------------------------------

    def __init__(self, opt: argparse.Namespace, device: torch.device) -> None:
        super().__init__(opt, device)
        networks = self.build(opt)
        generator = networks.pop("G")
        if not self.is_train:
            self.add_network("G", generator)
            return
        if opt.decoder_weights not in (None, "random"):
            load_decoder(generator, opt.decoder_weights)
        generator.stylegan_decoder.requires_grad_(not opt.fix_decoder)
        generator.stylegan_decoder.style_mlp.requires_grad_(False)      # the U-Net's code is w
        generator.toRGB.requires_grad_(bool(opt.lambda_pyramid))
        self.add_network("G", generator)
        self.add_ema("H", of="G")
        for name, network in networks.items():
            self.add_network(name, network)
        clean = network_settings(opt)["arch"] == "clean"
        g_lr = opt.lr * (CLEAN_RATE if clean else 1.0) if opt.g_lr is None else opt.g_lr
        self.add_optimizer("G", lr=g_lr, betas=(opt.beta1, 0.99),
                           groups=clean_groups(g_lr) if clean else None)
        d_lr = opt.lr if opt.d_lr is None else opt.d_lr
        self.add_optimizer("D", lr=d_lr, betas=(opt.beta1, LAZY_BETA))
        self.components = component_discriminators(opt)
        if self.components:
            self.add_optimizer("components", lr=opt.lr if opt.component_lr is None else
                               opt.component_lr, betas=COMPONENT_BETAS,
                               networks=self.components.values())
        self._add_fixed_networks()
        self.warmup = opt.d_init_steps if opt.d_init_steps is not None else (
            500 if opt.pretrain_model_path else 0)

    def _add_fixed_networks(self) -> None:
        opt = self.opt
        if opt.lambda_pcp or opt.lambda_style:
            vgg = VGGFeatures("vgg19", VGG_LAYERS)
            vgg.load_published(opt.vgg_weights)
            self.add_network("VGG", vgg, saved=False)
        if opt.lambda_id:
            identity = ArcFace()
            identity.load_published(opt.id_weights)
            self.add_network("ID", identity, saved=False)

    def load_weights(self, name: str, path: str | Path) -> None:
        """As BaseModel's; a file of the other architecture is refused with the option to change."""
        super().load_weights(name, path)
        logger.info("network %s: all %d entries of %s match --preset %s%s", name,
                    len(self.unwrapped[name].state_dict()), path, self.opt.preset,
                    f"; discriminators start fresh and train alone for {self.warmup} steps"
                    if self.is_train else "")

    def start_step(self, step: int, steps_per_epoch: int, total_steps: int) -> None:
        """As BaseModel's; --lr_milestones lower the learning rate from the step after each."""
        super().start_step(step, steps_per_epoch, total_steps)
        passed = sum(step > milestone for milestone in self.opt.lr_milestones)
        for update in self.precision.steps.values():
            for group in update.optimizer.param_groups:
                group["lr"] *= self.opt.lr_gamma ** passed

    # -- one step ---------------------------------------------------------------------------------

    def train_step(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        opt, gt = self.opt, batch["gt"]
        trains_g = self.step > self.warmup and self.step % opt.d_iters == 0
        with torch.set_grad_enabled(trains_g):
            restored, rgbs = self.networks["G"](batch["lq"], return_rgb=bool(opt.lambda_pyramid),
                                                randomize_noise=opt.randomize_noise)
        crops = self._crops(batch, restored)
        # The targets' logits serve the discriminators' own losses, their features G's.
        real = {part: self.networks[name](crops[part][1]) for part, name in self.components.items()}
        losses: dict[str, Tensor] = {}
        if trains_g:
            losses |= self._pixel_losses(restored, rgbs, gt)
            losses |= self._feature_losses(restored, gt)
            losses |= self._adversarial_losses(restored, crops, real)
            self.optimize("G", sum(losses.values()))
        losses |= self._step_discriminators(restored.detach(), gt, crops, real)
        return {name: loss.detach() for name, loss in losses.items()}

    def on_step_end(self) -> None:
        self.update_ema("H", self.opt.ema_decay)

    def _pixel_losses(self, restored: Tensor, rgbs: list[Tensor], gt: Tensor) -> dict[str, Tensor]:
        opt, losses = self.opt, {}
        if opt.lambda_pix:
            losses["Pix"] = opt.lambda_pix * F.l1_loss(restored, gt)
        if opt.lambda_pyramid:
            # Not left out, so that every parameter keeps its gradient.
            weight = opt.lambda_pyramid if self.step <= opt.remove_pyramid else REMOVED
            losses["Pyramid"] = weight * sum(pyramid_losses(rgbs, gt))
        return losses

    def _feature_losses(self, restored: Tensor, gt: Tensor) -> dict[str, Tensor]:
        """Perceptual, style and identity loss, those whose weight is not 0."""
        opt, losses = self.opt, {}
        if opt.lambda_pcp or opt.lambda_style:
            with torch.no_grad():
                gt_features = self.networks["VGG"](gt)
            restored_features = self.networks["VGG"](restored)
            if opt.lambda_pcp:
                losses["PCP"] = opt.lambda_pcp * feature_l1(restored_features, gt_features,
                                                           VGG_WEIGHTS)
            if opt.lambda_style:
                losses["Style"] = opt.lambda_style * gram_l1(restored_features, gt_features,
                                                           VGG_WEIGHTS)
        if opt.lambda_id:
            with torch.no_grad():
                gt_embedding = self.networks["ID"](gray_input(gt))
            losses["ID"] = opt.lambda_id * F.l1_loss(self.networks["ID"](gray_input(restored)),
                                                     gt_embedding)
        return losses

    def _adversarial_losses(self, restored: Tensor, crops: dict[str, tuple[Tensor, Tensor]],
                            real: dict[str, tuple[Tensor, list[Tensor]]]) -> dict[str, Tensor]:
        opt, losses, styles = self.opt, {}, []
        with frozen(self.unwrapped["D"]):
            losses["G"] = opt.lambda_g * generator_term(self.networks["D"](restored), "logistic")
        for part, name in self.components.items():
            with frozen(self.unwrapped[name]):
                logits, features = self.networks[name](crops[part][0])
            if opt.lambda_component:
                losses[f"G_{part}"] = opt.lambda_component * generator_term(logits, "logistic")
            styles.append(gram_l1(features, real[part][1], COMPONENT_STYLE_WEIGHTS))
        if styles and opt.lambda_comp_style:
            losses["CompStyle"] = opt.lambda_comp_style * sum(styles)
        return losses

    def _step_discriminators(self, restored: Tensor, gt: Tensor,
                        crops: dict[str, tuple[Tensor, Tensor]],
                        real: dict[str, tuple[Tensor, list[Tensor]]]) -> dict[str, Tensor]:
        opt, losses = self.opt, {}
        regularized = opt.lambda_r1 > 0 and self.step % opt.r1_every == 0
        if regularized:
            gt = gt.detach().requires_grad_()
            real_logits = in_float32(self.unwrapped["D"], gt)
            # Every r1_every steps with that much more weight.
            losses["R1"] = opt.lambda_r1 / 2 * opt.r1_every * r1_penalty(real_logits, gt)
        else:
            real_logits = self.networks["D"](gt)
        fake_logits = self.networks["D"](restored)
        losses["D"] = real_term(real_logits, "logistic") + fake_term(fake_logits, "logistic")
        self.optimize("D", sum(losses.values()))
        for part, name in self.components.items():
            fake, _ = self.networks[name](crops[part][0].detach())
            losses[name] = real_term(real[part][0], "logistic") + fake_term(fake, "logistic")
        if self.components:
            self.optimize("components", sum(losses[name] for name in self.components.values()))
        return losses

    def _crops(self, batch: dict[str, Any], restored: Tensor
               ) -> dict[str, tuple[Tensor, Tensor]]:
        """Crops of the restored and of the target image, by part."""
        if not self.components:
            return {}
        size, boxes = self.opt.load_size, self._boxes(batch)
        return {part: tuple(roi_align(image, boxes[:, index], face_parts.crop_size(part, size))
                            for image in (restored, batch["gt"]))
                for index, part in enumerate(PARTS)}

    def _boxes(self, batch: dict[str, Any]) -> Tensor:
        """(B, 3, 4), in the order of PARTS."""
        if "boxes" in batch:
            return batch["boxes"]
        size, gt = self.opt.load_size, batch["gt"]
        if "landmarks" in batch and batch["landmarks"].shape[1] == 68:
            parts = face_parts.parts_of_landmarks(batch["landmarks"], size)
        else:
            parts = face_parts.template_parts(size).to(gt.device).expand(len(gt), -1, -1)
        return face_parts.boxes_of_parts(parts, self.opt.eye_enlarge_ratio)

    @staticmethod
    def preprocess(image: np.ndarray, opt: argparse.Namespace) -> np.ndarray:
        """Bilinear to --load_size squared, as the original does."""
        return opencv_bilinear(image, opt.load_size, opt.load_size)

    def restore(self, lq: Tensor) -> Tensor:
        return self.networks["H" if self.is_train else "G"](lq)[0]


def component_discriminators(opt: argparse.Namespace) -> dict[str, str]:
    """Letters of the discriminators of eyes and mouth by part; none without their losses."""
    return COMPONENTS if opt.lambda_component or opt.lambda_comp_style else {}


def load_decoder(generator: GFPGAN, path: str | Path) -> None:
    """Load a StyleGAN2 prior strictly.

    Raises:
        FileNotFoundError, ValueError: no such file, or another network; names the flag.
    """
    decoder = generator.stylegan_decoder
    with checkpoint.named_by("--decoder_weights"):
        decoder.load_state_dict(checkpoint.load_weights(path, decoder.state_dict()))
    logger.info("the decoder starts from the weights in %s", path)


def in_float32(network: nn.Module, *inputs: Tensor) -> Tensor:
    """The network's result without half precision anywhere, differentiable in its weights."""
    values = {name: to_float32(tensor) if tensor.is_floating_point() else tensor
              for name, tensor in (*network.named_parameters(), *network.named_buffers())}
    return functional_call(network, values, inputs)


def clean_groups(lr: float):
    """Parameter groups of a clean network: its decoder's layers learn slower.

    Source: XPixelGroup/BasicSR, which trains its clean StyleGAN2 with these factors.
    """
    def groups(network: nn.Module) -> list[dict[str, Any]]:
        found: dict[float, list[nn.Parameter]] = {}
        for name, parameter in network.named_parameters():
            factor = 0.01 if ".style_mlp." in name else 1 / 3 if ".modulated_conv." in name else 1.0
            if parameter.requires_grad:
                found.setdefault(factor, []).append(parameter)
        return [{"params": params, "lr": lr * factor} for factor, params in found.items()]
    return groups

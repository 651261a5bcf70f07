"""PFSRNet: face super-resolution that grows from 32 to 128 pixels during training."""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import distributed
from metrics.ms_ssim import quality
from metrics.published import Figure
from models.base_model import BaseModel, frozen
from models.losses.gan import PENALTIES, gradient_penalty, wasserstein_loss
from models.losses.landmark import attention_loss, attention_map, heatmap_loss, normalized_maps
from models.losses.style import feature_mse
from models.networks.fan import landmark_network
from models.networks.pfsrnet import NUM_STAGES, PUBLISHED_WIDTH, SCALE, Discriminator, Generator
from models.networks.pretrained.vgg import VGGFeatures
from models.ops.pyramid import pyramid
from models.pfsrnet_checkpoint import COUNTER, reached, read_generator
from utils.images.resize import CELEBA_CROP, center_crop, downscale_through

# relu1_2, relu2_2, relu3_3, relu4_3.
VGG_LAYERS = (3, 8, 15, 22)
# Weights of the losses at stages 1, 2, 3.
PER_STAGE = {"gan": ((1.0, 1.0, 0.1), "adversarial loss"),
             "pcp": ((0.01, 0.01, 0.001), "perceptual loss"),
             "att": ((0.0, 500.0, 50.0), "facial attention loss"),
             "hm": ((0.0, 50.0, 50.0), "heat-map loss")}
SMALLEST = 16
# What enhance.py takes of an image.
ALIGNMENTS = {
    "none": lambda image: image,
    "center178": lambda image: center_crop(image, min(CELEBA_CROP, *image.shape[:2])),
    "square": lambda image: center_crop(image, min(image.shape[:2]))}


class PFSRNetModel(BaseModel):
    """PFSRNet, x8: pixel, adversarial, perceptual, heat-map and attention losses, three stages.

    Train:   python newtrain.py --model pfsrnet --dataroot img_align_celeba --fan_weights fan.pth
             --vgg_weights vgg16-397923af.pth
    Setting: batch 16, Adam 1e-3 (0, 0.99), 50000 + 50000 + 100000 steps at 32, 64 and 128 pixels
    Source:  arXiv 1908.08239, DeokyunKim/Progressive-Face-Super-Resolution; the training code was
             withdrawn and the published weights are of a later, unpublished model

    `lq` is a small image, an eighth of --load_size. Stage and alpha depend on the step and the
    options only. D and its penalty stay in fp32 at every precision.
    """
    dataset = "celeba_aligned"
    degradation = "pyramid"
    every_gradient = False
    gradients = "average"       # unused parameters and the penalty's double backward rule out DDP
    loss_scale = "dynamic"      # the attention's weight of 500
    size_multiple = SMALLEST
    figures = (
        Figure("PFSRNet, paper", {"PSNR": 22.66, "SSIM": 0.685, "MS-SSIM": 0.902},
               "CelebA, aligned, 16 to 128 pixels; PSNR per batch of 16", "arXiv 1908.08239"),)

    @staticmethod
    def modify_commandline_options(parser: Any, is_train: bool) -> None:
        parser.add_argument("--width", type=int, default=PUBLISHED_WIDTH,
                            metavar="N",
                            help="max channels of a layer; below 512 is for quick tests, published "
                                 "weights do not fit").rare = True
        parser.add_argument("--fade", type=float, default=0.5, metavar="FRACTION",
                            help="fade in each new stage over this fraction of the first stage's "
                                 "steps").rare = True
        if is_train:
            _add_training_flags(parser)
        else:
            parser.add_argument("--align", default="none", choices=tuple(ALIGNMENTS),
                                help="what enhance.py crops from an image: nothing, CelebA's "
                                     "central 178 x 178 pixels, or the largest square")

    @classmethod
    def defaults(cls, is_train: bool) -> dict[str, Any]:
        return {"batch_size": 16, "lr": 1e-3, "beta1": 0.0} if is_train else {"batch_size": 16}

    @classmethod
    def resolve(cls, opt: argparse.Namespace) -> None:
        if opt.is_train:
            opt.train_steps = opt.train_steps or sum(opt.stage_steps)

    @classmethod
    def check(cls, opt: argparse.Namespace) -> None:
        super().check(opt)
        if not 0 <= opt.fade <= 1:
            raise ValueError(f"--fade must be from 0 to 1, got {opt.fade}")
        if not opt.is_train:
            return
        if min(opt.stage_steps) < 0 or not any(opt.stage_steps):
            raise ValueError(f"--stage_steps must be three numbers from 0 on, not all 0, got "
                             f"{' '.join(map(str, opt.stage_steps))}")
        if opt.batch_size < 2:
            raise ValueError(f"--batch_size must be at least 2, got {opt.batch_size}; the "
                             f"discriminator needs the standard deviation over a card's images")
        if opt.amp_backend == "apex":
            raise ValueError("--amp_backend must be native, got apex, which casts the "
                             "discriminator although its penalty needs float32")
        if not 0 <= opt.beta2 < 1:
            raise ValueError(f"--beta2 must be from 0 to below 1, got {opt.beta2}")
        if opt.preview_degradation:     # which needs no network
            return
        trained = [count > 0 for count in opt.stage_steps]
        for names, flag, text in (
                (("pcp",), "--vgg_weights", "torchvision's vgg16-397923af.pth, or 0 0 0 for"),
                (("att", "hm"), "--fan_weights", "weights of --model fan, or 0 0 0 for")):
            used = [f"--lambda_{name}" for name in names if any(
                weight and on for weight, on in zip(
                    getattr(opt, f"lambda_{name}"), trained, strict=True))]
            if used and not getattr(opt, flag[2:]):
                raise ValueError(f"{flag} is missing: give {text} {' and '.join(used)}")

    @classmethod
    def build(cls, opt: argparse.Namespace) -> dict[str, nn.Module]:
        networks: dict[str, nn.Module] = {"G": Generator(width=opt.width)}
        if opt.is_train:
            networks["D"] = Discriminator(width=opt.width)
        return networks

    @staticmethod
    def example_inputs(opt: argparse.Namespace) -> tuple[Any, ...]:
        side = opt.load_size // SCALE
        return torch.zeros(1, 3, side, side), NUM_STAGES, 1.0

    @classmethod
    def settings_of(cls, state: dict[str, Tensor]) -> dict[str, Any]:
        if "step1.1.weight" not in state or "to_rgb.0.weight" not in state:
            raise ValueError("holds no generator of PFSRNet")
        return {"width": len(state["step1.1.weight"])}

    def __init__(self, opt: argparse.Namespace, device: torch.device) -> None:
        super().__init__(opt, device)
        self.stage, self.alpha = NUM_STAGES, 1.0
        # No init_weights: the scaled convolutions draw N(0, 1), the others keep PyTorch's draw.
        for name, network in self.build(opt).items():
            self.add_network(name, network)
            if self.is_train:
                self.add_optimizer(name, lr=opt.lr, betas=(opt.beta1, opt.beta2))
        if not self.is_train:
            return
        if any(opt.lambda_pcp) and opt.vgg_weights:
            self.add_network("VGG", perceptual_network(opt.vgg_weights), saved=False)
        if any((*opt.lambda_att, *opt.lambda_hm)) and opt.fan_weights:
            self.add_network("FAN", landmark_network(opt.fan_weights, width=opt.fan_width),
                             saved=False)

    def load_weights(self, name: str, path: str | Path) -> None:
        """As every model's, and published files, whose stage and alpha are taken over."""
        network = self.unwrapped[name]
        state, stated = read_generator(path, network.state_dict(), self.describe)
        self.stage, self.alpha = stated or reached(state, self.opt.fade)
        if self.is_train:       # this run's files shall tell how far this run came
            state = {key: torch.zeros_like(value) if key.endswith(COUNTER) else value
                     for key, value in state.items()}
        network.load_state_dict(state)

    # -- training ---------------------------------------------------------------------------------

    def train(self) -> None:
        super().train()
        if "FAN" in self.unwrapped and self.opt.fan_mode == "eval":
            self.unwrapped["FAN"].eval()

    def start_step(self, step: int, steps_per_epoch: int, total_steps: int) -> None:
        super().start_step(step, steps_per_epoch, total_steps)
        self.stage, self.alpha = position(step - 1, self.opt.stage_steps, self.opt.fade)
        for name in ("G", "D"):
            network = self.unwrapped[name]
            network.requires_grad_(False)
            for module in network.used(self.stage, self.alpha):
                module.requires_grad_(True)

    def train_step(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        opt, lq, at = self.opt, batch["lq"], self.stage - 1
        self._check_sizes(lq, batch["gt"])
        gt = pyramid(batch["gt"])[at]
        restored = self._upscale(lq)
        with frozen(self.unwrapped["D"]):
            adversarial = -self._logits(restored).mean()
        pixel = F.l1_loss if opt.pix_loss == "l1" else F.mse_loss
        losses = {"Pix": opt.lambda_pix * pixel(restored, gt),
                  "GAN": opt.lambda_gan[at] * adversarial,
                  **self._feature_losses(restored, gt)}
        self.optimize("G", sum(losses.values()))
        with torch.no_grad():       # in train mode: batch norms see each batch twice, as published
            restored = self._upscale(lq)
        losses |= self._step_discriminator(restored, gt, batch["place"])
        return {name: loss.detach() for name, loss in losses.items()}

    def _step_discriminator(self, restored: Tensor, gt: Tensor, place: list[int]
                       ) -> dict[str, Tensor]:
        """One step of D; its two losses go backwards one after the other.

        A single backward pass would add three gradients per weight in an order that depends on the
        device's threads, since the penalty's graph is made by a backward pass itself.
        """
        opt = self.opt
        distance = wasserstein_loss(self._logits(gt), self._logits(restored), opt.lambda_drift)
        penalty = opt.lambda_gp * gradient_penalty(self._logits, restored, gt,
                                                   self._fractions(gt, place), opt.gp)
        self.optimize("D", distance, penalty)
        return {"D": distance, "GP": penalty}

    def _fractions(self, gt: Tensor, place: list[int]) -> Tensor:
        """How much of each target is in the penalty's mixture, (B, 1, 1, 1); the same numbers
        on every device, for a step is to repeat exactly after resuming anywhere."""
        chance = np.random.default_rng([self.opt.seed, distributed.rank(), self.step])
        fraction = torch.from_numpy(chance.random((max(place) + 1, 1, 1, 1))[place])
        return fraction.to(gt.dtype).to(gt.device)     # an NPU takes no float64

    def _check_sizes(self, lq: Tensor, gt: Tensor) -> None:
        if SCALE * lq.shape[2] != gt.shape[2]:
            raise ValueError(f"--model pfsrnet upscales by {SCALE} and needs inputs of side "
                             f"{gt.shape[2] // SCALE} for targets of side {gt.shape[2]}, got "
                             f"{lq.shape[2]}; use --degradation pyramid")

    def _upscale(self, lq: Tensor) -> Tensor:
        return self.networks["G"](lq, self.stage, self.alpha)

    def _logits(self, images: Tensor) -> Tensor:
        """Logits, in fp32: not through the wrapper that lowers precision."""
        return self.unwrapped["D"](images, self.stage, self.alpha)

    def _feature_losses(self, restored: Tensor, gt: Tensor) -> dict[str, Tensor]:
        """Perceptual, heat-map and attention loss, as far as their weights are not 0."""
        pcp, att, hm = (getattr(self.opt, f"lambda_{name}")[self.stage - 1]
                        for name in ("pcp", "att", "hm"))
        losses = {}
        if pcp:
            features = self.networks["VGG"](restored)
            with torch.no_grad():
                gt_features = self.networks["VGG"](gt)
            losses["PCP"] = pcp * feature_mse(features, gt_features)
        if att or hm:
            maps = self._maps(restored) if hm else None
            with torch.no_grad():
                gt_maps = self._maps(gt)
            if hm:
                losses["HM"] = hm * heatmap_loss(maps, gt_maps)
            if att:
                losses["ATT"] = att * attention_loss(restored, gt, attention_map(gt_maps))
        return losses

    def _maps(self, images: Tensor) -> Tensor:
        return normalized_maps(self.networks["FAN"](0.5 * images + 0.5))

    # -- restoring --------------------------------------------------------------------------------

    def restore(self, lq: Tensor) -> Tensor:
        """Faces of --load_size, at the stage that training or the weights have reached; earlier
        stages are upscaled."""
        stage, alpha = self.stage, self.alpha
        if self.is_train and self.step:     # what the weights after this step have reached
            stage, alpha = position(self.step, self.opt.stage_steps, self.opt.fade, stage)
        restored = self.networks["G"](lq, stage, alpha)
        if stage < NUM_STAGES:
            restored = F.interpolate(restored, scale_factor=2 ** (NUM_STAGES - stage),
                                     mode="bicubic", align_corners=False)
        return restored

    def measure(self, batch: dict[str, Any], restored: Tensor) -> dict[str, list[float]]:
        """PSNR, SSIM and MS-SSIM per batch as published, for batches of 16, and per image."""
        return quality(restored, batch["gt"])

    @staticmethod
    def preprocess(image: np.ndarray, opt: argparse.Namespace) -> np.ndarray:
        """Bring an image of any size to the network's input through the published 64, 32 and 16.

        For --simulate_lq it gets --load_size, since the degradation reduces it then.
        """
        image, size = ALIGNMENTS[opt.align](image), opt.load_size
        if vars(opt).get("simulate_lq"):
            return downscale_through(image, [size])
        return downscale_through(image, [size // 2 ** k for k in range(1, NUM_STAGES + 1)])

    @staticmethod
    def input_size(opt: argparse.Namespace) -> int:
        return opt.load_size // SCALE


def position(k: int, stage_steps: Sequence[int], fade: float, stage: int = 0) -> tuple[int, float]:
    """Stage and alpha of an optimizer step.

    Args:
        k: steps before it, 0 for the first of all.
        stage_steps: steps of each stage; the last one goes on for ever.
        fade: alpha grows from 0 to 1 in this part of the first stage's steps.
        stage: take this stage, even where the next one would begin; 0 for none.
    """
    at = 1
    while at < NUM_STAGES and (at < stage if stage else k >= stage_steps[at - 1]):
        k -= stage_steps[at - 1]
        at += 1
    length = fade * stage_steps[0]
    return at, min(1.0, k / length) if length else 1.0


def perceptual_network(path: str | Path) -> VGGFeatures:
    """VGG16 for the perceptual loss; it sees images in [0, 1] as they are, as published."""
    vgg = VGGFeatures("vgg16", VGG_LAYERS)
    vgg.load_published(path)
    vgg.mean.zero_()
    vgg.std.fill_(1)
    return vgg


def _add_training_flags(parser: Any) -> None:
    parser.add_argument("--stage_steps", type=int, nargs=NUM_STAGES, metavar="N",
                        default=[50000, 50000, 100000],
                        help="steps at 32, 64 and 128 pixels; their sum is the length of the "
                             "run, unless --train_steps is given")
    parser.add_argument("--lambda_pix", type=float, default=10.0, help="weight of the pixel loss")
    for name, (default, text) in PER_STAGE.items():
        parser.add_argument(f"--lambda_{name}", type=float, nargs=NUM_STAGES, metavar="W",
                            default=list(default), help=f"weight of the {text} in each stage")
    parser.add_argument("--lambda_gp", type=float, default=10.0,
                        help="weight of the gradient penalty")
    parser.add_argument("--lambda_drift", type=float, default=1e-3,
                        help="weight of the squared real logits")
    parser.add_argument("--fan_weights", metavar="FILE",
                        help="landmark network (of --model fan) for heat-map and attention loss; "
                             "`random` for quick tests only")
    parser.add_argument("--vgg_weights", metavar="FILE",
                        help="torchvision's vgg16-397923af.pth for the perceptual loss; `random` "
                             "for quick tests only")
    parser.add_argument("--pix_loss", default="l1", choices=("l1", "l2"),
                        help="l1: mean absolute error; l2: mean squared error").rare = True
    parser.add_argument("--beta2", type=float, default=0.99, help="beta2 of Adam").rare = True
    parser.add_argument("--gp", default="two_sided", choices=PENALTIES,
                        help="gradient penalty: two_sided pulls each image's gradient norm to 1, "
                             "one_sided_mean limits the mean norm to 1 and gave NaN"
                        ).rare = True
    parser.add_argument("--fan_width", type=int, metavar="N",
                        help="max channels of a layer of the landmark network (default: those of "
                             "--fan_weights)").rare = True
    parser.add_argument("--fan_mode", default="eval", choices=("eval", "train"),
                        help="batch norms of the landmark network: running statistics (eval) or "
                             "those of each batch, as published (train)").rare = True

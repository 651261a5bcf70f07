"""The landmark network of PFSRNet: 68 heat-maps, from known landmarks or from a teacher."""
from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import checkpoint
from models.base_model import BaseModel
from models.losses.landmark import attention_map, gaussian_maps, normalized_maps
from models.networks import fan
from models.networks.fan import FAN, peaks, read_landmark_weights
from models.networks.pretrained.fan_teacher import SIZE_MULTIPLE, teacher_network

# Side of the teacher's input for one of the student's.
TEACHER_SCALE = 4


class FanModel(BaseModel):
    """Distilled landmark network: mean squared error of heat-maps (arXiv 1908.08239).

    Train:   python newtrain.py --model fan --dataroot img_align_celeba --fan_teacher
             2DFAN4-11f355bf06.pth.tar
             python newtrain.py --model fan --train_steps 3000       (synthetic faces, no teacher)
    Setting: batch 16, Adam 1e-4 (0.9, 0.999), 64 x 64, 11000 steps, about one epoch of CelebA
    Source:  DeokyunKim/Progressive-Face-Super-Resolution, withdrawn fan_train.py

    Its weights are what --model pfsrnet takes as --fan_weights. Nothing is restored here: what
    evaluate.py and enhance.py show are images lit where landmarks are seen, whose PSNR says
    nothing. Where the data bring landmarks, validation counts those found, and `best` goes by it.
    """
    dataset = "celeba_aligned"
    degradation = "none"
    best_by = "landmarks_found"
    extra_outputs = {"heatmaps": "heatmaps"}
    loss_scale = "dynamic"      # heat-maps are nearly empty, their mean error is small

    @staticmethod
    def modify_commandline_options(parser: Any, is_train: bool) -> None:
        parser.add_argument("--fan_width", type=int, default=fan.PUBLISHED_WIDTH, metavar="N",
                            help="max channels of a layer; 128 fits the published weights"
                            ).rare = True
        if is_train:
            parser.add_argument("--fan_teacher", metavar="FILE",
                                help="teacher network 2DFAN-4 (2DFAN4-11f355bf06.pth.tar); "
                                     "without it the dataset needs landmarks, which the synthetic "
                                     "faces have")
            parser.add_argument("--lambda_hm", type=float, default=1.0,
                                help="weight of the heat-map loss")
            parser.add_argument("--fan_sigma", type=float, default=1.75, metavar="PIXELS",
                                help="standard deviation of the Gaussian at a landmark").rare = True

    @classmethod
    def defaults(cls, is_train: bool) -> dict[str, Any]:
        common = {"load_size": 64}
        return {**common, "batch_size": 16, "lr": 1e-4, "total_epochs": 1} if is_train else common

    @classmethod
    def check(cls, opt: argparse.Namespace) -> None:
        super().check(opt)
        if not opt.is_train:
            return
        if opt.fan_sigma <= 0:
            raise ValueError(f"--fan_sigma must be above 0, got {opt.fan_sigma}")
        if opt.fan_teacher and TEACHER_SCALE * opt.load_size % SIZE_MULTIPLE:
            raise ValueError(f"--load_size must be a multiple of {SIZE_MULTIPLE // TEACHER_SCALE} "
                             f"with --fan_teacher, got {opt.load_size}")

    @classmethod
    def build(cls, opt: argparse.Namespace) -> dict[str, nn.Module]:
        return {"G": FAN(width=opt.fan_width)}

    @classmethod
    def settings_of(cls, state: dict[str, Tensor]) -> dict[str, Any]:
        if "conv.bias" not in state or "layers.0.weight" not in state:
            raise ValueError("holds no landmark network of PFSRNet")
        return {"fan_width": fan.WIDTH_MULTIPLE * len(state["conv.bias"])}

    def __init__(self, opt: argparse.Namespace, device: torch.device) -> None:
        super().__init__(opt, device)
        self.add_network("G", self.build(opt)["G"])
        if not self.is_train:
            return
        self.add_optimizer("G", lr=opt.lr, betas=(opt.beta1, 0.999))
        if opt.fan_teacher:
            self.add_network("T", teacher_network(opt.fan_teacher), saved=False)

    def load_weights(self, name: str, path: str | Path) -> None:
        """As every model's; the published pickled module is refused with advice."""
        with checkpoint.named_by("--pretrain_model_path"):
            self.unwrapped[name].load_state_dict(read_landmark_weights(self.unwrapped[name], path))

    def train(self) -> None:
        super().train()
        if "T" in self.unwrapped:
            self.unwrapped["T"].eval()     # a fixed network's batch statistics would be an accident

    def train_step(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        target = self._target(batch)
        loss = self.opt.lambda_hm * F.mse_loss(self.heatmaps(batch["gt"]), target)
        self.optimize("G", loss)
        return {"HM": loss.detach()}

    @torch.no_grad()
    def _target(self, batch: dict[str, Any]) -> Tensor:
        gt = batch["gt"]
        if "T" in self.networks:
            large = F.interpolate(0.5 * gt + 0.5, scale_factor=TEACHER_SCALE, mode="bilinear",
                                  align_corners=False)
            return self.networks["T"](large)[-1]
        if not self._has_landmarks(batch):
            raise ValueError(f"--model fan needs --fan_teacher or a dataset with "
                             f"{fan.NUM_LANDMARKS} landmarks such as synthetic, got --dataset_name "
                             f"{self.opt.dataset_name}")
        return gaussian_maps(batch["landmarks"].to(gt.dtype), gt.shape[2], self.opt.fan_sigma)

    @staticmethod
    def _has_landmarks(batch: dict[str, Any]) -> bool:
        return "landmarks" in batch and batch["landmarks"].shape[1] == fan.NUM_LANDMARKS

    def heatmaps(self, images: Tensor) -> Tensor:
        """(B, 68, H, W) of images (B, 3, H, W) in [-1, 1]."""
        return self.networks["G"](0.5 * images + 0.5)

    @torch.no_grad()
    def landmarks(self, images: Tensor) -> Tensor:
        """Where each map is largest, (B, 68, 2) x y in pixels."""
        return peaks(self.heatmaps(images))

    def measure(self, batch: dict[str, Any], restored: Tensor) -> dict[str, list[float]]:
        """Mean distance of maps' maxima from known landmarks, in pixels, and the fraction of those
        that lie within a 20th of the side."""
        if not self._has_landmarks(batch):
            return {}
        distance = (self.landmarks(batch["gt"]) - batch["landmarks"]).float().norm(dim=2)
        near = distance <= batch["gt"].shape[2] / 20
        return {"landmark_error": distance.mean(dim=1).tolist(),
                "landmarks_found": near.float().mean(dim=1).tolist()}

    def restore(self, lq: Tensor) -> Tensor:
        """The images, dark where no landmark is seen."""
        return (lq + 1) * attention_map(normalized_maps(self.heatmaps(lq))) - 1

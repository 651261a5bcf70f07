"""StyleGAN2: the generative prior that GPEN starts from."""
from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.networks.gpen import generator_config
from models.networks.stylegan2 import Generator
from models.style_options import add_network_flags, add_training_flags, settings_of
from models.style_training import FOR_NOISE, FOR_PATH, StyleTraining

PROJECTED = 8
MEAN_CODES = 4096


class StyleGAN2Model(StyleTraining):
    """StyleGAN2 with concatenated noise: logistic loss, lazy R1 and path length (arXiv 1912.04958).

    Train:   python newtrain.py --model stylegan2 --preset 256 --dataroot FFHQ
    Setting: batch 4, Adam 0.002 times 4/5 (G), 16/17 (D), betas (0, 0.99) to those powers
    Sample:  python -m tools.sample --name stylegan2_gpen --output grid.png
    Source:  yangxy/GPEN for the noise; nobody published how its prior was trained

    Its weights, `<S>_net_H.pth` and `<S>_net_D.pth`, are what --model gpen takes as --prior and
    --d_weights. It restores nothing: `restore` makes a random face for each image.
    """
    degradation = "none"
    best_by = None          # its images belong to no target
    makes_samples = True
    generator = Generator

    @staticmethod
    def modify_commandline_options(parser: Any, is_train: bool) -> None:
        add_network_flags(parser)
        if is_train:
            add_training_flags(parser, path_batch_shrink=2)
            parser.add_argument("--mixing", type=float, default=0.9, metavar="FRACTION",
                                help="fraction of steps with style mixing")
            parser.add_argument("--noise_from", default="device", choices=("device", "host"),
                                help="where the noise maps are drawn; host is slower, but gives "
                                     "the same noise on all devices and with --accumulate"
                                ).rare = True

    @classmethod
    def check(cls, opt: argparse.Namespace) -> None:
        super().check(opt)
        if opt.is_train and not 0 <= opt.mixing <= 1:
            raise ValueError(f"--mixing must be from 0 to 1, got {opt.mixing}")

    @staticmethod
    def example_inputs(opt: argparse.Namespace) -> tuple[Any, ...]:
        return ([torch.zeros(1, opt.style_dim)],)

    @classmethod
    def settings_of(cls, state: dict[str, Tensor]) -> dict[str, Any]:
        return settings_of(generator_config(state))

    # -- training ---------------------------------------------------------------------------------

    def _make(self, batch: dict[str, Any], stream: int) -> Tensor:
        """Images of G in the precision of the run, one for each of the batch."""
        styles, options = self._draw(batch, stream)
        return self.networks["G"](styles, **options)[0]

    def _images_and_latents(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Images of G in fp32 and the latents they depend on."""
        styles, options = self._draw(batch, FOR_PATH)
        return self._in_fp32("G", styles, return_latents=True, **options)

    def _draw(self, batch: dict[str, Any], stream: int) -> tuple[list[Tensor], dict[str, Any]]:
        """Codes for a batch of images, and the other arguments of G."""
        generator = self.unwrapped["G"]
        codes = self._randn(batch, stream, 2, generator.style_dim)
        common = self._random(stream)       # the same for all images of the step
        mixed = float(torch.rand((), generator=common)) < self.opt.mixing
        options: dict[str, Any] = {
            "inject_index": int(torch.randint(1, generator.num_latents, (), generator=common))}
        if self.opt.noise_from == "host":
            shapes = generator.noise_shapes()
            flat = self._randn(batch, stream + FOR_NOISE, sum(map(np.prod, shapes)))
            parts = flat.split([int(np.prod(shape)) for shape in shapes], dim=1)
            options["noise"] = [part.reshape(-1, *shape)
                                for part, shape in zip(parts, shapes, strict=True)]
        return [codes[:, 0], codes[:, 1]] if mixed else [codes[:, 0]], options

    # -- sampling ---------------------------------------------------------------------------------

    def draw_codes(self, count: int, seed: int) -> Tensor:
        """Codes z (count, style_dim) on the host."""
        draws = torch.Generator().manual_seed(seed)
        return torch.randn(count, self.opt.style_dim, generator=draws)

    @torch.no_grad()
    def sample(self, codes: Tensor, noise_seed: int = 0, truncation: float = 1.0) -> Tensor:
        """Images (B, 3, size, size) of codes z (B, style_dim).

        Args:
            noise_seed: of the noise, one draw for all images.
            truncation: how far codes stay from the mean, which is 0; 1 leaves them.
        """
        network = self.networks["H" if self.is_train else "G"]
        mean = None
        if truncation < 1:
            mean = network.style(self.draw_codes(MEAN_CODES, 0).to(codes)).mean(0, keepdim=True)
        return network([codes], noise=self._constant_noise(codes, noise_seed),
                       truncation=truncation, truncation_latent=mean)[0]

    def _constant_noise(self, codes: Tensor, seed: int) -> list[Tensor]:
        draws = torch.Generator().manual_seed(seed)
        shapes = self.unwrapped["G"].noise_shapes()
        maps = [torch.randn(1, *shape, generator=draws) for shape in shapes]
        return [each.to(codes).expand(codes.shape[0], -1, -1, -1) for each in maps]

    def restore(self, lq: Tensor) -> Tensor:
        """A sample per image: its code is a fixed projection of the image, noise is constant.
        """
        thumbnails = F.adaptive_avg_pool2d(lq, PROJECTED).flatten(1)
        draws = torch.Generator().manual_seed(0)
        matrix = torch.randn(thumbnails.shape[1], self.opt.style_dim, generator=draws)
        return self.sample(thumbnails @ matrix.to(lq))

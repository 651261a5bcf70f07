"""Training of networks built on StyleGAN2: lazy regularizers, a moving average, initial weights."""
from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from engine import checkpoint, distributed
from engine.step import cut
from models.base_model import BaseModel, frozen
from models.losses.gan import fake_term, generator_term, real_term
from models.losses.regularizers import path_length_penalty, path_lengths, r1_penalty
from models.style_options import (
    agrees,
    build_discriminator,
    check_training_flags,
    network_settings,
    read_discriminator,
    resolve_discriminator,
    resolve_size,
)

BETA2 = 0.99
PATH_DECAY = 0.01
# What random numbers are for; each purpose has a stream of its own.
FOR_D, FOR_G, FOR_PATH, FOR_DIRECTION, FOR_NOISE = 0, 1, 2, 10, 20
logger = logging.getLogger("facezoo")


class StyleTraining(BaseModel):
    """Base of the prior and GPEN; a subclass builds G and makes images with it.

    A step consists of up to four phases, each a step of an optimizer: D's loss, R1 every so many
    steps, G's losses, path lengths every so many. H, the moving average of G, follows at the end.

    Random numbers depend on (--seed, step, rank, place in the batch) only, so that parts of a step,
    other devices and resumed runs see the same.

    Class attribute:
        generator: class of G, whose arguments are those of `network_settings`.
    """
    dataset = "gpen"
    gradients = "average"       # R1 and path length are differentiated twice
    loss_scale = "dynamic"
    inference_network = "H"
    generator: type[nn.Module]

    # -- options ----------------------------------------------------------------------------------

    @classmethod
    def defaults(cls, is_train: bool) -> dict[str, Any]:
        common = {"load_size": None}        # the preset decides
        return {**common, "batch_size": 4, "lr": 0.002, "beta1": 0.0,
                "total_epochs": 200} if is_train else common

    @classmethod
    def resolve(cls, opt: argparse.Namespace) -> None:
        resolve_size(opt)
        if opt.is_train and opt.d_weights and not opt.preview_degradation:
            resolve_discriminator(opt)

    @classmethod
    def check(cls, opt: argparse.Namespace) -> None:
        super().check(opt)
        if opt.is_train:
            check_training_flags(opt)

    @classmethod
    def agrees(cls, name: str, value: Any, shown: Any) -> bool:
        return agrees(name, value, shown)

    @classmethod
    def build(cls, opt: argparse.Namespace) -> dict[str, nn.Module]:
        networks = {"G": cls.generator(**network_settings(opt))}
        if opt.is_train:
            networks["D"] = build_discriminator(opt)
        return networks

    # -- building ---------------------------------------------------------------------------------

    def __init__(self, opt: argparse.Namespace, device: torch.device) -> None:
        super().__init__(opt, device)
        for name, network in self.build(opt).items():
            self.add_network(name, network)
        self.iteration = 0
        if not self.is_train:
            return
        self.add_ema("H", of="G")
        self.path_mean = torch.zeros((), device=device)
        factor = lazy_reg_scale(opt.g_reg_every if opt.path_regularize else 0)
        self.add_optimizer("G", lr=opt.lr * factor, betas=(opt.beta1 ** factor, BETA2 ** factor),
                           groups=self._groups(factor))
        factor = lazy_reg_scale(opt.d_reg_every if opt.r1 else 0)
        self.add_optimizer("D", lr=(opt.lr if opt.d_lr is None else opt.d_lr) * factor,
                           betas=(opt.beta1 ** factor, BETA2 ** factor))

    def _groups(self, factor: float) -> Callable[[nn.Module], list[dict]] | None:
        """Parameter groups of G; all alike."""
        return None

    def setup(self, state: dict[str, Any] | None = None) -> None:
        """As every model's; initial weights of D come from --d_weights."""
        self._training_file: dict[str, Any] = {}
        if self.is_train and state is None and self.opt.d_weights:
            read_discriminator(self.unwrapped["D"], self.opt.d_weights)
        super().setup(state)
        if self._training_file:
            self._finish_training_file()
        for name in self._emas:
            distributed.copy_weights(self.unwrapped[name])

    def load_weights(self, name: str, path: Any) -> None:
        """Also takes a training checkpoint of the original: g, d, g_ema, g_optim, d_optim."""
        content = checkpoint.read(path)
        if not (self.is_train and isinstance(content, dict)
                and isinstance(content.get("g"), dict)):
            self._take(name, content, path)
            return
        self._training_file = content
        self._take("G", content["g"], path)
        if "d" in content and not self.opt.d_weights:
            self._take("D", content["d"], path)

    def _take(self, name: str, content: Any, path: Any) -> None:
        """Load one network from the content of a file."""
        state = checkpoint.unwrap(content, path, name)
        network = self.unwrapped[name]
        checkpoint.check_match(state, network.state_dict(), f"network {name} of {path}",
                               self.describe(state) if name != "D" else "")
        network.load_state_dict(state)
        logger.info("network %s starts from the weights in %s", name, path)

    def _finish_training_file(self) -> None:
        """Load the parts of a training checkpoint that need what `setup` has built."""
        content, path = self._training_file, self.opt.pretrain_model_path
        if "g_ema" in content:
            self._take("H", content["g_ema"], path)
        for name, key in (("G", "g_optim"), ("D", "d_optim")):
            if key not in content:
                continue
            groups = self.precision.steps[name].optimizer.param_groups
            if len(groups) != len(content[key]["param_groups"]):
                logger.warning("optimizer %s starts without a state, since that of %s has other "
                               "parameter groups", name, path)
                continue
            self.precision.load_optimizer(name, content[key])
        self._training_file = {}

    # -- training ---------------------------------------------------------------------------------

    def phases(self) -> list[Callable[[dict[str, Any]], dict[str, Tensor]]]:
        """What this step consists of, in the published order."""
        opt = self.opt
        wanted = ((self._train_d, True), (self._regularize_d, self._due(opt.d_reg_every, opt.r1)),
                  (self._train_g, True),
                  (self._regularize_g, self._due(opt.g_reg_every, opt.path_regularize)))
        return [phase for phase, due in wanted if due]

    def _due(self, every: int, weight: float) -> bool:
        return bool(every and weight) and self.iteration % every == 0

    def on_step_end(self) -> None:
        if self._due(self.opt.g_reg_every, self.opt.path_regularize):
            distributed.average([self.path_mean])
        self.update_ema("H", self.opt.ema_decay)
        self.iteration += 1

    def _train_d(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        with torch.no_grad():
            made = self._make(batch, FOR_D)
        loss = (real_term(self.networks["D"](batch["gt"]), "logistic")
                + fake_term(self.networks["D"](made), "logistic"))
        self.optimize("D", loss)
        return {"D": loss.detach()}

    def _regularize_d(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        gt = batch["gt"].detach().clone().requires_grad_()
        logits = self._in_fp32("D", gt)
        loss = self.opt.r1 / 2 * self.opt.d_reg_every * r1_penalty(logits, gt)
        # Zero gradients for what has no part in it: without any, Adam would skip those weights.
        self.optimize("D", loss + 0 * logits.sum())
        return {"R1": loss.detach()}

    def _train_g(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        made = self._make(batch, FOR_G)
        with frozen(self.unwrapped["D"]):    # backward too, which may compute D again
            losses = {"G": self.opt.lambda_g * generator_term(self.networks["D"](made), "logistic"),
                      **self._losses(made, batch)}
            self.optimize("G", sum(losses.values()))
        return {name: loss.detach() for name, loss in losses.items()}

    def _losses(self, made: Tensor, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Losses of G besides the adversarial one."""
        return {}

    def _regularize_g(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        opt = self.opt
        count = max(1, len(batch["gt"]) // opt.path_batch_shrink)
        fraction, batch = batch["fraction"], cut(batch, 0, count)
        images, latents = self._images_and_latents(batch)
        lengths = path_lengths(images, latents, self._direction(batch))
        penalty, mean = path_length_penalty(lengths, self.path_mean, PATH_DECAY * fraction)
        loss = opt.path_regularize * opt.g_reg_every * penalty
        self.optimize("G", loss + 0 * images.sum())
        # A step that is skipped must not spoil the ones after it.
        self.path_mean = torch.where(torch.isfinite(mean), mean.float(), self.path_mean)
        return {"Path": loss.detach()}

    # -- making images --------------------------------------------------------------------------

    def _make(self, batch: dict[str, Any], stream: int) -> Tensor:
        """Images of G in the precision of the run, one for each of the batch."""
        raise NotImplementedError

    def _images_and_latents(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Images of G in fp32 and the latents they depend on."""
        raise NotImplementedError

    def _in_fp32(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Run a network in fp32 whatever its weights' type: gradients of gradients overflow."""
        network = self.unwrapped[name]
        if self.precision.opt_level != "O2":
            return network(*args, **kwargs)
        tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        wide = {f"network.{key}": value.float() for key, value in tensors.items()}
        # Checkpointing would compute with the narrow weights the second time.
        checkpointing, network.checkpointing = network.checkpointing, False
        try:
            return functional_call(_Plain(network), wide, args, kwargs)
        finally:
            network.checkpointing = checkpointing

    def _random(self, *numbers: int) -> torch.Generator:
        """The host's generator for a purpose, the same for the same numbers."""
        words = np.random.SeedSequence([self.opt.seed, self.iteration, *numbers])
        return torch.Generator().manual_seed(int(words.generate_state(1)[0]))

    def _randn(self, batch: dict[str, Any], stream: int, *shape: int) -> Tensor:
        """N(0, 1) of this shape for each image of the batch."""
        drawn = [torch.randn(shape, generator=self._random(stream, distributed.rank(), place))
                 for place in batch["place"]]
        return torch.stack(drawn).to(batch["gt"])

    def _direction(self, batch: dict[str, Any]) -> Tensor:
        """The random direction of the path lengths."""
        return self._randn(batch, FOR_DIRECTION, *batch["gt"].shape[1:])

    # -- saving -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "iteration": self.iteration,
                "mean_path_length": self.path_mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.iteration = int(state.get("iteration", 0))
        self.path_mean = torch.as_tensor(state.get("mean_path_length", 0.0), dtype=torch.float32
                                         ).to(self.device)


class _Plain(nn.Module):
    """A network's own forward pass, without any wrapper (apex casts there)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return type(self.network).forward(self.network, *args, **kwargs)


def lazy_reg_scale(every: int) -> float:
    """Factor on learning rate and exponent of betas of an optimizer with lazy regularization."""
    return every / (every + 1) if every else 1.0

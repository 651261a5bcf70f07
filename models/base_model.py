"""What every recipe shares: networks, optimisers, precision, saving and resuming."""
from __future__ import annotations

import argparse
import copy
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine import checkpoint, distributed
from engine import device as devices
from engine.lr_schedule import learning_rate_factor
from engine.optimizer_step import WHOLE, Part
from engine.precision import Precision
from models.ops.sync_batch_norm import synchronize_batch_norms
from utils.images.convert import to_tensor
from utils.images.resize import bicubic

logger = logging.getLogger("facezoo")


class BaseModel:
    """A recipe: networks, losses and the order of updates.

    A subclass writes `build`, `__init__`, `train_step` and `restore`, adds its flags, and is found
    by its file's name. Class attributes:
        dataset: data used where --dataroot is given but no --dataset_name.
        degradation: how low-quality pictures are made, where --degradation is not given.
        every_gradient: each `train_step` gives every trained parameter a gradient.
        size_multiple: --load_size must be a multiple of it.
        min_size: smallest --load_size, where its networks do not say so by `min_size` themselves.
        loss_scale: what O2 takes without --loss_scale; "dynamic" for losses with large weights.
        restorer: letter of the network whose saved weights restore pictures.
        file_keys: by letter, the key that other tools expect the saved state dict under.
        template: five-point alignment of the faces it was made for, see faces.align.TEMPLATES.
        best_by: the number of a validation, larger is better, that decides about `best`.
        gradients: how ranks share them. "ddp" overlaps that with the backward pass; "average" does
            it after, for networks with parameters that a step does not use or whose gradients
            are differentiated again. Ranks must agree on which parameters a step uses.

    Attributes:
        networks: by letter, to be called; in mixed precision and DDP these are wrappers.
        bare: by letter, the networks themselves.
        step: number of the current optimiser step, the first is 1.
        part: which part of the step's samples `train_step` sees, see --accumulate.
    """
    dataset = "celeba"
    degradation = "bicubic"
    every_gradient = True
    size_multiple = 1
    min_size = 1
    loss_scale: str | float = 128.0
    restorer = "G"
    file_keys: dict[str, str] = {}
    template = "ffhq"
    best_by = "psnr"
    gradients = "ddp"

    # -- options ----------------------------------------------------------------------------------

    @staticmethod
    def modify_commandline_options(parser: Any, is_train: bool) -> None:
        """Add the recipe's own flags to a parser."""

    @classmethod
    def defaults(cls, is_train: bool) -> dict[str, Any]:
        """Values this recipe gives to common flags, below YAML and command line."""
        return {}

    @classmethod
    def resolve(cls, opt: argparse.Namespace) -> None:
        """Fill in what follows from other options; a second time changes nothing.

        Raises:
            ValueError: options that contradict each other.
        """

    @classmethod
    def check(cls, opt: argparse.Namespace) -> None:
        """Refuse resolved options that do not go together; changes none.

        Raises:
            ValueError: such options.
        """
        if opt.load_size % cls.size_multiple:
            raise ValueError(f"--load_size must be a multiple of {cls.size_multiple} for --model "
                             f"{opt.model}, got {opt.load_size}")
        # The meta device makes building free: this only runs the constructors' checks.
        with torch.device("meta"):
            networks = cls.build(opt)
        limits = {f"--model {opt.model}": cls.min_size, **{
            f"network {letter} as these options build it": getattr(network, "min_size", 1)
            for letter, network in networks.items()}}
        which = max(limits, key=limits.get)
        if opt.load_size < limits[which]:
            raise ValueError(f"--load_size must be at least {limits[which]} for {which}, got "
                             f"{opt.load_size}")

    @classmethod
    def build(cls, opt: argparse.Namespace) -> dict[str, nn.Module]:
        """The networks that are trained, by letter, as their constructors leave them.

        Without training, only the one that restores. Checking the options calls it on the meta
        device; `__init__` initializes what it gives and adds it.

        Raises:
            ValueError: options that no network can be built with.
        """
        raise NotImplementedError

    # -- weight files -----------------------------------------------------------------------------

    @classmethod
    def settings_of(cls, state: dict[str, Tensor]) -> dict[str, Any]:
        """Option values that the names and shapes of a state dict show; entries take them over.

        A tuple holds the values that fit where the file does not tell them apart; an option that
        it says nothing about is left out.

        Args:
            state: of the network that restores, as its weight file has it.

        Raises:
            ValueError: it is of another network; says what the file holds, "holds no SPARNet".
        """
        return {}

    @classmethod
    def agrees(cls, name: str, value: Any, shown: Any) -> bool:
        """Whether a value of option `name` builds the network of one that `settings_of` shows."""
        return value == shown

    @classmethod
    def describe(cls, state: dict[str, Tensor]) -> str:
        """What a state dict that does not fit is of, for the message."""
        try:
            settings = cls.settings_of(state)
        except ValueError as error:
            return f"The file {error}"
        flags = [f"--{name} {' or '.join(map(str, value)) if isinstance(value, tuple) else value}"
                 for name, value in settings.items()]
        return f"The file is of a network with {' '.join(flags)}" if flags else ""

    # -- building, called by __init__ of a recipe -------------------------------------------------

    def __init__(self, opt: argparse.Namespace, device: torch.device) -> None:
        self.opt, self.device, self.is_train = opt, device, opt.is_train
        self.memory_format = devices.memory_format(device, opt.memory_format)
        self.networks: dict[str, nn.Module] = {}
        self.bare: dict[str, nn.Module] = {}
        self.precision: Precision | None = None
        self.step = 0
        self.part = WHOLE
        self._averages: dict[str, str] = {}
        self._plans: dict[str, tuple[list[str], Callable, dict[str, Any]]] = {}
        self._base_rates: dict[str, list[float]] = {}
        self._not_saved: set[str] = set()

    def add_network(self, name: str, network: nn.Module, saved: bool = True) -> None:
        """Take a network, with its fp32 initial weights, to the device.

        Args:
            saved: False for fixed networks that come from a file of their own.
        """
        if hasattr(network, "checkpointing"):
            network.checkpointing = self.is_train and self.opt.checkpointing
        network.to(device=self.device, memory_format=self.memory_format)
        self.bare[name] = self.networks[name] = network
        if not saved:
            self._not_saved.add(name)
        count = sum(p.numel() for p in network.parameters())
        logger.info("network %s: %s, %s parameters", name, type(network).__name__, f"{count:,}")
        if self.opt.verbose:
            logger.info("%s", network)

    def add_average(self, name: str, of: str) -> None:
        """Take a copy of network `of` that follows its weights; see `update_average`.

        Call before the first forward: a module with spectral norm cannot be copied after one.
        """
        network = copy.deepcopy(self.bare[of]).requires_grad_(False)
        self.bare[name] = self.networks[name] = network
        self._averages[name] = of

    def add_optimizer(self, name: str, *, lr: float, betas: tuple[float, float],
                      networks: Iterable[str] | None = None,
                      groups: Callable[[nn.Module], Iterable[dict]] | None = None) -> None:
        """Plan an Adam for the network of this name; it is built by `setup`.

        Args:
            networks: letters of the networks it trains, if not the one called `name`.
            groups: parameter groups of a network (dicts with `params`, optionally `lr`).
        """
        groups = groups or (lambda network: [{"params": list(network.parameters())}])
        self._plans[name] = (list(networks or [name]), groups, {"lr": lr, "betas": betas})

    # -- what a recipe defines --------------------------------------------------------------------

    def train_step(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """One iteration: forward, losses, `update` of each optimiser.

        Args:
            batch: "lq" and "gt" (B, 3, H, W) in [-1, 1] on the device, and what else the dataset
                gives.

        Returns:
            Detached scalar losses by name; they stay on the device.
        """
        raise NotImplementedError

    def restore(self, lq: Tensor) -> Tensor:
        """Restored faces (B, 3, H, W) for low-quality ones in [-1, 1]; range not clipped."""
        raise NotImplementedError

    def measure(self, batch: dict[str, Any], restored: Tensor) -> dict[str, list[float]]:
        """What validation and evaluation measure besides PSNR and SSIM, by name, for each picture.

        Args:
            batch: as for `train_step`, from a held-out part of the data.
            restored: (B, 3, H, W), what `restore` made of it.
        """
        return {}

    def preprocess(self, image: np.ndarray) -> np.ndarray:
        """Make a picture of any size fit the network: bicubic to --load_size squared.

        Args:
            image: uint8 RGB (H, W, 3).

        Returns:
            uint8 RGB (load_size, load_size, 3).
        """
        return bicubic(image, self.opt.load_size, self.opt.load_size)

    def prepare(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Turn the uint8 pictures of a batch that is on the device into float ones, in its layout.
        """
        return {key: to_tensor(value, self.memory_format)
                if isinstance(value, Tensor) and value.dtype == torch.uint8 and value.ndim == 4
                else value for key, value in batch.items()}

    # -- set-up -----------------------------------------------------------------------------------

    def setup(self, state: dict[str, Any] | None = None) -> None:
        """Load start weights, cast, build the optimisers, restore a training state, go parallel.

        The order matters: masters are made from the loaded weights, fused optimisers must be
        restored before their first step, and DDP comes last.

        Args:
            state: what `state_dict` returned earlier, or a published training state.
        """
        if self.opt.pretrain_model_path and state is None:
            self.load_weights(self._starting(), self.opt.pretrain_model_path)
            for name, of in self._averages.items():
                self.bare[name].load_state_dict(self.bare[of].state_dict())
        if self.is_train:
            opt = self.opt
            if opt.checkpointing and not any(hasattr(network, "checkpointing")
                                             for network in self.bare.values()):
                raise ValueError(f"--checkpointing: no network of --model {opt.model} can do it")
            if opt.sync_bn:
                self._synchronize_batch_norms()
            self.precision = Precision(
                self.device, opt_level=opt.opt_level, loss_scale=opt.loss_scale,
                amp_backend=opt.amp_backend, amp_dtype=opt.amp_dtype, optimizer=opt.optimizer,
                master_init=opt.master_init, keep_fp32=opt.keep_fp32, grad_clip=opt.grad_clip,
                default_scale=self.loss_scale)
            self.networks = self.precision.prepare(self.bare, self._plans, self.every_gradient)
            self._base_rates = {name: [group["lr"] for group in update.optimizer.param_groups]
                                for name, update in self.precision.updates.items()}
        if state is not None:
            self.load_state_dict(state)
        if self.is_train:
            self._go_parallel()
        else:
            self.eval()

    def _starting(self) -> str:
        """The network that start weights are for: the one that restores, or its origin."""
        return next(name for name in (self._averages.get(self.restorer), self.restorer, "G")
                    if name in self.bare)

    def _go_parallel(self) -> None:
        if self.gradients == "ddp":
            self.networks |= {name: distributed.wrap(self.networks[name], self.device)
                              for name in self._trained()}
        elif distributed.world_size() > 1:
            for name in self._trained():
                distributed.copy_weights(self.bare[name])
            for update in self.precision.updates.values():
                update.averages = True

    def _synchronize_batch_norms(self) -> None:
        if distributed.world_size() == 1:
            logger.info("--sync_bn has no effect in a single process")
            return
        for name in self._trained():
            count = synchronize_batch_norms(self.bare[name])
            logger.info("network %s: %d batch norms over all %d processes", name, count,
                        distributed.world_size())

    def _trained(self) -> list[str]:
        """Names of the networks that an optimiser moves."""
        return list(dict.fromkeys(name for names, _, _ in self._plans.values() for name in names))

    def load_weights(self, name: str, path: str | Path) -> None:
        """Load a weight file strictly into network `name`; published key names and wrappers."""
        network = self.bare[name]
        state = checkpoint.load_weights(path, network.state_dict(), name, self.describe)
        network.load_state_dict(state)
        logger.info("network %s: weights from %s", name, path)

    def train(self) -> None:
        for network in self.bare.values():
            network.train()

    def eval(self) -> None:
        for network in self.bare.values():
            network.eval()

    def share_buffers(self) -> None:
        """Give every process the main one's buffers (batch norm statistics): those are saved."""
        distributed.copy_buffers(self.bare.values())

    # -- training ---------------------------------------------------------------------------------

    def start_step(self, step: int, steps_per_epoch: int, total_steps: int) -> None:
        """Set the step's number and learning rates."""
        self.step = step
        factor = learning_rate_factor(
            self.opt.lr_policy, (step - 1) / steps_per_epoch, total_steps / steps_per_epoch,
            self.opt.n_epochs, self.opt.n_epochs_decay, self.opt.lr_decay_epochs)
        for name, update in self.precision.updates.items():
            for group, rate in zip(update.optimizer.param_groups, self._base_rates[name],
                                   strict=True):
                group["lr"] = rate * factor

    def run_step(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """One optimiser step: `train_step` on the batch, or with --accumulate on its parts.

        Returns:
            Losses as `train_step` gives them, averaged over the samples.
        """
        parts = split(batch, self.opt.batch_size)
        if len(parts) == 1:
            return self.train_step(batch)
        losses: dict[str, Tensor] = {}
        for index, samples in enumerate(parts):
            last = index == len(parts) - 1
            weight = len(samples["path"]) / len(batch["path"])
            self.part = Part(index == 0, last, weight)
            with ExitStack() as stack:
                if not last:        # gradients travel once per step
                    for network in self.networks.values():
                        if hasattr(network, "no_sync"):
                            stack.enter_context(network.no_sync())
                for name, loss in self.train_step(samples).items():
                    losses[name] = losses.get(name, 0) + weight * loss
        self.part = WHOLE
        return losses

    def update(self, name: str, loss: Tensor) -> None:
        """Zero, scaled backward and step of one optimiser."""
        self.precision.updates[name].step(loss, self.part)

    @torch.no_grad()
    def update_average(self, name: str, decay: float) -> None:
        """Move a network of `add_average`: decay * itself + (1 - decay) * its origin, over weights
        and buffers; counters are copied. Follows the fp32 masters."""
        average = self.bare[name].state_dict()
        origin = self.precision.state_of(self.bare[self._averages[name]])
        floating = [key for key, value in average.items() if value.is_floating_point()]
        torch._foreach_lerp_([average[key] for key in floating],
                             [origin[key] for key in floating], 1 - decay)
        for key in average.keys() - floating:
            average[key].copy_(origin[key])

    def learning_rates(self) -> dict[str, float]:
        """Current rate of the first parameter group of each optimiser."""
        return {name: update.optimizer.param_groups[0]["lr"]
                for name, update in self.precision.updates.items()}

    def gradient_norms(self) -> dict[str, float]:
        """Norm of each optimiser's last gradients, unscaled; waits for the device."""
        return {name: float(update.gradient_norm())
                for name, update in self.precision.updates.items()}

    def bad_steps(self) -> int:
        """Steps so far whose loss was not finite; waits for the device."""
        return sum(int(update.bad_steps) for update in self.precision.updates.values())

    def weights_are_finite(self) -> bool:
        """False once an overflow or a diverged step has spoilt a network; waits for the device."""
        tensors = [tensor for state in self.weights().values() for tensor in state.values()
                   if tensor.is_floating_point()]
        return bool(torch.isfinite(torch.stack(torch._foreach_norm(tensors)).sum()))

    def optimizer_names(self) -> list[str]:
        """Names of the optimisers, in the order they were added."""
        return list(self._plans)

    # -- saving -----------------------------------------------------------------------------------

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """State dict of every saved network, fp32, by letter."""
        return {name: self.precision.state_of(network) if self.precision else network.state_dict()
                for name, network in self.bare.items() if name not in self._not_saved}

    def state_dict(self) -> dict[str, Any]:
        """Everything the recipe needs to go on exactly."""
        updates = self.precision.updates
        return {"networks": self.weights(), "amp": self.precision.state_dict(),
                "optimizers": {name: u.optimizer.state_dict() for name, u in updates.items()},
                "bad_steps": {name: u.bad_steps for name, u in updates.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned, strictly."""
        for name, network in self.bare.items():
            if name in self._not_saved:
                continue
            if name not in state["networks"]:
                raise ValueError(f"the training state holds no network {name}; it was written by "
                                 f"another model than {self.opt.model}")
            saved = state["networks"][name]
            checkpoint.check_match(saved, network.state_dict(), f"network {name} of the state",
                                   self.describe(saved))
            self.precision.load_state_of(network, saved)
        for name, update in self.precision.updates.items():
            self.precision.load_optimizer(name, state["optimizers"][name])
            update.bad_steps += int(state.get("bad_steps", {}).get(name, 0))
        self.precision.load_state_dict(state.get("amp", {}))


def split(batch: dict[str, Any], size: int) -> list[dict[str, Any]]:
    """The batch in parts of `size` samples, the last one perhaps smaller; `bad` goes with none."""
    count = len(batch["path"])
    if count <= size:
        return [batch]
    samples = {key: value for key, value in batch.items() if key != "bad"}
    return [{key: value[start:start + size] for key, value in samples.items()}
            for start in range(0, count, size)]


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Let gradients pass through what the network computes inside, but not into its weights."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)

"""Everything a model leaves to the engine: networks on the device, precision, optimizers, ranks and
their training state."""
from __future__ import annotations

import argparse
import copy
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine import checkpoint, distributed
from engine import device as devices
from engine.lr_schedule import learning_rate_factor
from engine.optimizer_step import WHOLE
from engine.precision import Precision
from engine.recompute import Recomputable
from engine.step import Step

logger = logging.getLogger("facezoo")
Groups = Callable[[nn.Module], Iterable[dict]]


class ModelEngine:
    """The base of every model, which its author does not write; see models.base_model.BaseModel.

    Attributes:
        networks: by letter, to be called; in mixed precision and DDP these are wrappers.
        unwrapped: by letter, the networks themselves.
        step: number of the current optimizer step, the first is 1.
    """
    every_gradient: bool
    loss_scale: str | float
    inference_network: str
    gradients: str

    def __init__(self, opt: argparse.Namespace, device: torch.device) -> None:
        self.opt, self.device, self.is_train = opt, device, opt.is_train
        self.memory_format = devices.memory_format(device, opt.memory_format)
        self.networks: dict[str, nn.Module] = {}
        self.unwrapped: dict[str, nn.Module] = {}
        self.precision: Precision | None = None
        self.step = 0
        self.micro_batch = WHOLE    # the engine's business alone, as is whether a step has begun
        self.began = True
        self._emas: dict[str, str] = {}
        self._plans: dict[str, tuple[list[str], Groups, dict[str, Any]]] = {}
        self._base_rates: dict[str, list[float]] = {}
        self._not_saved: set[str] = set()

    # -- what a model's constructor calls ---------------------------------------------------------

    def add_network(self, name: str, network: nn.Module, saved: bool = True) -> None:
        """Register a network, with its fp32 initial weights, and move it to the device.

        Args:
            saved: False for fixed networks that come from a file of their own.
        """
        if isinstance(network, Recomputable):
            network.checkpointing = self.is_train and self.opt.checkpointing
        network.to(device=self.device, memory_format=self.memory_format)
        self.unwrapped[name] = self.networks[name] = network
        if not saved:
            self._not_saved.add(name)
        count = sum(p.numel() for p in network.parameters())
        logger.info("network %s: %s, %s parameters", name, type(network).__name__, f"{count:,}")
        if self.opt.verbose:
            logger.info("%s", network)

    def add_ema(self, name: str, of: str) -> None:
        """Register a copy of network `of` that follows its weights; see `update_ema`.

        Call before the first forward: a module with spectral norm cannot be copied after one.
        """
        network = copy.deepcopy(self.unwrapped[of]).requires_grad_(False)
        self.unwrapped[name] = self.networks[name] = network
        self._emas[name] = of

    def add_optimizer(self, name: str, *, lr: float, betas: tuple[float, float],
                      networks: Iterable[str] | None = None, groups: Groups | None = None) -> None:
        """Plan an Adam for the network of this name; it is built by `setup`.

        Args:
            networks: letters of the networks it trains, if not the one called `name`.
            groups: parameter groups of a network (dicts with `params`, optionally `lr`).
        """
        groups = groups or (lambda network: [{"params": list(network.parameters())}])
        self._plans[name] = (list(networks or [name]), groups, {"lr": lr, "betas": betas})

    # -- set-up -----------------------------------------------------------------------------------

    def setup(self, state: dict[str, Any] | None = None) -> None:
        """Load initial weights, cast, build the optimizers, restore a training state, go parallel.

        The order matters: masters are made from the loaded weights, fused optimizers must be
        restored before their first step, and DDP comes last.

        Args:
            state: what `state_dict` returned earlier, or a published training state.
        """
        if self.opt.pretrain_model_path and state is None:
            self.load_weights(self._starting(), self.opt.pretrain_model_path)
            for name, of in self._emas.items():
                self.unwrapped[name].load_state_dict(self.unwrapped[of].state_dict())
        if self.is_train:
            self._prepare_training()
        if state is not None:
            self.load_state_dict(state)
        if self.is_train:
            self._go_parallel()
        else:
            self.eval()

    def _prepare_training(self) -> None:
        opt = self.opt
        if opt.checkpointing and not any(isinstance(network, Recomputable)
                                         for network in self.unwrapped.values()):
            raise ValueError(f"--checkpointing is not supported by --model {opt.model}")
        if opt.sync_bn:
            self._synchronize_batch_norms()
        self.precision = Precision(
            self.device, opt_level=opt.opt_level, loss_scale=opt.loss_scale,
            amp_backend=opt.amp_backend, amp_dtype=opt.amp_dtype, optimizer=opt.optimizer,
            master_init=opt.master_init, keep_fp32=opt.keep_fp32, grad_clip=opt.grad_clip,
            default_scale=self.loss_scale)
        self.networks = self.precision.prepare(self.unwrapped, self._plans, self.every_gradient)
        self._base_rates = {name: [group["lr"] for group in step.optimizer.param_groups]
                            for name, step in self.precision.steps.items()}

    def _starting(self) -> str:
        """The network for initial weights: the inference network, or the one it averages."""
        letter = self.inference_network
        return next(name for name in (self._emas.get(letter), letter, "G")
                    if name in self.unwrapped)

    def _go_parallel(self) -> None:
        if self.gradients == "ddp":
            self.networks |= {name: distributed.wrap(self.networks[name], self.device)
                              for name in self._trained()}
        elif distributed.world_size() > 1:
            for name in self._trained():
                distributed.copy_weights(self.unwrapped[name])
            for step in self.precision.steps.values():
                step.averages_gradients = True

    def _synchronize_batch_norms(self) -> None:
        if distributed.world_size() == 1:
            logger.info("--sync_bn has no effect in a single process")
            return
        for name in self._trained():
            count = self.synchronize_batch_norms(self.unwrapped[name])
            logger.info("network %s: synchronized batch norms: %d, processes: %d", name, count,
                        distributed.world_size())

    def _trained(self) -> list[str]:
        """Names of the networks that an optimizer trains."""
        return list(dict.fromkeys(name for names, _, _ in self._plans.values() for name in names))

    def load_weights(self, name: str, path: str | Path) -> None:
        """Load a weight file strictly into network `name`; published key names and wrappers."""
        network = self.unwrapped[name]
        state = checkpoint.load_weights(path, network.state_dict(), name, self.describe)
        network.load_state_dict(state)
        logger.info("network %s: weights from %s", name, path)

    def train(self) -> None:
        for network in self.unwrapped.values():
            network.train()

    def eval(self) -> None:
        for network in self.unwrapped.values():
            network.eval()

    def share_buffers(self) -> None:
        """Copy the main process's buffers (batch norm statistics) to all others."""
        distributed.copy_buffers(self.unwrapped.values())

    # -- training ---------------------------------------------------------------------------------

    def start_step(self, step: int, steps_per_epoch: int, total_steps: int) -> None:
        """Set the step's number and learning rates."""
        self.step = step
        factor = learning_rate_factor(
            self.opt.lr_policy, (step - 1) / steps_per_epoch, total_steps / steps_per_epoch,
            self.opt.n_epochs, self.opt.n_epochs_decay, self.opt.lr_decay_epochs)
        for name, each in self.precision.steps.items():
            for group, rate in zip(each.optimizer.param_groups, self._base_rates[name],
                                   strict=True):
                group["lr"] = rate * factor

    def run_step(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """One optimizer step on a batch, with --accumulate in micro-batches of --batch_size.

        Returns:
            Losses as the model's phases give them, averaged over the samples.
        """
        with Step(self, self.opt.batch_size) as step:
            for phase in self.phases():
                for micro_batch in step.split(batch):
                    step.add(phase(micro_batch))
        return step.losses

    def optimize(self, name: str, *losses: Tensor) -> None:
        """Backward and step of one optimizer; several losses go backward one after the other.

        With micro-batches this adds gradients, and the optimizer steps at the last one.
        """
        if not self.began:
            self.began = True
            self.before_backward()
        self.precision.steps[name].step(*losses, at=self.micro_batch)

    @torch.no_grad()
    def update_ema(self, name: str, decay: float) -> None:
        """Move a network of `add_ema`: decay * itself + (1 - decay) * its origin, over weights
        and buffers; counters are copied. Follows the fp32 masters."""
        average = self.unwrapped[name].state_dict()
        origin = self.precision.state_of(self.unwrapped[self._emas[name]])
        floating = [key for key, value in average.items() if value.is_floating_point()]
        torch._foreach_lerp_([average[key] for key in floating],
                             [origin[key] for key in floating], 1 - decay)
        for key in average.keys() - floating:
            average[key].copy_(origin[key])

    def learning_rates(self) -> dict[str, float]:
        """Current learning rate of the first parameter group of each optimizer."""
        return {name: step.optimizer.param_groups[0]["lr"]
                for name, step in self.precision.steps.items()}

    def gradient_norms(self) -> dict[str, float]:
        """Norm of each optimizer's last gradients, unscaled; waits for the device."""
        return {name: float(step.gradient_norm()) for name, step in self.precision.steps.items()}

    def bad_steps(self) -> int:
        """Steps so far whose loss was not finite; waits for the device."""
        return sum(int(step.bad_steps) for step in self.precision.steps.values())

    # -- saving -----------------------------------------------------------------------------------

    def weights_are_finite(self) -> bool:
        """False once a network holds non-finite values; waits for the device."""
        tensors = [tensor for state in self.weights().values() for tensor in state.values()
                   if tensor.is_floating_point()]
        return bool(torch.isfinite(torch.stack(torch._foreach_norm(tensors)).sum()))

    def optimizer_names(self) -> list[str]:
        """Names of the optimizers, in the order they were added."""
        return list(self._plans)

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """State dict of every saved network, fp32, by letter."""
        return {name: self.precision.state_of(network) if self.precision else network.state_dict()
                for name, network in self.unwrapped.items() if name not in self._not_saved}

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume exactly."""
        steps = self.precision.steps
        return {"networks": self.weights(), "amp": self.precision.state_dict(),
                "optimizers": {name: step.optimizer.state_dict() for name, step in steps.items()},
                "bad_steps": {name: step.bad_steps for name, step in steps.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, strictly."""
        for name, network in self.unwrapped.items():
            if name in self._not_saved:
                continue
            if name not in state["networks"]:
                raise ValueError(f"the training state must be of --model {self.opt.model}, but "
                                 f"has no network {name}")
            saved = state["networks"][name]
            hint = self.describe(saved) if name in (self.inference_network, "G") else ""
            checkpoint.check_match(saved, network.state_dict(), f"network {name} of the state",
                                   hint)
            self.precision.load_state_of(network, saved)
        for name, step in self.precision.steps.items():
            self.precision.load_optimizer(name, state["optimizers"][name])
            step.bad_steps += int(state.get("bad_steps", {}).get(name, 0))
        self.precision.load_state_dict(state.get("amp", {}))

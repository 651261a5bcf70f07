"""Mixed precision: O0, O1 and the apex-style O2, natively on plain torch or through Ascend's apex.

O2 means fp16 weights, fp32 batch norm, fp32 master weights inside the optimizer and a constant loss
scale. The native form reproduces apex's numbers. Source: NVIDIA/apex `amp` with Ascend's patch.
"""
from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from engine import device as devices
from engine.apex import find_apex
from engine.casting import LowPrecision, cast_network
from engine.optimizer_step import ApexOptimizerStep, LossScaler, OptimizerStep, is_npu_fused_adam

logger = logging.getLogger("facezoo")
IMPLEMENTATION = ("fused", "foreach", "capturable", "differentiable", "maximize")
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
NEEDS_EVERY_GRADIENT = ("NpuFusedAdam fails where a step leaves a parameter without gradient, as "
                        "this model's steps do")


class Precision:
    """Precision of a whole model: casts its networks, makes its optimizers, keeps the masters.

    Args:
        opt_level: "O0", "O1", "O2" or "auto" (O2 on NPU and CUDA, O0 on the CPU).
        loss_scale: "dynamic", a number as text, or None for the level's default.
        amp_backend: "auto" or "native" (plain torch), "apex" (Ascend's, NPU only).
        amp_dtype: "auto", "fp16" or "bf16".
        optimizer: "auto" or "fused" (the device's fused Adam), "adam".
        master_init: "rounded" as apex, or "exact": masters start from the unrounded weights.
        keep_fp32: "safe" or "apex", see `cast_network`.
        default_scale: O2's loss scale where none is given; instead of "dynamic" a chip that cannot
            see overflow takes 1.

    Raises:
        ValueError: a combination the device cannot do.
    """

    def __init__(self, device: torch.device, *, opt_level: str = "auto",
                 loss_scale: str | float | None = None, amp_backend: str = "auto",
                 amp_dtype: str = "auto", optimizer: str = "auto", master_init: str = "rounded",
                 keep_fp32: str = "safe", grad_clip: float = 0.0,
                 default_scale: str | float = 128.0) -> None:
        self.device, self.optimizer_kind, self.grad_clip = device, optimizer, grad_clip
        self.master_init, self.keep_fp32 = master_init, keep_fp32
        self.default_scale = default_scale
        automatic = opt_level == "auto"
        self.opt_level = devices.default_opt_level(device) if automatic else opt_level
        self.loss_scale = self._checked_scale(loss_scale)
        self.dtype = self._checked_dtype(amp_dtype)
        self.apex = self._checked_apex(amp_backend)
        self.steps: dict[str, OptimizerStep] = {}
        self._masters: dict[int, nn.Parameter] = {}     # by identity of the network's parameter
        reasons = ([f"--opt_level auto on {device.type}"] if automatic else []) + (
            ["--amp_backend auto is native, which needs no apex"]
            if amp_backend == "auto" and self.opt_level != "O0" else [])
        logger.info("precision: %s%s", self.describe(),
                    f" ({'; '.join(reasons)})" if reasons else "")

    def describe(self) -> str:
        if self.opt_level == "O0":
            return "O0, fp32"
        kind = str(self.dtype).removeprefix("torch.")
        how = "Ascend apex" if self.apex else "native"
        return f"{self.opt_level}, {kind}, {how}, loss scale {self.loss_scale}"

    def _checked_scale(self, given: str | float | None) -> str | float:
        if given is None:
            blind = self.default_scale == "dynamic" and devices.overflow_saturates(self.device)
            return (1.0 if blind else self.default_scale) if self.opt_level == "O2" else "dynamic"
        if self.opt_level == "O0":
            logger.warning("--loss_scale has no effect with --opt_level O0")
        if given == "dynamic":
            if devices.overflow_saturates(self.device) and self.opt_level == "O2":
                raise ValueError("--loss_scale dynamic cannot be used: this chip turns overflow "
                                 "into its largest number, so native O2 cannot see it; give a "
                                 "number (128), or use --opt_level O1")
            return "dynamic"
        try:
            scale = float(given)
        except ValueError:
            scale = 0.0
        if not 0 < scale < float("inf"):
            raise ValueError(f"--loss_scale must be dynamic or a positive number, got {given}")
        return scale

    def _checked_dtype(self, given: str) -> torch.dtype:
        if self.opt_level == "O0":
            if given != "auto":
                logger.warning("--amp_dtype has no effect with --opt_level O0")
            return torch.float32
        if given == "auto":
            given = devices.default_amp_dtype(self.device, self.opt_level)
        if given == "bf16" and devices.lacks_bf16(self.device):
            raise ValueError("--amp_dtype bf16 cannot be used: NPU batch norm, PReLU and "
                             "reflection padding have no bf16 kernels; use fp16")
        if given == "bf16" and self.opt_level == "O2":
            raise ValueError("--amp_dtype bf16 needs --opt_level O1, since O2 is fp16")
        return DTYPES[given]

    def _checked_apex(self, backend: str) -> Any:
        if backend != "apex":
            return None
        if not devices.takes_ascend_apex(self.device):
            raise ValueError(f"--amp_backend apex needs an Ascend NPU, got "
                             f"{self.device.type}; use native")
        amp, found = find_apex()
        if amp is None:
            raise ValueError(f"--amp_backend apex cannot be used: {found}; see "
                             f"requirements-npu.txt, or use native")
        if self.opt_level == "O0":
            raise ValueError("--amp_backend apex needs --opt_level O1 or O2")
        return amp

    # -- set-up: networks are on the device with their fp32 weights loaded ------------------------

    def prepare(self, networks: dict[str, nn.Module],
                plans: dict[str, tuple[list[str], Callable[[nn.Module], Iterable[dict]], dict]],
                every_gradient: bool) -> dict[str, nn.Module]:
        """Cast the trained networks and build the optimizers.

        Args:
            networks: every network of the model; those without optimizer stay fp32.
            plans: per optimizer the names of its networks, a function from network to parameter
                groups, and Adam's settings (lr, betas).
            every_gradient: each step gives every parameter a gradient, which NpuFusedAdam needs.

        Returns:
            The networks to call, by name: wrapped where inputs or outputs are cast.
        """
        trained = {name: networks[name] for names, _, _ in plans.values() for name in names}
        if self.apex:
            return self._prepare_apex(networks, trained, plans, every_gradient)
        if self.opt_level == "O2":
            for network in trained.values():
                self._make_masters(network)
        for name, (members, group, settings) in plans.items():
            groups = _trained_groups(networks, members, group)
            weights = [p for entry in groups for p in entry["params"]]
            for entry in groups:
                entry["params"] = [self.master(p) for p in entry["params"]]
            optimizer = self._build_optimizer(name, groups, settings, every_gradient)
            self.steps[name] = OptimizerStep(optimizer, weights, [self.master(w) for w in weights],
                                        self._make_scaler(), self.grad_clip, self.device)
        if self.opt_level == "O0":
            return dict(networks)
        return {name: LowPrecision(network, self.dtype, self.device.type, self.opt_level == "O1")
                if name in trained else network for name, network in networks.items()}

    def _make_masters(self, network: nn.Module) -> None:
        originals = {name: p.detach().clone() for name, p in network.named_parameters()}
        cast_network(network, self.dtype, self.keep_fp32, self.device)
        for name, weight in network.named_parameters():
            if weight.dtype != torch.float32:
                start = originals[name] if self.master_init == "exact" else weight.detach().float()
                self._masters[id(weight)] = nn.Parameter(start)

    def _make_scaler(self) -> Any:
        if self.opt_level == "O2":
            return LossScaler(self.loss_scale)
        if self.opt_level == "O1" and self.dtype is torch.float16:
            fixed = {} if self.loss_scale == "dynamic" else {
                "init_scale": self.loss_scale, "growth_interval": 2 ** 31 - 1}
            return devices.grad_scaler(self.device, **fixed)
        return None

    def _build_optimizer(self, name: str, groups: list[dict], settings: dict,
                         every_gradient: bool) -> torch.optim.Optimizer:
        kind, (fused, found) = self.optimizer_kind, devices.fused_adam(self.device)
        if devices.fused_adam_needs_every_gradient(self.device) and not every_gradient:
            fused, found = None, NEEDS_EVERY_GRADIENT
        if kind == "fused" and fused is None:
            raise ValueError(f"--optimizer fused cannot be used: {found}; use --optimizer adam")
        if kind in ("auto", "fused") and fused is not None:
            logger.info("optimizer %s: %s", name, found)
            return fused(groups, **settings)
        logger.info("optimizer %s: torch Adam", name)
        return torch.optim.Adam(groups, **settings)

    def _prepare_apex(self, networks: dict[str, nn.Module], trained: dict[str, nn.Module],
                      plans: dict, every_gradient: bool) -> dict[str, nn.Module]:
        """amp.initialize runs once over all networks and optimizers, before DDP."""
        groups = {name: _trained_groups(networks, members, group)
                  for name, (members, group, _) in plans.items()}
        weights = {name: [p for entry in entries for p in entry["params"]]
                   for name, entries in groups.items()}
        fused = self.optimizer_kind != "adam" and every_gradient
        if self.optimizer_kind == "fused" and not fused:
            raise ValueError(f"--optimizer fused cannot be used: {NEEDS_EVERY_GRADIENT}; use "
                             f"--optimizer adam")
        kind = (importlib.import_module("apex.optimizers").NpuFusedAdam if fused
                else torch.optim.Adam)
        built = [kind(groups[name], **settings) for name, (_, _, settings) in plans.items()]
        models, built = self.apex.initialize(
            list(trained.values()), built, opt_level=self.opt_level, loss_scale=self.loss_scale,
            combine_grad=every_gradient, num_losses=len(built))
        for loss_id, (name, optimizer) in enumerate(zip(plans, built, strict=True)):
            self.steps[name] = ApexOptimizerStep(self.apex, loss_id, self._masters, optimizer,
                                            weights[name], self.grad_clip, self.device)
        logger.info("optimizer: %s", "NpuFusedAdam of apex" if fused else "torch Adam")
        return {**networks, **dict(zip(trained, models, strict=True))}

    # -- state ------------------------------------------------------------------------------------

    def master(self, weight: nn.Parameter) -> nn.Parameter:
        """The fp32 tensor the optimizer moves for this parameter of a network."""
        return self._masters.get(id(weight), weight)

    def state_of(self, network: nn.Module) -> dict[str, Tensor]:
        """The network's state dict in fp32, weights taken from the masters (no copies made)."""
        weights = dict(network.named_parameters())
        state = {}
        for name, tensor in network.state_dict().items():
            tensor = self.master(weights[name]).detach() if name in weights else tensor
            # Double stays double, for comparisons without rounding.
            low = tensor.dtype in (torch.float16, torch.bfloat16)
            state[name] = tensor.float() if low else tensor
        return state

    @torch.no_grad()
    def load_state_of(self, network: nn.Module, state: dict[str, Tensor]) -> None:
        """Load an fp32 state dict with exactly this network's keys into weights and masters."""
        network.load_state_dict(state)
        for name, weight in network.named_parameters():
            if self.apex and weight.dtype != torch.float32:     # apex makes masters later
                self._masters[id(weight)] = nn.Parameter(state[name].to(weight.device).float())
            elif (master := self.master(weight)) is not weight:
                master.copy_(state[name])

    def state_dict(self) -> dict[str, Any]:
        """Level and loss scales; per optimizer in apex's layout (O2) or torch's (O1)."""
        state: dict[str, Any] = {"opt_level": self.opt_level}
        if self.apex:
            return {**state, **self.apex.state_dict()}
        for name, update in self.steps.items():
            if update.scaler is not None:
                state[name] = update.scaler.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Also loads apex's flat layout, and a file of another level, whose scales start anew."""
        if self.apex:
            flat = {key: value for key, value in state.items() if key.startswith("loss_scaler")}
            if flat:
                self.apex.load_state_dict(flat)
            return
        for index, (name, update) in enumerate(self.steps.items()):
            saved = state.get(name)
            if saved is None and f"loss_scaler{index}" in state:
                saved = {"loss_scaler0": state[f"loss_scaler{index}"]}
            if saved is not None and update.scaler is not None and (
                    isinstance(update.scaler, LossScaler) == ("loss_scaler0" in saved)):
                update.scaler.load_state_dict(saved)

    def load_optimizer(self, name: str, state: dict[str, Any]) -> None:
        """Restore an optimizer before its first step.

        NpuFusedAdam counts a tensor `step` twice for its first parameter, so steps become integers
        for it; torch's Adam wants tensors. Fused kernels walk through memory without looking at
        strides, so the moments take their parameter's layout.
        """
        assert not self.steps[name].optimizer.state, "NpuFusedAdam ignores a load after a step"
        fused_npu = is_npu_fused_adam(self.steps[name].optimizer)
        for entry in state["state"].values():
            if fused_npu and isinstance(entry.get("step"), Tensor):
                entry["step"] = int(entry["step"].item())
            elif not fused_npu and "step" in entry and not isinstance(entry["step"], Tensor):
                entry["step"] = torch.tensor(float(entry["step"]))
        optimizer = self.steps[name].optimizer
        if len(state["param_groups"]) == len(optimizer.param_groups):   # else torch refuses it
            # How a step is computed is this run's choice, whatever the one before it did.
            state = {**state, "param_groups": [
                {**saved, **{key: own[key] for key in IMPLEMENTATION if key in own}}
                for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=True)]}
        if self.apex:
            self.steps[name].load_later(state)
            return
        optimizer.load_state_dict(state)
        for param, entry in optimizer.state.items():
            for key, value in entry.items():
                if isinstance(value, Tensor) and value.shape == param.shape and value.dim():
                    entry[key] = torch.empty_like(param).copy_(value)


def _trained_groups(networks: dict[str, nn.Module], members: Iterable[str],
                    group: Callable[[nn.Module], Iterable[dict]]) -> list[dict]:
    """An optimizer's parameter groups over its networks, frozen parameters left out."""
    return [{**entry, "params": [p for p in entry["params"] if p.requires_grad]}
            for member in members for entry in group(networks[member])]

"""One optimizer's step in any precision: loss scale, master weights, overflow."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine import device as devices
from engine import distributed


class LossScaler:
    """apex's scaler for fp32 master gradients, one per optimizer.

    A constant scale tests nothing and skips nothing. `dynamic` starts at 65536, halves and skips on
    overflow, doubles after 2000 clean steps, up to 2**24; it costs one read-back per step.
    """
    window, largest = 2000, 2.0 ** 24

    def __init__(self, scale: float | str) -> None:
        self.dynamic = scale == "dynamic"
        self.loss_scale = 65536.0 if self.dynamic else float(scale)
        self.unskipped = 0

    def unscale(self, grads: list[Tensor]) -> bool:
        """Divide the gradients by the scale in place; True when the step must be skipped."""
        if not grads:
            return False
        if not self.dynamic:
            torch._foreach_mul_(grads, 1.0 / self.loss_scale)
            return False
        found = grads[0].new_zeros(())
        inverse = grads[0].new_full((), 1.0 / self.loss_scale)
        torch._amp_foreach_non_finite_check_and_unscale_(grads, found, inverse)
        return bool(found.item())

    def update(self, overflow: bool) -> None:
        """Adapt the scale after a step."""
        if self.dynamic and overflow:
            self.loss_scale, self.unskipped = self.loss_scale / 2, 0
            return
        self.unskipped += 1
        if self.dynamic and self.unskipped == self.window:
            self.loss_scale = min(self.loss_scale * 2, self.largest)
            self.unskipped = 0

    def state_dict(self) -> dict[str, Any]:
        return {"loss_scaler0": {"loss_scale": self.loss_scale, "unskipped": self.unskipped}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """A constant scale stays what the options say; a dynamic one continues."""
        if self.dynamic:
            self.loss_scale = float(state["loss_scaler0"]["loss_scale"])
        self.unskipped = int(state["loss_scaler0"]["unskipped"])


@dataclass(frozen=True)
class MicroBatch:
    """Which micro-batch of a step a loss belongs to, and its fraction of the step's samples."""
    first: bool = True
    last: bool = True
    fraction: float = 1.0


WHOLE = MicroBatch()


def is_npu_fused_adam(optimizer: torch.optim.Optimizer) -> bool:
    """Whether this is NpuFusedAdam, torch_npu's or apex's.

    It keeps parameters and gradients in flat buffers, to which they move at its first step or at a
    `zero_grad` that sees gradients; clips by a method of its own; and counts steps as integers.
    """
    return hasattr(optimizer, "clip_grad_norm_fused_")


class OptimizerStep:
    """Zero, scaled backward, unscale, clip and step of one optimizer.

    Args:
        weights: the trained parameters, as the networks hold them.
        masters: their fp32 counterparts inside the optimizer; the same tensors where fp32.
        scaler: LossScaler, a torch GradScaler (O1), or None.
        grad_clip: largest gradient norm, 0 for no limit.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, weights: list[nn.Parameter],
                 masters: list[nn.Parameter], scaler: Any, grad_clip: float,
                 device: torch.device) -> None:
        self.optimizer, self.scaler, self.grad_clip, self.device = (
            optimizer, scaler, grad_clip, device)
        self.weights, self.masters = weights, masters
        self.averages_gradients = False       # gradients over the ranks here, where no DDP does it
        self.pairs = [(w, m) for w, m in zip(weights, masters, strict=True) if w is not m]
        # torch's fused Adam leaves everything untouched, without a host read, where this is 1.
        self.skips_on_device = getattr(optimizer, "_step_supports_amp_scaling", False)
        self.is_npu_fused = is_npu_fused_adam(optimizer)
        self.bad_steps = torch.zeros((), dtype=torch.int64, device=device)

    def zero(self) -> None:
        """Always through the optimizer: NpuFusedAdam steps with stale gradients otherwise."""
        self.optimizer.zero_grad()
        for weight, _ in self.pairs:
            weight.grad = None

    def step(self, *losses: Tensor, at: MicroBatch = WHOLE) -> None:
        """One optimizer step on scalar losses, which go backward one after the other; the step is
        made after the last loss of the last micro-batch. Where a loss is not finite nothing is
        changed, if that is possible without stalling the device, and `bad_steps` counts it."""
        for index, loss in enumerate(losses):
            self._add(loss, MicroBatch(at.first and index == 0,
                                       at.last and index == len(losses) - 1, at.fraction))

    def _add(self, loss: Tensor, at: MicroBatch) -> None:
        """Add the gradients of a loss; step after the last one."""
        loss = self._begin(loss, at)
        if isinstance(self.scaler, LossScaler):
            (loss.float() * self.scaler.loss_scale).backward()
        elif self.scaler is not None:
            self.scaler.scale(loss).backward()
        else:
            loss.backward()
        if at.last:
            self._average()
            self._apply(self._count_bad())
            if self.is_npu_fused and not self.optimizer.state:
                self.zero()     # the first step was skipped: flatten now, not after a forward pass

    def _begin(self, loss: Tensor, at: MicroBatch) -> Tensor:
        """The loss times its fraction of the step; the first one clears the gradients."""
        bad = ~torch.isfinite(loss.detach())
        if at.first:
            self.zero()
            self._bad = bad
        else:
            self._bad = self._bad | bad
        return loss if at.fraction == 1 else loss * at.fraction

    def _average(self) -> None:
        if self.averages_gradients:
            distributed.average([w.grad for w in self.weights if w.grad is not None])

    def _count_bad(self) -> Tensor:
        """Whether a loss was not finite on some rank, which `bad_steps` counts: averaging has made
        the gradients of all ranks non-finite then."""
        if distributed.world_size() > 1:
            self._bad = distributed.sum_over_ranks(self._bad.int()) > 0
        self.bad_steps += self._bad
        return self._bad

    def _apply(self, bad: Tensor) -> None:
        if self.scaler is not None and not isinstance(self.scaler, LossScaler):
            self.scaler.unscale_(self.optimizer)    # O1: the scaler itself skips bad steps
            self._clip()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            return
        overflow = False
        self._gather()
        if self.scaler is not None:
            overflow = self.scaler.unscale([m.grad for m in self.masters if m.grad is not None])
            self.scaler.update(overflow)
        if overflow or (devices.on_host(self.device) and bad):
            return
        self._clip()
        self._step_optimizer(bad)
        if self.pairs:
            with torch.no_grad():
                torch._foreach_copy_([w for w, _ in self.pairs], [m for _, m in self.pairs])

    def _gather(self) -> None:
        """Copy low-precision gradients into the masters' fp32 ones."""
        for weight, master in self.pairs:
            if weight.grad is None:
                continue
            if master.grad is None:
                master.grad = weight.grad.float()
            else:       # NpuFusedAdam keeps its gradients as parts of one buffer
                master.grad.copy_(weight.grad)

    def _clip(self) -> None:
        if not self.grad_clip:
            return
        if self.is_npu_fused:
            self.optimizer.clip_grad_norm_fused_(self.grad_clip)
        else:
            nn.utils.clip_grad_norm_(self.masters, self.grad_clip)

    def _step_optimizer(self, bad: Tensor) -> None:
        if not self.skips_on_device:
            self.optimizer.step()
            return
        self.optimizer.found_inf = bad.float()
        self.optimizer.step()
        del self.optimizer.found_inf

    def gradient_norm(self) -> Tensor:
        """Norm of the gradients the last step used, that is after clipping."""
        grads = [m.grad for m in self.masters if m.grad is not None]
        if not grads:       # an optimizer whose turn has not come yet
            return torch.zeros(())
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))


class ApexOptimizerStep(OptimizerStep):
    """The same step through Ascend's apex, which owns masters, casting and loss scale.

    apex makes the masters when the first loss is scaled, out of the fp16 weights, and casts a
    state loaded before that to fp16. Both are therefore put back at that moment.

    Args:
        registry: masters by identity of their weights, to be filled; those in it already are the
            values to start from.
    """

    def __init__(self, amp: Any, loss_id: int, registry: dict[int, nn.Parameter],
                 optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], grad_clip: float,
                 device: torch.device) -> None:
        super().__init__(optimizer, weights, weights, None, grad_clip, device)
        self.amp, self.loss_id = amp, loss_id
        self._registry = registry
        self._state: dict[str, Any] | None = None
        self._started = False

    def load_later(self, state: dict[str, Any]) -> None:
        """Load an optimizer's state at the first step, the earliest possible time."""
        self._state = state

    def _add(self, loss: Tensor, at: MicroBatch) -> None:
        loss = self._begin(loss, at)
        with self.amp.scale_loss(loss, self.optimizer, loss_id=self.loss_id,
                                 delay_unscale=not at.last) as scaled:
            if not self._started:
                self._start()
            scaled.backward()
            if at.last:
                self._average()     # before apex unscales, at the end of this block
        if at.last:
            self._count_bad()
            self._clip()
            self.optimizer.step()

    @torch.no_grad()
    def _start(self) -> None:
        self._started = True
        # apex replaces parameters in their places.
        self.masters = list(self.amp.master_params(self.optimizer))
        for weight, master in zip(self.weights, self.masters, strict=True):
            if master is not weight:
                if (exact := self._registry.get(id(weight))) is not None:
                    master.copy_(exact)
                self._registry[id(weight)] = master
        if self._state is not None:
            self.optimizer.load_state_dict(self._state)
            self._state = None

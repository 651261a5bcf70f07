"""`torch.npu.amp.GradScaler`: the scaler that reads the chip's overflow flag."""
from __future__ import annotations

from typing import Any

import torch


class GradScaler(torch.amp.GradScaler):
    """torch's scaler with the two differences that torch_npu's own shows.

    One overflow flag belongs to the whole object, so an overflow in one optimizer's gradients also
    skips those stepped after it until `update`; and `dynamic=False` keeps the scale and looks for
    nothing.
    """

    def __init__(self, init_scale: float = 2.0 ** 16, growth_factor: float = 2.0,
                 backoff_factor: float = 0.5, growth_interval: int = 2000, dynamic: bool = True,
                 enabled: bool = True) -> None:
        super().__init__("npu", init_scale, growth_factor, backoff_factor, growth_interval, enabled)
        self._dynamic, self._overflow = dynamic, False

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        super().unscale_(optimizer)
        found = self._per_optimizer_states[id(optimizer)]["found_inf_per_device"]
        self._overflow |= self._dynamic and any(float(value) for value in found.values())

    def _maybe_opt_step(self, optimizer: torch.optim.Optimizer, optimizer_state: dict,
                        *args: Any, **kwargs: Any) -> Any:
        if self._overflow:
            print("Gradient overflow. Skipping step")
            return None
        return optimizer.step(*args, **kwargs)

    def update(self, new_scale: Any = None) -> None:
        if not self._dynamic and new_scale is None:
            self._per_optimizer_states.clear()
            return
        super().update(new_scale)
        self._overflow = False

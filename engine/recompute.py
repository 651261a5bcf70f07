"""Networks that can trade time for memory: --checkpointing."""
from __future__ import annotations

from torch import nn


class Recomputable(nn.Module):
    """A network that can recompute its blocks in the backward pass.

    Attributes:
        checkpointing: whether it does; set by the training model.
    """
    checkpointing = False

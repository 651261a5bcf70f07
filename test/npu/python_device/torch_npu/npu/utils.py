"""`torch.npu.utils`: what the chip can do, by its name."""
from __future__ import annotations

import os
import re


def chip() -> str:
    """Product name; A2 is "Ascend910B1" to "Ascend910B4", without digit it is the first chip."""
    return os.environ.get("FACEZOO_NPU_SOC", "Ascend910B1")


def is_support_inf_nan() -> bool:
    """False on first-generation chips, which turn overflow into the largest finite number."""
    return re.match(r"Ascend910(B\d|_93)", chip()) is not None

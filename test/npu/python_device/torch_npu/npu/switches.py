"""Global settings of the device, kept and noted."""
from __future__ import annotations

from typing import Any

from .. import record


def set_compile_mode(jit_compile: bool = False) -> None:
    record.note("set_compile_mode", jit_compile)


class _WriteOnly:
    """`torch.npu.config`: attributes can be set; reading them raises, as on the real one."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "allow_internal_format":
            raise AttributeError(f"torch.npu.config has no option {name}")
        record.note(f"config.{name}", value)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"torch.npu.config: {name} cannot be read")


class _ShortMantissa:
    """`torch.npu.conv` and `torch.npu.matmul`: whether fp32 may be rounded to hf32."""

    def __init__(self, name: str, default: bool) -> None:
        self.__dict__.update(name=name, allow_hf32=default)

    def __setattr__(self, attribute: str, value: bool) -> None:
        if attribute != "allow_hf32":
            raise AttributeError(f"torch.npu.{self.name} has no option {attribute}")
        self.__dict__[attribute] = value
        record.note(f"{self.name}.{attribute}", value)


config = _WriteOnly()
conv = _ShortMantissa("conv", True)
matmul = _ShortMantissa("matmul", False)

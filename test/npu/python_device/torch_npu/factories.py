"""Operators that make tensors out of nothing: they have no npu tensor to be dispatched by."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from . import tensor

_libraries: list[torch.library.Library] = []    # their registrations end with them
OTHER_LAYOUTS = ("sparse", "quantized", "affine", "nested", "cudnn", "mkldnn", "from_file",
                 "_coo", "_cs", "_bs")


def _is_factory(schema: Any) -> bool:
    """A `device` argument, no tensor argument, one tensor as result."""
    takes_device = any(argument.name == "device" for argument in schema.arguments)
    takes_tensor = any("Tensor" in str(argument.type) for argument in schema.arguments)
    makes_tensor = len(schema.returns) == 1 and str(schema.returns[0].type) == "Tensor"
    return takes_device and not takes_tensor and makes_tensor


def _kernel(function: Any) -> Callable:
    def make(*args: Any, **kwargs: Any) -> Any:
        return tensor.run(function, args, kwargs)
    return make


def register() -> None:
    """Give every factory, and the copies that start from a CPU tensor, a kernel for the device."""
    library = torch.library.Library("aten", "IMPL")
    _libraries.append(library)
    for schema in torch._C._jit_get_all_schemas():
        space, name = schema.name.split("::")
        if space != "aten" or not _is_factory(schema) or any(w in name for w in OTHER_LAYOUTS):
            continue
        function = getattr(getattr(torch.ops.aten, name), schema.overload_name or "default")
        library.impl(function, _kernel(function), "PrivateUse1")
    for function in (torch.ops.aten._copy_from.default, torch.ops.aten._to_copy.default):
        library.impl(function, _kernel(function), "PrivateUse1")

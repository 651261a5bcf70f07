"""Which operators autocast computes in the low type and which in fp32, as torch_npu has them."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

LOW = ("conv1d", "conv2d", "conv3d", "conv_transpose2d.input", "convolution", "linear", "matmul",
       "mm", "bmm", "addmm", "baddbmm", "einsum", "prelu")
FP32 = ("softplus", "exp", "pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar", "rsqrt",
        "norm.Scalar", "norm.ScalarOpt_dim", "linalg_vector_norm", "layer_norm", "group_norm",
        "l1_loss", "mse_loss", "smooth_l1_loss", "softmax.int", "log_softmax.int", "sum",
        "sum.dim_IntList", "cumsum")
_libraries: list[torch.library.Library] = []    # their registrations end with them


def _overload(name: str) -> Any:
    operator, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, operator), overload or "default")


def _casting(function: Any, low: bool) -> Callable:
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def call(*args: Any, **kwargs: Any) -> Any:
        dtype = torch.get_autocast_dtype("npu") if low else torch.float32

        def cast(value: Any) -> Any:
            castable = (isinstance(value, Tensor) and value.device.type == "npu"
                        and value.is_floating_point() and value.dtype is not torch.float64)
            return value.to(dtype) if castable else value
        with torch._C._ExcludeDispatchKeyGuard(key):
            return function(*tree_map(cast, args), **tree_map(cast, kwargs))
    return call


def _refuse(*args: Any, **kwargs: Any) -> None:
    raise RuntimeError("torch.nn.functional.binary_cross_entropy is unsafe to autocast; use "
                       "binary_cross_entropy_with_logits")


def register() -> None:
    """Everything else keeps the type of its inputs."""
    fallback = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
    fallback.fallback(torch.library.fallthrough_kernel)
    library = torch.library.Library("aten", "IMPL", "AutocastPrivateUse1")
    for names, low in ((LOW, True), (FP32, False)):
        for name in names:
            function = _overload(name)
            library.impl(function, _casting(function, low))
    library.impl(torch.ops.aten.binary_cross_entropy.default, _refuse)
    _libraries.extend((fallback, library))

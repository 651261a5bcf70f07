"""A stand-in for the package torch_npu: a device called npu in pure Python, computed by the CPU.

For tests on machines without an Ascend card and without the published package. It shows that code
runs on a device other than the CPU: tensors are placed, moved and refused as there, autocast and
fused optimizer follow the recorded behavior, collectives travel under the name hccl. The
arithmetic is that of the CPU kernels. It proves nothing about torch_npu itself, about NPU kernels,
their rounding, speed or memory, nor about HCCL.

Environment:
    FACEZOO_NPU_SOC     product name of the card; "Ascend910A" is a first-generation chip
    FACEZOO_NPU_CARDS   number of cards shown; 1, or 0 for a machine without any

It uses PyTorch's private interface for Python backends and is written for torch 2.13. Tensors are
always on card 0: the autograd engine has one queue for such devices, so the processes of a
distributed run all open npu:0. Importing it registers the device for good, as the real one does.
"""
from __future__ import annotations

import torch
from torch.utils import backend_registration

from . import autocast, factories, hccl, optim, pinning, record
from . import npu as _npu

__version__ = "2.13.0+python"

backend_registration._setup_privateuseone_for_python_backend("npu", backend_module=_npu)
factories.register()
autocast.register()
hccl.register()
pinning.patch()
npu = torch.npu

__all__ = ["npu", "optim", "record"]

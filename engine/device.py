"""The device layer: the only file that names a backend ("npu", "cuda", "cpu").

Everything else gets a `torch.device` from `open_device` or follows a tensor. Entries set
TORCH_DEVICE_BACKEND_AUTOLOAD=0 before torch is imported, so that an installed torch_npu is loaded
here and only when an NPU is really wanted: on a machine without CANN its import fails, and once it
is in the process even CPU optimizers raise.
"""
from __future__ import annotations

import glob
import importlib
import importlib.util
import logging
import os
import platform
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from utils.system import peak_resident
from utils.text import counted

BACKENDS = ("npu", "cuda", "cpu")
VENDORS = {"npu": "ascend", "cuda": "nvidia"}   # of the backends that are cards
# Speed settings that torch_npu reads when it starts: workspace work off the host's main thread, and
# each card's share of the cores. What the user has set is kept.
NPU_ENVIRONMENT = {"TASK_QUEUE_ENABLE": "2", "CPU_AFFINITY_CONF": "1"}
COLLECTIVES = {"npu": "hccl", "cuda": "nccl", "cpu": "gloo"}
logger = logging.getLogger("facezoo")


@dataclass(frozen=True)
class Choice:
    """A backend, the card's number (None: decided by the environment) and why it was taken."""
    backend: str
    index: int | None
    reason: str


# ---- choosing -----------------------------------------------------------------------------------

def parse_spec(spec: str) -> tuple[str, int | None]:
    """Split `auto`, `npu`, `cuda:1` ... into backend and card number.

    Raises:
        ValueError: unknown backend, or the number is not a non-negative integer.
    """
    backend, colon, number = spec.partition(":")
    known = backend in BACKENDS or (backend == "auto" and not colon)
    if not known or (colon and not number.isdigit()):
        raise ValueError(f"--device must be auto, npu, cuda or cpu, with an optional card number "
                         f"like npu:3, got {spec!r}")
    return backend, int(number) if colon else None


def _npu_evidence() -> tuple[bool, str]:
    """Whether there is an Ascend card; does not import torch_npu."""
    if importlib.util.find_spec("torch_npu") is None:
        return False, "torch_npu is not installed"
    if glob.glob("/dev/davinci[0-9]*"):
        return True, "torch_npu is installed and an Ascend card is present"
    if "ASCEND_DEVICE_ID" in os.environ:
        return True, "torch_npu is installed and ASCEND_DEVICE_ID is set"
    return False, ("torch_npu is installed but there is no /dev/davinci* and ASCEND_DEVICE_ID "
                   "is not set")


def choose(spec: str = "auto") -> Choice:
    """Decide on a backend without touching any card.

    `auto` takes the NPU if torch_npu is installed and a card shows, else CUDA, else the CPU.
    """
    backend, index = parse_spec(spec)
    if backend != "auto":
        return Choice(backend, index, "asked for by --device")
    has_npu, why = _npu_evidence()
    if has_npu:
        return Choice("npu", None, why)
    if torch.cuda.is_available():
        return Choice("cuda", None, "a CUDA card is available")
    unused = f"; {why}, so the NPU is not used" if "not set" in why else ""
    return Choice("cpu", None, f"no accelerator found{unused}")


def card_number(backend: str, index: int | None = None) -> int:
    """Number of this process's card: --device, else LOCAL_RANK, else ASCEND_DEVICE_ID, else 0.

    With a single entry in ASCEND_RT_VISIBLE_DEVICES the visible card is number 0.
    """
    if index is not None:
        return index
    if "LOCAL_RANK" in os.environ:
        return int(os.environ["LOCAL_RANK"])
    if backend == "npu":
        visible = os.environ.get("ASCEND_RT_VISIBLE_DEVICES", "")
        if visible and "," not in visible:
            return 0
        for name in ("ASCEND_DEVICE_ID", "NPU_CALCULATE_DEVICE"):
            if os.environ.get(name, "").isdigit():
                return int(os.environ[name])
    return 0


# ---- opening ------------------------------------------------------------------------------------

def _import_torch_npu() -> Any:
    try:
        return importlib.import_module("torch_npu")
    except Exception as error:  # a broken installation raises anything; the cause is passed on
        cause = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"--device npu: torch_npu could not be imported ({cause}). Source CANN's set_env.sh in "
            f"this shell, and install the torch-npu X.Y.Z that belongs to torch X.Y (here torch "
            f"{torch.__version__}); or pass --device cpu") from error


def _open_npu(index: int | None, npu_jit: bool, allow_hf32: bool, npu_strict: bool) -> torch.device:
    for name, value in NPU_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if npu_strict:      # read once, when torch_npu is imported
        os.environ["TORCH_NPU_FALLBACK_CPU_DISABLE"] = "1"
    _import_torch_npu()
    npu = torch.get_device_module("npu")
    count, number = npu.device_count(), card_number("npu", index)
    if not count:
        raise ValueError("--device npu: torch_npu finds no Ascend card; check `npu-smi info`, or "
                         "pass --device cpu")
    _check_number("npu", number, count)
    npu.set_device(number)
    if hasattr(npu, "set_compile_mode"):
        npu.set_compile_mode(jit_compile=npu_jit)
    if hasattr(npu, "config"):      # write-only; private layouts can shift results
        npu.config.allow_internal_format = False
    for family in ("conv", "matmul"):
        if hasattr(npu, family):
            getattr(npu, family).allow_hf32 = allow_hf32
    return torch.device("npu", number)


def _check_number(backend: str, number: int, count: int) -> None:
    if number >= count:
        raise ValueError(f"--device {backend}:{number} must name a card: this machine has "
                         f"{counted(count, 'card')}, numbered from 0; check --device, LOCAL_RANK "
                         f"and ASCEND_DEVICE_ID")


def open_device(spec: str = "auto", *, npu_jit: bool = False, allow_hf32: bool = False,
                npu_strict: bool = False, deterministic: bool = False) -> torch.device:
    """Select this process's device, once, before any tensor or process group.

    Args:
        spec: `auto`, `npu`, `cuda` or `cpu`, with an optional card number (`npu:3`).
        npu_jit: compile NPU operators online for every new shape (first-generation cards).
        allow_hf32: let NPU and CUDA convolutions round fp32 to a shorter mantissa.
        npu_strict: an operator without NPU kernel is an error, not a silent CPU fallback.
        deterministic: deterministic kernels and collectives only; slower.

    Raises:
        ValueError: torch_npu is broken, or the card does not exist.
    """
    choice = choose(spec)
    if deterministic:
        os.environ.setdefault("HCCL_DETERMINISTIC", "true")
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    if choice.backend == "npu":
        device = _open_npu(choice.index, npu_jit, allow_hf32, npu_strict)
    elif choice.backend == "cuda":
        if not torch.cuda.is_available():
            raise ValueError("--device cuda: this PyTorch sees no CUDA card; install a CUDA build "
                             "of torch and check the driver, or pass --device cpu")
        device = torch.device("cuda", card_number("cuda", choice.index))
        _check_number("cuda", device.index, torch.cuda.device_count())
        torch.cuda.set_device(device)
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allow_hf32
    else:
        device = torch.device("cpu")
    logger.info("device: %s, %s (%s)", device, name_of(device), choice.reason)
    return device


# ---- properties ---------------------------------------------------------------------------------

def module_of(device: torch.device) -> Any:
    """`torch.cpu`, `torch.cuda` or `torch.npu`: the same function names on each."""
    return getattr(torch, device.type)


def name_of(device: torch.device) -> str:
    """The card's product name, or processor and thread count."""
    if device.type == "cpu":
        return f"{platform.machine()}, {counted(torch.get_num_threads(), 'thread')}"
    return str(module_of(device).get_device_name(device.index or 0))


def overflow_saturates(device: torch.device) -> bool:
    """True on first-generation Ascend chips, which turn overflow into the largest number."""
    if device.type != "npu":
        return False
    supported = getattr(getattr(module_of(device), "utils", None), "is_support_inf_nan", None)
    return supported is not None and not supported()


def collective(device: torch.device) -> str:
    """Name of the process-group backend for tensors of this device."""
    return COLLECTIVES[device.type]


def on_host(device: torch.device) -> bool:
    """Whether tensors of this device are in the host's memory, so reading one is free."""
    return device.type == "cpu"


def pins_memory(device: torch.device) -> bool:
    """Whether loaders should pin: never on the CPU, where a CPU-only torch raises."""
    return not on_host(device)


def memory_format(device: torch.device, wish: str = "auto") -> torch.memory_format:
    """Layout of image tensors and weights: channels-last on CPU and CUDA, never on the NPU.

    Args:
        wish: "auto", "channels_last" or "contiguous".

    Raises:
        ValueError: channels_last on an NPU, whose kernels refuse it.
    """
    if wish == "channels_last" and device.type == "npu":
        raise ValueError("--memory_format channels_last is not supported by NPU kernels; "
                         "use auto or contiguous")
    last = wish == "channels_last" or (wish == "auto" and device.type != "npu")
    return torch.channels_last if last else torch.contiguous_format


def default_opt_level(device: torch.device) -> str:
    """The published O2 on accelerators, plain fp32 on the CPU."""
    return "O0" if device.type == "cpu" else "O2"


def full_precision(device: torch.device) -> AbstractContextManager:
    """Inside, autocast is off; nothing on devices that have none, such as meta."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def default_amp_dtype(device: torch.device, opt_level: str) -> str:
    """What mixed precision computes in: bf16 under autocast on the CPU, else fp16."""
    return "bf16" if on_host(device) and opt_level == "O1" else "fp16"


def lacks_bf16(device: torch.device) -> bool:
    """Whether batch norm, PReLU and reflection padding have no bf16 kernels."""
    return device.type == "npu"


def lacks_half_prelu(device: torch.device) -> bool:
    """Whether PReLU computes in fp32 only."""
    return device.type == "npu"


def takes_ascend_apex(device: torch.device) -> bool:
    """Whether Ascend's apex runs here."""
    return device.type == "npu"


def fused_adam_needs_every_gradient(device: torch.device) -> bool:
    """Whether the fused Adam fails at a parameter without gradient, as NpuFusedAdam does."""
    return device.type == "npu"


def grad_scaler(device: torch.device, **settings: Any) -> Any:
    """The O1 gradient scaler of this device.

    First-generation Ascend chips need torch_npu's own, which reads the chip's overflow flag; all
    others take torch's.
    """
    if overflow_saturates(device):
        return module_of(device).amp.GradScaler(**settings)
    return torch.amp.GradScaler(device.type, **settings)


def fused_adam(device: torch.device) -> tuple[Callable[..., torch.optim.Optimizer] | None, str]:
    """Constructor of the fused Adam of this device, or None; and its name or why there is none."""
    if device.type == "npu":
        optim = importlib.import_module("torch_npu").optim
        return optim.NpuFusedAdam, "NpuFusedAdam"
    try:
        torch.optim.Adam([torch.zeros(1, device=device, requires_grad=True)], fused=True)
    except (RuntimeError, TypeError) as error:
        return None, f"this torch has no fused Adam for {device.type} ({error})"

    def build(params: Any, **settings: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(params, fused=True, **settings)
    return build, "torch Adam(fused=True)"


# ---- state --------------------------------------------------------------------------------------

def seed_everything(seed: int, device: torch.device) -> None:
    """Seed Python, NumPy and torch on the host and on every card."""
    import random

    import numpy
    random.seed(seed)
    numpy.random.seed(seed % 2 ** 32)
    torch.manual_seed(seed)
    if device.type != "cpu":
        module_of(device).manual_seed_all(seed)


def rng_state(device: torch.device) -> dict[str, Any]:
    """Every global random state of this process, as CPU tensors and plain Python values."""
    import random

    import numpy
    kind, keys, *rest = numpy.random.get_state()
    state = {"python": random.getstate(), "torch": torch.get_rng_state(),
             "numpy": [kind, torch.from_numpy(keys.astype("int64")), *rest]}
    if device.type != "cpu":
        state["device"] = module_of(device).get_rng_state(device).cpu()
    return state


def set_rng_state(device: torch.device, state: dict[str, Any]) -> None:
    """Restore what `rng_state` returned; of another device type's state only the host's part."""
    import random

    import numpy
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    torch.set_rng_state(state["torch"])
    kind, keys, *rest = state["numpy"]
    numpy.random.set_state((kind, keys.numpy().astype("uint32"), *rest))
    if device.type != "cpu" and "device" in state:
        module_of(device).set_rng_state(state["device"], device)


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all work."""
    if device.type != "cpu":
        module_of(device).synchronize()


def know_pickled_tensors() -> None:
    """Let files be read whose tensors an older torch_npu pickled with a function of its own.

    They come to the CPU. Source: torch_npu's utils/storage.py, whose further arguments say how the
    card laid a tensor out.
    """
    def _rebuild_npu_tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any
                            ) -> torch.Tensor:
        return torch._utils._rebuild_tensor_v2(storage, offset, size, stride, False, OrderedDict())
    # The unpickler goes by these names.
    _rebuild_npu_tensor.__module__ = "torch_npu.utils.storage"
    _rebuild_npu_tensor.__qualname__ = _rebuild_npu_tensor.__name__
    torch.serialization.add_safe_globals([_rebuild_npu_tensor])


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is full: of a device, of the host, of ONNX Runtime.

    torch has a class for CUDA and, in newer releases, for NPU; others are told by their words.
    """
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or (
        not isinstance(error, OSError)
        and re.search(r"out of memory|not enough memory|can't allocate memory|"
                      r"failed to allocate|insufficient memory", str(error), re.I) is not None)


def empty_cache(device: torch.device) -> None:
    """Give memory that torch holds without using it back to the device."""
    if device.type != "cpu":
        module_of(device).empty_cache()


def peak_memory(device: torch.device) -> int:
    """Peak bytes: allocated on the card, or on the CPU resident in this process."""
    if device.type != "cpu":
        return int(module_of(device).max_memory_allocated())
    return peak_resident()


class Stopwatch:
    """Seconds between `start` and `stop`, measured on the device without stalling the host.

    `seconds` waits for the device; read it outside the loop.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._marks: list[Any] = []

    def _mark(self) -> Any:
        if self.device.type == "cpu":
            return time.perf_counter()
        event = module_of(self.device).Event(enable_timing=True)
        event.record()
        return event

    def start(self) -> None:
        self._marks = [self._mark()]

    def stop(self) -> None:
        self._marks.append(self._mark())

    def seconds(self) -> float:
        first, last = self._marks
        if self.device.type == "cpu":
            return last - first
        synchronize(self.device)
        return first.elapsed_time(last) / 1000


def side_stream(device: torch.device) -> Any:
    """A stream for copies that overlap with the running step; None on the CPU."""
    return None if on_host(device) else module_of(device).Stream()

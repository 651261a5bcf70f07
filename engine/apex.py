"""Find out which of the packages called apex is installed."""
from __future__ import annotations

import importlib
import importlib.util
import inspect
from typing import Any


def find_apex() -> tuple[Any, str]:
    """Ascend's apex.amp, or None with what was found instead.

    Raises: nothing; PyPI's unrelated `apex`, NVIDIA's without amp and broken builds are told apart.
    """
    try:
        package = importlib.import_module("apex")
    except ModuleNotFoundError as error:
        if error.name == "apex":
            return None, "no package called apex is installed"
        return None, f"apex cannot be imported ({error})"
    except Exception as error:  # old builds die in many ways (torch._six ...)
        return None, f"apex cannot be imported ({type(error).__name__}: {error})"
    try:
        amp = importlib.import_module("apex.amp")
    except ModuleNotFoundError as error:
        if error.name != "apex.amp":
            return None, f"apex.amp cannot be imported ({error})"
        if hasattr(package, "optimizers") or importlib.util.find_spec("apex.optimizers"):
            return None, "this is NVIDIA's apex, which removed amp in 2025"
        return None, "this is another package called apex (PyPI's web toolkit), not the amp one"
    except Exception as error:
        return None, f"apex.amp cannot be imported ({type(error).__name__}: {error})"
    if "combine_grad" not in inspect.signature(amp.initialize).parameters:
        return None, "this is NVIDIA's apex; Ascend's amp.initialize takes combine_grad"
    try:
        optimizers = importlib.import_module("apex.optimizers")
    except Exception as error:
        return None, f"apex.optimizers cannot be imported ({type(error).__name__}: {error})"
    if not hasattr(optimizers, "NpuFusedAdam"):
        return None, "its apex.optimizers has no NpuFusedAdam, which Ascend's has"
    return amp, "Ascend apex"

"""Loaded at interpreter start by the .pth file that install.sh writes into the environment.

Costs one entry in sys.meta_path. When torch_npu is imported, and only then, the libraries standing
in for CANN are loaded first, and afterwards the aten kernels are registered, so that
`python newtrain.py --device npu` runs unmodified. FACEZOO_NPU_RUNTIME chooses:

    host   memory, streams, collectives and aten kernels on the CPU (default)
    null   functions that do nothing: torch_npu imports and finds no card
    none   nothing: torch_npu fails to import, as on a machine without CANN
"""
from __future__ import annotations

import os
import sys

VARIANTS = ("host", "null", "none")


def chosen_variant() -> str:
    """The variant FACEZOO_NPU_RUNTIME asks for.

    Raises:
        ImportError: another word.
    """
    variant = os.environ.get("FACEZOO_NPU_RUNTIME") or "host"
    if variant not in VARIANTS:
        raise ImportError(f"FACEZOO_NPU_RUNTIME must be one of {', '.join(VARIANTS)}; "
                          f"got {variant!r}")
    return variant


def load_libraries(variant: str) -> None:
    """Load the libraries for every later dlopen of their names, first the one others depend on."""
    import ctypes
    folder = os.path.join(sys.prefix, "npu-runtime", variant)
    names = sorted(os.listdir(folder), key=lambda name: name != "libascendcl.so")
    for name in names:
        ctypes.CDLL(os.path.join(folder, name), mode=ctypes.RTLD_GLOBAL)


class Loader:
    """Runs torch_npu's own loader between loading the libraries and registering the kernels."""

    def __init__(self, inner: object) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def create_module(self, spec: object) -> object:
        return self.inner.create_module(spec)

    def exec_module(self, module: object) -> None:
        variant = chosen_variant()
        if variant != "none":
            load_libraries(variant)
        if variant == "host":       # otherwise a failing operator is reported by a later call
            os.environ.setdefault("ASCEND_LAUNCH_BLOCKING", "1")
        self.inner.exec_module(module)
        if variant == "host":
            import npu_host_kernels
            npu_host_kernels.register()


class Finder:
    """Answers for the torch_npu of this environment only."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> object:
        if name != "torch_npu":
            return None
        from importlib.machinery import PathFinder
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None and spec.origin is not None and \
                spec.origin.startswith(sys.prefix + os.sep):
            spec.loader = Loader(spec.loader)
        return spec


sys.meta_path.insert(0, Finder)

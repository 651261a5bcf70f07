"""Commands of prepare.py by name: `preparation/<name>.py` holds one.

A command is a module with `add_arguments(parser)` and `run(opt) -> exit status`; the first line of
its docstring is its help.
"""
from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType


def names() -> list[str]:
    """Names of the commands, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__)
                  if not module.name.startswith("_"))


def find(name: str) -> ModuleType:
    """The module of a command."""
    return importlib.import_module(f"{__name__}.{name}")

"""Commands of prepare.py by name: `preparation/<name>.py` holds one.

A command is a module with `add_arguments(parser)` and `run(opt) -> exit status`; the first line of
its docstring is its help.
"""
from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path
from types import ModuleType


def names() -> list[str]:
    """Names of the commands, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__)
                  if not module.name.startswith("_"))


def summary(name: str) -> str:
    """What a command does, in one line; read without importing it."""
    tree = ast.parse(Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8"))
    return ast.get_docstring(tree).splitlines()[0]


def find(name: str) -> ModuleType:
    """The module of a command."""
    return importlib.import_module(f"{__name__}.{name}")

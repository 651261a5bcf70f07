"""Plug-ins: `<name>_<suffix>.py` dropped into a package is found by its file name.

Nothing is imported to list names, so `--help` and a misspelt name answer at once.
"""
from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
from pathlib import Path


def names(folder: str | Path, suffix: str) -> list[str]:
    """Sorted names of the plug-ins in a folder: `celeba` for `celeba_dataset.py`.

    Files that start with `base_` hold shared code and are no plug-ins.
    """
    ending = f"_{suffix}.py"
    found = (path.name.removesuffix(ending) for path in Path(folder).glob(f"*{ending}"))
    return sorted(name for name in found if name and name != "base")


def load(package: str, name: str, suffix: str, base: type | None = None,
         flag: str | None = None) -> type:
    """Import `<package>/<name>_<suffix>.py` and return the class it defines.

    Args:
        package: dotted name, such as `data`.
        base: the class must derive from it; None takes any public class.
        flag: command-line flag that carried the name, for the error message.

    Raises:
        ValueError: no such plug-in; the message lists those there are, the nearest first.
        TypeError: the file does not define exactly one class that fits. If it has several, the one
            called like the file is taken (`CelebADataset` in `celeba_dataset.py`).
    """
    valid = names(_folder_of(package), suffix)
    if name not in valid:
        raise ValueError(unknown_name(name, valid, flag or suffix))
    module = importlib.import_module(f"{package}.{name}_{suffix}")
    fitting = [value for key, value in vars(module).items()
               if inspect.isclass(value) and value.__module__ == module.__name__
               and not key.startswith("_") and (base is None or issubclass(value, base))]
    if len(fitting) > 1:
        expected = f"{name}{suffix}".replace("_", "").lower()
        fitting = [value for value in fitting if value.__name__.lower() == expected] or fitting
    if len(fitting) != 1:
        kind = f"subclass of {base.__name__}" if base else "public class"
        raise TypeError(f"{module.__file__} must define one {kind}, found "
                        f"{[value.__name__ for value in fitting] or 'none'}")
    return fitting[0]


def unknown_name(name: str, valid: list[str], what: str) -> str:
    """One line for a name that does not exist: `what`, the nearest valid names, all of them."""
    near = difflib.get_close_matches(str(name).lower(), valid, n=3, cutoff=0.5)
    hint = f", did you mean {' or '.join(near)}?" if near else ";"
    return f"{what}: unknown name {name!r}{hint} there are: {', '.join(valid) or 'none'}"


def _folder_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"{package} is not a package")
    return Path(next(iter(spec.submodule_search_locations)))

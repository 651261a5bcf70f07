"""Networks as ONNX graphs: making, checking, describing, shrinking and running them.

Only export.engine is for programs that restore; everything here needs requirements-export.txt.
"""
from __future__ import annotations

from importlib.util import find_spec

PACKAGES = ("onnx", "onnxruntime")


def check_packages() -> None:
    """Raise ValueError where requirements-export.txt is not installed."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ValueError(f"ONNX graphs need {' and '.join(missing)}; "
                         "run pip install -r requirements-export.txt")

"""Rules about the code itself: who imports whom, who may name a backend."""
from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGES = ("models", "data", "options", "utils", "metrics", "faces", "preparation",
            "export", "serving")
ENTRIES = sorted(path.name for path in ROOT.glob("*.py"))
SOURCES = sorted([ROOT / name for name in ENTRIES]
                 + [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
                 + list((ROOT / "benchmarks").glob("*.py")))
# package -> what of ours it may import besides itself
ALLOWED = {
    "options": set(), "utils": set(), "data": {"utils"}, "models/networks": {"utils"},
    "models/losses": {"models.networks", "utils"}, "metrics": {"models.networks", "utils"},
    "faces": {"models.networks", "utils"}, "models": {"metrics", "models", "utils"},
    "export": {"metrics", "models.networks", "utils"},
    "serving": {"faces", "utils"}, "preparation": {"data", "faces", "models", "options", "utils"}}


def imports(path: Path) -> set[str]:
    """Dotted names of everything a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def package_of(path: Path) -> str | None:
    relative = path.relative_to(ROOT).as_posix()
    return max((p for p in ALLOWED if relative.startswith(f"{p}/")), key=len, default=None)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down_only(path: Path) -> None:
    package = package_of(path)
    if package is None:
        return      # entries and benchmarks may import everything
    allowed = ALLOWED[package] | {package.replace("/", ".")}
    ours = {name for name in imports(path) if name.split(".")[0] in PACKAGES}
    wrong = {name for name in ours
             if not any(name == up or name.startswith(f"{up}.") for up in allowed)
             and not any(up.startswith(f"{name}.") or up == name for up in allowed)}
    assert wrong == set()


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_the_device_layer_names_a_backend(path: Path) -> None:
    if path == ROOT / "utils" / "device.py":
        return
    tree = ast.parse(path.read_text())
    compared = {id(part) for node in ast.walk(tree) if isinstance(node, ast.Compare)
                for part in ast.walk(node)}
    named = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)
             and node.value in ("npu", "cuda") and id(node) not in compared]
    calls = re.findall(r"\.(?:npu|cuda)\(|torch\.(?:npu|cuda)\b|torch_npu\.", path.read_text())
    assert (named, calls) == ([], [])


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_nothing_unwanted(path: Path) -> None:
    banned = {"torchvision", "basicsr", "facexlib", "imgaug", "skimage"}
    assert {name.split(".")[0] for name in imports(path)} & banned == set()


@pytest.mark.parametrize("name", [n for n in ENTRIES
                                  if "import torch" in (ROOT / n).read_text()
                                  or "import data" in (ROOT / n).read_text()])
def test_entries_switch_the_autoload_off_before_any_other_import(name: str) -> None:
    text = (ROOT / name).read_text()
    switch = text.index('os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")')
    before = re.findall(r"^(?:import|from) (\S+)", text[:switch], flags=re.M)
    assert set(before) <= {"os", "__future__"}


def test_listing_plugins_imports_no_torch() -> None:
    code = ("import sys, models, data; models.names(); data.names(); data.degradation_names(); "
            "print('torch' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                          timeout=60)
    assert done.stdout.strip() == "False", done.stderr


def test_requirements_leave_out_what_breaks_other_machines() -> None:
    text = (ROOT / "requirements.txt").read_text()
    names = [re.split(r"[<>=\[ ;#]", line)[0].lower() for line in text.splitlines()
             if line and not line.startswith("#")]
    assert names == ["torch", "numpy", "opencv-python-headless", "pillow", "tensorboard", "pyyaml",
                     "tqdm", "safetensors"]
    assert "torch==2.13.0" in text

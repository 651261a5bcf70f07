"""Rules about the code itself: who imports whom, who may name a backend."""
from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGES = ("models", "data", "options", "engine", "utils", "metrics", "faces", "preparation",
            "export", "serving", "tools")
ENTRIES = sorted(path.name for path in ROOT.glob("*.py"))
SOURCES = sorted([ROOT / name for name in ENTRIES]
                 + [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
                 + list((ROOT / "benchmarks").glob("*.py")))
# package -> what of ours it may import besides itself; a folder's own row goes before its parent's
ALLOWED = {
    "options": {"utils.system"}, "utils": set(), "engine": {"utils"}, "data": {"utils"},
    "models/ops": {"engine", "utils"},
    "models/networks": {"models.ops", "engine", "utils"},
    "models/losses": {"models.networks", "models.ops", "engine", "utils"},
    "models": {"metrics", "models", "engine", "utils"},
    "metrics": {"models.networks", "engine", "utils"},
    "faces": {"data.synthetic", "models.networks", "engine", "utils"},
    "export": {"metrics", "models.networks", "models.ops", "engine", "utils"},
    "serving": {"faces", "engine", "utils"},
    "preparation": {"data", "faces", "models", "options", "engine", "utils"},
    "tools": {"data", "export", "faces", "metrics", "models", "options", "engine", "utils"}}


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
def test_no_file_imports_an_entry(path: Path) -> None:
    entries = {name.removesuffix(".py") for name in ENTRIES} - {"inference"}
    assert {name.split(".")[0] for name in imports(path)} & entries == set()


def test_the_root_holds_entries_only() -> None:
    assert ENTRIES == ["enhance.py", "evaluate.py", "export_onnx.py", "inference.py",
                       "modelarts_entry_acc.py", "modelarts_entry_perf.py", "newtrain.py",
                       "prepare.py", "serve.py"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_the_device_layer_names_a_backend(path: Path) -> None:
    if path == ROOT / "engine" / "device.py":
        return
    tree = ast.parse(path.read_text())
    named = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)
             and node.value in ("npu", "cuda")]
    named += [part.value for node in ast.walk(tree) if isinstance(node, ast.Compare)
              for part in ast.walk(node) if isinstance(part, ast.Constant) and part.value == "cpu"]
    calls = re.findall(r"\.(?:npu|cuda)\(|torch\.(?:npu|cuda)\b|torch_npu\.", path.read_text())
    assert (named, calls) == ([], [])


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_nothing_unwanted(path: Path) -> None:
    banned = {"torchvision", "basicsr", "facexlib", "imgaug", "skimage"}
    assert {name.split(".")[0] for name in imports(path)} & banned == set()


@pytest.mark.parametrize("path", [
    path for path in SOURCES if path.parent in (ROOT, ROOT / "tools")
    and re.search(r"^if __name__ == .__main__.:", path.read_text(), flags=re.M)
    and re.search(r"^ *(import (torch|data|models)|from (engine|models))\b", path.read_text(),
                  flags=re.M) and path.stem != "probe"],    # which sets it for its children
    ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_switch_the_autoload_off_before_any_other_import(path: Path) -> None:
    text = path.read_text()
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


ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()


def members(tree: ast.AST) -> set[str]:
    """Names that a module or a class defines itself, those of its classes with a dot."""
    found = set()
    for node in getattr(tree, "body", []):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found |= {node.name} | {f"{node.name}.{name}" for name in members(node)}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


@pytest.mark.parametrize("path, name", sorted(set(re.findall(
    r"`([\w/]+\.py)(?::([\w.]+))?`", ARCHITECTURE))))
def test_what_the_page_about_the_architecture_names_exists(path: str, name: str) -> None:
    assert (ROOT / path).is_file()
    assert not name or name in members(ast.parse((ROOT / path).read_text()))


def test_the_page_about_the_architecture_has_every_room() -> None:
    rooms = {path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file()}
    assert rooms <= set(re.findall(r"`(\w+)/`", ARCHITECTURE))

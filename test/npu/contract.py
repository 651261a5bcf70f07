"""What our code uses of torch_npu, against what the published wheel has.

    python test/npu/contract.py             compare; prints what does not fit, exit status 1
    python test/npu/contract.py used        list what our code uses
    FOLDER/bin/python test/npu/contract.py record    write contract.json from the installed wheel

`used` reads our sources without importing anything; `record` belongs into the environment made by
test/npu/wheel/install.sh. A name that torch_npu does not have is found even where our code asks
with hasattr first, because there it would silently do nothing.
"""
from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RECORD = Path(__file__).with_name("contract.json")
VARIABLE = re.compile(r"\b(?:ASCEND|HCCL|TORCH_NPU|PYTORCH_NPU|TASK_QUEUE|CPU_AFFINITY|TORCH_HCCL|"
                      r"COMBINED|NPU)_[A-Z0-9_]+\b")
# Read by others than torch_npu, hence not in the wheel.
ELSEWHERE = {
    "ASCEND_GLOBAL_EVENT_ENABLE": "CANN environment variable reference, log",
    "ASCEND_INSTALL_PATH": "ours: where test/env_npu.sh looks for CANN",
    "HCCL_IF_IP": "CANN environment variable reference, collective communication",
    "NPU_CALCULATE_DEVICE": "ModelZoo scripts of the torch 1.5 era, instead of ASCEND_DEVICE_ID",
}
# What a call returns, where methods of the result are used.
RETURNS = {"torch.npu.Event": "torch.npu.Event", "torch.npu.Stream": "torch.npu.Stream",
           "torch.npu.current_stream": "torch.npu.Stream",
           "torch.npu.default_stream": "torch.npu.Stream"}
# Methods that say whose they are, wherever the object came from.
METHODS = {"elapsed_time": "torch.npu.Event", "wait_stream": "torch.npu.Stream"}
# Optimizers are built as `fused(groups, **settings)` far from where the class is named; these are
# the settings models give.
INDIRECT = (("torch_npu.optim.NpuFusedAdam", 1, ("lr", "betas")),)
FUSED_OPTIMIZER = "torch_npu.optim.NpuFusedAdam"


@dataclass
class Use:
    """One place where our code touches torch_npu."""
    name: str
    place: str
    positional: int | None = None       # None: not a call, or one with *args
    keywords: tuple[str, ...] = ()
    complete: bool = True               # False: further keywords come from **settings


@dataclass
class Report:
    """Everything found in some sources."""
    uses: list[Use] = field(default_factory=list)
    variables: list[tuple[str, str]] = field(default_factory=list)     # name, place
    backends: list[tuple[str, str]] = field(default_factory=list)


# ---- reading our sources -------------------------------------------------------------------------

class Reader(ast.NodeVisitor):
    """Follows torch_npu through one file: names, assignments, getattr, calls."""

    def __init__(self, path: str, report: Report) -> None:
        self.path, self.report = path, report
        self.names: list[dict[str, str]] = [{}]                 # scopes, innermost last
        self.words: dict[str, list[str]] = {}                   # loop variables over constants
        self.calls: set[int] = set()

    def place(self, node: ast.AST) -> str:
        return f"{self.path}:{getattr(node, 'lineno', 0)}"

    def use(self, name: str, node: ast.AST, **details: Any) -> None:
        if name not in ("torch.npu", "torch_npu"):
            self.report.uses.append(Use(name, self.place(node), **details))

    # -- what an expression is ----

    def targets(self, node: ast.AST) -> list[str]:
        """Dotted torch_npu names an expression may stand for; none where it is something else."""
        if isinstance(node, ast.Name):
            for scope in reversed(self.names):
                if node.id in scope:
                    return [scope[node.id]]
            return ["torch_npu"] if node.id == "torch_npu" else []
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and (node.value.id, node.attr) == ("torch", "npu"):
                return ["torch.npu"]
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                return self.targets(ast.Name("self." + node.attr))
            if node.attr.endswith("_fused_"):
                return [f"{FUSED_OPTIMIZER}.{node.attr}"]
            if node.attr in METHODS:
                return [f"{METHODS[node.attr]}.{node.attr}"]
            return [join(base, node.attr) for base in self.targets(node.value)]
        return self.call_targets(node) if isinstance(node, ast.Call) else []

    def call_targets(self, node: ast.Call) -> list[str]:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else \
            node.func.id if isinstance(node.func, ast.Name) else ""
        constants = [a.value for a in node.args if isinstance(a, ast.Constant)]
        if name == "module_of" or (name == "get_device_module" and constants == ["npu"]):
            return ["torch.npu"]
        if name == "_import_torch_npu":
            return ["torch_npu"]
        if name == "import_module" and constants and str(constants[0]).startswith("torch_npu"):
            return [constants[0]]
        if name in ("getattr", "hasattr") and len(node.args) > 1:
            return [join(base, word) for word in self.words_of(node.args[1])
                    for base in self.attribute_bases(node.args[0], word)]
        return [RETURNS[base] for base in self.targets(node.func) if base in RETURNS]

    def attribute_bases(self, node: ast.AST, word: str) -> list[str]:
        return [FUSED_OPTIMIZER] if word.endswith("_fused_") else self.targets(node)

    def words_of(self, node: ast.AST) -> list[str]:
        if isinstance(node, ast.Constant):
            return [node.value] if isinstance(node.value, str) else []
        return self.words.get(node.id, []) if isinstance(node, ast.Name) else []

    # -- statements ----

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.names.append({})
        self.generic_visit(node)
        self.names.pop()

    def visit_For(self, node: ast.For) -> None:
        if isinstance(node.target, ast.Name) and isinstance(node.iter, ast.Tuple | ast.List):
            self.words[node.target.id] = [e.value for e in node.iter.elts
                                          if isinstance(e, ast.Constant)]
        self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if alias.name.split(".")[0] == "torch_npu":
                self.names[-1][alias.asname or "torch_npu"] = \
                    alias.name if alias.asname else "torch_npu"
                self.use(alias.name, node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if (node.module or "").split(".")[0] == "torch_npu":
            for alias in node.names:
                name = join(node.module or "", alias.name)
                self.names[-1][alias.asname or alias.name] = name
                self.use(name, node)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        values = [node.value, *(getattr(node.value, side, None) for side in ("body", "orelse"))]
        found = [name for value in values if value is not None for name in self.targets(value)]
        for target in node.targets:
            if found and isinstance(target, ast.Name):
                self.names[-1][target.id] = found[0]
            elif found and isinstance(target, ast.Attribute):
                self.names[0]["self." + target.attr] = found[0]

    def visit_Dict(self, node: ast.Dict) -> None:
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and key.value == "npu" and \
                    isinstance(value, ast.Constant) and "ccl" in str(value.value):
                self.report.backends.append((value.value, self.place(value)))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        for name in self.targets(node.func):
            self.calls.add(id(node.func))
            starred = any(isinstance(argument, ast.Starred) for argument in node.args)
            named = [keyword.arg for keyword in node.keywords]
            self.use(name, node, positional=None if starred else len(node.args),
                     keywords=tuple(word for word in named if word), complete=None not in named)
        if isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            for name in self.targets(node):
                self.use(name, node)
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if id(node) not in self.calls:
            for name in self.targets(node):
                self.use(name, node)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and VARIABLE.fullmatch(node.value):
            self.report.variables.append((node.value, self.place(node)))

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg and VARIABLE.fullmatch(node.arg):       # environ.update(RANK_ID=...)
            self.report.variables.append((node.arg, self.place(node)))
        self.generic_visit(node)


def join(base: str, name: str) -> str:
    return f"{base}.{name}".replace("torch_npu.npu", "torch.npu", 1)


def read_python(text: str, path: str, report: Report) -> None:
    Reader(path, report).visit(ast.parse(text))


def read_shell(text: str, path: str, report: Report) -> None:
    for number, line in enumerate(text.splitlines(), 1):
        for name in VARIABLE.findall(re.sub(r"(^|\s)#.*", "", line)):
            report.variables.append((name, f"{path}:{number}"))


def our_sources(root: Path = ROOT) -> Iterable[Path]:
    """Entries, packages and launch scripts; no tests, no environments."""
    yield from sorted(root.glob("*.py"))
    for folder in sorted(root.iterdir()):
        if folder.is_dir() and not folder.name.startswith(".") and folder.name != "test":
            yield from sorted(path for path in folder.rglob("*.py") if ".venv" not in str(path))
    yield from sorted((root / "test").glob("*.sh"))


def used(changed: dict[str, str] | None = None, root: Path = ROOT) -> Report:
    """What our sources use; `changed` replaces the text of files, by path from the root."""
    report = Report()
    for path in our_sources(root):
        relative = path.relative_to(root).as_posix()
        text = (changed or {}).get(relative) or path.read_text(encoding="utf-8")
        (read_shell if path.suffix == ".sh" else read_python)(text, relative, report)
    for name, positional, keywords in INDIRECT:
        report.uses.append(Use(name, "models", positional, keywords, complete=False))
    return report


# ---- comparing -----------------------------------------------------------------------------------

def compare(report: Report, record: dict[str, Any]) -> list[str]:
    """One line for everything that the recorded wheel does not have or does not take so."""
    problems = []
    for use in report.uses:
        entry = record["names"].get(use.name)
        if entry is None:
            problems.append(f"{use.place}: torch_npu {record['version']} has no {use.name}")
        elif "(" in entry and (use.positional is not None or use.keywords):
            problems += [f"{use.place}: {use.name}{entry[entry.index('('):]} {problem}"
                         for problem in misfits(use, entry)]
    known = {*record["variables"], *ELSEWHERE}
    problems += [f"{place}: nobody reads the variable {name}"
                 for name, place in report.variables if name not in known]
    problems += [f"{place}: torch_npu registers no process group {name}"
                 for name, place in report.backends if name not in record["backends"]]
    return problems


def misfits(use: Use, entry: str) -> list[str]:
    """Why a call does not fit a recorded signature like `function(device, flag=, *args)`."""
    parameters = [text for text in entry[entry.index("(") + 1:-1].split(", ") if text]
    by_position, by_name, required, keyword_only = [], set(), [], False
    for text in parameters:
        name = text.rstrip("=").lstrip("*")
        if text.startswith("*"):
            keyword_only = keyword_only or not text.startswith("**")
            continue
        by_name.add(name)
        if not text.endswith("="):
            required.append(name)
        if not keyword_only:
            by_position.append(name)
    problems = []
    if not any(text.startswith("**") for text in parameters):
        problems += [f"takes no keyword {word}" for word in use.keywords if word not in by_name]
    if use.positional is not None:
        takes_more = any(re.match(r"\*\w", text) for text in parameters)
        if use.positional > len(by_position) and not takes_more:
            problems.append(f"takes {len(by_position)} positional arguments, got {use.positional}")
        given = {*by_position[:use.positional], *use.keywords}
        if use.complete:
            problems += [f"needs {name}" for name in required if name not in given]
    return problems


def load_record(path: Path = RECORD) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


# ---- recording, in an environment with torch_npu -------------------------------------------------

def describe(value: Any) -> str:
    """`class(params, lr=)`, `function()`, or the kind alone where there is no signature."""
    kind = "class" if inspect.isclass(value) else "function" if callable(value) else "value"
    if kind == "value":
        return kind
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return kind
    texts, starred = [], False
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            texts, starred = [*texts, "*"], True
        starred = starred or parameter.kind is parameter.VAR_POSITIONAL
        prefix = "**" if parameter.kind is parameter.VAR_KEYWORD else \
            "*" if parameter.kind is parameter.VAR_POSITIONAL else ""
        default = "" if prefix or parameter.default is parameter.empty else "="
        texts.append(prefix + parameter.name + default)
    return f"{kind}({', '.join(texts)})"


def members(holder: Any, prefix: str) -> dict[str, str]:
    """Public names of a module or class, modules of other packages left out."""
    found = {}
    for name in dir(holder):
        if name.startswith("_") and name != "__version__":
            continue
        value = getattr(holder, name, None)
        if inspect.ismodule(value):
            if value.__name__.startswith("torch_npu"):
                found[f"{prefix}.{name}"] = "module"
        else:
            text = describe(value)
            if inspect.isclass(holder) and callable(value):     # as called on an instance
                text = re.sub(r"\(self(, )?", "(", text)
            found[f"{prefix}.{name}"] = text
    return found


def settable(holder: Any, prefix: str) -> dict[str, str]:
    """Switches of torch.npu.config and its like: the names their __setattr__ knows."""
    source = inspect.getsource(type(holder).__setattr__)
    return {f"{prefix}.{name}": "switch" for name in re.findall(r'name == "(\w+)"', source)}


def environment_variables(package: Path) -> list[str]:
    """Names like environment variables in the wheel's libraries and Python files."""
    pattern, names = re.compile(VARIABLE.pattern.encode()), set()
    for path in sorted(package.rglob("*")):
        if path.suffix in (".so", ".py") and path.is_file():
            names.update(match.decode() for match in pattern.findall(path.read_bytes()))
    return sorted(names)


def record_wheel() -> dict[str, Any]:
    """The contents of contract.json for the installed torch_npu."""
    import torch
    torch_npu = importlib.import_module("torch_npu")
    npu, optim = torch.npu, importlib.import_module("torch_npu.optim")
    names = {"torch_npu.optim": "module"}
    for holder, prefix in ((torch_npu, "torch_npu"), (npu, "torch.npu"),
                           (npu.utils, "torch.npu.utils"), (npu.amp, "torch.npu.amp"),
                           (optim, "torch_npu.optim"), (npu.Event, "torch.npu.Event"),
                           (npu.Stream, "torch.npu.Stream"),
                           (npu.amp.GradScaler, "torch.npu.amp.GradScaler"),
                           (optim.NpuFusedAdam, "torch_npu.optim.NpuFusedAdam")):
        names.update(members(holder, prefix))
    for name in ("config", "conv", "matmul"):
        names.update(settable(getattr(npu, name), f"torch.npu.{name}"))
    package = Path(torch_npu.__file__).parent
    return {"version": torch_npu.__version__.split("+")[0],
            "backends": sorted(name for name in torch.distributed.Backend.backend_list
                               if name not in ("undefined", "gloo", "nccl", "ucc", "mpi", "xccl")),
            "names": dict(sorted(names.items())), "variables": environment_variables(package)}


def main(arguments: list[str]) -> int:
    command = arguments[0] if arguments else "compare"
    if command == "record":
        os.environ.setdefault("FACEZOO_NPU_RUNTIME", "null")
        record = record_wheel()
        RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"{RECORD}: {len(record['names'])} names of torch_npu {record['version']}")
        return 0
    if command not in ("compare", "used"):
        print("usage: contract.py [compare|used|record]", file=sys.stderr)
        return 2
    report = used()
    if command == "used":
        for use in report.uses:
            print(use.place, use.name, *(() if use.positional is None else
                                         (f"({use.positional} positional)", *use.keywords)))
        for name, place in [*report.variables, *report.backends]:
            print(place, name)
        return 0
    problems = compare(report, load_record())
    print(*problems, f"uses of torch_npu: {len(report.uses)}, problems: {len(problems)}", sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Compile the libraries that stand in for CANN: `null` (tier 2) and `host` (tier 3).

    python build.py FOLDER    for the torch_npu of this interpreter, into FOLDER/npu-runtime/

torch_npu's libraries are asked with nm which functions of CANN they need. In the null variant each
is a function that returns 0. In the host variant those that runtime.c, operators.c and hccl.c
define are real; every other one fails with its name. Nothing of torch_npu is imported.
"""
from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

UNAVAILABLE = 77    # exit status where a tool or the package is missing
HERE = Path(__file__).resolve().parent
CANN_NAME = re.compile(r"^(acl|rt[A-Z]|Msprof)")
# torch_npu looks functions up by name in each of these; all but the first depend on the first.
LIBRARIES = ("libascendcl.so", "libhccl.so", "libacl_op_compiler.so", "libge_runner.so",
             "libgraph.so", "libacl_tdt_channel.so")
ACCEPTED = re.compile(r"^(aclopSetAttr\w+)$")   # attributes of operators that fail anyway


class Unavailable(Exception):
    """A tool or package this machine does not have."""


def package_folder() -> Path:
    """Where torch_npu is installed, found without importing it."""
    spec = importlib.util.find_spec("torch_npu")
    if spec is None or not spec.submodule_search_locations:
        raise Unavailable("the package torch-npu is not installed in this environment")
    return Path(spec.submodule_search_locations[0])


def compiler() -> str:
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and shutil.which(name):
            return name
    raise Unavailable("there is no C compiler (cc, gcc or clang)")


def run(*command: str | Path) -> str:
    """stdout of a command.

    Raises:
        RuntimeError: it failed; its last lines.
    """
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr.strip()[-2000:]}")
    return done.stdout


def undefined_symbols(package: Path) -> list[str]:
    """The functions of CANN that torch_npu's libraries need, sorted."""
    if not shutil.which("nm"):
        raise Unavailable("there is no nm (package binutils)")
    names: set[str] = set()
    for path in [*package.glob("_C*.so"), *(package / "lib").glob("*.so")]:
        if "atb" in path.name:      # loaded on request only, needs a further product of CANN
            continue
        for line in run("nm", "-D", "--undefined-only", path).splitlines():
            name = line.split()[-1].split("@")[0]
            if CANN_NAME.match(name):
                names.add(name)
    return sorted(names)


def defined_symbols(library: Path) -> set[str]:
    return {line.split()[-1] for line in run("nm", "-D", "--defined-only", library).splitlines()}


def null_source(names: list[str]) -> str:
    return "".join(f"long {name}(void) {{ return 0; }}\n" for name in names)


def host_source(names: list[str], defined: set[str]) -> str:
    """Stubs of the host variant for what the hand-written files leave out."""
    lines = ["long host_runtime_missing(const char *name);"]
    for name in names:
        if name not in defined:
            value = "0" if ACCEPTED.match(name) else f'host_runtime_missing("{name}")'
            lines.append(f"long {name}(void) {{ return {value}; }}")
    return "\n".join(lines) + "\n"


def link(cc: str, target: Path, sources: list[Path], *extra: str | Path) -> None:
    run(cc, "-std=gnu11", "-O2", "-fPIC", "-shared", f"-Wl,-soname,{target.name}", "-o", target,
        *sources, *extra)


def build(folder: Path) -> dict[str, int]:
    """Write FOLDER/npu-runtime/{null,host}; returns how many functions each variant has."""
    package, cc = package_folder(), compiler()
    names = undefined_symbols(package)
    hand_written = [HERE / "runtime.c", HERE / "operators.c", HERE / "hccl.c"]
    headers = f"-I{package / 'include/third_party/acl/inc'}"
    with tempfile.TemporaryDirectory() as scratch:
        generated, empty = Path(scratch, "generated.c"), Path(scratch, "empty.c")
        empty.write_text("")
        draft = Path(scratch, "libascendcl.so")
        link(cc, draft, hand_written, headers, "-lrt")
        defined = defined_symbols(draft)
        for variant, text, sources in (("null", null_source(names), []),
                                       ("host", host_source(names, defined), hand_written)):
            target = folder / "npu-runtime" / variant
            target.mkdir(parents=True, exist_ok=True)
            generated.write_text(text)
            main = target / LIBRARIES[0]
            link(cc, main, [generated, *sources], headers, "-lrt")
            for name in LIBRARIES[1:]:
                link(cc, target / name, [empty], "-Wl,--no-as-needed", main,
                     "-Wl,-rpath,$ORIGIN")
    return {"needed": len(names), "real": len(defined & set(names)),
            "failing": sum(name not in defined and not ACCEPTED.match(name) for name in names)}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python build.py FOLDER")
    try:
        counts = build(Path(sys.argv[1]))
    except Unavailable as missing:
        print(f"NPU wheel: {missing}")
        sys.exit(UNAVAILABLE)
    print("NPU wheel: {needed} functions of CANN needed; host runtime: {real} real, {failing} fail "
          "with their name".format(**counts))

"""What is this machine? Facts for tools.doctor, gathered without importing anything heavy.

torch, torch_npu and apex can fail, crash or hang while they are imported, so a child process with a
time limit imports each: python -m tools.probe torch
"""
from __future__ import annotations

import glob
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from utils.system import open_file_limits
from utils.text import counted

ROOT = Path(__file__).resolve().parents[1]
MARK = "facezoo-probe:"     # before the answer of a child: torch_npu prints to stdout as well
OTHER_PACKAGES = ("torch-npu", "torchvision", "apex", "opencv-python", "opencv-contrib-python",
                  "opencv-contrib-python-headless")
Facts = dict[str, Any]


def probe(device: str = "auto", folder: str = "check_points") -> Facts:
    """Everything tools.doctor looks at, as values that JSON can hold."""
    requirements = [read_requirement(line) for line in
                    (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()]
    names = [each["name"] for each in requirements if each] + list(OTHER_PACKAGES)
    return {
        "python": platform.python_version(), "system": platform.platform(),
        "machine": platform.machine(), "device": device,
        "requirements": [each for each in requirements if each],
        "packages": {name: package_version(name) for name in names},
        "torch": ask("torch", device) if is_installed("torch") else {},
        "torch_npu": ask("torch_npu") if is_installed("torch_npu") else {},
        "apex": ask("apex") if is_installed("apex") else {},
        "cann": find_cann(), "ascend": find_ascend_cards(), "nvidia": find_nvidia_cards(),
        "cores": usable_cores(), "memory": memory_limit(), "open_files": open_file_limits(),
        "shm": shutil.disk_usage("/dev/shm").total if os.path.isdir("/dev/shm") else None,
        "disk": disk_of(folder),
    }


# ---- packages -----------------------------------------------------------------------------------

def read_requirement(line: str) -> dict[str, str] | None:
    """Name and version bounds of a line of a requirements file; None where it names no package."""
    found = re.match(r"([A-Za-z0-9._-]+)\s*([^#;]*)", line.strip())
    if not found or line.lstrip().startswith(("#", "-")):
        return None
    return {"name": found[1], "bounds": found[2].strip()}


def package_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def is_installed(module: str) -> bool:
    """Whether a module of this name would be found; nothing is imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


# ---- children -----------------------------------------------------------------------------------

def ask(question: str, *arguments: str, timeout: float = 120) -> Facts:
    """Answer of a child process; {"error": one line} if it fails, crashes or hangs."""
    command = [sys.executable, "-m", "tools.probe", question, *arguments]
    environment = {**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", cwd=ROOT,
                              timeout=timeout, env=environment, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return {"error": f"its import took more than {counted(round(timeout), 'second')}"}
    for line in done.stdout.splitlines():
        if line.startswith(MARK):
            return json.loads(line[len(MARK):])
    if done.returncode < 0:
        return {"error": f"the process was killed by signal {-done.returncode}"}
    last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
    return {"error": " ".join(last[0].split()) if last else f"exit status {done.returncode}"}


def _about_torch(device: str) -> Facts:
    import torch

    from engine import device as devices
    choice, cards = devices.choose(device), _cards()
    # An NPU is not known as a device here: torch_npu stays out of this process.
    usable = choice.backend not in devices.VENDORS or cards.get(choice.backend)
    return {
        **(_settings(choice.backend) if usable else {}),
        "version": torch.__version__, "cuda_build": torch.version.cuda, "cards": cards,
        "collectives": [name for name in ("gloo", "nccl")
                        if getattr(torch.distributed, f"is_{name}_available", lambda: False)()],
        "backend": choice.backend, "vendor": devices.VENDORS.get(choice.backend),
        "reason": choice.reason,
        "collective": devices.COLLECTIVES[choice.backend]}


def _about_torch_npu() -> Facts:
    import torch
    import torch_npu  # noqa: F401  registers the device
    facts = {"cards": _cards(), "hccl": torch.distributed.is_backend_available("hccl")}
    for backend, cards in facts["cards"].items():
        facts |= _settings(backend) if cards else {}
    return facts


def _cards() -> dict[str, list[Facts]]:
    """Name and memory of each card, by the backends that torch has in this process."""
    import torch

    from engine import device as devices
    found = {}
    for backend in devices.VENDORS:
        if hasattr(torch, backend):
            module = devices.module_of(torch.device(backend))
            each = map(module.get_device_properties, range(module.device_count()))
            found[backend] = [{"name": card.name, "memory": card.total_memory} for card in each]
    return found


def _settings(backend: str) -> dict[str, str]:
    """What training uses by default on a backend."""
    import torch

    from engine import device as devices
    device = torch.device(backend)
    fused, found = devices.fused_adam(device)
    return {"opt_level": devices.default_opt_level(device),
            "optimizer": found if fused else f"torch Adam ({found})"}


def _about_apex() -> Facts:
    from engine.apex import find_apex
    amp, found = find_apex()
    return {"usable": amp is not None, "found": found}


# ---- cards --------------------------------------------------------------------------------------

def find_cann() -> Facts:
    """CANN's folder and version, and the variables that its set_env.sh leaves."""
    info = read("/etc/Ascend/ascend_cann_install.info")
    recorded = re.search(r"^Install_Path *= *(.+)$", info, re.M)
    places = [os.environ.get("ASCEND_INSTALL_PATH"), recorded and recorded[1].strip(),
              "/usr/local/Ascend", os.path.expanduser("~/Ascend")]
    scripts = [f"{place}/{package}/set_env.sh" for place in places if place
               for package in ("ascend-toolkit", "nnae")]
    script = next((path for path in scripts if os.path.isfile(path)), None)
    home = os.environ.get("ASCEND_HOME_PATH")
    folder = home or (script and f"{os.path.dirname(script)}/latest")
    return {"set_env": script, "folder": folder, "version": cann_version(folder),
            "ASCEND_HOME_PATH": home, "ASCEND_OPP_PATH": os.environ.get("ASCEND_OPP_PATH")}


def cann_version(folder: str | None) -> str | None:
    """The version in one of the files in which CANN's releases have kept it."""
    patterns = ("*/ascend_*_install.info", "ascend_*_install.info", "compiler/version.info",
                "runtime/version.info")
    for path in [path for each in patterns for path in glob.glob(f"{folder}/{each}")]:
        found = re.search(r"^version *= *(\S+)", read(path), re.M | re.I)
        if found:
            return found[1]
    return None


def find_ascend_cards() -> Facts:
    nodes = sorted(glob.glob("/dev/davinci[0-9]*"))
    found = re.search(r"^Version *= *(\S+)", read("/usr/local/Ascend/driver/version.info"), re.M)
    return {"nodes": nodes, "open": all(os.access(node, os.R_OK | os.W_OK) for node in nodes),
            "driver": found and found[1],
            "npu_smi": first_line("npu-smi", "-v")}


def find_nvidia_cards() -> list[str]:
    """Names of the cards that NVIDIA's driver shows, whatever torch sees."""
    listing = output_of("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    return [line.strip() for line in listing.splitlines() if line.strip()]


def first_line(*command: str) -> str | None:
    lines = output_of(*command).strip().splitlines()
    return lines[0].strip() if lines else None


def output_of(*command: str, timeout: float = 15) -> str:
    """What a program prints; empty if it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace",
                              timeout=timeout, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


# ---- the host -----------------------------------------------------------------------------------

def read(path: str) -> str:
    """Text of a file; empty if there is none to read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def usable_cores() -> float:
    """Processor cores for this process: those it may run on, or fewer by a container's quota."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
                  else os.cpu_count() or 1)
    quota = read("/sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit():
        cores = min(cores, int(quota[0]) / int(quota[1]))
    return cores


def memory_limit() -> int | None:
    """Bytes of memory for this process: the machine's, or fewer by a container's limit.

    None under Windows, which Python does not ask.
    """
    if not hasattr(os, "sysconf"):
        return None
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [read(f"/sys/fs/cgroup/{name}").strip()
              for name in ("memory.max", "memory/memory.limit_in_bytes")]
    return min([total, *(int(limit) for limit in limits if limit.isdigit())])


def disk_of(folder: str) -> Facts:
    """Space where a folder is, or will be: its nearest parent that exists."""
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    return {"folder": folder, "free": shutil.disk_usage(place).free,
            "writable": os.access(place, os.W_OK)}


if __name__ == "__main__":
    answers = {"torch": _about_torch, "torch_npu": _about_torch_npu, "apex": _about_apex}
    print(f"\n{MARK}{json.dumps(answers[sys.argv[1]](*sys.argv[2:]))}", flush=True)

"""One page about this machine: what it has, what training will use, what to fix.

python -m tools.doctor [--json]

Exit status 0 when training can start, 1 otherwise. Works without torch, and where its import fails.
"""
from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from tools.probe import Facts, probe
from utils.text import counted

GIB = 2 ** 30
MIN_FILES, MIN_SHM, MIN_DISK, MIN_MEMORY = 4096, GIB, 2 * GIB, 4 * GIB
SET_ENV = "source CANN's set_env.sh in this shell"


@dataclass(frozen=True)
class Finding:
    """A problem with its remedy; one that `stops` keeps training from starting."""
    stops: bool
    problem: str
    remedy: str


# ---- diagnosis: a machine's facts in, findings out ----------------------------------------------

def diagnose(facts: Facts) -> list[Finding]:
    """Everything that is wrong, worst first."""
    rules = (_python, _packages, _torch, _npu, _cuda, _host, _apex, _opencv, _torchvision)
    found = [finding for rule in rules for finding in rule(facts)]
    return sorted(found, key=lambda finding: not finding.stops)


def _python(facts: Facts) -> Iterator[Finding]:
    if numbers(facts["python"]) < (3, 10):
        yield Finding(True, f"Python {facts['python']} is older than 3.10",
                      "create a virtual environment with a newer Python")


def _packages(facts: Facts) -> Iterator[Finding]:
    for each in facts["requirements"]:
        name, found = each["name"], facts["packages"][each["name"]]
        if found is None:
            yield Finding(True, f"{name} is not installed", "pip install -r requirements.txt")
        elif not within(found, each["bounds"]):
            # The code is written for torch 2.4 and later; only the pinned one is tested.
            yield Finding(name == "torch" and numbers(found) < (2, 4),
                          f"{name} must be {each['bounds']}, {found} is installed",
                          "pip install -r requirements.txt")


def _torch(facts: Facts) -> Iterator[Finding]:
    error = facts["torch"].get("error")
    if error and facts["packages"]["torch"]:
        yield Finding(True, f"torch cannot be used: {error}",
                      "reinstall it: pip install --force-reinstall -r requirements.txt")


def _npu(facts: Facts) -> Iterator[Finding]:
    torch, torch_npu = facts["packages"]["torch"], facts["packages"]["torch-npu"]
    ascend, wanted = facts["ascend"], facts["torch"].get("vendor") == "ascend"
    if not torch_npu and not facts["torch_npu"]:
        if wanted:
            yield Finding(True, "--device npu: torch-npu is not installed",
                          "pip install -r requirements-npu.txt")
        elif ascend["nodes"]:
            yield Finding(False, f"{counted(len(ascend['nodes']), 'Ascend card')} found, but "
                                 f"torch-npu is not installed",
                          "pip install -r requirements-npu.txt")
        return
    if torch and torch_npu and numbers(torch)[:2] != numbers(torch_npu)[:2]:
        yield Finding(wanted, f"torch-npu {torch_npu} does not fit torch {torch}",
                      "install the pair: torch-npu X.Y.Z belongs to torch X.Y; see "
                      "requirements-npu.txt")
    error, cards = facts["torch_npu"].get("error"), facts["torch_npu"].get("cards", {})
    works = any(cards.values())
    yield from _cann(facts, wanted and not works)
    if ascend["nodes"] and not ascend["open"]:
        yield Finding(wanted, "no permission to open /dev/davinci*",
                      "add this user to the group of these files (HwHiAiUser)")
    if error:
        yield Finding(wanted, f"torch_npu cannot be used: {error}",
                      f"{SET_ENV} and fix the problems above, or pass --device cpu" if wanted else
                      "none is needed for CPU and CUDA runs; for other programs set "
                      "TORCH_DEVICE_BACKEND_AUTOLOAD=0, or pip uninstall torch-npu")
    elif wanted and not works:
        yield Finding(True, "torch_npu finds no Ascend card",
                      "check npu-smi info and ASCEND_RT_VISIBLE_DEVICES, or pass --device cpu")


def _cann(facts: Facts, stops: bool) -> Iterator[Finding]:
    cann = facts["cann"]
    home, operators = cann["ASCEND_HOME_PATH"], cann["ASCEND_OPP_PATH"]
    if home and operators:
        return
    if home or operators:
        missing = "ASCEND_OPP_PATH" if home else "ASCEND_HOME_PATH"
        yield Finding(stops, f"CANN's set_env.sh was not sourced completely: {missing} is not set",
                      f"source {cann['set_env']}" if cann["set_env"] else SET_ENV)
    elif cann["set_env"]:
        yield Finding(stops, "CANN's set_env.sh was not sourced", f"source {cann['set_env']}")
    elif stops:
        yield Finding(True, "torch-npu is installed, but CANN is not",
                      "install the CANN release that belongs to this torch-npu, or pass "
                      "--device cpu")


def _cuda(facts: Facts) -> Iterator[Finding]:
    torch = facts["torch"]
    if "version" not in torch or any(torch["cards"].values()):
        return
    if torch["vendor"] == "nvidia":
        yield Finding(True, "--device cuda: torch sees no CUDA card",
                      "install a CUDA build of torch and check nvidia-smi, or pass --device cpu")
    elif facts["nvidia"]:
        yield Finding(False, f"torch {torch['version']} does not see the NVIDIA card",
                      "check the driver" if torch["cuda_build"] else
                      "install a CUDA build of torch")


def _host(facts: Facts) -> Iterator[Finding]:
    disk, (soft, hard) = facts["disk"], facts["open_files"]
    if not disk["writable"]:
        yield Finding(True, f"no permission to write {disk['folder']}",
                      "choose another --checkpoints_dir")
    if disk["free"] < MIN_DISK:
        yield Finding(False, f"the disk of {disk['folder']} has only {size(disk['free'])} left",
                      "free some space, choose another --checkpoints_dir or a small --keep_last")
    if facts["memory"] is not None and facts["memory"] < MIN_MEMORY:
        yield Finding(False, f"this machine has only {size(facts['memory'])} of memory",
                      "use a smaller --batch_size and --num_threads")
    if 0 <= soft < MIN_FILES:
        yield Finding(False, f"a process may open only {soft} files",
                      f"ulimit -n {hard if 0 < hard < 65536 else 65536}"
                      if hard < 0 or hard > soft else "ask the administrator to raise ulimit -Hn")
    if facts["shm"] is not None and facts["shm"] < MIN_SHM:
        yield Finding(False, f"/dev/shm has only {size(facts['shm'])}, and loader processes pass "
                             f"images through it", "docker run --shm-size=8g, or --num_threads 0")


def _apex(facts: Facts) -> Iterator[Finding]:
    apex = facts["apex"]
    if apex and not apex.get("usable"):
        yield Finding(False, f"apex cannot be used: {apex.get('error') or apex['found']}",
                      "none is needed, since native O2 works without apex; to remove it: pip "
                      "uninstall apex")


def _opencv(facts: Facts) -> Iterator[Finding]:
    several = [name for name, found in facts["packages"].items()
               if found and name.startswith("opencv")]
    if len(several) > 1:
        yield Finding(False, f"{' and '.join(several)} overwrite each other's files",
                      f"pip uninstall {' '.join(several)}, then pip install -r requirements.txt")


def _torchvision(facts: Facts) -> Iterator[Finding]:
    torch, vision = facts["packages"]["torch"], facts["packages"]["torchvision"]
    if torch and vision and numbers(torch)[0] == 2:
        expected = (0, numbers(torch)[1] + 15)      # 2.0 came with 0.15, and so on
        if numbers(vision)[:2] != expected:
            yield Finding(False, f"torchvision {vision} does not fit torch {torch}",
                          f"none is needed here; for other programs: pip install "
                          f"torchvision=={expected[0]}.{expected[1]}.*")


def numbers(version: str) -> tuple[int, ...]:
    """2.13.0+cpu -> (2, 13, 0); what follows the numbers is ignored."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else (0,)


def within(version: str, bounds: str) -> bool:
    """Whether a version is within bounds like >=4.9,<5, by its numbers alone."""
    for bound in filter(None, bounds.split(",")):
        sign, text = re.match(r"\s*([=<>!~]+)\s*(\S+)", bound).groups()
        wanted = numbers(text)
        found = (numbers(version) + (0,) * len(wanted))[:max(len(wanted), len(numbers(version)))]
        wanted += (0,) * (len(found) - len(wanted))
        if not {"==": found == wanted, ">=": found >= wanted, "<=": found <= wanted,
                "<": found < wanted, ">": found > wanted, "!=": found != wanted}[sign]:
            return False
    return True


# ---- the page -----------------------------------------------------------------------------------

def machine(facts: Facts) -> list[tuple[str, str]]:
    """What this machine has, as rows of label and text."""
    packages, cann, ascend = facts["packages"], facts["cann"], facts["ascend"]
    found = facts["torch"].get("cards", {}) | facts["torch_npu"].get("cards", {})
    cards = [f"{backend}: {number} x {name}, {size(memory)}" for backend in found
             for (name, memory), number in Counter(
                 (card["name"], card["memory"]) for card in found[backend]).items()]
    sourced = cann["ASCEND_HOME_PATH"] and cann["ASCEND_OPP_PATH"]
    collectives = list(facts["torch"].get("collectives", []))
    if facts["torch_npu"].get("hccl"):
        collectives.append("hccl")
    soft, hard = facts["open_files"]
    return [
        ("Python", f"{facts['python']}, {facts['system']}"),
        ("torch", packages["torch"] or "not installed"),
        ("torch-npu", packages["torch-npu"] or "not installed"),
        ("CANN", f"{cann['version'] or 'version unknown'} in {cann['folder']}, set_env.sh "
                 f"{'sourced' if sourced else 'not sourced'}" if cann["folder"] else "none"),
        ("Ascend driver", f"{ascend['driver'] or 'version unknown'}; {len(ascend['nodes'])} "
                          f"/dev/davinci*; {ascend['npu_smi'] or 'no npu-smi'}"
                          if ascend["nodes"] or ascend["driver"] else "none"),
        ("NVIDIA driver", "; ".join(facts["nvidia"]) or "none"),
        ("cards", "; ".join(cards) or "none"),
        ("apex", facts["apex"].get("found") or facts["apex"].get("error") or "none"),
        ("collectives", ", ".join(collectives) or "none"),
        ("host", f"{facts['cores']:g} cores" + (
            f", {size(facts['memory'])} of memory" if facts["memory"] is not None else "")),
        ("limits", f"{soft} open files (up to {hard}), /dev/shm "
                   f"{size(facts['shm']) if facts['shm'] is not None else 'none'}"),
        ("disk", f"{size(facts['disk']['free'])} free for {facts['disk']['folder']}"),
    ]


def plan(facts: Facts) -> list[tuple[str, str]]:
    """What training uses by default, as rows of label and text; empty if torch does not work."""
    torch = facts["torch"]
    if "backend" not in torch:
        return []
    known = {"opt_level": "unknown", "optimizer": "unknown", **facts["torch_npu"], **torch}
    return [("device", f"{torch['backend']} ({torch['reason']})"),
            ("precision", known["opt_level"]), ("optimizer", known["optimizer"]),
            ("several cards", torch["collective"])]


def size(count: int) -> str:
    return f"{count / GIB:.1f} GiB"


def page(facts: Facts, findings: list[Finding]) -> str:
    def rows(pairs: list[tuple[str, str]]) -> list[str]:
        return [f"  {label:<14} {text}" for label, text in pairs]
    problems = [f"  {'STOPS' if each.stops else 'warns'}  {each.problem}\n         -> {each.remedy}"
                for each in findings]
    return "\n".join(["This machine", *rows(machine(facts)), "", "What will be used",
                      *(rows(plan(facts)) or ["  torch does not work"]), "",
                      "Problems", *(problems or ["  none"]), "", verdict(findings)])


def verdict(findings: list[Finding]) -> str:
    stopping = sum(each.stops for each in findings)
    return (f"training cannot start: {counted(stopping, 'problem')} to fix" if stopping
            else "training can start")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tools.doctor", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto", help="auto, npu, cuda or cpu; npu:3 is card 3")
    parser.add_argument("--checkpoints_dir", default="check_points", help="folder of all runs")
    parser.add_argument("--json", action="store_true", help="print facts and findings as JSON")
    opt = parser.parse_args(argv)
    if not re.fullmatch(r"auto|(npu|cuda|cpu)(:\d+)?", opt.device):
        parser.error(f"--device must be auto, npu, cuda or cpu, with an optional card number like "
                     f"npu:3, got {opt.device!r}")
    facts = probe(opt.device, opt.checkpoints_dir)
    findings = diagnose(facts)
    if opt.json:
        print(json.dumps({"facts": facts, "plan": dict(plan(facts)), "problems": [
            asdict(each) for each in findings], "verdict": verdict(findings)}, indent=1))
    else:
        print(page(facts, findings))
    return int(any(each.stops for each in findings))


if __name__ == "__main__":
    sys.exit(main())

"""Check on this machine that the networks compute what the published ones compute.

python -m tools.selftest [--golden DIR] [--device auto] [--json FILE]

Runs every golden case of a folder and prints one row each; exit status 1 if one fails. A case whose
published weights are not here is skipped. How a case
is built is in test/golden/*_cases.py, found by what the case carries, never by its name.
"""
from __future__ import annotations

import os

# Before torch: an installed torch_npu must not be loaded on machines without a usable NPU.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

from options.selftest_options import GOLDEN, parse

# Parsed before the imports that take seconds, so that --help answers at once.
if __name__ == "__main__":
    options = parse()

import argparse
import fnmatch
import importlib.util
import json
import logging
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from engine import device as devices
from engine import entry
from tools.golden import Check, MissingWeights, require
from tools.golden_fields import Fields, unread
from utils.files import to_json, write_text
from utils.text import counted

Runner = Callable[[dict[str, Any], torch.device, Path], list[Check]]


class Row(NamedTuple):
    """Which cases a function runs. `config`: values that the case's must have."""
    source: str             # repository; part of the case's `source`, whatever its commit
    pattern: str            # of the case's network or kind
    run: Runner
    config: dict[str, Any] = {}

    def fits(self, case: dict[str, Any]) -> bool:
        carried, config = (case.get("network"), case.get("kind")), case.get("config") or {}
        return (self.source in case.get("source", "")
                and any(fnmatch.fnmatchcase(text or "", self.pattern) for text in carried)
                and all(config.get(key) == value for key, value in self.config.items()))


def runners() -> list[Row]:
    """The rows of every test/golden/*_cases.py."""
    found = []
    for path in sorted(GOLDEN.glob("*_cases.py")):
        spec = importlib.util.spec_from_file_location(f"golden_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found += [Row(*row) for row in module.CASES]
    return found


def runner_for(case: dict[str, Any], known: list[Row]) -> Runner | None:
    """The first function whose row fits what the case carries."""
    return next((row.run for row in known if row.fits(case)), None)


def run_case(path: Path, known: list[Row], device: torch.device) -> dict[str, Any]:
    """Run one case file; problems become the row's `problem`."""
    row: dict[str, Any] = {"case": path.stem, "ok": False, "skipped": False, "checks": 0,
                           "error": None, "tolerance": None, "worst": "", "unused": [],
                           "problem": ""}
    try:
        case = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(case, dict):
            raise ValueError(f"a golden case must be a JSON object, got {type(case).__name__}")
        case = Fields(case)
        row["network"] = case.get("network") or case.get("kind") or ""
        run = runner_for(case, known)
        if run is None:
            raise ValueError(f"unknown network {row['network']!r}")
        require(case, fill="v1")
        checks = run(case, device, path.parent)
        if not checks:
            raise ValueError("the case compares nothing")
        row["unused"] = list(unread(case))
    except MissingWeights as missing:
        row.update(skipped=True, problem=str(missing))
        return row
    except Exception as error:  # reported in the row of the case
        row["problem"] = " ".join(f"{type(error).__name__}: {error}".split())
        row["traceback"] = traceback.format_exc()
        return row
    # The check nearest to, or farthest beyond, its limit.
    worst = max(checks, key=lambda c: (not c.ok, c.error / c.tolerance if c.tolerance else c.error))
    failed = [check.name for check in checks if not check.ok]
    row.update(ok=not failed, checks=len(checks), error=worst.error, tolerance=worst.tolerance,
               worst=worst.name, failed=failed)
    return row


def line(row: dict[str, Any]) -> str:
    status = "ok" if row["ok"] else "skipped" if row["skipped"] else "FAILED"
    if row["problem"]:
        return f"{row['case']:<34} {'-':>10} {'-':>10}  {status}  {row['problem']}"
    more = "" if row["ok"] else f"  {len(row['failed'])} of {row['checks']} values: " + ", ".join(
        row["failed"][:3])
    if row["unused"]:
        more += f"  (not used: {', '.join(row['unused'][:5])})"
    return (f"{row['case']:<34} {row['error']:>10.2e} {row['tolerance']:>10.0e}  {status}"
            f"  {row['worst']}{more}")


def selftest(opt: argparse.Namespace) -> int:
    """Run all cases; returns the exit status."""
    entry.set_up_logging()
    device = devices.open_device(opt.device)
    logging.getLogger("facezoo").setLevel(logging.WARNING)      # the table is the output
    folder = Path(opt.golden)
    paths = sorted(folder.glob("*.json")) if folder.is_dir() else [folder]
    if not paths or not paths[0].exists():
        raise ValueError(f"--golden must hold case files (*.json), found none in {folder}")
    known = runners()
    print(f"{'case':<34} {'max error':>10} {'tolerance':>10}  ok  (relative to the largest value)")
    rows = []
    for path in paths:
        rows.append(run_case(path, known, device))
        print(line(rows[-1]), flush=True)
    passed, skipped = (sum(row[key] for row in rows) for key in ("ok", "skipped"))
    print(f"{passed} of {counted(len(rows), 'case')} passed"
          + (f", {skipped} skipped" if skipped else "")
          + f" on {device} ({devices.name_of(device)})")
    if opt.json:
        write_text(opt.json, to_json({
            "device": str(device), "device_name": devices.name_of(device),
            "torch": torch.__version__, "passed": passed, "skipped": skipped,
            "failed": len(rows) - passed - skipped, "cases": rows}) + "\n")
    return 0 if passed + skipped == len(rows) else 1


if __name__ == "__main__":
    sys.exit(entry.run(selftest, options, "tools.selftest"))

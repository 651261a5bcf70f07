"""What a launch script reports: result lines and files in the ModelZoo's convention.

python3 -m tools.launch_report --case acc --output DIR --run full --log FILE --status 0
                               --began SECONDS

Every number was measured by the program that ran, and is read from the JSON files it wrote.
"""
from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.files import write_text
from utils.text import counted

NO_FIGURES = 3      # exit status of a run that succeeded without the results it was for
MISSING = "NA"


@dataclass
class Report:
    """Texts of one job: the keys of its file and the labels of its lines, both in order."""
    keys: dict[str, str]
    lines: dict[str, str]
    complete: bool                                      # has what the job was for
    notes: list[str] = field(default_factory=list)      # printed above the result lines


def main(argv: list[str] | None = None) -> int:
    """Write the files, print the lines; returns the exit status of the launch script."""
    job = _parser().parse_args(argv)
    if job.node_rank:       # the ranks of this machine wrote no figures
        print(f"machine {job.node_rank} ended with status {job.status}; machine 0 has the results")
        if job.status:
            complain(job, job.status)
        return job.status
    seconds = f"{max(0.0, time.time() - job.began):.0f}"
    report = report_evaluation(job) if job.case == "eval" else report_training(job)
    report.keys["E2ETrainingTime"] = seconds
    report.lines["E2E Training Duration sec"] = seconds
    write_text(job.output / f"{report.keys['CaseName']}.log",
               "".join(f"{key} = {text}\n" for key, text in report.keys.items()))
    print("\n".join([*report.notes, "------------------ Final result ------------------",
                     *(f"{label} : {text}" for label, text in report.lines.items())]), flush=True)
    status = job.status if job.status or report.complete else NO_FIGURES
    if status:
        complain(job, status)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tools.launch_report",
                                     description=__doc__.splitlines()[0])
    parser.add_argument("--case", required=True, choices=("acc", "perf", "eval"),
                        help="acc: full training, perf: speed, eval: evaluation")
    parser.add_argument("--output", required=True, type=Path, help="folder for the files")
    parser.add_argument("--run", required=True, help="name of the run, a folder of --output")
    parser.add_argument("--log", required=True, type=Path, help="log file of the program")
    parser.add_argument("--status", required=True, type=int, help="the program's exit status")
    parser.add_argument("--began", required=True, type=float,
                        help="start time of the program, in seconds since 1970")
    parser.add_argument("--rank_size", type=int, default=1, help="number of cards")
    parser.add_argument("--node_rank", type=int, default=0,
                        help="number of this machine; only machine 0 reports")
    parser.add_argument("--network", default=MISSING,
                        help="name of the model, for a run that failed early")
    parser.add_argument("--batch_size", default=MISSING,
                        help="images per card, for a run that failed early")
    return parser


# ---- training -----------------------------------------------------------------------------------

def report_training(job: argparse.Namespace) -> Report:
    """Report of a training; also writes its losses, one per line, to train_CASENAME_loss.txt.

    The speed of a failed run is not reported, whatever it measured before it failed.
    """
    result = read_json(job.output / job.run / "result.json") if job.status == 0 else {}
    keys = description(job, result or options_of_run(job))
    metrics = job.output / job.run / "metrics.jsonl"
    losses = [f"{loss:.6g}" for loss in read_losses(metrics)] if is_fresh(metrics, job) else []
    write_text(job.output / f"train_{keys['CaseName']}_loss.txt",
               "".join(f"{loss}\n" for loss in losses))
    fps, per_step = result.get("fps"), result.get("sec_per_step")
    measured = isinstance(fps, (int, float)) and math.isfinite(fps) and fps > 0
    keys["ActualFPS"] = number(fps, 2) if measured else MISSING
    keys["TrainingTime"] = number(per_step * 1000, 2) if measured else MISSING     # milliseconds
    lines = {"Final Performance images/sec": keys["ActualFPS"],
             "Final Performance sec/step": number(per_step, 4)}
    if job.case == "acc":
        keys["TrainAccuracy"] = lines["Final Train Accuracy"] = number(result.get("psnr"), 4)
    keys["ActualLoss"] = losses[-1] if losses else MISSING
    notes = []
    if result:
        notes.append(f"device: {result['device']}, {result['device_name']}; {result['precision']}")
    if measured and keys.get("TrainAccuracy") == MISSING:
        notes.append("no accuracy was measured: the model has none, or there were no validation "
                     "images; for these pass --more=\"--val_dataroot DIR\", or more images, of "
                     "which a tenth is held out")
    return Report(keys, lines, measured, notes)


def read_losses(path: Path) -> list[float]:
    """The losses in a metrics.jsonl, one per log line.

    A line that was cut off when the run was killed is left out.
    """
    losses = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if "loss" in record:
            losses.append(record["loss"])
    return losses


def options_of_run(job: argparse.Namespace) -> dict[str, Any]:
    """The options a failed run resolved; empty if it did not get that far."""
    path = job.output / job.run / "train_opt.yaml"
    if not is_fresh(path, job):
        return {}
    import yaml  # not at the top: a Python that lacks packages must still get its report
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def is_fresh(path: Path, job: argparse.Namespace) -> bool:
    """False for a missing file and for one that an earlier run left and a failed one kept."""
    return path.exists() and (job.status == 0 or path.stat().st_mtime >= job.began)


# ---- evaluation ---------------------------------------------------------------------------------

def report_evaluation(job: argparse.Namespace) -> Report:
    """Report of an evaluation by the published protocol, on the Y channel."""
    found = list(job.output.glob(f"{job.run}_*/report.json")) if job.status == 0 else []
    newest = max(found, key=lambda path: path.stat().st_mtime, default=None)
    content = read_json(newest) if newest else {}
    texts = {(method, key): number(content.get("mean", {}).get(method, {}).get("published", {})
                                   .get(key), 4)
             for method in ("restored", "bicubic") for key in ("psnr", "ssim")}
    psnr, ssim = texts["restored", "psnr"], texts["restored", "ssim"]
    keys = description(job, content.get("options", {}))
    keys |= {"TrainAccuracy": psnr, "PSNR": psnr, "SSIM": ssim}
    lines = {"Final PSNR": psnr, "Final SSIM": ssim, "Final Train Accuracy": psnr}
    notes = []
    if content:
        notes.append(f"device: {content['device']}; {counted(content['pictures'], 'image')}; "
                     f"bicubic PSNR {texts['bicubic', 'psnr']}, SSIM {texts['bicubic', 'ssim']}")
    return Report(keys, lines, psnr != MISSING, notes)


# ---- both ---------------------------------------------------------------------------------------

def description(job: argparse.Namespace, known: dict[str, Any]) -> dict[str, str]:
    """The first keys of a report; `known` holds `model` and `batch_size` if the run got so far."""
    network = str(known.get("model", job.network))
    batch_size = str(known.get("batch_size", job.batch_size))
    return {"Network": network, "RankSize": str(job.rank_size), "BatchSize": batch_size,
            "DeviceType": platform.machine(),
            "CaseName": f"{network}_bs{batch_size}_{job.rank_size}p_{job.case}"}


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty if it is missing or holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def number(value: Any, digits: int) -> str:
    """Decimal text; small values keep three figures instead of becoming 0, no number gives NA."""
    try:
        value = float(value)
    except (TypeError, ValueError):
        return MISSING
    if math.isnan(value):
        return MISSING
    return f"{value:.3g}" if 0 < abs(value) < 10 ** -digits else f"{value:.{digits}f}"


def complain(job: argparse.Namespace, status: int, lines: int = 30) -> None:
    """The end of the log and what went wrong, on stderr."""
    try:
        with open(job.log, encoding="utf-8", errors="replace") as file:
            sys.stderr.writelines(deque(file, lines))
    except OSError as error:
        print(f"the log cannot be read: {error}", file=sys.stderr)
    reason = (f"the program ended with status {job.status}" if job.status else
              "the program succeeded but did not write the results this script reports")
    print(f"[Error] {reason}; the exit status is {status}, the log is {job.log}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

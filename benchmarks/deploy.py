"""Every published network at full width as an ONNX graph: the table of docs/deploy.md.

    python benchmarks/deploy.py [--only NAME ...] [--work DIR] [--update docs/deploy.md]

Weights are drawn from a fixed seed, since the published ones are no part of this project: what is
shown is that each graph is made, that it computes what the network does, how large it is, how long
it takes. The commands are those of a user: export_onnx.py, then quantize.py with drawn faces.
A row goes to DIR/rows.json as soon as it is known, and rows that are there are not measured again.
Needs requirements-export.txt; the largest network takes about 10 GiB of memory.
"""
from __future__ import annotations

import os

# Before torch: an installed torch_npu must not be loaded on machines without a usable NPU.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch

import data
import models
from data.synthetic_faces import render_face
from options.test_options import ExportOptions
from utils.files import write_text
from utils.image import to_tensor, write_image

# By the name in the table: flags of export_onnx.py. GFP-GAN 1.2 and 1.4 are networks like 1.3.
NETWORKS = {
    "SPARNet": "--model sparnet",
    "SPARNet light 3D": "--model sparnet --res_depth 1 --att_name spar3d",
    "SPARNetHD 2D": "--model sparnethd",
    "SPARNetHD 3D": "--model sparnethd --att_name spar3d",
    "PSFR-GAN": "--model psfrgan --parse_weights random",
    "face parsing": "--model parse",
    "PFSRNet": "--model pfsrnet",
    "landmark network": "--model fan",
    "StyleGAN2 prior 512": "--model stylegan2 --preset 512",
    "GPEN 256": "--model gpen --preset 256",
    "GPEN 512": "--model gpen --preset 512",
    "GPEN 1024": "--model gpen --preset 1024",
    "GPEN 2048": "--model gpen --preset 2048",
    "GFP-GAN 1": "--model gfpgan --preset 1",
    "GFP-GAN bilinear": "--model gfpgan --preset bilinear",
    "GFP-GAN 1.2 to 1.4": "--model gfpgan --preset 1.3"}
NUM_FACES = 4
GIB, MIB = 2 ** 30, 2 ** 20
HEAD = ("network", "side", "opset", "difference", "fp32 MiB", "fp16 MiB", "fp16 dB", "int8 MiB",
        "int8 dB", "torch s", "fp32 s", "int8 s", "export s", "GiB")
MARKS = ("<!-- made by benchmarks/deploy.py -->", "<!-- end -->")


def run(*command: object) -> float:
    """Seconds that one of our programs took.

    Raises:
        SystemExit: it failed; its last lines are shown.
    """
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True,
                          text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]}: {(done.stdout + done.stderr)[-800:]}")
    return time.perf_counter() - start


def draw_weights(flags: list[str], path: Path) -> int:
    """Write weights of a network as it is built, from a fixed seed; returns the network's side."""
    opt = ExportOptions(models, data, "deploy.py").parse([*flags, "--name", "unused"])
    torch.manual_seed(0)
    recipe = models.create(opt, torch.device("cpu"))
    recipe.setup()
    torch.save(recipe.weights()["G" if "G" in recipe.bare else recipe.restorer], path)
    return opt.load_size


def best_time(call: Callable[[], Any], repeats: int = 3) -> float:
    """Seconds of the fastest of some calls, after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def measure(name: str, folder: Path) -> dict[str, Any]:
    """One row: make the graphs of a network and look at them."""
    from export.engine import OnnxModel
    flags = [*NETWORKS[name].split(), "--device", "cpu"]
    folder.mkdir(parents=True, exist_ok=True)
    weights, graph, faces = folder / "weights.pth", folder / "graph.onnx", folder / "faces"
    side = draw_weights(flags, weights)
    for index in range(NUM_FACES):
        write_image(faces / f"{index}.png", render_face(index, size=side).image)
    seconds = run("export_onnx.py", *flags, "--pretrain_model_path", weights, "--output", graph)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    run("quantize.py", "--onnx", graph, "--calibration", faces)
    about = json.loads(graph.with_suffix(".json").read_text())
    rows = json.loads(graph.with_name("graph_table.json").read_text())["graphs"]
    opt = ExportOptions(models, data, "deploy.py").parse(
        [*flags, "--pretrain_model_path", str(weights)])
    recipe, _ = models.load_trained(opt, torch.device("cpu"))
    lq = to_tensor(recipe.preprocess(render_face(0, size=side).image))
    with torch.inference_mode():
        took = {"torch": best_time(lambda: recipe.restore(lq))}
    for precision in ("fp32", "int8"):
        path = graph if precision == "fp32" else graph.with_name("graph_int8.onnx")
        engine = OnnxModel(path, models.find(opt.model), opt, torch.device("cpu"))
        took[precision] = best_time(lambda engine=engine: engine.restore(lq))
        del engine
    return {"network": name, "side": side, "opset": about["opset"],
            "difference": about["max_relative_error"], "graphs": rows, "seconds": took,
            "export_seconds": seconds, "export_bytes": peak}


def measured_apart(name: str, folder: Path) -> dict[str, Any]:
    """The row from a process of its own, so that its memory is its own."""
    target = folder / "row.json"
    run(Path(__file__), "--row", name, "--work", folder)
    return json.loads(target.read_text())


def cells(row: dict[str, Any]) -> list[str]:
    """A row as text, in the order of HEAD."""
    fp32, fp16, int8 = (row["graphs"][key] for key in ("fp32", "fp16", "int8"))
    took = row["seconds"]
    return [row["network"], str(row["side"]), str(row["opset"]), f"{row['difference']:.0e}",
            f"{fp32['bytes'] / MIB:.1f}", f"{fp16['bytes'] / MIB:.1f}", near(fp16),
            f"{int8['bytes'] / MIB:.1f}", near(int8),
            *(f"{took[key]:.2f}" for key in ("torch", "fp32", "int8")),
            f"{row['export_seconds']:.0f}", f"{row['export_bytes'] / GIB:.1f}"]


def near(graph: dict[str, Any]) -> str:
    """PSNR to the float32 graph's pictures."""
    return f"{float(graph['fp32']['psnr']):.1f}"


def markdown(rows: list[dict[str, Any]]) -> str:
    lines = [HEAD, ("---", *["---:"] * (len(HEAD) - 1)), *map(cells, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def update(document: Path, table: str) -> None:
    """Put the table between its marks.

    Raises:
        SystemExit: the document has no marks.
    """
    text = document.read_text(encoding="utf-8")
    before, start, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not (start and end):
        raise SystemExit(f"{document} has no {MARKS[0]} ... {MARKS[1]}")
    write_text(document, f"{before}{start}\n{table}{end}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=tuple(NETWORKS), metavar="NAME",
                        help=f"some of: {', '.join(NETWORKS)}")
    parser.add_argument("--work", type=Path, default=Path("results/deploy"), metavar="DIR",
                        help="where rows, and graphs until their row is known, are")
    parser.add_argument("--update", type=Path, metavar="FILE", help="document with the table")
    parser.add_argument("--row", choices=tuple(NETWORKS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        row = measure(options.row, options.work)
        write_text(options.work / "row.json", json.dumps(row))
        return
    known = options.work / "rows.json"
    rows = json.loads(known.read_text()) if known.exists() else {}
    for name in options.only or NETWORKS:
        if name not in rows:
            rows[name] = measured_apart(name, (options.work / name.replace(" ", "_")).resolve())
            write_text(known, json.dumps(rows, indent=1) + "\n")
        print("  ".join(cells(rows[name])), flush=True)
    table = markdown([rows[name] for name in NETWORKS if name in rows])
    if options.update:
        update(options.update, table)
    else:
        print(table, end="")


if __name__ == "__main__":
    main()

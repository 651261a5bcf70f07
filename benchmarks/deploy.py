"""The tables of docs/deploy.md: networks as ONNX graphs, and what half precision and integers cost.

    python benchmarks/deploy.py [--only NAME ...] [--work DIR] [--update docs/deploy.md]

The first table has every published network at full width. Weights are random, from a fixed seed,
since the published ones are not part of this project. It shows whether each graph computes what the
network does, how large and how fast it is. The second table has networks that are trained for
minutes on drawn faces. Their images are compared with targets that they have not seen. The script
runs the commands of a user: newtrain.py, export_onnx.py, tools.quantize.
Each finished row is saved in DIR/rows.json, and saved rows are not measured again.
Needs requirements-export.txt.
"""
from __future__ import annotations

import os

# Before torch: an installed torch_npu must not be loaded on machines without a usable NPU.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

import argparse
import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch

import data
import models
from data.synthetic.faces import render_face
from options.evaluate_options import EvaluateOptions
from options.export_options import ExportOptions
from utils.files import write_text
from utils.images.convert import to_tensor
from utils.images.io import write_image

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
# Likewise flags of newtrain.py; a minute's training has no use for discriminators and landmarks.
TRAINED = {
    "SPARNet of make demo": "--config options/demo.yaml",
    "PFSRNet, width 64":
        "--model pfsrnet --width 64 --load_size 128 --stage_steps 100 100 500 --batch_size 4 "
        "--lr 0.002 --lr_policy cosine --fade 0.2 --fan_weights random --lambda_pcp 0 0 0 "
        "--lambda_gan 0 0 0 --lambda_att 0 0 0 --lambda_hm 0 0 0",
    "GPEN, 32 pixels, an eighth of the width":
        "--model gpen --load_size 32 --narrow 0.125 --style_dim 64 --train_steps 500 --batch_size "
        "8 --lambda_id 0 --ema_decay 0.995 --blur_sigma 0.1 2 --shrink 0.8 4"}
NUM_FACES = 4
NUM_TARGETS = 32
GIB, MIB = 2 ** 30, 2 ** 20
HEAD = ("network", "side", "opset", "difference", "fp32 MiB", "fp16 MiB", "fp16 dB", "int8 MiB",
        "int8 dB", "torch s", "onnxruntime", "int8", "GiB")
TRAINED_HEAD = ("network", "graph", "MiB", "PSNR to fp32", "SSIM to fp32", "PSNR to target",
                "SSIM to target")
MARK = "<!-- {}, made by benchmarks/deploy.py -->"
END = "<!-- end -->"


def run(*command: object) -> None:
    """Run one of our programs.

    Raises:
        SystemExit: it failed; its last lines are shown.
    """
    done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True,
                          text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]}: {(done.stdout + done.stderr)[-800:]}")


def draw_weights(flags: list[str], path: Path) -> int:
    """Write weights of a network as it is built, from a fixed seed; returns the network's side."""
    opt = ExportOptions(models, data, "deploy.py").parse([*flags, "--name", "unused"])
    torch.manual_seed(0)
    model = models.create(opt, torch.device("cpu"))
    model.setup()
    torch.save(model.weights()["G" if "G" in model.unwrapped else model.inference_network], path)
    return opt.load_size


def best_times(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Seconds of the fastest of some calls of each, in turn, after one that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: min(found[1:]) for name, found in times.items()}


def measure(name: str, folder: Path) -> dict[str, Any]:
    """One row: make the graphs of a network and measure them."""
    from export.engine import OnnxModel
    flags = [*NETWORKS[name].split(), "--device", "cpu"]
    folder.mkdir(parents=True, exist_ok=True)
    weights, graph, faces = folder / "weights.pth", folder / "graph.onnx", folder / "faces"
    side = draw_weights(flags, weights)
    for index in range(NUM_FACES if side <= 512 else 1):
        write_image(faces / f"{index}.png", render_face(index, size=side).image)
    run("export_onnx.py", *flags, "--pretrain_model_path", weights, "--output", graph)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    run("-m", "tools.quantize", "--onnx", graph, "--calibration", faces)
    about = json.loads(graph.with_suffix(".json").read_text())
    rows = json.loads(graph.with_name("graph_table.json").read_text())["graphs"]
    opt = ExportOptions(models, data, "deploy.py").parse(
        [*flags, "--pretrain_model_path", str(weights)])
    model, _ = models.load_trained(opt, torch.device("cpu"))
    lq = to_tensor(model.preprocess(render_face(0, size=side).image, opt))
    calls: dict[str, Callable[[], Any]] = {"torch": lambda: model.restore(lq)}
    for precision, path in (("fp32", graph), ("int8", graph.with_name("graph_int8.onnx"))):
        engine = OnnxModel(path, models.find(opt.model).preprocess, opt, torch.device("cpu"))
        calls[precision] = partial(engine.restore, lq)
    with torch.inference_mode():
        took = best_times(calls, 3 if side <= 512 else 1)
    return {"network": name, "side": side, "opset": about["opset"],
            "difference": about["max_relative_error"], "graphs": rows, "seconds": took,
            "export_bytes": peak}


def write_pairs(run_of: list[str], folder: Path) -> None:
    """Degraded faces and their targets, as the network called `run_of` is evaluated with, and
    others of those it was trained with for calibration."""
    opt = EvaluateOptions(models, data, "deploy.py").parse([*run_of, "--dataset_name", "synthetic"])
    for split, number, kinds in (("test", NUM_TARGETS, ("lq", "gt")), ("train", 16, ("lq",))):
        dataset = data.create_dataset("synthetic", split, opt.degradation, vars(opt))
        for index in range(number):
            sample = dataset[index]
            for kind in kinds:
                write_image(folder / f"{split}_{kind}" / f"{index:03d}.png", sample[kind])


def measure_trained(name: str, folder: Path) -> dict[str, Any]:
    """One row: train a network, make its graphs, compare their images."""
    run_of = ["--name", "run", "--checkpoints_dir", str(folder)]
    run("newtrain.py", *TRAINED[name].split(), *run_of, "--dataset_name", "synthetic", "--device",
        "cpu", "--no-tensorboard", "--continue_train")
    write_pairs(run_of, folder)
    graph = folder / "graph.onnx"
    run("export_onnx.py", *run_of, "--device", "cpu", "--opset", 13, "--output", graph)
    run("-m", "tools.quantize", "--onnx", graph, "--calibration", folder / "train_lq", "--lq",
        folder / "test_lq", "--gt", folder / "test_gt")
    return {"network": name, **json.loads(graph.with_name("graph_table.json").read_text())}


def measured_apart(name: str, folder: Path) -> dict[str, Any]:
    """The row from a process of its own, so that its memory is its own."""
    run(Path(__file__), "--row", name, "--work", folder)
    return json.loads((folder / "row.json").read_text())


# ---- tables -------------------------------------------------------------------------------------

def cells(row: dict[str, Any]) -> list[list[Any]]:
    """Lines of a row, in the order of HEAD or of TRAINED_HEAD."""
    graphs = row["graphs"]
    if row["network"] in TRAINED:
        return [[row["network"], name, f"{graph['bytes'] / MIB:.2f}",
                 *(f"{float(graph[key][measure]):.{digits}f}" for key in ("fp32", "gt")
                   for measure, digits in (("psnr", 2), ("ssim", 4)))]
                for name, graph in graphs.items()]
    near = [f"{float(graphs[name]['fp32']['psnr']):.1f}" for name in ("fp16", "int8")]
    size = [f"{graphs[name]['bytes'] / MIB:.1f}" for name in ("fp32", "fp16", "int8")]
    took = row["seconds"]
    return [[row["network"], row["side"], row["opset"], f"{row['difference']:.0e}", size[0],
             size[1], near[0], size[2], near[1],
             f"{took['torch']:.2f}",
             *(f"x{took['torch'] / took[key]:.1f}" for key in ("fp32", "int8")),
             f"{row['export_bytes'] / GIB:.1f}"]]


def markdown(head: tuple[str, ...], rows: list[dict[str, Any]]) -> str:
    lines = [head, ("---", *["---:"] * (len(head) - 1)), *(each for row in rows
                                                           for each in cells(row))]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n"


def update(document: Path, name: str, table: str) -> None:
    """Put a table between its marks.

    Raises:
        SystemExit: the document has no such marks.
    """
    text, mark = document.read_text(encoding="utf-8"), MARK.format(name)
    before, start, rest = text.partition(mark)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise SystemExit(f"{document} has no {mark} ... {END}")
    write_text(document, f"{before}{start}\n{table}{end}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    every = (*NETWORKS, *TRAINED)
    parser.add_argument("--only", nargs="+", choices=every, metavar="NAME",
                        help=f"some of: {'; '.join(every)}")
    parser.add_argument("--work", type=Path, default=Path("results/deploy"), metavar="DIR",
                        help="where rows and graphs go")
    parser.add_argument("--update", type=Path, metavar="FILE", help="document with the tables")
    parser.add_argument("--row", choices=every, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        make = measure_trained if options.row in TRAINED else measure
        write_text(options.work / "row.json", json.dumps(make(options.row, options.work)))
        return
    known = options.work / "rows.json"
    rows = json.loads(known.read_text()) if known.exists() else {}
    for name in options.only or every:
        if name not in rows:
            folder = (options.work / re.sub(r"\W+", "_", name)).resolve()
            rows[name] = measured_apart(name, folder)
            write_text(known, json.dumps(rows, indent=1) + "\n")
        for line in cells(rows[name]):
            print(*line, sep="  ", flush=True)
    for name, head, names in (("full width", HEAD, NETWORKS), ("trained", TRAINED_HEAD, TRAINED)):
        table = markdown(head, [rows[each] for each in names if each in rows])
        if options.update:
            update(options.update, name, table)


if __name__ == "__main__":
    main()

"""PFSRNet's three-stage training, scaled down to minutes of a CPU, on synthetic faces.

    OMP_NUM_THREADS=2 python benchmarks/pfsrnet_training.py OUT [--stage_steps 200 200 900]

First the landmark network learns from the faces' known landmarks (OUT/fan). Then the generator is
trained with it (OUT/pfsrnet), without the perceptual loss, whose network has no weights here, and
with a thousandth of the adversarial loss. At the end, faces of the test split are restored at 128
pixels. The exit status is 1 unless PSNR is above that of bicubic upscaling, in RGB and of Y. A
second start continues where the first one was stopped.
"""
from __future__ import annotations

import os

os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# A thousandth of the published ones: in a run this short more of it costs PSNR.
GAN_WEIGHTS = (0.001, 0.001, 0.0001)


def run(script: str, *arguments: object) -> float:
    """Run one of the entries; returns its seconds.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    began = time.perf_counter()
    subprocess.run([sys.executable, str(ROOT / script), *map(str, arguments)], check=True)
    return time.perf_counter() - began


def train(opt: argparse.Namespace) -> float:
    """Both trainings; returns their seconds together."""
    for name in ("fan", "pfsrnet"):     # --continue_train refuses a name that no run has
        (Path(opt.out) / name).mkdir(parents=True, exist_ok=True)
    common = ["--checkpoints_dir", opt.out, "--no-tensorboard", "--continue_train", "--device",
              opt.device, "--num_threads", 1, "--print_freq", 50, "--num_val_images", 20,
              "--save_latest_freq", 100]
    seconds = run("newtrain.py", "--model", "fan", "--name", "fan", "--fan_width", opt.fan_width,
                  "--train_steps", opt.fan_steps, "--batch_size", 8, "--lr", 1e-3,
                  "--eval_freq", 250, *common)
    fan = Path(opt.out) / "fan" / "latest_net_G.pth"
    return seconds + run(
        "newtrain.py", "--model", "pfsrnet", "--name", "pfsrnet", "--width", opt.width,
        "--stage_steps", *opt.stage_steps, "--batch_size", opt.batch_size, "--fan_weights", fan,
        "--fan_width", opt.fan_width, "--lambda_pcp", 0, 0, 0, "--lambda_gan", *GAN_WEIGHTS,
        "--fade", 0.2, "--lr", 2e-3, "--lr_policy", "cosine", "--eval_freq", 200, *common)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", help="folder for both runs and the results")
    parser.add_argument("--stage_steps", type=int, nargs=3, default=[200, 200, 900])
    parser.add_argument("--fan_steps", type=int, default=1500)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--fan_width", type=int, default=32)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    opt = parser.parse_args()
    seconds = train(opt)
    results = Path(opt.out) / "results"
    run("evaluate.py", "--name", "pfsrnet", "--epoch", "latest", "--checkpoints_dir", opt.out,
        "--results_dir", results, "--num_threads", 0, "--device", opt.device)
    report = json.loads((results / "pfsrnet_synthetic" / "report.json").read_text())
    gains = {name: values["psnr"] - report["mean"]["bicubic"][name]["psnr"]
             for name, values in report["mean"]["restored"].items()}
    print(f"{seconds:.0f} s of training in this call; PSNR above bicubic: Y "
          f"{gains['published']:+.2f} dB, RGB {gains['standard']:+.2f} dB")
    return 0 if min(gains.values()) > 0 else 1


if __name__ == "__main__":
    sys.exit(main())

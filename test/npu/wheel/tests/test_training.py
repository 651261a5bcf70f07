"""Whole models on the card, through the front end users take."""
from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import data
import models
from data.base_dataset import collate
from data.synthetic.faces import render_face
from models.ops import padded_conv
from options.train_options import TrainOptions
from utils.images.io import write_image

ROOT = Path(__file__).resolve().parents[4]

TINY = ["--model", "sparnet", "--load_size", "64", "--scale_factor", "8", "--batch_size", "2",
        "--num_threads", "0", "--num_val_images", "2", "--res_depth", "0", "--bottleneck_size",
        "16", "--memory_format", "contiguous"]


def two_steps(device: torch.device, *arguments: str) -> dict[str, Any]:
    """Losses and all weights after two steps of a tiny SPARNet."""
    opt = TrainOptions(models, data, "test").parse([*TINY, *arguments])
    torch.manual_seed(0)
    model = models.create(opt, device)
    model.setup()
    model.train()
    dataset = data.create_dataset(opt.dataset_name, "train", opt.degradation, vars(opt))
    batch = collate([dataset[0], dataset[1]])
    batch = model.prepare({key: value.to(device) if isinstance(value, torch.Tensor) else value
                           for key, value in batch.items()})
    losses = []
    for step in (1, 2):
        model.start_step(step, 100, 100)
        losses.append(float(model.run_step(batch)["Pix"]))
    return {"losses": losses, "weights": {key: value.cpu() for key, value
                                          in model.weights()["G"].items()}}


@pytest.fixture
def plain_cpu(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """The CPU taking the operators a card gets; its own forms round differently."""
    monkeypatch.setattr(padded_conv, "uses_custom_kernel", lambda x: False)
    torch.set_num_threads(1)
    return torch.device("cpu")


def test_two_adam_steps_of_sparnet_equal_the_cpu_bit_for_bit(card: torch.device,
                                                             plain_cpu: torch.device) -> None:
    arguments = ("--opt_level", "O0", "--optimizer", "adam")
    on_card, on_cpu = two_steps(card, *arguments), two_steps(plain_cpu, *arguments)
    assert on_card["losses"] == on_cpu["losses"]
    assert on_card["weights"].keys() == on_cpu["weights"].keys()
    assert all(torch.equal(value, on_cpu["weights"][key])
               for key, value in on_card["weights"].items())


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_reduced_precision_stays_near_the_cpus_fp32(level: str, card: torch.device,
                                                    plain_cpu: torch.device) -> None:
    on_card = two_steps(card, "--opt_level", level)
    on_cpu = two_steps(plain_cpu, "--opt_level", "O0")
    assert on_card["losses"] == pytest.approx(on_cpu["losses"], rel=5e-3)


def test_the_command_line_trains_on_the_card_and_resumes(python: Callable, tmp_path: Path) -> None:
    command = ["newtrain.py", *TINY[:-2], "--device", "npu", "--npu_strict", "--checkpoints_dir",
               tmp_path, "--name", "tiny", "--no-tensorboard", "--print_freq", "1"]
    first = python(*command, "--train_steps", "2")
    assert first.returncode == 0, first.stderr[-2000:]
    assert re.search(r"device: npu:0, Ascend910B1", first.stdout)
    assert "NpuFusedAdam" in first.stdout and "O2, float16" in first.stdout
    second = python(*command, "--train_steps", "3", "--continue_train")
    assert second.returncode == 0, second.stderr[-2000:]
    assert "continuing after step 2" in second.stdout and "finished step 3" in second.stdout


@pytest.mark.parametrize("script, ranks", [("train_performance_1p.sh", 1),
                                           ("train_full_8p.sh", 2)])
def test_the_launch_scripts_run_on_the_cards(script: str, ranks: int, tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    for number in range(6):
        write_image(tmp_path / "faces" / f"{number}.png", render_face(number, size=64).image)
    done = subprocess.run(
        ["bash", ROOT / "test" / script, f"--data_path={tmp_path / 'faces'}",
         f"--output_path={tmp_path / 'out'}", "--device=npu", "--train_steps=3", "--batch_size=2",
         *([f"--world_size={ranks}"] if ranks > 1 else []), "--workers=0",
         "--more=" + " ".join([*TINY[:2], "--scale_factor 8 --res_depth 0 --bottleneck_size 16",
                               "--num_val_images 2 --warmup_steps 1"])],
        env={**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}, text=True,
        capture_output=True, timeout=300)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    file, = (tmp_path / "out").rglob("result.json")
    result = json.loads(file.read_text())
    assert result["device"].startswith("npu") and result["world_size"] == ranks

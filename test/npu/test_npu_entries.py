"""The entries with --device npu: train, evaluate, enhance, self-test, and what they write."""
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from npu_suite import ROOT, Run, arguments_of, child, train

import data
import enhance
import evaluate
import models
from options.enhance_options import EnhanceOptions
from options.evaluate_options import EvaluateOptions
from utils.images.io import read_image, write_image

# SPARNetHD takes as long as four others; `make deep` has it, too.
MODELS = pytest.mark.parametrize("name", [
    pytest.param(name, marks=[pytest.mark.deep] * (name == "sparnethd"))
    for name in models.names()])
O0 = ("--opt_level", "O0", "--train_steps", 3, "--optimizer", "adam")


def run_of(run: Run) -> list[str]:
    """Flags that name a finished run."""
    return ["--name", run.folder.name, "--checkpoints_dir", str(run.folder.parent),
            "--memory_format", "contiguous"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images of different sizes."""
    folder = tmp_path_factory.mktemp("images")
    chance = np.random.default_rng(0)
    for number, (height, width) in enumerate([(64, 64), (40, 60), (90, 70)]):
        write_image(folder / f"{number}.png",
                    chance.integers(0, 256, (height, width, 3), dtype=np.uint8))
    return folder


@MODELS
def test_evaluation_measures_the_same_images_as_on_the_cpu(
        name: str, trained: Callable[..., Run], tmp_path: Path) -> None:
    """A network restores in fp32, and the operators are the CPU's; but those round by where their
    input lies in memory, so that here and there a gray level may flip: 0.01 dB, 0.001 of SSIM."""
    run, reports = trained(name, "npu", *O0), {}
    for device in ("npu", "cpu"):
        opt = EvaluateOptions(models, data, "evaluate.py").parse(
            [*run_of(run), "--device", device, "--results_dir", str(tmp_path / device),
             "--dataset_name", "synthetic", "--max_dataset_size", "3", "--batch_size", "2",
             "--num_threads", "0"])
        assert evaluate.evaluate(opt) == 0
        path = next((tmp_path / device).glob("*/report.json"))
        reports[device] = json.loads(path.read_text())
    assert reports["npu"]["device"] == "Ascend910B1" != reports["cpu"]["device"]
    assert reports["npu"]["pictures"] == 3
    for npu, cpu in zip(reports["npu"]["per_image"], reports["cpu"]["per_image"], strict=True):
        assert (npu["path"], npu["gt_pixels_sha256"], npu["lq_pixels_sha256"]) == (
            cpu["path"], cpu["gt_pixels_sha256"], cpu["lq_pixels_sha256"])
        for protocol, values in cpu["restored"].items():
            assert npu["restored"][protocol]["psnr"] == pytest.approx(values["psnr"], abs=1e-2)
            assert npu["restored"][protocol]["ssim"] == pytest.approx(values["ssim"], abs=1e-3)


@MODELS
def test_enhanced_images_are_the_cpus(name: str, trained: Callable[..., Run], images: Path,
                                        tmp_path: Path) -> None:
    """Bit for bit, for the same reason."""
    run = trained(name, "npu", *O0)
    for device in ("npu", "cpu"):
        opt = EnhanceOptions(models, data, "enhance.py").parse(
            [*run_of(run), "--device", device, "--input", str(images), "--output",
             str(tmp_path / device), "--batch_size", "2"])
        assert enhance.enhance(opt) == 0
    for number in range(3):
        npu, cpu = (read_image(tmp_path / device / f"{number}.png") for device in ("npu", "cpu"))
        assert np.array_equal(npu, cpu)


def test_the_entries_work_as_processes_and_auto_takes_the_npu(images: Path,
                                                              tmp_path: Path) -> None:
    name, card = "sparnet", {"ASCEND_DEVICE_ID": "0"}
    done = child("newtrain.py", *arguments_of(name, "auto", "--train_steps", 2, "--eval_freq", 2,
                                              "--checkpoints_dir", tmp_path, "--name", "run"),
                 "--num_threads", 1, env=card)
    assert done.returncode == 0, done.stderr
    assert "device: npu:0, Ascend910B1 (torch_npu is installed and" in done.stdout
    run = Run(tmp_path / "run")
    assert (run.result["device"], run.result["device_name"], run.result["opt_level"]) == (
        "npu", "Ascend910B1", "O2")
    assert np.isfinite(run.result["psnr"]) and run.result["peak_memory"] > 0
    done = child("evaluate.py", *run_of(run), "--device", "npu", "--results_dir", tmp_path / "eval",
                 "--dataset_name", "synthetic", "--max_dataset_size", 2)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "eval" / "run_synthetic" / "table.txt").is_file()
    done = child("enhance.py", *run_of(run), "--device", "npu", "--npu_strict", "--input", images,
                 "--output", tmp_path / "enhanced")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "enhanced").glob("*.png"))) == 3


def test_the_published_networks_compute_the_same_on_the_npu(tmp_path: Path) -> None:
    done = child("-m", "tools.selftest", "--device", "npu", "--json", tmp_path / "table.json",
                 "--golden", ROOT / "test" / "golden" / "sparnet_losses.json")
    assert done.returncode == 0, done.stdout + done.stderr
    table = json.loads((tmp_path / "table.json").read_text())
    assert (table["device"], table["passed"], table["failed"]) == ("npu:0", 1, 0)


def test_a_huge_gradient_ends_training_on_chips_that_saturate(tmp_path: Path) -> None:
    """A finite loss proves nothing there."""
    done = child("newtrain.py", *arguments_of(
        "sparnet", "npu", "--opt_level", "O0", "--lambda_pix", 1e7, "--train_steps", 1,
        "--checkpoints_dir", tmp_path, "--name", "run"), env={"FACEZOO_NPU_SOC": "Ascend910A"})
    assert done.returncode == 4, done.stderr
    assert "overflow on this chip" in done.stderr


def test_the_same_gradient_is_no_reason_to_stop_elsewhere(tmp_path: Path) -> None:
    run = train(tmp_path, "sparnet", "npu", "--opt_level", "O0", "--lambda_pix", 1e7,
                "--train_steps", 1)
    assert run.result["step"] == 1

"""evaluate.py and enhance.py as their users see them."""
from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, tiny_arguments

from data.synthetic.faces import render_face
from metrics.psnr_ssim import PROTOCOLS
from utils.files import sha256
from utils.images.io import read_image, write_image
from utils.images.resize import bicubic


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """latest_net_G.pth of a run of one step."""
    root = tmp_path_factory.mktemp("trained")
    done = subprocess.run(
        [sys.executable, str(ROOT / "newtrain.py"), *tiny_arguments("sparnet"), "--train_steps",
         "1", "--eval_freq", "0", "--checkpoints_dir", str(root), "--name", "one",
         "--no-tensorboard"], capture_output=True, text=True, timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return root / "one" / "latest_net_G.pth"


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Six faces of odd sizes and kinds, one file corrupt."""
    folder = tmp_path / "in put"
    for index, (name, size) in enumerate(
            [("a.png", (32, 32)), ("a.jpg", (30, 50)), ("sub/b.jpeg", (200, 180)),
             ("sub/c.bmp", (32, 32)), ("d.webp", (32, 20))]):
        write_image(folder / name, bicubic(render_face(index, size=64).image, *size))
    (folder / "e.png").write_bytes((folder / "a.png").read_bytes()[:100])
    return folder


def enhance(run: Callable, weights: Path, source: object, target: object,
            *more: object) -> subprocess.CompletedProcess:
    return run("enhance.py", "--pretrain_model_path", weights, "--input", source,
               "--output", target, "--device", "cpu", *more)


def test_a_folder_is_restored_names_kept_and_the_corrupt_file_reported(
        run_script: Callable, weights: Path, samples: Path, tmp_path: Path) -> None:
    done = enhance(run_script, weights, samples, tmp_path / "out", "--compare")
    made = sorted(p.relative_to(tmp_path / "out").as_posix()
                  for p in (tmp_path / "out").rglob("*.png"))
    expected = ["a.jpg.png", "a.png.png", "d.png", "sub/b.png", "sub/c.png"]
    assert made == sorted(expected + [f"compare/{name}" for name in expected])
    assert done.returncode == 1
    assert "e.png" in done.stderr and "5 of 6" in done.stdout
    assert read_image(tmp_path / "out" / "d.png").shape == (32, 32, 3)


def test_results_are_the_networks_output(weights: Path, run_here: Callable, samples: Path,
                                         tmp_path: Path) -> None:
    from models.networks.sparnet import SPARNet
    from utils.images.convert import to_image, to_tensor
    network = SPARNet(res_depth=0, bottleneck_size=16).eval()
    network.load_state_dict(torch.load(weights, weights_only=True))
    with torch.no_grad():
        expected = to_image(network(to_tensor(read_image(samples / "a.png"))), "truncate")[0]
    done = enhance(run_here, weights, samples / "a.png", tmp_path / "out")
    assert done.returncode == 0
    difference = read_image(tmp_path / "out" / "a.png").astype(int) - expected
    assert np.abs(difference).max() <= 1


def test_an_input_is_never_overwritten(run_here: Callable, weights: Path,
                                       samples: Path) -> None:
    before = (samples / "a.png").read_bytes()
    done = enhance(run_here, weights, samples, samples, "--ext", "same")
    assert done.returncode == 2 and "overwrite" in done.stderr
    assert (samples / "a.png").read_bytes() == before


def test_a_strip_never_overwrites_an_input_either(run_here: Callable, weights: Path,
                                                  tmp_path: Path) -> None:
    source = tmp_path / "work" / "compare"
    write_image(source / "a.png", render_face(0, size=64).image)
    before = (source / "a.png").read_bytes()
    done = enhance(run_here, weights, source, tmp_path / "work", "--compare")
    assert done.returncode == 2 and "overwrite" in done.stderr
    assert (source / "a.png").read_bytes() == before


def test_a_pattern_and_the_same_extension(run_here: Callable, weights: Path, samples: Path,
                                          tmp_path: Path) -> None:
    done = enhance(run_here, weights, f"{samples}/*.jpg", tmp_path / "out", "--ext", "same",
                   "--simulate_lq", "--scale_factor", "8")
    assert done.returncode == 0, done.stderr
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.jpg"]


@pytest.mark.parametrize("source, word", [("nowhere", "nowhere"), ("*.gif", "no image")])
def test_nothing_to_restore_is_one_line(source: str, word: str, run_here: Callable,
                                        weights: Path, tmp_path: Path) -> None:
    done = enhance(run_here, weights, tmp_path / source, tmp_path / "out")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert word in done.stderr


def test_missing_weights_are_one_line(run_here: Callable, samples: Path,
                                      tmp_path: Path) -> None:
    done = enhance(run_here, tmp_path / "none.pth", samples, tmp_path / "out")
    assert done.returncode == 2 and "none.pth" in done.stderr


@pytest.mark.parametrize("script", ["evaluate.py", "newtrain.py"])
def test_a_dataset_without_targets_is_refused(script: str, run_here: Callable, weights: Path,
                                              samples: Path, tmp_path: Path) -> None:
    more = ["--name", "one"] if script == "evaluate.py" else []
    done = run_here(script, "--dataset_name", "single", "--dataroot", samples, "--device", "cpu",
                      "--checkpoints_dir", weights.parents[1] if more else tmp_path, *more)
    assert done.returncode == 2 and "targets" in done.stderr


# ---- evaluate -----------------------------------------------------------------------------------

def test_a_network_is_measured_next_to_bicubic_with_everything_needed_to_repeat_it(
        run_script: Callable, weights: Path, tmp_path: Path) -> None:
    done = run_script("evaluate.py", "--name", "one", "--checkpoints_dir", weights.parents[1],
                      "--results_dir", tmp_path, "--max_dataset_size", 5, "--batch_size", 2,
                      "--num_threads", 0, "--device", "cpu", "--save_images")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "one_synthetic"
    report = json.loads((folder / "report.json").read_text())
    rows = list(csv.DictReader((folder / "per_image.csv").open()))
    assert set(report["mean"]) == {"bicubic", "restored"}
    assert set(report["protocols"]) == {"published", "standard"}
    assert len(report["weights"]["sha256"]) == 64 and "torch" in report["versions"]
    assert len(rows) == report["pictures"] == 5
    mean = sum(float(row["restored_published_psnr"]) for row in rows) / 5
    assert report["mean"]["restored"]["published"]["psnr"] == pytest.approx(mean, abs=1e-5)
    assert len(rows[0]["gt_pixels_sha256"]) == 64
    assert "bicubic" in done.stdout and "gain" in done.stdout
    assert (folder / "strip.png").exists() and len(list((folder / "images").iterdir())) == 5


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Targets and slightly wrong results, in different formats."""
    generator = np.random.default_rng(0)
    for index in range(4):
        gt = render_face(index, size=64).image
        noise = generator.integers(-9, 10, gt.shape)
        write_image(tmp_path / "gt" / f"{index}.png", gt)
        write_image(tmp_path / "made" / f"{index}.bmp",
                    np.clip(gt.astype(int) + noise, 0, 255).astype(np.uint8))
    return tmp_path / "made", tmp_path / "gt"


def compare_folders(run_here: Callable, made: Path, gt: Path,
                    *more: object) -> subprocess.CompletedProcess:
    return run_here("evaluate.py", "--restored", made, "--gt", gt, "--results_dir",
                      gt.parent / "results", *more)


def test_two_folders_are_paired_by_name(run_here: Callable, folders: tuple[Path, Path]) -> None:
    made, gt = folders
    done = compare_folders(run_here, made, gt)
    report = json.loads((gt.parent / "results" / "made" / "report.json").read_text())
    expected = [PROTOCOLS["published"].measure(read_image(made / f"{i}.bmp"),
                                               read_image(gt / f"{i}.png"))["psnr"]
                for i in range(4)]
    assert done.returncode == 0, done.stderr
    assert report["per_image"][1]["restored_file_sha256"] == sha256(made / "1.bmp")
    assert [row["restored"]["published"]["psnr"] for row in report["per_image"]] == (
        pytest.approx(expected))


def test_equal_images_give_infinity_in_valid_json(run_here: Callable,
                                                    folders: tuple[Path, Path]) -> None:
    _, gt = folders
    assert compare_folders(run_here, gt, gt, "--protocol", "standard").returncode == 0
    text = (gt.parent / "results" / "gt" / "report.json").read_text()
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name))["mean"]["restored"][
        "standard"]["psnr"] == "inf"


@pytest.mark.parametrize("spoil, words", [
    (lambda made: (made / "3.bmp").unlink(), ["--restored", "3"]),
    (lambda made: write_image(made / "2.bmp", np.zeros((32, 64, 3), np.uint8)),
     ["2.bmp", "64x32", "64x64"])])
def test_folders_that_do_not_fit_are_refused(spoil: Callable, words: list[str],
                                             run_here: Callable,
                                             folders: tuple[Path, Path]) -> None:
    spoil(folders[0])
    done = compare_folders(run_here, *folders)
    assert done.returncode == 2
    assert [word for word in words if word not in done.stderr] == []


def test_weights_alone_are_enough_and_what_contradicts_them_is_refused(
        run_here: Callable, weights: Path, samples: Path, tmp_path: Path) -> None:
    moved = tmp_path / "SPARNet.pth"
    moved.write_bytes(weights.read_bytes())
    done = enhance(run_here, moved, samples / "a.png", tmp_path / "out", "--load_size", "32")
    assert done.returncode == 0, done.stderr
    done = run_here("evaluate.py", "--pretrain_model_path", moved, "--res_depth", "10")
    assert done.returncode == 2
    assert done.stderr == (f"evaluate.py: error: --res_depth 10 contradicts {moved}, which needs "
                           "--res_depth 0\n")

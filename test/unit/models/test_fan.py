"""The landmark network's model: known landmarks, a teacher, and the published network on faces."""
from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, tiny_arguments

import models.fan_model
from data.synthetic.faces import render_face
from models.losses.landmark import gaussian_maps
from models.networks.fan import FAN, landmark_network, peaks
from models.networks.pretrained.fan_teacher import FAN2D
from utils.images.convert import to_tensor
from utils.images.io import read_image

DATA = os.environ.get("FACEZOO_TEST_DATA")


def test_without_a_teacher_the_known_landmarks_are_the_target(tiny_run: Callable) -> None:
    model, batch = tiny_run("fan", "--fan_sigma", "2")
    expected = F.mse_loss(model.heatmaps(batch["gt"]),
                          gaussian_maps(batch["landmarks"], 32, 2.0)).item()
    assert model.run_step(batch)["HM"].item() == pytest.approx(expected, rel=1e-6)


def test_the_targets_peaks_are_the_landmarks_of_the_synthetic_faces(tiny_run: Callable) -> None:
    model, batch = tiny_run("fan")
    distance = (peaks(model._target(batch)) - batch["landmarks"]).abs()
    inside = ((batch["landmarks"] >= 0) & (batch["landmarks"] <= 31)).all(dim=2)
    assert inside.float().mean() > 0.8 and distance[inside].max() <= 0.5


@pytest.fixture
def taught(tiny_run: Callable, monkeypatch: pytest.MonkeyPatch) -> tuple[object, dict]:
    """The model with a one-stack teacher."""
    monkeypatch.setattr(models.fan_model, "teacher_network",
                        lambda path: FAN2D(num_modules=1).requires_grad_(False).eval())
    return tiny_run("fan", "--fan_teacher", "teacher.pth")


def test_a_teachers_last_maps_of_the_enlarged_image_are_the_target(taught: tuple) -> None:
    model, batch = taught
    del batch["landmarks"]
    large = F.interpolate(0.5 * batch["gt"] + 0.5, size=(128, 128), mode="bilinear",
                          align_corners=False)
    with torch.no_grad():
        target = model.unwrapped["T"](large)[-1]
    expected = F.mse_loss(model.heatmaps(batch["gt"]), target).item()
    assert model.run_step(batch)["HM"].item() == pytest.approx(expected, rel=1e-5)


def test_the_teacher_stays_as_it_is(taught: tuple) -> None:
    model, batch = taught
    before = {key: value.clone() for key, value in model.unwrapped["T"].state_dict().items()}
    model.run_step(batch)
    after = model.unwrapped["T"].state_dict()
    assert not model.unwrapped["T"].training
    assert [key for key in before if not torch.equal(before[key], after[key])] == []


def test_the_teacher_is_not_saved(taught: tuple) -> None:
    assert list(taught[0].weights()) == ["G"]


def test_data_without_landmarks_needs_a_teacher(tiny_run: Callable) -> None:
    model, batch = tiny_run("fan")
    del batch["landmarks"]
    with pytest.raises(ValueError, match="--fan_teacher or a dataset with 68 landmarks"):
        model.run_step(batch)


def test_validation_counts_landmarks_that_were_found(tiny_run: Callable) -> None:
    model, batch = tiny_run("fan")
    found = batch["landmarks"].round().clamp(0, 31)
    found[1, :17] += 10
    model.landmarks = lambda images: found
    measured = model.measure(batch, batch["gt"])
    assert measured["landmarks_found"][1] <= measured["landmarks_found"][0] - 17 / 68 + 0.1
    assert measured["landmark_error"][1] > measured["landmark_error"][0] + 3


def test_nothing_is_counted_where_landmarks_are_unknown(tiny_run: Callable) -> None:
    model, batch = tiny_run("fan")
    assert model.measure({"gt": batch["gt"]}, batch["gt"]) == {}


def test_images_are_dark_where_no_landmark_is_seen(tiny_run: Callable) -> None:
    model, batch = tiny_run("fan")
    maps = torch.zeros(2, 68, 32, 32)
    maps[:, 5, 10, 20] = 1
    model.heatmaps = lambda images: maps
    lit = model.restore(batch["gt"])
    assert torch.allclose(lit[:, :, 10, 20], batch["gt"][:, :, 10, 20], atol=1e-5)
    lit[:, :, 10, 20] = -1
    assert torch.equal(lit, torch.full_like(lit, -1))


@pytest.mark.parametrize("arguments, words", [
    (["--fan_width", "6"], "--fan_width must be a positive multiple of 4, got 6"),
    (["--fan_sigma", "0"], "--fan_sigma must be above 0"),
    (["--fan_teacher", "x", "--load_size", "24"], "--load_size must be a multiple of 16")])
def test_options_that_cannot_work_are_named(arguments: list[str], words: str,
                                            tiny_options: Callable,
                                            capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        tiny_options("fan", *arguments)
    assert words in capsys.readouterr().err


def test_its_weights_are_what_pfsrnet_takes(tiny_run: Callable, tmp_path: Path) -> None:
    model, _ = tiny_run("fan")
    torch.save(model.weights()["G"], tmp_path / "fan.pth")
    other, batch = tiny_run("pfsrnet", "--fan_weights", str(tmp_path / "fan.pth"))
    assert torch.equal(other.unwrapped["FAN"].conv.weight, model.unwrapped["G"].conv.weight)
    assert other.run_step(batch)["ATT"] > 0


def test_a_pickled_module_to_start_from_is_refused_with_the_way_out(tiny_run: Callable,
                                                                   tmp_path: Path) -> None:
    torch.save(FAN(width=8), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"python -m tools\.legacy_pickle"):
        tiny_run("fan", "--pretrain_model_path", str(tmp_path / "old.pth"))


@pytest.mark.deep
def test_landmarks_of_synthetic_faces_are_learnt(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "newtrain.py"), *tiny_arguments("fan"), "--fan_width", "32",
         "--load_size", "64", "--batch_size", "8", "--lr", "1e-3", "--train_steps", "1000",
         "--eval_freq", "0", "--checkpoints_dir", str(tmp_path), "--name", "fan",
         "--no-tensorboard"], capture_output=True, text=True, timeout=900,
        env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    network = landmark_network(tmp_path / "fan" / "latest_net_G.pth", width=32)
    faces = [render_face(2_000_000 + index, size=64) for index in range(20)]
    with torch.no_grad():
        found = peaks(network(0.5 * to_tensor(np.stack([face.image for face in faces])) + 0.5))
    distance = np.linalg.norm(found.numpy() - np.stack([f.landmarks68 for f in faces]), axis=2)
    assert (distance <= 3.2).mean() > 0.5       # 0.7 of those held out; an untrained network's 0.01


# ---- the published network on photographs --------------------------------------------------------

@pytest.fixture(scope="module")
def photographs() -> torch.Tensor:
    """Ten aligned faces (10, 3, 64, 64) in [0, 1]."""
    folder = Path(DATA or "") / "ffhq-10"
    if not DATA or not folder.is_dir():
        pytest.skip("FACEZOO_TEST_DATA names no folder with pfsrnet_distilled_fan.pth and ffhq-10")
    faces = [cv2.resize(read_image(path), (64, 64), interpolation=cv2.INTER_AREA)
             for path in sorted(folder.iterdir())]
    return 0.5 * to_tensor(np.stack(faces)) + 0.5


@pytest.fixture(scope="module")
def published(photographs: torch.Tensor) -> FAN:
    return landmark_network(Path(DATA) / "pfsrnet_distilled_fan.pth")


def test_maxima_lie_on_brows_eyes_nose_mouth_and_chin(photographs: torch.Tensor,
                                                      published: FAN) -> None:
    with torch.no_grad():
        height = peaks(published(photographs))[..., 1].float()
    parts = (slice(17, 27), slice(36, 48), slice(27, 36), slice(48, 68), slice(6, 11))
    middles = torch.stack([height[:, part].median(dim=1).values for part in parts], dim=1)
    assert (middles.diff(dim=1) > 0).all(dim=1).sum() >= 8


def test_the_published_network_wants_rgb(photographs: torch.Tensor, published: FAN) -> None:
    with torch.no_grad():
        peak = [published(x).amax(dim=(2, 3)).mean(dim=1)
                for x in (photographs, photographs.flip(1))]
    assert peak[0].min() > 0.4 and peak[1].max() < 0.3

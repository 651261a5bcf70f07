"""Weight files of detectors are tried on drawn faces, since their names and shapes do not tell all.
"""
from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import data
import models
from faces import detect, trial
from faces.retinaface import written
from inference import open_detector
from models.networks.pretrained.retinaface import (
    ANCHORS,
    KNOWN_ANCHORS,
    MEAN_BGR,
    VARIANCES,
    RetinaFace,
    Variant,
    anchors,
)
from options.serve_options import ServeOptions
from utils.files import sha256
from utils.images.io import read_image, write_image

ONE_MB = KNOWN_ANCHORS[1]
UNKNOWN = ((8, 16), (24, 48), (100, 200))
FOLDER = Path(os.environ.get("FACEZOO_TEST_DATA", "nowhere"))
REAL = FOLDER / "weights" / "mobilenet0.25_Final.pth"
YUNET = FOLDER / "weights" / "face_detection_yunet_2023mar.onnx"
real = pytest.mark.skipif(not REAL.exists(), reason="FACEZOO_TEST_DATA names no folder with "
                          "weights/mobilenet0.25_Final.pth")


def save_fitted(path: Path, backbone: str, variant: Variant) -> Path:
    """Save a network of random layers whose last ones were solved for the drawn faces.

    Only the first anchors of the coarsest level see faces: it has fewer cells than features, so
    that the solution is exact, and useless for every other variant.
    """
    torch.manual_seed(0)
    network, sheet = RetinaFace(backbone).eval(), trial.sheet()
    network.set_plain_relu(variant.plain_relu)
    height, width = sheet.image.shape[:2]
    image = sheet.image if variant.rgb else sheet.image[..., ::-1]
    x = (torch.tensor(image.copy()).float() - torch.tensor(MEAN_BGR)).permute(2, 0, 1)[None]
    with torch.no_grad():
        features = network.ssh3(network.fpn(network.body(x))[2])[0].flatten(1).T.double()
        cells = len(features)
        priors = anchors(height, width, None, variant.anchors)[-2 * cells::2].double()
        priors = priors * torch.tensor([width, height, width, height])
        values = torch.zeros(cells, 16, dtype=torch.float64)      # of all three heads
        values[:, 1] = -9
        for box, points in zip(torch.tensor(sheet.boxes), torch.tensor(sheet.points), strict=True):
            middle, side = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
            cell = int((priors[:, :2] - middle).norm(dim=1).argmin())
            place, unit = priors[cell, :2], VARIANCES[0] * priors[cell, 2:]
            values[cell] = torch.cat([torch.tensor([0, 9]), (middle - place) / unit,
                                      (side / priors[cell, 2:]).log() / VARIANCES[1],
                                      ((points - place) / unit).flatten()])
        rows = torch.cat([features, torch.ones(cells, 1)], dim=1)
        solved = torch.linalg.lstsq(rows, values, driver="gelsd").solution.T.float()
        for head in (*network.ClassHead, *network.BboxHead, *network.LandmarkHead):
            head.conv1x1.weight.zero_()
            head.conv1x1.bias.zero_()
        for head in network.ClassHead:
            head.conv1x1.bias[1::2] = -9
        for heads, part in ((network.ClassHead, solved[:2]), (network.BboxHead, solved[2:6]),
                            (network.LandmarkHead, solved[6:])):
            heads[2].conv1x1.weight[:len(part)] = part[:, :-1, None, None]
            heads[2].conv1x1.bias[:len(part)] = part[:, -1]
    torch.save(network.state_dict(), path)
    return path


# ---- RetinaFace ---------------------------------------------------------------------------------

@pytest.mark.parametrize("backbone, variant", [
    ("mobile0.25", Variant()), ("mobile0.25", Variant(ONE_MB)),
    ("mobile0.25", Variant(ONE_MB, plain_relu=True)), ("mobile0.25", Variant(rgb=True)),
    ("resnet50", Variant(ONE_MB)), ("resnet50", Variant(rgb=True))])
def test_the_variant_of_a_file_is_found(backbone: str, variant: Variant, tmp_path: Path,
                                        caplog: pytest.LogCaptureFixture) -> None:
    path = save_fitted(tmp_path / "d.pth", backbone, variant)
    with caplog.at_level("INFO", "facezoo"):
        detector = detect.create("auto", path)
    assert detector.variant == variant
    assert trial.compare(detector(trial.sheet().image)) == (3, 0, pytest.approx(1, abs=1e-3))
    said = [] if variant == Variant() else [
        f"{path}: it finds drawn faces with anchors of {written(variant.anchors)} pixels"
        + ", plain ReLUs" * variant.plain_relu + ", RGB images" * variant.rgb
        + ", which are used"]
    assert caplog.messages == said


def test_other_anchors_are_refused_unless_they_are_given(tmp_path: Path) -> None:
    path = save_fitted(tmp_path / "d.pth", "mobile0.25", Variant(UNKNOWN))
    with pytest.raises(ValueError) as error:
        detect.create("auto", path)
    assert str(error.value) == (
        f"--detector_weights {path}: expected a RetinaFace that finds at least 2 of 3 drawn faces, "
        "got 0 found and 3 detections elsewhere; if it has other anchors than "
        "16,32/64,128/256,512 or 10,20/32,64/128,256, give them by --detector_anchors")
    detector = detect.create("auto", path, anchors=UNKNOWN)
    assert trial.compare(detector(trial.sheet().image)).found == 3


@pytest.mark.parametrize("backbone, seeds", [("mobile0.25", 6), ("resnet50", 1)])
def test_a_network_that_finds_no_face_is_refused(backbone: str, seeds: int, tmp_path: Path) -> None:
    for seed in range(seeds):
        torch.manual_seed(seed)
        torch.save(RetinaFace(backbone).state_dict(), tmp_path / "d.pth")
        with pytest.raises(ValueError, match=r"d\.pth: expected .* got 0 found"):
            detect.create("auto", tmp_path / "d.pth")


def test_faces_everywhere_are_no_faces_found() -> None:
    sheet = trial.sheet()
    drawn = [detect.Face(*face, 0.9) for face in zip(sheet.boxes, sheet.points, strict=True)]
    false = [detect.Face(face.box + 40, face.points + 40, 0.9) for face in drawn]
    assert trial.compare(drawn).passed and trial.compare(drawn[:2] + false[:2]).passed
    assert not trial.compare(drawn + false + false).passed
    assert not trial.compare(drawn[:1]).passed
    assert trial.compare(drawn + drawn[:1]) == (3, 1, 0.9)


def test_a_known_file_has_the_published_anchors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                ) -> None:
    path = save_fitted(tmp_path / "d.pth", "mobile0.25", Variant(ONE_MB))
    monkeypatch.setattr(trial, "KNOWN_FILES", (sha256(path),))
    assert detect.create("auto", path).variant == Variant()
    assert detect.create("auto", path, anchors=ONE_MB).variant == Variant(ONE_MB)


# ---- YuNet ---------------------------------------------------------------------------------------

def test_a_graph_of_another_network_is_one_line(tmp_path: Path) -> None:
    """OpenCV reads it as a YuNet, and notices at the first image only."""
    onnx = pytest.importorskip("onnx", reason="comes with requirements-export.txt")
    image, result = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, 8, 8])
                     for name in ("input", "result"))
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["input"], ["result"])], "other",
                                   [image], [result])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "y.onnx")
    with pytest.raises(ValueError, match=r"^--detector_weights .*y\.onnx: OpenCV cannot"):
        detect.create("auto", tmp_path / "y.onnx")


# ---- --detector_anchors -------------------------------------------------------------------------

@pytest.mark.parametrize("text", [
    "16,32", "16,32/64,128", "0,32/64,128/256,512", "-16,32/64,128/256,512", "16,32/64,128/a,b",
    "16,32/64,128/256,512/1,2", "1e9,32/64,128/256,512", "16 32 64 128 256 512", "standard"])
def test_bad_anchors_are_one_line(text: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        ServeOptions(models, data, "serve.py").parse([f"--detector_anchors={text}"])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1
    assert "--detector_anchors" in said and "16,32/64,128/256,512, got " + repr(text) in said


@pytest.mark.parametrize("kind", ["cascade", "yunet"])
def test_anchors_are_for_retinaface_only(kind: str) -> None:
    with pytest.raises(ValueError, match=f"--detector_anchors .*{kind}"):
        detect.create(kind, None, anchors=ANCHORS)


def test_the_service_opens_its_detector_with_the_anchors_given(tmp_path: Path) -> None:
    path = save_fitted(tmp_path / "d.pth", "mobile0.25", Variant(UNKNOWN))
    opt = ServeOptions(models, data, "serve.py").parse([
        "--model", "sparnet", "--pretrain_model_path", "g.pth", "--detector_weights", str(path),
        "--detector_anchors", written(UNKNOWN)])
    assert open_detector(opt, torch.device("cpu")).variant == Variant(UNKNOWN)


def test_faces_are_cropped_with_the_anchors_given(run_script: Callable, tmp_path: Path) -> None:
    path = save_fitted(tmp_path / "d.pth", "mobile0.25", Variant(UNKNOWN))
    write_image(tmp_path / "in" / "a.png", trial.sheet().image)
    done = run_script("prepare.py", "align", "--input", tmp_path / "in", "--output",
                      tmp_path / "out", "--workers", "1", "--detector_weights", path,
                      "--detector_anchors", written(UNKNOWN))
    assert "wrote 3 faces of 1 photograph" in done.stdout


# ---- published files ----------------------------------------------------------------------------

@real
@pytest.mark.parametrize("path", [REAL, YUNET], ids=lambda path: path.name)
def test_published_files_are_known_and_pass_the_trial(path: Path, monkeypatch: pytest.MonkeyPatch
                                                      ) -> None:
    assert not trial.needed(path)
    monkeypatch.setattr(trial, "KNOWN_FILES", ())
    detector = detect.create("auto", path)
    assert trial.compare(detector(trial.sheet().image))[:2] == (3, 0)
    assert getattr(detector, "variant", Variant()) == Variant()


@real
def test_the_published_network_with_other_anchors_finds_the_same_faces(tmp_path: Path) -> None:
    """As if it had been trained with them: regressions are relative to the anchors' sides."""
    state = torch.load(REAL, map_location="cpu", weights_only=True)
    state = {key.removeprefix("module."): value for key, value in state.items()}
    for level in range(3):
        ratios = torch.tensor(ONE_MB[level]) / torch.tensor(ANCHORS[level])
        for name, values in (("BboxHead", 4), ("LandmarkHead", 10)):
            weight, bias = (state[f"{name}.{level}.conv1x1.{kind}"].unflatten(0, (2, values))
                            for kind in ("weight", "bias"))
            relative = slice(0, 2 if name == "BboxHead" else 10)
            weight[:, relative] /= ratios.view(2, 1, 1, 1, 1)
            bias[:, relative] /= ratios.view(2, 1)
            if name == "BboxHead":
                bias[:, 2:] -= ratios.log().view(2, 1) / VARIANCES[1]
    torch.save(state, tmp_path / "d.pth")
    published, other = detect.create("auto", REAL), detect.create("auto", tmp_path / "d.pth")
    assert other.variant == Variant(ONE_MB)
    as_before = detect.create("auto", tmp_path / "d.pth", anchors=ANCHORS)
    for path in sorted((FOLDER / "ffhq-10").iterdir()):
        image = read_image(path)
        expected, found = published(image), other(image)
        assert len(found) == len(expected) >= 1
        for one, two in zip(found, expected, strict=True):
            assert np.allclose(one.box, two.box, atol=1e-3)
            assert np.allclose(one.points, two.points, atol=1e-3)
        assert not any(np.allclose(face.box, expected[0].box, atol=20) for face in as_before(image))


@real
def test_a_yunet_without_numbers_is_refused(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="comes with requirements-export.txt")
    graph = onnx.load(YUNET)
    for weights in graph.graph.initializer:
        if len(weights.dims) == 4:      # of convolutions
            zeros = np.zeros(tuple(weights.dims), np.float32)
            weights.CopyFrom(onnx.numpy_helper.from_array(zeros, weights.name))
    onnx.save(graph, tmp_path / "y.onnx")
    with pytest.raises(ValueError, match=r"y\.onnx: expected a YuNet that finds .* got 0 found"):
        detect.create("auto", tmp_path / "y.onnx")

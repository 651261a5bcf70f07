"""export_onnx.py and tools.quantize as far as they need neither onnx nor onnxruntime."""
from __future__ import annotations

import hashlib
import json
from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

import data
import export
import export_onnx
import models
from options.enhance_options import EnhanceOptions
from options.export_options import ExportOptions
from tools import quantize
from utils.images.io import read_image, write_image


def options(*arguments: object) -> Namespace:
    return ExportOptions(models, data, "test").parse(
        ["--model", "gfpgan", "--load_size", "16", *map(str, arguments)])


@pytest.fixture
def sample_image(tmp_path: Path) -> np.ndarray:
    """An image of 16 x 16 pixels, in tmp_path/in/face_1.png."""
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    write_image(tmp_path / "in" / "face_1.png", image)
    return image


def test_images_survive_the_way_through_raw_files(sample_image: np.ndarray, tmp_path: Path) -> None:
    export_onnx.export(options("--to_bin", tmp_path / "in", "--output",
                               tmp_path / "bins"))
    written, = (tmp_path / "bins").glob("*")
    # ais_bench adds the number of the output.
    written.rename(written.with_name("face_1_0.bin"))
    export_onnx.export(options("--from_bin", tmp_path / "bins", "--output", tmp_path / "out"))
    assert np.array_equal(read_image(tmp_path / "out" / "face_1.png"), sample_image)


def test_raw_files_are_float32_planes(sample_image: np.ndarray, tmp_path: Path) -> None:
    export_onnx.export(options("--to_bin", tmp_path / "in", "--output",
                               tmp_path / "bins"))
    values = np.fromfile(tmp_path / "bins" / "face_1.bin", "<f4").reshape(3, 16, 16)
    assert np.allclose((values[0] + 1) * 127.5, sample_image[..., 0], atol=1e-3)


def test_raw_results_are_compared_with_targets(sample_image: np.ndarray, tmp_path: Path,
                                               capsys: pytest.CaptureFixture) -> None:
    values = sample_image.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1
    (tmp_path / "results").mkdir()
    np.save(tmp_path / "results" / "face_1_0.npy", values[None] + 2 / 255)
    export_onnx.export(options("--from_bin", tmp_path / "results", "--output", tmp_path / "out",
                               "--gt", tmp_path / "in"))
    distance = np.minimum(sample_image.astype(int) + 1, 255) - sample_image
    expected = 10 * np.log10(255 ** 2 / np.mean(distance ** 2))
    assert f"{expected:.4f} dB" in capsys.readouterr().out


def test_a_raw_result_of_several_images_is_refused(tmp_path: Path) -> None:
    np.zeros((2, 3, 8, 8), np.float32).tofile(tmp_path / "two_0.bin")
    with pytest.raises(ValueError, match=r"two_0.bin must hold one square RGB image, got 384"):
        export_onnx.export(options("--from_bin", tmp_path, "--output", tmp_path / "out"))


# ---- options ------------------------------------------------------------------------------------

@pytest.mark.parametrize(("flags", "text"), [
    (("--engine", "onnx"), "--engine onnx and --onnx FILE must be given together"),
    (("--onnx", "a.onnx"), "--engine onnx and --onnx FILE must be given together"),
    (("--engine", "onnx", "--onnx", "a.onnx", "--name", "run"), "--onnx FILE has its own weights")])
def test_engine_and_graph_belong_together(flags: tuple[str, ...], text: str,
                                          capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        EnhanceOptions(models, data, "test").parse(["--input", "x.png", *flags])
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(("flags", "text"), [
    ((), "give --pretrain_model_path FILE or --name RUN"),
    (("--to_bin", "a", "--from_bin", "b", "--output", "c"), "cannot be used together"),
    (("--to_bin", "a"), "--output is missing"),
    (("--gt", "a", "--name", "run"), "--gt needs --from_bin"),
    (("--onnx", "a", "--name", "run"), "--onnx needs --to_bin")])
def test_flags_that_do_not_go_together_are_refused(flags: tuple[str, ...], text: str,
                                                   capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        options(*flags)
    assert text in capsys.readouterr().err


def test_the_json_beside_a_graph_gives_the_options(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"options": {"model": "sparnet", "load_size": 64,
                                                             "res_depth": 1}}))
    opt = EnhanceOptions(models, data, "test").parse(
        ["--input", "x.png", "--engine", "onnx", "--onnx", str(tmp_path / "a.onnx")])
    assert (opt.model, opt.load_size, opt.res_depth) == ("sparnet", 64, 1)


def test_the_command_line_goes_before_the_json(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"options": {"model": "sparnet", "load_size": 64}}))
    opt = EnhanceOptions(models, data, "test").parse(
        ["--input", "x.png", "--engine", "onnx", "--onnx", str(tmp_path / "a.onnx"),
         "--load_size", "128"])
    assert opt.load_size == 128


@pytest.mark.parametrize(("about", "refused"), [
    ({"sha256": "0" * 64}, True), ({"sha256": hashlib.sha256(b"graph").hexdigest()}, False),
    ({}, False), ([], False), (None, False)])
def test_a_graph_that_is_not_what_was_exported_is_refused(about: object, refused: bool,
                                                          tmp_path: Path) -> None:
    engine = pytest.importorskip("export.engine", exc_type=ImportError)
    (tmp_path / "a.onnx").write_bytes(b"graph")
    if about is not None:
        (tmp_path / "a.json").write_text(json.dumps(about))
    with (pytest.raises(ValueError, match=r"--onnx .*a.onnx is damaged or was changed after")
          if refused else nullcontext()):
        engine.check_digest(tmp_path / "a.onnx")


def test_missing_packages_are_named_with_their_requirements_file(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "PACKAGES", ("numpy", "no_such_package"))
    with pytest.raises(ValueError, match=r"^ONNX graphs need no_such_package; .*-export.txt"):
        export_onnx.check_packages()


def test_quantize_names_a_flag_that_is_missing(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        quantize.parse(["--onnx", "a.onnx"])
    assert "--calibration" in capsys.readouterr().err

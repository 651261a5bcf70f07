"""serve.py: its flags, its table of models, and that its images are those of enhance.py."""
from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import skimage.data
from served import SMALL, ask, decoded, small_weights

import data
import models
import serve
from enhance import enhance
from faces.detect import CascadeDetector
from options.enhance_options import EnhanceOptions
from options.serve_options import ServeOptions
from utils.images.io import read_image, write_image


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_weights(tmp_path_factory.mktemp("w") / "g.pth")


@pytest.mark.parametrize("upscaled", ["1", "2"])
def test_the_image_is_that_of_enhance_bit_for_bit(upscaled: str, weights: Path, tmp_path: Path,
                                                    capsys: pytest.CaptureFixture) -> None:
    write_image(tmp_path / "in" / "a.png", skimage.data.astronaut())
    arguments = [*SMALL, "--pretrain_model_path", str(weights), "--strength", "0.8",
                 "--match_colours", "--batch_size", "2"]
    assert enhance(EnhanceOptions(models, data).parse(
        [*arguments, "--photos", "--input", str(tmp_path / "in"), "--output",
         str(tmp_path / "out"), "--upscale", upscaled])) == 0
    opt, tables = ServeOptions(models, data).parse_all(arguments)
    made = serve.open_service(opt, tables, workers=1)
    try:
        answer = ask(made, content=(tmp_path / "in" / "a.png").read_bytes(),
                     params={"upscale": upscaled})
    finally:
        made.close()
    expected = read_image(tmp_path / "out" / "restored_imgs" / "a.png")
    assert answer.headers["x-faces"] == "1" and np.array_equal(decoded(answer), expected)


def parsed(arguments: list[str]) -> tuple[Any, dict]:
    return ServeOptions(models, data, "serve.py").parse_all(arguments)


def test_several_models_come_from_a_table(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(
        "fast: {model: sparnet, load_size: 64, pretrain_model_path: a.pth, strength: 0.5}\n"
        "fine: {model: sparnethd, pretrain_model_path: b.pth}\n")
    opt, tables = parsed(["--models", str(tmp_path / "m.yaml"), "--min_face", "20"])
    assert list(tables) == ["fast", "fine"] and opt.queue == 64
    fast, fine = tables.values()
    assert (fast.model, fast.load_size, fast.strength, fast.min_face) == ("sparnet", 64, 0.5, 20)
    assert (fine.model, fine.load_size, fine.pretrain_model_path) == (
        "sparnethd", 512, "b.pth")


@pytest.mark.parametrize("text, arguments, word", [
    ("", (), "empty"), ("- a", (), "--models"), ("a: 1", (), "got str for a"),
    ("a b: {}", (), "'a b'"), ("a: {port: 1}", (), "whole service"),
    ("a: {config: x.yaml}", (), "config"), ("a: {stength: 1}", (), "unknown option stength"),
    ("a: {strength: 2, pretrain_model_path: x}", (), "a: strength"),
    ("a: {model: sparnet}", (), "--pretrain_model_path"), ("a: {model: none}", (), "--model"),
    ("a: {pretrain_model_path: x}", ("--model", "gpen"), "--model and --models"),
    ("a: {pretrain_model_path: x}", ("--name", "x"), "--name and --models")])
def test_a_wrong_table_is_one_line(text: str, arguments: tuple, word: str, tmp_path: Path,
                                   capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(SystemExit) as stopped:
        parsed(["--models", str(tmp_path / "m.yaml"), *arguments])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and word in said and said.count("\n") == 1


@pytest.mark.parametrize("arguments, word", [
    (["--port", "70000"], "--port"), (["--allowed_hosts", "example.org:80"], "--allowed_hosts"),
    (["--allowed_hosts", "a*b"], "--allowed_hosts"), (["--queue", "0"], "--queue"),
    (["--models", "nowhere.yaml"], "--models nowhere.yaml"), ([], "--pretrain_model_path")])
def test_wrong_flags_are_one_line(arguments: list, word: str,
                                  capsys: pytest.CaptureFixture) -> None:
    given = arguments and "--models" not in arguments
    with pytest.raises(SystemExit):
        parsed([*arguments, *(["--pretrain_model_path", "x.pth"] if given else [])])
    said = capsys.readouterr().err
    assert word in said and said.count("\n") == 1


def test_a_port_in_use_is_said_before_the_network_is_loaded(tmp_path: Path) -> None:
    with serve.bind("127.0.0.1", 0) as bound:
        bound.listen()
        port = bound.getsockname()[1]
        with pytest.raises(ValueError, match=f"--port {port}: Address already in use"):
            serve.serve(*parsed(["--port", str(port), "--pretrain_model_path", "nowhere.pth"]))
    with pytest.raises(ValueError, match=r"--host nowhere\.invalid"):
        serve.bind("nowhere.invalid", 0)


def test_without_its_packages_the_service_says_what_to_install(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "PACKAGES", {"not_there": "not-there"})
    with pytest.raises(ValueError, match=r"needs not-there; run pip .*requirements-serve\.txt"):
        serve.check_packages()


@pytest.mark.parametrize("host, local", [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True),
                                         ("localhost", True), ("0.0.0.0", False), ("::", False),
                                         ("example.org", False)])
def test_loopback_is_told_from_the_rest(host: str, local: bool) -> None:
    assert serve.is_loopback(host) is local


def test_cores_are_shared_between_workers_and_network(monkeypatch: pytest.MonkeyPatch) -> None:
    left = []
    monkeypatch.setattr(serve, "torch", SimpleNamespace(get_num_threads=lambda: 16,
                                                        set_num_threads=left.append))
    monkeypatch.setattr(serve, "cv2", SimpleNamespace(setNumThreads=lambda number: None))
    assert (serve.split_cores(None), serve.split_cores(6), serve.split_cores(99)) == (4, 6, 99)
    assert left == [12, 10, 1]


def test_the_cascade_is_the_detector_by_default(weights: Path) -> None:
    opt, tables = parsed([*SMALL, "--pretrain_model_path", str(weights)])
    made = serve.open_service(opt, tables, workers=1)
    detector = made._detectors.get()
    made.close()
    assert isinstance(detector, CascadeDetector) and opt.max_faces == 32

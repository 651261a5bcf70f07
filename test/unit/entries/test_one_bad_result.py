"""One image that cannot be read, restored or written stops nothing else."""
from __future__ import annotations

import errno
import json
import struct
import zlib
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

import data
import enhance
import evaluate
import inference
import models
import preparation
import prepare
from faces import background
from faces.restorer import FaceRestorer
from options.enhance_options import EnhanceOptions
from utils.images import io
from utils.images.deep import Layers, encode_layers
from utils.images.errors import NotWritten
from utils.images.io import encode_image, write_image

LONG = "n" * 251        # with .png as long as a name can be, with _00.png too long
WORDS = {"cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: "
                             "can't allocate memory: you tried to allocate 99 bytes."),
         "cuda": torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
         "npu": RuntimeError("NPU out of memory. Tried to allocate 2.00 GiB (NPU 0; 60 GiB total"),
         "host": MemoryError(), "opencv": cv2.error("(-4:Insufficient memory) Failed to allocate"),
         "onnx": Exception("Failed to allocate memory for requested buffer of size 9")}


class Network:
    """Gives back what it gets: NaN for an image of 200 in its corner, and has a small memory."""
    opt = None
    fits = 8                # images at a time
    error: Exception = WORDS["npu"]

    def preprocess(self, image: np.ndarray, opt: object) -> np.ndarray:
        return cv2.resize(image, (16, 16), interpolation=cv2.INTER_NEAREST)

    def prepare(self, batch: dict) -> dict:
        return {"lq": batch["lq"].permute(0, 3, 1, 2).float() / 127.5 - 1}

    def restore(self, lq: torch.Tensor) -> torch.Tensor:
        if len(lq) > self.fits:
            raise self.error
        restored = lq.clone()
        restored[(lq[:, 0, 0, 0] * 127.5 + 127.5).round() == 200] = float("nan")
        return restored


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    made = Network()
    monkeypatch.setattr(inference, "open_restorer",
                        lambda opt, device: FaceRestorer(made, torch.device("cpu")))
    return made


def restore(source: Path, target: Path, *more: str) -> int:
    opt = EnhanceOptions(models, data, "enhance.py").parse(
        ["--model", "sparnet", "--pretrain_model_path", "x.pth", "--device", "cpu", "--input",
         str(source), "--output", str(target), *more])
    return enhance.enhance(opt)


def image(level: int, width: int = 16, height: int = 16) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def failures(capsys: pytest.CaptureFixture) -> tuple[str, list[str]]:
    said = capsys.readouterr()
    return said.out, said.err.splitlines()


@pytest.mark.parametrize("batch_size", ["1", "4"])
def test_what_cannot_be_written_read_or_restored_is_named_and_the_others_are_done(
        batch_size: str, network: Network, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name, level in (("a.png", 10), (f"{LONG}.bmp", 20), ("nan.png", 200), ("sub/c.png", 30),
                        ("z.png", 40)):
        write_image(tmp_path / "in" / name, image(level))
    whole = encode_image(image(9), ".png")
    (tmp_path / "in" / "cut.png").write_bytes(whole[:60])
    head = b"IHDR" + struct.pack(">II", 20_000, 20_000) + whole[24:29]
    (tmp_path / "in" / "bomb.png").write_bytes(
        whole[:12] + head + struct.pack(">I", zlib.crc32(head)) + whole[33:])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").write_text("a file where a folder is needed")
    status = restore(tmp_path / "in", tmp_path / "out", "--batch_size", batch_size,
                     "--ext", "webp")
    out, lines = failures(capsys)
    assert status == 1 and "restored 2 of 7 images" in out
    assert sorted(p.name for p in (tmp_path / "out").glob("*.webp")) == ["a.webp", "z.webp"]
    assert len(lines) == 5 and all(line.startswith("not restored: ") for line in lines)
    for name, reason in (("n.bmp", "File name too long"), ("nan.png", "NaN or infinity"),
                         ("c.png", "File exists"), ("cut.png", ""),
                         ("bomb.png", "would take 2288 MiB")):
        assert sum(name in line and reason in line for line in lines) == 1, (name, lines)


@pytest.mark.parametrize("size, upscale, ext, reason", [
    ((16400, 4), "1", "webp", "WEBP cannot hold an image of 16400x4 pixels; its limit is 16383"),
    ((4, 33000), "2", "jpg", "JPEG cannot hold an image of 8x66000 pixels; its limit is 65500"),
    ((3, 40), "0.25", "png", "upscale 0.25 is too small for an image of 3 x 40 pixels")])
def test_photographs_that_no_file_holds_are_named(
        size: tuple[int, int], upscale: str, ext: str, reason: str, network: Network,
        tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_image(tmp_path / "in" / "a.png", image(10, 64, 48))
    write_image(tmp_path / "in" / "odd.png", image(10, *size))
    (tmp_path / "none.json").write_text(json.dumps({"a.png": [], "odd.png": []}))
    status = restore(tmp_path / "in", tmp_path / "out", "--photos", "--faces",
                     str(tmp_path / "none.json"), "--upscale", upscale, "--ext", ext)
    out, lines = failures(capsys)
    assert (status, len(lines)) == (1, 1) and "restored 1 of 2 images" in out
    assert "odd.png" in lines[0] and reason in lines[0]
    assert [p.name for p in (tmp_path / "out" / "restored_imgs").iterdir()] == [f"a.{ext}"]


def test_a_full_disk_ends_the_job_at_once(network: Network, tmp_path: Path,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "a.png")
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "in" / name, image(1))
    monkeypatch.setattr(io, "write_atomically", full)
    with pytest.raises(OSError, match="No space left"):
        restore(tmp_path / "in", tmp_path / "out")


def test_a_folder_that_takes_nothing_is_an_error_before_anything_is_restored(
        network: Network, tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a.png", image(1))
    (tmp_path / "out").write_text("a file")
    network.fits = 0        # would fail, too
    with pytest.raises(OSError, match="out"):
        restore(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("extension", [".png", ".jpg", ".webp", ".bmp", ".tif", ".ppm"])
@pytest.mark.parametrize("deep", [False, True])
def test_every_writer_says_what_it_cannot_hold(extension: str, deep: bool) -> None:
    empty = np.zeros((0, 5, 3), np.uint16 if deep else np.uint8)
    with pytest.raises(NotWritten, match="cannot hold an image of 5x0 pixels"):
        encode_layers(Layers(empty), extension)


def test_a_png_wider_than_its_library_writes_is_refused() -> None:
    with pytest.raises(NotWritten, match="PNG cannot hold an image of 1000001x1 pixels"):
        encode_layers(Layers(np.zeros((1, 1_000_001, 3), np.uint16)), ".png")


# ---- evaluate.py and prepare.py -----------------------------------------------------------------

def test_an_evaluation_is_not_lost_with_an_image_that_cannot_be_saved(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [SimpleNamespace(path=name, numbers=defaultdict(float))
            for name in ("a.bmp", f"{LONG}x.bmp")]
    monkeypatch.setattr(evaluate, "measure_network", lambda *_: iter(
        [(row, {"restored": image(3)}) for row in rows]))
    kept: list[evaluate.Findings] = []
    monkeypatch.setattr(evaluate, "write_reports", lambda out, found, report, _: kept.append(found))
    monkeypatch.setattr(evaluate, "Extremes", lambda *_: SimpleNamespace(
        add=lambda *_: None, merge=lambda *_: None))
    monkeypatch.setattr(evaluate, "prepare", lambda *_: (torch.device("cpu"), SimpleNamespace(
        of=lambda images: {}, state=evaluate.SetState())))
    opt = evaluate.EvaluateOptions(models, data, "evaluate.py").parse(
        ["--model", "sparnet", "--pretrain_model_path", "x.pth", "--device", "cpu",
         "--results_dir", str(tmp_path), "--name", "one", "--save_images"])
    assert evaluate.evaluate(opt) == 0
    assert len(kept[0].rows) == 2 and len(kept[0].not_written) == 1
    assert "File name too long" in kept[0].not_written[0]


@pytest.mark.parametrize("tool, flags", [("align", ["--size", "64"]), ("resize", ["--size", "8"])])
def test_prepare_goes_on_after_a_result_that_cannot_be_written(
        tool: str, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    import skimage.data
    face = skimage.data.astronaut()[:256, 100:356]
    for name in ("a.png", f"{LONG}.bmp", "c.png"):
        write_image(tmp_path / "in" / name, face)
    opt = prepare.parse([tool, "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"),
                         "--workers", "1", "--ext", "webp", *flags])
    assert preparation.find(tool).run(opt) == 1
    assert len(list((tmp_path / "out").glob("*.webp"))) == 2
    assert "File name too long" in capsys.readouterr().err


# ---- a device that is out of memory -------------------------------------------------------------

@pytest.mark.parametrize("words", sorted(WORDS))
def test_batches_that_do_not_fit_are_halved_once(words: str, network: Network) -> None:
    network.error, network.fits = WORDS[words], 2
    restorer = FaceRestorer(network, torch.device("cpu"))
    images = [image(level) for level in range(10, 19)]
    assert np.array_equal(restorer.restore(images), np.stack(images))
    assert restorer.largest_batch == 2


def test_an_image_for_which_there_is_no_memory_is_named(
        network: Network, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    network.fits = 0
    write_image(tmp_path / "in" / "a.png", image(1))
    status = restore(tmp_path / "in", tmp_path / "out")
    _, lines = failures(capsys)
    assert status == 1 and "a.png: the device is out of memory" in lines[-1]


def test_another_error_is_not_taken_for_a_lack_of_memory(network: Network) -> None:
    network.error, network.fits = RuntimeError("shapes cannot be multiplied"), 1
    with pytest.raises(RuntimeError, match="shapes"):
        FaceRestorer(network, torch.device("cpu")).restore([image(1), image(2)])


def test_the_background_goes_on_with_smaller_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    tiles: list[int] = []

    def in_tiles(network: object, photo: np.ndarray, device: object, tile: int) -> np.ndarray:
        tiles.append(tile)
        if tile > 100:
            raise WORDS["cuda"]
        return photo
    monkeypatch.setattr(background, "in_tiles", in_tiles)
    monkeypatch.setattr(background, "upscaling_network", lambda weights: torch.nn.Identity())
    upscale = background.network_upscaler("x", torch.device("cpu"), 300)
    for _ in range(2):
        assert upscale(image(1), 1).shape == (16, 16, 3)
    assert tiles == [300, 150, 75, 75]
    monkeypatch.setattr(background, "in_tiles", lambda *_: (_ for _ in ()).throw(WORDS["cuda"]))
    with pytest.raises(torch.cuda.OutOfMemoryError):
        upscale(image(1), 1)


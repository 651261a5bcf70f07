"""prepare.py crop, resize and align."""
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage.data

import preparation
import prepare
from faces import align
from preparation.crop import center_crop
from utils.images.io import read_image, write_image
from utils.images.resize import bicubic


def run(*arguments: object) -> int:
    opt = prepare.parse([str(argument) for argument in arguments])
    return preparation.find(opt.command).run(opt)


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, shape in (("a.jpg", (218, 178)), ("more/b.png", (200, 181))):
        write_image(tmp_path / "in" / name, rng.integers(0, 256, (*shape, 3), dtype=np.uint8))
    return tmp_path / "in"


def written(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.*"))


def test_the_middle_is_cut_out_as_celebas_published_loader_does(samples: Path,
                                                                tmp_path: Path) -> None:
    assert run("crop", "--input", samples, "--output", tmp_path / "out", "--workers", 1) == 0
    assert written(tmp_path / "out") == ["a.png", "more/b.png"]
    whole = read_image(samples / "a.jpg")
    assert np.array_equal(read_image(tmp_path / "out" / "a.png"), whole[20:198])
    other = read_image(samples / "more" / "b.png")
    # (200 - 178) / 2 = 11, (181 - 178) / 2 = 1.5, which rounds to the even 2.
    assert np.array_equal(read_image(tmp_path / "out" / "more" / "b.png"), other[11:189, 2:180])


def test_a_crop_may_be_resized(samples: Path) -> None:
    image = read_image(samples / "a.jpg")
    assert np.array_equal(center_crop(image, 100, 50), bicubic(image[59:159, 39:139], 50, 50))


def test_what_is_there_is_left_alone_and_failures_are_named(
        samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_image(samples / "small.png", np.zeros((50, 300, 3), np.uint8))
    (samples / "broken.png").write_bytes(b"\x89PNG")
    marked = np.full((178, 178, 3), 7, np.uint8)
    write_image(tmp_path / "out" / "a.png", marked)
    assert run("crop", "--input", samples, "--output", tmp_path / "out", "--workers", 2) == 1
    said = capsys.readouterr()
    assert "wrote 1 image to" in said.out and "; 1 image existed already" in said.out
    assert "broken.png" in said.err and "small.png: the image must have 178x178" in said.err
    assert np.array_equal(read_image(tmp_path / "out" / "a.png"), marked)
    assert written(tmp_path / "out") == ["a.png", "more/b.png"]


def test_images_are_resized_as_the_data_sets_do(samples: Path, tmp_path: Path) -> None:
    assert run("resize", "--input", samples, "--output", tmp_path / "out", "--size", 64,
               "--workers", 1) == 0
    found = read_image(tmp_path / "out" / "a.png")
    assert np.array_equal(found, bicubic(read_image(samples / "a.jpg"), 64, 64))


@pytest.mark.parametrize("arguments, word", [
    (("--input", "nowhere"), "nowhere"), (("--output", "{samples}"), "overwrite"),
    (("--size", "0"), "--size")])
def test_refusals_are_one_line(arguments: tuple, word: str, samples: Path, tmp_path: Path,
                               run_script: Callable) -> None:
    write_image(samples / "c.png", np.zeros((9, 9, 3), np.uint8))
    done = run_script("prepare.py", "resize", "--size", 64, "--input", samples, "--output",
                      tmp_path / "out", *(text.format(samples=samples) for text in arguments))
    assert done.returncode == 2 and word in done.stderr and done.stderr.count("\n") == 1


def test_images_that_differ_in_their_extension_have_results_of_their_own(
        samples: Path, tmp_path: Path) -> None:
    write_image(samples / "a.png", np.zeros((9, 9, 3), np.uint8))
    assert run("resize", "--input", samples, "--output", tmp_path / "out", "--size", 64,
               "--workers", 1) == 0
    assert written(tmp_path / "out") == ["a.jpg.png", "a.png.png", "more/b.png"]
    assert not read_image(tmp_path / "out" / "a.png.png").any()


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    write_image(tmp_path / "photos" / "astro.png", skimage.data.astronaut())
    write_image(tmp_path / "photos" / "none.jpg", np.full((90, 90, 3), 90, np.uint8))
    (tmp_path / "photos" / "broken.png").write_bytes(b"\x89PNG")
    return tmp_path / "photos"


def aligned(photographs: Path, folder: Path, *arguments: object) -> int:
    return run("align", "--input", photographs, "--output", folder, "--size", 128, "--workers", 1,
               *arguments)


def test_faces_are_cut_out_and_noted(photographs: Path, tmp_path: Path,
                                     capsys: pytest.CaptureFixture) -> None:
    assert aligned(photographs, tmp_path / "out") == 1
    assert written(tmp_path / "out") == ["astro_00.png", "faces.jsonl"]
    assert "broken.png" in capsys.readouterr().err
    notes = [json.loads(line) for line in (tmp_path / "out" / "faces.jsonl").open()]
    assert [(note["name"], len(note["faces"])) for note in notes] == [("astro", 1), ("none", 0)]
    points = np.array(notes[0]["faces"][0]["points"])
    matrix = align.similarity(points, align.template("ffhq", 128))
    expected = align.crop(skimage.data.astronaut(), matrix, 128)
    assert np.abs(read_image(tmp_path / "out" / "astro_00.png").astype(int) - expected).max() <= 1


def test_a_photograph_that_was_noted_is_done(photographs: Path, tmp_path: Path,
                                             capsys: pytest.CaptureFixture) -> None:
    aligned(photographs, tmp_path / "out")
    (tmp_path / "out" / "astro_00.png").unlink()
    with (tmp_path / "out" / "faces.jsonl").open("a") as file:
        file.write('{"name": "bro')          # as a run that was killed leaves it
    (photographs / "broken.png").unlink()
    write_image(photographs / "new.png", np.full((90, 90, 3), 90, np.uint8))
    capsys.readouterr()
    assert aligned(photographs, tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert said.startswith("wrote 0 faces of 1 photograph; ")
    assert "; 1 photograph had no face; 2 photographs had been done before" in said
    names = [json.loads(line)["name"] for line in (tmp_path / "out" / "faces.jsonl").open()]
    assert names == ["astro", "none", "new"]


def test_small_faces_may_be_left_out(photographs: Path, tmp_path: Path) -> None:
    aligned(photographs, tmp_path / "out", "--min_face", 300)
    assert written(tmp_path / "out") == ["faces.jsonl"]

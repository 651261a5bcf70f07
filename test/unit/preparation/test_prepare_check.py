"""prepare.py check."""
from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

import preparation
import prepare
from data.synthetic.faces import render_face
from preparation import _inspect
from preparation._inspect import fingerprint
from preparation._near_duplicates import near
from utils.images.io import list_images, write_image
from utils.images.resize import bicubic


def run(*arguments: object) -> int:
    opt = prepare.parse([str(argument) for argument in arguments])
    return preparation.find(opt.command).run(opt)


def checked(faces: Path, *arguments: object) -> tuple[int, dict]:
    """Exit status and report."""
    out = faces.parent / "checked"
    status = run("check", "--input", faces, "--output", out, "--workers", 1, *arguments)
    return status, json.loads((out / "report.json").read_text())


def findings(report: dict) -> list[tuple[str, str]]:
    return [(each["name"], each["kind"]) for each in report["findings"]]


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Six different faces, two of them in a subfolder."""
    for index in range(6):
        place = "more/" if index > 3 else ""
        write_image(tmp_path / "faces" / f"{place}{index}.png", render_face(index, size=64).image)
    return tmp_path / "faces"


def test_a_clean_folder_has_status_0(faces: Path, capsys: pytest.CaptureFixture) -> None:
    status, report = checked(faces, "--size", 64, "--square", "--min_size", 64, "--near", 10)
    assert (status, report["findings"], report["usable"]) == (0, [], 6)
    assert "checked 6 images in" in capsys.readouterr().out
    assert list_images(faces.parent / "checked" / "usable.txt")[4].name == "4.png"
    assert not (faces.parent / "checked" / "excluded.txt").exists()


def test_every_kind_of_mistake_is_found(faces: Path, capsys: pytest.CaptureFixture) -> None:
    image = render_face(50, size=64).image
    write_image(faces / "copy.bmp", render_face(0, size=64).image)
    write_image(faces / "wide.png", np.concatenate([image, image[:, ::-1]], 1))
    write_image(faces / "jpeg.jpg", image)
    (faces / "jpeg.jpg").rename(faces / "jpeg.png")
    write_image(faces / "small.png", bicubic(image[:, ::-1], 40, 40))
    (faces / "broken.png").write_bytes(b"\x89PNG")
    status, report = checked(faces, "--square", "--min_size", 50)
    assert status == 1 and sorted(findings(report)) == [
        ("broken.png", "unreadable"), ("copy.bmp", "duplicate"), ("jpeg.png", "extension"),
        ("small.png", "size"), ("wide.png", "size")]
    details = {each["name"]: each["detail"] for each in report["findings"]}
    assert details["copy.bmp"] == "the pixels are those of 0.png"
    assert details["jpeg.png"] == "the content is JPEG, the extension is .png"
    assert details["wide.png"] == "the image has 128x64 pixels, which is not square"
    assert details["small.png"] == "the image has 40x40 pixels, which is smaller than 50x50"
    said = capsys.readouterr().out
    assert all(said.count(f": {name}: ") == 1 for name in details)
    out = faces.parent / "checked"
    rows = list(csv.reader((out / "report.csv").open()))
    assert rows[0] == ["name", "kind", "detail"] and len(rows) == 6
    names = [path.name for path in list_images(out / "usable.txt")]
    assert names == [f"{index}.png" for index in range(6)]
    assert {path.name for path in list_images(out / "excluded.txt")} == set(details)


def test_counterparts_are_checked(faces: Path) -> None:
    masks, lq = faces.parent / "masks", faces.parent / "lq"
    for path in list_images(faces):
        name = path.relative_to(faces)
        write_image(masks / name, np.full((32, 32), 3, np.uint8))
        write_image(lq / name.with_suffix(".jpg"), np.zeros((8, 8, 3), np.uint8))
    (masks / "0.png").unlink()
    write_image(masks / "1.png", np.full((32, 32), 19, np.uint8))
    write_image(masks / "2.png", np.full((32, 30), 2, np.uint8))
    write_image(masks / "none.png", np.full((32, 32), 2, np.uint8))
    (lq / "more" / "4.jpg").write_bytes(b"")
    (lq / "3.jpg").rename(lq / "33.jpg")
    status, report = checked(faces, "--masks", masks, "--lq_dataroot", lq)
    assert status == 1 and sorted(findings(report)) == [
        ("0.png", "mask_missing"), ("1.png", "mask_bad"), ("2.png", "mask_size"),
        ("3.png", "lq_missing"), ("33.jpg", "lq_extra"), ("more/4.png", "lq_bad"),
        ("none.png", "mask_extra")]
    assert report["usable"] == 1
    assert ("more/5.png", "mask_size") in findings(checked(
        faces, "--masks", masks, "--mask_size", 64)[1])


def test_copies_that_were_encoded_or_resized_are_near(faces: Path) -> None:
    face = np.ascontiguousarray(skimage.data.astronaut()[:256, 100:356])
    write_image(faces / "2.png", face)
    write_image(faces / "again.jpg", face, quality=60)
    write_image(faces / "smaller.png", bicubic(face, 128, 128))
    _, report = checked(faces, "--near", 10)
    assert {each["name"]: each["detail"].split("from ")[1] for each in report["findings"]
            } == {"again.jpg": "2.png", "smaller.png": "2.png"}


def test_near_ones_are_those_that_differ_in_few_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preparation._near_duplicates.BLOCK", 7)  # the last block is short
    rng = np.random.default_rng(0)
    looks = rng.integers(0, 4, (40, 1), dtype=np.uint8)
    bits = np.unpackbits(looks, axis=1).astype(int)
    expected = {}
    for row in range(40):
        distances = [int(np.abs(bits[row] - bits[other]).sum()) for other in range(row)]
        if distances and min(distances) <= 1:
            expected[str(row)] = min(distances)
    found = near([str(row) for row in range(40)], looks, 1)
    assert {name: distance for name, (_, distance) in found.items()} == expected
    assert all(np.abs(bits[int(a)] - bits[int(b)]).sum() == distance and int(b) < int(a)
               for a, (b, distance) in found.items())


def test_faces_aligned_alike_do_not_look_alike() -> None:
    looks = np.array([np.frombuffer(fingerprint(render_face(person, size=64).image), np.uint8)
                      for person in range(30)])
    assert near([str(index) for index in range(30)], looks, 20) == {}


def test_unusual_images_are_noted_but_are_no_mistakes(faces: Path) -> None:
    face = Image.fromarray(render_face(60, size=64).image)
    face.convert("L").save(faces / "gray.png")
    face.convert("L").transpose(Image.Transpose.ROTATE_90).convert("RGB").save(faces / "gray2.png")
    face.transpose(Image.Transpose.ROTATE_180).convert("RGBA").save(faces / "alpha.png")
    face.rotate(9).convert("CMYK").save(faces / "cmyk.jpg")
    face.rotate(20).quantize(9).save(faces / "moving.gif", save_all=True,
                                     append_images=[face.rotate(30).quantize(9)])
    status, report = checked(faces)
    assert status == 0 and report["notes"] == {
        "alpha.png": ["alpha, which is dropped"], "cmyk.jpg": ["CMYK"],
        "gray.png": ["gray"], "gray2.png": ["gray saved as color"],
        "moving.gif": ["several images in one file, of which the first is used"]}


def test_what_was_checked_is_not_read_again(faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (faces / "broken.png").write_bytes(b"\x89PNG")
    first = checked(faces)
    cache = faces.parent / "checked" / "cache.jsonl"
    cache.write_text(cache.read_text() + '{"kind": "pict')     # as a run that was killed leaves it
    read: list[str] = []
    inspect_one = _inspect._inspect_one
    monkeypatch.setattr(_inspect, "_inspect_one",
                        lambda job: read.append(job[1].name) or inspect_one(job))
    assert checked(faces) == first and read == []
    write_image(faces / "broken.png", render_face(70, size=64).image)
    write_image(faces / "new.png", render_face(71, size=64).image)
    status, report = checked(faces)
    assert (status, report["pictures"], sorted(read)) == (0, 8, ["broken.png", "new.png"])


def test_what_an_older_reader_found_is_read_again(faces: Path) -> None:
    """One that did not know what a newer one refuses."""
    checked(faces)
    cache = faces.parent / "checked" / "cache.jsonl"
    lines = [json.loads(line) for line in cache.read_text().splitlines()]
    for line in lines:
        line["error"] = "an old one"
        del line["reader"]
    cache.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert checked(faces)[1]["counts"].get("unreadable") is None


def test_damage_of_a_pack_is_found(faces: Path) -> None:
    pack = faces.parent / "pack"
    run("pack", "--input", faces, "--output", pack, "--workers", 1)
    assert checked(pack)[0] == 0
    shard = pack / "shard_00000.bin"
    content = bytearray(shard.read_bytes())
    content[64 * 64 * 3 + 9] ^= 1
    shard.write_bytes(content)
    (faces.parent / "checked" / "cache.jsonl").unlink()
    status, report = checked(pack)
    assert status == 1 and findings(report) == [("1.png", "unreadable")]


@pytest.mark.deep
def test_worker_processes_find_the_pack_and_the_cache_holds(faces: Path) -> None:
    pack, cache = faces.parent / "pack", faces.parent / "checked" / "cache.jsonl"
    run("pack", "--input", faces, "--output", pack, "--workers", 2)
    assert checked(pack, "--workers", 2)[0] == 0
    lines = cache.read_text()
    assert checked(pack)[0] == 0 and cache.read_text() == lines


@pytest.mark.parametrize("arguments, message", [
    (("--input", "nowhere"), "nowhere: no such folder"),
    (("--masks", "nowhere"), "nowhere: no such folder"),
    (("--mask_size", "9"), "--mask_size needs --masks")])
def test_wrong_input_is_refused(arguments: tuple, message: str, faces: Path) -> None:
    with pytest.raises(ValueError, match=message):
        checked(faces, *arguments)

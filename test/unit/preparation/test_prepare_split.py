"""prepare.py split."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import data
import preparation
import prepare
from data.base_dataset import hold_out, relative_names
from utils.images.io import list_images, read_image, write_image


def run(*arguments: object) -> int:
    opt = prepare.parse([str(argument) for argument in arguments])
    return preparation.find(opt.command).run(opt)


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Forty images of ten people, four each, in two folders; 31 and 32 of another are equal."""
    for index in range(40):
        value = 31 if index == 32 else index
        write_image(tmp_path / "faces" / f"{'ab'[index % 2]}" / f"p{index // 4}_{index}.png",
                    np.full((4, 4, 3), value * 6, np.uint8))
    return tmp_path / "faces"


def parts(faces: Path, *arguments: object) -> dict[str, list[str]]:
    out = faces.parent / "parts"
    assert run("split", "--input", faces, "--output", out, "--workers", 1, *arguments) == 0
    return {path.stem: relative_names(path) for path in sorted(out.glob("*.txt"))}


def assert_divided(found: dict[str, list[str]], faces: Path) -> None:
    every = sorted(name for members in found.values() for name in members)
    assert every == relative_names(faces)


def test_parts_have_the_sizes_asked_for_and_share_nothing(faces: Path) -> None:
    found = parts(faces, "--parts", "train=rest", "val=5", "test=0.1")
    assert {name: len(members) for name, members in found.items()} == {
        "train": 31, "val": 5, "test": 4}
    assert_divided(found, faces)


def test_a_split_is_the_same_again_and_another_with_a_seed(faces: Path) -> None:
    first = parts(faces)
    assert parts(faces) == first
    seeded = parts(faces, "--seed", 1)
    assert seeded == parts(faces, "--seed", 1) and seeded != first
    assert parts(faces, "--seed", 2) != seeded


def test_without_a_seed_the_same_are_held_out_as_by_training(faces: Path) -> None:
    found = parts(faces, "--parts", "train=rest", "val=3")
    assert set(found["val"]) == hold_out(relative_names(faces), 3)


def test_lists_train_and_validate(faces: Path) -> None:
    found = parts(faces, "--parts", "train=rest", "val=3")
    out, options = faces.parent / "parts", {"load_size": 4, "scale_factor": 2}
    for split in ("train", "val"):
        dataset = data.create_dataset("celeba", split, "bicubic", {
            **options, "dataroot": str(out / "train.txt"), "val_dataroot": str(out / "val.txt")})
        assert list(dataset.items) == found[split] and dataset[0]["bad"] == []


def people(names: list[str]) -> set[str]:
    return {Path(name).stem.split("_")[0] for name in names}


@pytest.mark.parametrize("how", ["group", "identities"])
def test_a_person_is_in_one_part_only(how: str, faces: Path) -> None:
    table = faces.parent / "identity.txt"
    table.write_text("".join(f"{Path(name).name} {Path(name).name.split('_')[0]}\n"
                             for name in relative_names(faces)))
    found = parts(faces, *(("--group", "p[0-9]+") if how == "group" else ("--identities", table)),
                  "--parts", "train=rest", "val=9", "test=0.1")
    assert_divided(found, faces)
    assert {name: len(members) for name, members in found.items()} == {
        "train": 28, "val": 8, "test": 4}       # whole groups of four
    assert len(people(found["train"]) | people(found["val"])) == 9
    assert not people(found["train"]) & people(found["val"])


def test_equal_images_stay_together_and_join_their_groups(faces: Path) -> None:
    for seed in range(5):
        for more in ((), ("--group", "p[0-9]+")):
            found = parts(faces, "--duplicates", "--seed", seed, "--parts", "train=0.5", "val=0.5",
                          *more)
            of = {name: part for part, members in found.items() for name in members}
            assert of["b/p7_31.png"] == of["a/p8_32.png"]
            assert not more or len({of[name] for name in of if "p7_" in name or "p8_" in name}) == 1


def test_celebas_own_partition_is_taken(faces: Path) -> None:
    table = faces.parent / "list_eval_partition.txt"
    names = relative_names(faces)
    # Its names end in .jpg whatever became of the files, and have no folder.
    table.write_text("".join(f"{Path(name).stem}.jpg {index % 3}\n"
                             for index, name in enumerate(names)))
    found = parts(faces, "--partition", table)
    assert found == {"train": names[::3], "val": names[1::3], "test": names[2::3]}
    with pytest.raises(ValueError, match="of the same group"):
        parts(faces, "--partition", table, "--group", "p[0-9]+")


def companions(faces: Path) -> tuple[Path, Path]:
    masks, lq = faces.parent / "masks", faces.parent / "small"
    for name in relative_names(faces):
        write_image(masks / name, np.full((4, 4), 3, np.uint8))
        write_image((lq / name).with_suffix(".bmp"), np.zeros((2, 2, 3), np.uint8))
    return masks, lq


@pytest.mark.parametrize("form", ["links", "hardlinks", "copies"])
def test_folders_of_parts_hold_images_and_counterparts(form: str, faces: Path) -> None:
    masks, lq = companions(faces)
    out = faces.parent / "out"
    command = ("split", "--input", faces, "--output", out, "--as", form, "--masks", masks,
               "--lq_dataroot", lq, "--workers", 1)
    assert run(*command) == 0
    found = {part: relative_names(out / part / "faces") for part in ("train", "val", "test")}
    assert_divided(found, faces)
    for part, names in found.items():
        assert relative_names(out / part / "masks") == names
        assert relative_names(out / part / "small") == [name.replace(".png", ".bmp")
                                                        for name in names]
        for name in names:
            copy = out / part / "faces" / name
            assert np.array_equal(read_image(copy), read_image(faces / name))
            assert copy.is_symlink() == (form == "links")
            assert copy.samefile(faces / name) == (form != "copies")
    missing = next(iter(list_images(out / "val")))
    missing.unlink()
    assert run(*command) == 0 and missing.exists()


def test_lists_of_counterparts_lie_beside(faces: Path) -> None:
    masks, lq = companions(faces)
    found = parts(faces, "--masks", masks, "--lq_dataroot", lq)
    assert found["val.masks"] == found["val"]
    assert found["train.small"] == [name.replace(".png", ".bmp") for name in found["train"]]


def test_another_split_is_not_mixed_in(faces: Path) -> None:
    out = faces.parent / "out"
    command = ("split", "--input", faces, "--output", out, "--as", "links")
    run(*command)
    with pytest.raises(ValueError, match="of another split"):
        run(*command, "--seed", 3)


def test_a_pack_is_divided_into_lists(faces: Path) -> None:
    pack = faces.parent / "pack"
    run("pack", "--input", faces, "--output", pack, "--workers", 1)
    assert_divided(parts(pack), faces)
    with pytest.raises(ValueError, match="--as must be lists for the images of a pack, got links"):
        run("split", "--input", pack, "--output", faces.parent / "out", "--as", "links")


@pytest.mark.parametrize("arguments, message", [
    (("--parts", "train=30", "val=30"), "not ask for more than the 40 images of --input, got 60"),
    (("--parts", "train=rest", "val=3", "--group", "p[0-9]+"), "no image for val"),
    (("--parts", "a=rest", "b=rest"), "`rest` only once, got a=rest b=rest"),
    (("--parts", "a=1", "a=2"), "different names"),
    (("--group", "("), "must be a regular expression"),
    (("--group", "q"), "got no match for 40 of 40 images, such as a/p0_0.png"),
    (("--identities", "{here}"), "must be an image name and an identity"),
    (("--masks", "{empty}"), "--masks .*empty must have .* every image, got none for 40 of 40"),
    (("--masks", "{faces}"), "not have the same folder name as another input, got faces twice")])
def test_what_does_not_work_out_is_refused(arguments: tuple, message: str, faces: Path) -> None:
    (faces.parent / "word.txt").write_text("word\n")
    write_image(faces.parent / "empty" / "z.png", np.zeros((4, 4), np.uint8))
    places = {"here": faces.parent / "word.txt", "empty": faces.parent / "empty", "faces": faces}
    with pytest.raises(ValueError, match=message):
        parts(faces, *(text.format(**places) for text in arguments))
    assert not (faces.parent / "parts").exists()


@pytest.mark.parametrize("size", ["train", "train=", "train=1.5", "train=-1", "tr ain=1", "x=0.0"])
def test_a_part_that_cannot_be_is_one_line(size: str, faces: Path,
                                           capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        run("split", "--input", faces, "--output", faces.parent / "parts", "--parts", size)
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.count("\n") == 1 and "NAME=NUMBER" in said


def test_a_lists_root_is_found_from_anywhere(faces: Path, monkeypatch: pytest.MonkeyPatch,
                                             tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    run("split", "--input", "faces", "--output", "parts/deep")
    monkeypatch.chdir("/")
    assert all(read_image(path).shape == (4, 4, 3)
               for path in list_images(tmp_path / "parts" / "deep" / "val.txt"))

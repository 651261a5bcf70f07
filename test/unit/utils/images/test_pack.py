"""Packs and lists of images, and that data sets cannot tell them from folders."""
from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import data
import preparation
import prepare
from data.labels import NUM_LABELS
from data.loader import create_eval_loader, create_train_loader
from data.sampler import StepBatchSampler
from preparation import pack as pack_command
from utils.images import pack
from utils.images.image_list import read_list, write_list
from utils.images.io import BadImage, find_images, list_images, read_image, write_image
from utils.images.resize import bicubic

SIZES = {"celeba": (218, 178), "celeba_aligned": (218, 178)}


def run(*arguments: object) -> int:
    opt = prepare.parse([str(argument) for argument in arguments])
    return preparation.find(opt.command).run(opt)


def packed(source: Path, folder: Path, *arguments: object) -> Path:
    run("pack", "--input", source, "--output", folder, "--workers", 1, *arguments)
    return folder


def picture(seed: int, height: int = 40, width: int = 40) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), np.uint8)
    return bicubic(coarse, height, width)


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Twelve images, one of them gray, one unreadable, some in a subfolder."""
    for index in range(12):
        image = picture(index)
        if index == 4:
            image[:] = image[..., :1]
        write_image(tmp_path / "faces" / f"{'more/' if index % 3 else ''}{index:02d}.png", image)
    (tmp_path / "faces" / "more" / "07.png").write_bytes(b"")
    return tmp_path / "faces"


# ---- packs ---------------------------------------------------------------------------------------

def test_a_pack_reads_like_its_folder(faces: Path, tmp_path: Path,
                                      capsys: pytest.CaptureFixture) -> None:
    assert run("pack", "--input", faces, "--output", tmp_path / "p", "--workers", 1) == 1
    said = capsys.readouterr()
    assert f"wrote 11 images to {tmp_path / 'p'}\n" in said.out
    assert said.err.count("more/07.png: empty file") == 1
    root, paths = find_images(tmp_path / "p")
    assert [path.relative_to(root) for path in paths] == [
        path.relative_to(faces) for path in list_images(faces)]
    for path in paths:
        original = faces / path.relative_to(root)
        if original.name == "07.png":
            with pytest.raises(BadImage, match=r"07\.png: empty file"):
                read_image(path)
            continue
        found = read_image(path)
        assert np.array_equal(found, read_image(original)) and found.flags.writeable
    grey = (tmp_path / "p" / "shard_00000.bin").stat().st_size
    assert grey == 10 * 40 * 40 * 3 + 40 * 40


def celebahq(root: Path) -> Path:
    for index in range(12):
        write_image(root / "CelebA-HQ-img" / f"{index}.jpg", picture(index))
        labels = np.random.default_rng(index).integers(0, NUM_LABELS, (20, 20), np.uint8)
        write_image(root / "CelebAMask-HQ-mask" / f"{index}.png", labels)
    return root


def folder_of(name: str, tmp_path: Path) -> Path:
    """Data as a data set expects it."""
    if name in ("celebahqmask", "seg2face"):
        return celebahq(tmp_path / "whole")
    root = tmp_path / "whole"
    for index in range(12):
        write_image(root / "imgs1024" / f"{index:02d}.jpg", picture(index, *SIZES.get(
            name, (40, 40))))
        write_image(root / "masks512" / f"{index:02d}.png", np.full((8, 8), index, np.uint8))
    if name == "celeba_aligned":
        (root / "list_eval_partition.txt").write_text("".join(
            f"{index:02d}.jpg {index % 3}\n" for index in range(12)))
    return root if name == "ffhq" else root / "imgs1024"


def packs_of(folder: Path, target: Path) -> Path:
    """The same layout with each folder of images packed."""
    if (folder / "imgs1024").is_dir() or (folder / "CelebA-HQ-img").is_dir():
        for part in sorted(path for path in folder.iterdir() if path.is_dir()):
            packed(part, target / part.name)
        return target
    return packed(folder, target)


def create(name: str, split: str, **options: object) -> data.BaseDataset:
    return data.create_dataset(name, split, "bicubic", {
        "load_size": 16, "scale_factor": 4, "seed": 7, "num_val_images": 3, "data_augment": True,
        **options})


def batches(name: str, split: str, num_threads: int = 0, **options: object) -> list:
    dataset = create(name, split, **options)
    if split != "train":
        return list(create_eval_loader(dataset, batch_size=2, num_threads=num_threads))
    sampler = StepBatchSampler(len(dataset), 2, seed=3, total_steps=6)
    return list(create_train_loader(dataset, sampler, num_threads=num_threads))


def assert_same(ours: list, theirs: list) -> None:
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for key, value in a.items():
            assert torch.equal(value, b[key]) if isinstance(value, torch.Tensor) else (
                value == b[key])


FOLDER_LIKE = sorted(set(data.names()) - {"synthetic", "single"})


@pytest.mark.parametrize("name", FOLDER_LIKE)
def test_batches_from_packs_equal_those_from_folders(name: str, tmp_path: Path) -> None:
    folder = folder_of(name, tmp_path)
    target = packs_of(folder, tmp_path / "packed")
    for split in ("train", "val", "test"):
        whole = batches(name, split, dataroot=str(folder))
        assert_same(batches(name, split, dataroot=str(target)), whole)
        assert all(batch["path"] for batch in whole)
    expected = {"celebahqmask": "labels", "ffhq": "labels", "components": "boxes"}.get(name)
    assert expected is None or expected in batches(name, "train", dataroot=str(target))[0]


def test_an_lq_folder_may_be_packed_too(faces: Path, tmp_path: Path) -> None:
    (faces / "more" / "07.png").unlink()
    lq = tmp_path / "lq"
    for path in list_images(faces):
        write_image(lq / path.relative_to(faces).with_suffix(".bmp"), picture(3, 10, 10))
    options = {"dataroot": str(packed(faces, tmp_path / "p")),
               "lq_dataroot": str(packed(lq, tmp_path / "q"))}
    assert_same(batches("folder", "train", **options),
                batches("folder", "train", dataroot=str(faces), lq_dataroot=str(lq)))


def test_an_unreadable_picture_is_replaced_by_the_same_one(faces: Path, tmp_path: Path) -> None:
    whole = create("celeba", "train", dataroot=str(faces))
    same = create("celeba", "train", dataroot=str(packed(faces, tmp_path / "p")))
    at = whole.items.index("more/07.png")
    assert whole.items == same.items
    ours, theirs = whole[0, at], same[0, at]
    assert ours["path"] == theirs["path"] and np.array_equal(ours["gt"], theirs["gt"])
    assert len(theirs["bad"]) == 1 and "07.png: empty file" in theirs["bad"][0]


@pytest.mark.parametrize("name, how", [("folder", "bicubic"), ("ffhq", "bicubic"),
                                       ("components", "bicubic"), ("gpen", "area")])
def test_pictures_may_be_packed_at_the_size_of_training(name: str, how: str,
                                                        tmp_path: Path) -> None:
    folder = folder_of("components", tmp_path)
    target = packed(folder, tmp_path / "p", "--size", 16, "--filter", how)
    options = {"flip": False} if name == "folder" else {}
    assert_same(batches(name, "train", dataroot=str(target), **options),
                batches(name, "train", dataroot=str(folder), **options))


def test_label_maps_may_be_packed_at_the_size_of_training(tmp_path: Path) -> None:
    folder = celebahq(tmp_path / "whole")
    for part, how in (("CelebA-HQ-img", "bicubic"), ("CelebAMask-HQ-mask", "nearest")):
        packed(folder / part, tmp_path / "p" / part, "--size", 16, "--filter", how)
    assert_same(batches("celebahqmask", "train", dataroot=str(tmp_path / "p"), flip_prob=0.5),
                batches("celebahqmask", "train", dataroot=str(folder), flip_prob=0.5))


def test_workers_open_the_pack_themselves(faces: Path, tmp_path: Path,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    root = str(packed(faces, tmp_path / "p"))
    alone = batches("celeba", "train", dataroot=root)
    assert_same(batches("celeba", "train", num_threads=2, dataroot=root), alone)
    dataset = pickle.dumps(create("celeba", "train", dataroot=root))
    monkeypatch.setattr(pack, "_opened", {})        # as a spawned process begins
    assert pickle.loads(dataset)[0, 1]["path"] == create("celeba", "train", dataroot=root)[
        0, 1]["path"]


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.deep)])
def test_a_pack_that_was_killed_goes_on(workers: int, faces: Path, tmp_path: Path,
                                        capsys: pytest.CaptureFixture,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    folder, whole = tmp_path / "p", packed(faces, tmp_path / "whole")
    command = ("pack", "--input", faces, "--output", folder, "--shard_size", 1)
    monkeypatch.setattr(pack_command, "MIB", 3 * 4800)      # three images a shard
    finish, count = pack.write_atomically, iter(range(99))

    def killed(path: Path, write: Callable) -> None:
        if next(count) == 2:
            (folder / ".shard_00002.bin.x.tmp").write_bytes(b"half")
            raise KeyboardInterrupt
        finish(path, write)
    monkeypatch.setattr(pack, "write_atomically", killed)
    with pytest.raises(KeyboardInterrupt):
        run(*command, "--workers", workers)
    with pytest.raises(ValueError, match=r"not finished; run prepare\.py pack again"):
        list_images(folder)
    monkeypatch.setattr(pack, "write_atomically", finish)
    capsys.readouterr()
    run(*command, "--workers", 1)
    assert f"wrote 5 images to {folder}; 6 images existed already\n" in capsys.readouterr().out
    assert not list(folder.glob(".*"))
    for path in list_images(folder):
        if path.name != "07.png":
            assert np.array_equal(read_image(path), read_image(whole / path.relative_to(folder)))


def test_a_shard_that_was_not_finished_is_not_trusted(faces: Path, tmp_path: Path) -> None:
    folder = packed(faces, tmp_path / "p")
    (folder / "shard_00000.json").unlink()
    (folder / "shard_00000.bin").write_bytes(b"half")
    packed(faces, folder)
    assert np.array_equal(read_image(folder / "00.png"), picture(0))


def test_changed_new_and_removed_pictures_are_followed(faces: Path, tmp_path: Path,
                                                       capsys: pytest.CaptureFixture) -> None:
    folder = packed(faces, tmp_path / "p")
    read_image(list_images(folder)[0])
    write_image(faces / "00.png", picture(50, 30, 20))
    write_image(faces / "new.png", picture(51))
    (faces / "03.png").unlink()
    (faces / "more" / "07.png").unlink()
    capsys.readouterr()
    assert run("pack", "--input", faces, "--output", folder, "--workers", 1) == 0
    assert f"wrote 2 images to {folder}; 9 images existed already\n" in capsys.readouterr().out
    names = [path.relative_to(folder) for path in list_images(folder)]
    assert names == [path.relative_to(faces) for path in list_images(faces)]
    assert np.array_equal(read_image(folder / "00.png"), picture(50, 30, 20))
    with pytest.raises(BadImage, match="has no such image"):
        read_image(folder / "03.png")


def test_an_unreadable_picture_that_is_gone_leaves_the_pack(faces: Path, tmp_path: Path) -> None:
    folder = packed(faces, tmp_path / "p")
    (faces / "more" / "07.png").unlink()
    packed(faces, folder)
    assert len(list_images(folder)) == 11


def test_damage_is_found_when_asked_for(faces: Path, tmp_path: Path) -> None:
    folder = packed(faces, tmp_path / "p")
    shard = folder / "shard_00000.bin"
    content = bytearray(shard.read_bytes())
    content[5] ^= 1
    shard.write_bytes(content)
    opened = pack.open_pack(folder)
    assert opened.read("00.png").shape == (40, 40, 3)
    with pytest.raises(ValueError, match=r"damaged in .*shard_00000\.bin"):
        opened.read("00.png", verify=True)


@pytest.mark.parametrize("change, message", [
    (lambda p: (p / "shard_00000.bin").write_bytes(b"short"), "shard_00000.bin has 5 of"),
    (lambda p: (p / "shard_00000.bin").unlink(), "shard_00000.bin has 0 of"),
    (lambda p: (p / "pack.json").write_text("{"), "pack.json is damaged"),
    (lambda p: (p / "pack.json").write_text('{"format": "facezoo-pack", "version": 2}'),
     "must be a pack of version 1, got version 2")])
def test_a_damaged_pack_is_refused(change: Callable, message: str, faces: Path,
                                   tmp_path: Path) -> None:
    folder = packed(faces, tmp_path / "p")
    change(folder)
    pack._opened.clear()
    with pytest.raises(ValueError, match=message):
        create("celeba", "train", dataroot=str(folder))


def test_a_pack_made_otherwise_or_something_else_is_not_overwritten(faces: Path,
                                                                    tmp_path: Path) -> None:
    folder = packed(faces, tmp_path / "p")
    with pytest.raises(ValueError, match=r"is a pack of version 1 with .*choose another folder"):
        packed(faces, folder, "--size", 8)
    (tmp_path / "q").mkdir()
    (tmp_path / "q" / "notes").touch()
    with pytest.raises(ValueError, match="must be an empty folder or a pack"):
        packed(faces, tmp_path / "q")
    with pytest.raises(ValueError, match="another folder"):
        packed(faces, faces)


def test_an_ordinary_pack_json_makes_no_pack(faces: Path) -> None:
    (faces / "pack.json").write_text(json.dumps({"wolves": 6}))
    assert len(list_images(faces)) == 12


# ---- lists ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", FOLDER_LIKE)
def test_a_list_of_all_pictures_is_the_folder(name: str, tmp_path: Path) -> None:
    folder = folder_of(name, tmp_path)
    (folder / "list_eval_partition.txt").unlink(missing_ok=True)
    (folder.parent / "list_eval_partition.txt").unlink(missing_ok=True)
    root = next((folder / part for part in ("imgs1024", "CelebA-HQ-img")
                 if (folder / part).is_dir()), folder)
    names = [path.relative_to(root).as_posix() for path in list_images(root)]
    write_list(tmp_path / "lists" / "all.txt", root, names[::-1])
    write_list(tmp_path / "lists" / "some.txt", root, names[2:7])
    for split in ("train", "val", "test"):
        assert_same(batches(name, split, dataroot=str(tmp_path / "lists" / "all.txt")),
                    batches(name, split, dataroot=str(folder)))
    some = create(name, "test", dataroot=str(tmp_path / "lists" / "some.txt"))
    assert list(some.items) == names[2:7]
    elsewhere = create(name, "val", dataroot=str(folder),
                       val_dataroot=str(tmp_path / "lists" / "some.txt"))
    assert list(elsewhere.items) == names[2:7]


def test_a_list_picks_its_counterparts_out_of_a_folder(faces: Path, tmp_path: Path) -> None:
    write_list(tmp_path / "some.txt", faces, ["00.png", "more/01.png"])
    dataset = create("folder", "test", dataroot=str(tmp_path / "some.txt"),
                     lq_dataroot=str(faces))
    assert dataset.items == ["00.png", "more/01.png"] and dataset[1]["lq"].shape == (16, 16, 3)


def test_a_list_of_a_pack_works(faces: Path, tmp_path: Path) -> None:
    folder = packed(faces, tmp_path / "p")
    write_list(tmp_path / "some.txt", folder, ["03.png"])
    pack._opened.clear()
    assert np.array_equal(read_image(list_images(tmp_path / "some.txt")[0]), picture(3))


def test_a_list_may_lie_inside_its_folder_or_behind_a_link(tmp_path: Path) -> None:
    folder = folder_of("ffhq", tmp_path)
    write_list(folder / "imgs1024" / "lists" / "a.txt", folder / "imgs1024", ["01.jpg"])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link").symlink_to(folder / "imgs1024" / "lists")
    for place in (folder / "imgs1024" / "lists", tmp_path / "elsewhere" / "link"):
        dataset = create("ffhq", "train", dataroot=str(place / "a.txt"), num_val_images=0)
        assert set(np.unique(dataset[0]["labels"])) == {1}


@pytest.mark.parametrize("name", ["plain.png", "two words.png", "line\nbreak.png", "#1.png",
                                  '"quoted".png', " blank.png", "caf\udce9.png", "é.png",
                                  "line\u2028separator.png"])
def test_any_name_survives_a_list(name: str, tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    write_list(tmp_path / "lists" / "a.txt", tmp_path / "faces", ["z.png", name])
    root, names = read_list(tmp_path / "lists" / "a.txt")
    assert root.resolve() == tmp_path / "faces" and names == sorted(["z.png", name])


@pytest.mark.parametrize("text, message", [
    ("", "an image on each line"), ("# a comment\n\n", "an image on each line"),
    ("a.png\na.png\n", "names 'a.png' more than once"),
    ("../a.png\n", "line 1: a name must stay inside the folder"),
    ("/a.png\n", "line 1: a name must stay inside"), ('b.png\n"a\n', "line 2"),
    ("# root: gone\na.png\n", "gone, which is not a folder")])
def test_a_wrong_list_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        create("celeba", "train", dataroot=str(tmp_path / "a.txt"))


def test_a_list_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.txt: no such list"):
        create("celeba", "train", dataroot=str(tmp_path / "a.txt"))


# ---- indexes that somebody else wrote ------------------------------------------------------------

def test_a_list_with_a_byte_order_mark_is_read(faces: Path, tmp_path: Path) -> None:
    names = ["00.png", "more/01.png"]
    write_list(tmp_path / "plain.txt", faces, names)
    (tmp_path / "marked.txt").write_bytes(
        b"\xef\xbb\xbf" + (tmp_path / "plain.txt").read_bytes())
    assert read_list(tmp_path / "marked.txt") == read_list(tmp_path / "plain.txt")


def row(index: dict, name: str = "00.png") -> list:
    return index["pictures"][name]


@pytest.mark.parametrize("change, words", [
    (lambda i: i["pictures"].update({"../../victim/x.png": row(i)}), "leads out of the pack"),
    (lambda i: i["pictures"].update({"/etc/x.png": row(i)}), "leads out of the pack"),
    (lambda i: i["pictures"].update({"a/../../x.png": row(i)}), "leads out of the pack"),
    (lambda i: i["pictures"].update({"a\\..\\x.png": row(i)}), "leads out of the pack"),
    (lambda i: i["pictures"].update({"C:x.png": row(i)}), "leads out of the pack"),
    (lambda i: i["bad"].update({"../x.png": "unreadable"}), "leads out of the pack"),
    (lambda i: i["bad"].update({"x.png": 3}), "bad must hold texts"),
    (lambda i: i["shards"].update({"/etc/passwd": 5}), "has a strange name"),
    (lambda i: i["shards"].update({"../shard_00000.bin": 5}), "has a strange name"),
    (lambda i: i["shards"].update({"shard_00009.bin": -1}), "number of bytes"),
    (lambda i: i["pictures"].update({"new.png": row(i)}), "two images overlap"),
    (lambda i: row(i).__setitem__(1, 1 << 40), "beyond its shard"),
    (lambda i: row(i).__setitem__(1, -5), "impossible size"),
    (lambda i: row(i).__setitem__(2, 0), "impossible size"),
    (lambda i: row(i).__setitem__(2, 1 << 61), "impossible size"),
    (lambda i: row(i).__setitem__(4, 4), "impossible size"),
    (lambda i: row(i).__setitem__(0, 7), "a shard that is not there"),
    (lambda i: row(i).__setitem__(3, 1.5), "whole numbers"),
    (lambda i: row(i).__setitem__(3, True), "whole numbers"),
    (lambda i: row(i).__setitem__(3, 10 ** 30), "whole numbers"),
    (lambda i: row(i).pop(), "whole numbers"),
    (lambda i: i.update(pictures=[1]), "pictures must be an object"),
    (lambda i: i.update(shards=None), "shards must be an object"),
    (lambda i: i.pop("settings"), "settings must be an object")])
def test_names_shards_and_rows_stay_inside(change: Callable, words: str, faces: Path,
                                           tmp_path: Path) -> None:
    folder = packed(faces, tmp_path / "p")
    index = json.loads((folder / pack.INDEX).read_text())
    change(index)
    (folder / pack.INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match=rf"pack\.json is damaged \(.*{words}.*make the pack"):
        list_images(folder)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' * 50_000, "\xff", "", "[1"])
def test_a_file_that_is_no_json_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / pack.INDEX).write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"pack\.json is damaged"):
        list_images(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"bytes": 1}', '{"bytes": 1, "pictures": 3}'])
def test_a_damaged_table_of_a_shard_is_made_again(text: str, faces: Path, tmp_path: Path) -> None:
    folder = packed(faces, tmp_path / "p")
    whole = (folder / pack.INDEX).read_bytes()
    (folder / pack.INDEX).unlink()
    next(folder.glob("shard_*.json")).write_text(text)
    head = {**json.loads(whole), "complete": False}
    (folder / pack.INDEX).write_text(json.dumps(head))
    packed(faces, folder)
    assert len(list_images(folder)) == 12 and read_image(folder / "00.png").shape == (40, 40, 3)

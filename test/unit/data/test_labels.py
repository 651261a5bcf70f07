"""Label maps on disk, and the commands of prepare.py that write them."""
from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import prepare
from data.ffhq_dataset import FFHQDataset
from data.labels import COLORS, LABELS, NUM_LABELS, color_map, read_label_map
from metrics.segmentation import iou_per_image, mean_iou, overlaps
from models.networks.parsenet import ParseNet, labels_of
from preparation.labels import merge
from preparation.labels import run as merge_all
from utils.images.convert import to_tensor
from utils.images.io import BadImage, read_image, write_image
from utils.images.resize import bicubic

TINY_PARSER = ("--parse_channels", "16", "--parse_depth", "1", "--size", "32")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def faces(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Three images in the published layout, one in a subfolder."""
    folder = tmp_path / "FFHQ" / "imgs1024"
    for name in ("00000.png", "00001.jpg", "more/00002.png"):
        write_image(folder / name, rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    return folder


# ---- reading -------------------------------------------------------------------------------------

@pytest.mark.parametrize("colored", [True, False])
def test_a_map_is_read_as_it_was_written(colored: bool, tmp_path: Path,
                                         rng: np.random.Generator) -> None:
    labels = rng.integers(0, NUM_LABELS, (9, 7), dtype=np.uint8)
    write_image(tmp_path / "a.png", color_map(labels) if colored else labels)
    assert np.array_equal(read_label_map(tmp_path / "a.png"), labels)


def test_no_two_labels_share_a_color() -> None:
    assert len({tuple(color) for color in COLORS}) == len(LABELS) == 19


@pytest.mark.parametrize("color, word", [((204, 0, 1), "(204, 0, 1)"), ((19, 19, 19), "19")])
def test_what_is_no_label_is_no_map(color: tuple, word: str, tmp_path: Path) -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[2, 3] = color
    write_image(tmp_path / "a.png", image)
    with pytest.raises(BadImage, match=r"must be (those of )?labels") as raised:
        read_label_map(tmp_path / "a.png")
    assert word in str(raised.value)


def test_a_resized_map_holds_labels_only(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", color_map(np.array([[4, 18], [0, 9]], np.uint8)))
    found = read_label_map(tmp_path / "a.png", 5)
    assert found.shape == (5, 5) and set(np.unique(found)) == {0, 4, 9, 18}


# ---- ffhq with maps ------------------------------------------------------------------------------

def ffhq(faces: Path, **settings: object) -> FFHQDataset:
    return FFHQDataset(FFHQDataset.Settings(**{
        "dataroot": str(faces.parent), "load_size": 16, "num_val_images": 0, "gray_prob": 0.0,
        **settings}))


def write_masks(folder: Path, faces: Path) -> None:
    for number, path in enumerate(sorted(faces.rglob("*.*"))):
        name = path.relative_to(faces).with_suffix(".png")
        write_image(folder / name, color_map(np.full((8, 8), number + 3, np.uint8)))


def test_the_published_layout_brings_maps_by_name(faces: Path) -> None:
    write_masks(faces.parent / "masks512", faces)
    dataset = ffhq(faces)
    assert dataset.items == ["00000.png", "00001.jpg", "more/00002.png"]
    assert [set(np.unique(dataset[i]["labels"])) for i in range(3)] == [{3}, {4}, {5}]
    assert dataset[0]["labels"].shape == (16, 16)


@pytest.mark.parametrize("masks", [None, "none"])
def test_without_maps_there_are_no_labels(masks: str | None, faces: Path) -> None:
    if masks:
        write_masks(faces.parent / "masks512", faces)
    assert "labels" not in ffhq(faces, masks=masks)[0]


def test_validation_has_the_labels_of_its_own_images(faces: Path, tmp_path: Path) -> None:
    write_masks(tmp_path / "maps", faces)
    settings = {"dataroot": str(faces.parent), "load_size": 16, "masks": str(tmp_path / "maps")}

    def validation(**more: object) -> FFHQDataset:
        return FFHQDataset(FFHQDataset.Settings(**{**settings, **more}), split="val")
    assert "labels" in validation(num_val_images=1)[0]
    assert "labels" not in validation(masks="none", num_val_images=1)[0]
    shutil.copytree(faces, tmp_path / "other" / "imgs1024")
    other = str(tmp_path / "other")
    assert "labels" not in validation(val_dataroot=other)[0]
    write_masks(tmp_path / "other" / "masks512", faces)
    assert "labels" in validation(val_dataroot=other)[0]
    assert "labels" not in validation(val_dataroot=other, masks="none")[0]


def test_maps_may_lie_elsewhere(faces: Path, tmp_path: Path) -> None:
    write_masks(tmp_path / "maps", faces)
    assert set(np.unique(ffhq(faces, masks=str(tmp_path / "maps"))[1]["labels"])) == {4}


def test_a_folder_of_maps_that_is_not_there_is_refused(faces: Path) -> None:
    with pytest.raises(ValueError, match="--masks nowhere does not exist"):
        ffhq(faces, masks="nowhere")


def test_a_missing_map_is_an_unreadable_image(faces: Path) -> None:
    write_masks(faces.parent / "masks512", faces)
    (faces.parent / "masks512" / "00000.png").unlink()
    dataset = ffhq(faces)
    with pytest.raises(BadImage, match=r"masks512/00000.png"):
        dataset.sample(0, np.random.default_rng(0))


# ---- prepare.py ----------------------------------------------------------------------------------

@pytest.fixture
def parser_file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network = ParseNet(base_channels=16, min_channels=16, res_depth=1)
    torch.save(network.state_dict(), tmp_path / "parse.pth")
    return tmp_path / "parse.pth"


def test_masks_are_what_the_network_says_and_are_not_made_twice(
        faces: Path, parser_file: Path, tmp_path: Path, run_script: Callable) -> None:
    command = ("prepare.py", "masks", "--input", faces, "--output", tmp_path / "m",
               "--parse_weights", parser_file, "--device", "cpu", "--num_threads", "0",
               *TINY_PARSER)
    (faces / "broken.png").write_bytes(b"\x89PNG")
    done = run_script(*command)
    assert done.returncode == 1 and "wrote 3 label maps to" in done.stdout
    assert "failed: " in done.stderr and "broken.png" in done.stderr
    network = ParseNet(base_channels=16, min_channels=16, res_depth=1).eval()
    network.load_state_dict(torch.load(parser_file, weights_only=True))
    face = to_tensor(bicubic(read_image(faces / "more" / "00002.png"), 32, 32))
    with torch.no_grad():
        expected = labels_of(network(face)[0])[0].numpy()
    assert np.array_equal(read_label_map(tmp_path / "m" / "more" / "00002.png"), expected)
    (faces / "broken.png").unlink()
    (tmp_path / "m" / "00001.png").unlink()
    marked = np.full((32, 32), 7, np.uint8)
    write_image(tmp_path / "m" / "00000.png", marked)
    again = run_script(*command, "--format", "labels")
    assert again.returncode == 0
    assert f"wrote 1 label map to {tmp_path / 'm'}; 2 label maps existed already" in again.stdout
    assert np.array_equal(read_image(tmp_path / "m" / "00000.png")[..., 0], marked)
    assert read_image(tmp_path / "m" / "00001.png").max() < NUM_LABELS


@pytest.mark.parametrize("arguments, word", [
    (("--size", "40"), "multiple of 16"), (("--input", "nowhere"), "nowhere"),
    (("--output", "{faces}"), "overwrite"), (("--parse_weights", "nowhere.pth"), "nowhere.pth")])
def test_masks_refuse_with_one_line(arguments: tuple, word: str, faces: Path, tmp_path: Path,
                                    run_here: Callable) -> None:
    arguments = [text.format(faces=faces) for text in arguments]
    done = run_here("prepare.py", "masks", "--input", faces, "--output", tmp_path / "m",
                      "--parse_weights", "random", "--device", "cpu", *TINY_PARSER, *arguments)
    lines = [line for line in done.stderr.splitlines() if line]
    assert (done.returncode, len(lines)) == (2, 1) and word in lines[0]


def part(folder: Path, name: str, rows: slice) -> None:
    image = np.zeros((8, 8), np.uint8)
    image[rows] = 255
    write_image(folder / f"{name}.png", image)


def test_part_masks_become_one_map_later_parts_on_top(tmp_path: Path,
                                                      run_here: Callable) -> None:
    anno = tmp_path / "anno"
    part(anno / "0", "00003_skin", slice(0, 6))
    part(anno / "0", "00003_hair", slice(0, 2))
    part(anno / "1", "02001_nose", slice(4, 5))
    done = run_here("prepare.py", "labels", "--input", anno, "--output", tmp_path / "maps",
                      "--workers", 1)
    assert done.returncode == 0, done.stderr
    found = read_label_map(tmp_path / "maps" / "3.png")
    assert found[:, 0].tolist() == [13, 13, 1, 1, 1, 1, 0, 0]
    assert read_label_map(tmp_path / "maps" / "2001.png")[:, 0].tolist() == [0] * 4 + [2] + [0] * 3
    again = run_here("prepare.py", "labels", "--input", anno, "--output", tmp_path / "maps",
                      "--workers", 1)
    assert (f"wrote 0 label maps to {tmp_path / 'maps'}; 2 label maps existed already"
            in again.stdout)


def test_a_face_that_cannot_be_merged_is_named_and_the_others_are_done(
        tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for number in ("1", "2", "3"):
        part(tmp_path / "anno", f"0000{number}_skin", slice(0, 6))
    (tmp_path / "anno" / "00002_hair.png").write_bytes(b"")
    opt = prepare.parse(["labels", "--input", str(tmp_path / "anno"), "--output",
                         str(tmp_path / "maps"), "--workers", "1"])
    assert merge_all(opt) == 1
    said = capsys.readouterr()
    assert "wrote 2 label maps to" in said.out and said.err.count("00002_hair.png") == 1
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == ["1.png", "3.png"]


def test_an_unknown_part_is_refused(tmp_path: Path, run_here: Callable) -> None:
    part(tmp_path / "anno", "00003_beard", slice(0, 6))
    done = run_here("prepare.py", "labels", "--input", tmp_path / "anno", "--output", tmp_path)
    assert done.returncode == 2 and "00003_beard.png" in done.stderr and "skin" in done.stderr


def test_parts_of_different_sizes_are_refused(tmp_path: Path) -> None:
    part(tmp_path, "00003_skin", slice(0, 6))
    write_image(tmp_path / "00003_nose.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(BadImage, match="4x4 pixels, other parts of this face have 8x8"):
        merge({"skin": tmp_path / "00003_skin.png", "nose": tmp_path / "00003_nose.png"})


# ---- how well maps agree -------------------------------------------------------------------------

def test_overlaps_count_pixels_of_each_image() -> None:
    target = torch.tensor([[[0, 1], [1, 2]], [[2, 2], [2, 2]]], dtype=torch.uint8)
    predicted = torch.tensor([[[0, 1], [2, 2]], [[2, 0], [2, 2]]])
    both, either = overlaps(predicted, target, 4)
    assert both.tolist() == [[1, 1, 1, 0], [0, 0, 3, 0]]
    assert either.tolist() == [[1, 2, 2, 0], [1, 0, 4, 0]]


def test_the_mean_takes_the_regions_of_the_target() -> None:
    target = torch.tensor([[[0, 1], [1, 2]], [[2, 2], [2, 2]]])
    predicted = torch.tensor([[[0, 1], [2, 2]], [[2, 0], [2, 2]]])
    assert iou_per_image(predicted, target, 4) == [pytest.approx((1 + 0.5 + 0.5) / 3), 0.75]


def test_absent_regions_do_not_count() -> None:
    found = mean_iou(torch.tensor([1.0, 0.0]), torch.tensor([2.0, 0.0]),
                     torch.tensor([True, False]))
    assert float(found) == 0.5

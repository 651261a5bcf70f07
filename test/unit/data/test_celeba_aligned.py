"""CelebA's aligned images: crop, official split, augmentation."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import data
from data.base_dataset import BaseDataset
from data.celeba_aligned_dataset import change_colors, part_names, rotated
from utils.images.io import write_image
from utils.images.resize import bilinear


@pytest.fixture
def celeba(tmp_path: Path) -> Path:
    """Twelve images of CelebA's size in its folders."""
    folder = tmp_path / "CelebA" / "Img" / "img_align_celeba"
    rng = np.random.default_rng(0)
    for index in range(12):
        write_image(folder / f"{index:06d}.png", rng.integers(0, 256, (218, 178, 3), np.uint8))
    return folder


def dataset(folder: Path, split: str = "test", **options: object) -> BaseDataset:
    return data.create_dataset("celeba_aligned", split, options.pop("degradation", "pyramid"), {
        "dataroot": str(folder), "load_size": 128, "num_val_images": 2, **options})


def write_split(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{index:06d}.png {0 if index < 8 else index % 2 + 1}\n"
                            for index in range(12)))


def test_a_sample_is_the_published_crop_and_chain(celeba: Path) -> None:
    found = dataset(celeba)
    sample, image = found[3], found.read(3)
    gt = bilinear(image[20:198], 128, 128)
    assert np.array_equal(sample["gt"], gt)
    assert np.array_equal(sample["lq"], bilinear(bilinear(bilinear(gt, 64, 64), 32, 32), 16, 16))


@pytest.mark.parametrize("place", ["Img/img_align_celeba", "Img", "Eval", "Anno", "."])
def test_the_official_split_is_found_where_it_may_lie(place: str, celeba: Path) -> None:
    write_split(celeba.parents[1] / place / "list_eval_partition.txt")
    names = {split: dataset(celeba, split).items for split in ("train", "val", "test")}
    assert names == {"train": [f"{index:06d}.png" for index in range(8)],
                     "val": ["000008.png", "000010.png"], "test": ["000009.png", "000011.png"]}


def test_without_the_split_images_are_held_out(celeba: Path) -> None:
    train, val = (set(dataset(celeba, split).items) for split in ("train", "val"))
    assert len(val) == 1 and not train & val and len(dataset(celeba)) == 12


def test_a_split_of_other_images_is_refused(celeba: Path) -> None:
    (celeba / "list_eval_partition.txt").write_text("a.jpg 0\n")
    with pytest.raises(ValueError, match=r"got a\.jpg and others that are not there"):
        dataset(celeba, "train")


def test_a_damaged_split_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "split.txt").write_text("a.jpg 0\n\nb.jpg 7\n")
    with pytest.raises(ValueError, match=r"line 3 must be a name and 0, 1 or 2, got"):
        part_names(tmp_path / "split.txt", "0")


def test_only_so_many_images_are_used(celeba: Path) -> None:
    write_split(celeba / "list_eval_partition.txt")
    assert dataset(celeba, "train", max_dataset_size=3).items == [
        "000000.png", "000001.png", "000002.png"]


def test_training_is_not_augmented_unless_asked(celeba: Path) -> None:
    plain, augmented = (dataset(celeba, "train", data_augment=switch) for switch in (False, True))
    assert np.array_equal(plain[0, 0]["gt"], plain[1, 0]["gt"])
    assert (augmented[0, 0]["gt"] != augmented[1, 0]["gt"]).mean() > 0.5


def test_an_augmented_sample_depends_on_seed_epoch_and_index_only(celeba: Path) -> None:
    first, second = (dataset(celeba, "train", data_augment=True, seed=4) for _ in range(2))
    second[0, 1]
    assert np.array_equal(first[2, 5]["gt"], second[2, 5]["gt"])


def test_validation_is_never_augmented(celeba: Path) -> None:
    found = dataset(celeba, "val", data_augment=True)
    assert np.array_equal(found[0, 0]["gt"], found[1, 0]["gt"])


def test_turning_leaves_no_black_corners() -> None:
    image = np.full((32, 32, 3), 200, np.uint8)
    assert (rotated(image, 20.0) == 200).all()


def test_turning_by_a_quarter_is_exact() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    assert np.array_equal(rotated(image, 90.0), np.rot90(image))


def test_colors_change_within_their_bounds() -> None:
    image = np.full((4, 4, 3), 100, np.uint8)
    made = [change_colors(image, np.random.default_rng(seed)) for seed in range(40)]
    levels = np.array([each[0, 0] for each in made])
    # A gray image has neither contrast nor hue nor saturation to change.
    assert levels.min() >= 60 and levels.max() <= 140 and len(set(levels[:, 0])) > 20


def test_hue_turns_colors() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    image[..., 0] = 200
    made = np.array([change_colors(image, np.random.default_rng(seed))[0, 0]
                     for seed in range(20)])
    assert (made[:, 1] > made[:, 2]).any() and (made[:, 2] > made[:, 1]).any()

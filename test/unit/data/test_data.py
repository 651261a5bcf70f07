"""Data sets, degradations and loaders."""
import argparse
import logging
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from torch.utils.data import get_worker_info

import data
from data.base_dataset import BadImageCounter, BaseDataset, collate, hold_out
from data.bicubic_degradation import BicubicDegradation
from data.celeba_dataset import augment, random_box
from data.loader import create_eval_loader, create_train_loader
from data.sampler import StepBatchSampler
from utils import plugins
from utils.images.io import read_image, write_image
from utils.images.resize import bicubic


def drawn(seed, height=44, width=36):
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), np.uint8)
    return bicubic(coarse, height, width)


@pytest.fixture
def faces(tmp_path):
    """A folder with 20 images, some of them in a subfolder."""
    for index in range(20):
        place = "more/" if index % 3 == 0 else ""
        write_image(tmp_path / "faces" / f"{place}{index:02d}.png", drawn(index))
    return tmp_path / "faces"


def create(name, split="train", **options):
    settings = {"load_size": 16, "scale_factor": 4, "seed": 7, "num_val_images": 3,
                "synthetic_size": 6, "an_option_of_somebody_else": 1}
    settings.update({key: str(value) if isinstance(value, Path) else value
                     for key, value in options.items()})
    return data.create_dataset(name, split, "bicubic", settings)


def same(a, b):
    return a.keys() == b.keys() and all(
        np.array_equal(a[key], b[key]) if isinstance(a[key], np.ndarray)
        else torch.equal(a[key], b[key]) if isinstance(a[key], torch.Tensor)
        else a[key] == b[key] for key in a)


# plug-ins

def test_shipped_plugins_are_found():
    assert {"celeba", "folder", "single", "synthetic"} <= set(data.names())
    assert "bicubic" in data.degradation_names() and "base" not in data.names()


def test_listing_names_does_not_import_torch():
    code = "import sys, data; data.names(), data.degradation_names(); print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.strip() == "False", run.stderr


@pytest.mark.parametrize("create_it, message", [
    (lambda: create("celebA"), "--dataset_name: unknown name 'celebA', did you mean celeba"),
    (lambda: create("xyzzy"), "--dataset_name: unknown name 'xyzzy'; there are: celeba, .*folder"),
    (lambda: data.create_degradation("bicubc", {}), "--degradation: .*did you mean bicubic"),
])
def test_unknown_name_suggests_the_nearest(create_it, message):
    with pytest.raises(ValueError, match=message):
        create_it()


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "plugged_in"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.startswith("plugged_in")]:
        del sys.modules[name]


def test_plugin_class_named_like_its_file_wins(package):
    (package / "two_part_model.py").write_text(
        "from pathlib import Path\nclass Part: pass\nclass TwoPartModel: pass\nclass _Own: pass\n")
    assert plugins.load("plugged_in", "two_part", "model").__name__ == "TwoPartModel"


def test_plugin_without_a_fitting_class_is_refused(package):
    (package / "empty_model.py").write_text("class Part: pass\n")
    with pytest.raises(TypeError, match="must define one subclass of Path, found none"):
        plugins.load("plugged_in", "empty", "model", base=Path)


@pytest.mark.parametrize("setter", [
    *(lambda name=name: data.option_setter(name) for name in data.names()),
    *(lambda name=name: data.degradation_option_setter(name) for name in data.degradation_names()),
])
@pytest.mark.parametrize("is_train", [True, False])
def test_every_flag_has_help(setter, is_train):
    parser = argparse.ArgumentParser(add_help=False)
    setter()(parser, is_train)
    assert all(action.help for action in parser._actions)


def test_dataset_gets_the_options_it_names(faces):
    dataset = create("celeba", dataroot=faces, max_dataset_size=4)
    assert (len(dataset), dataset.settings.load_size, dataset.settings.seed) == (4, 16, 7)
    assert dataset.degrade.settings.scale_factor == 4


# samples

@pytest.mark.parametrize("name", ["celeba", "folder", "synthetic"])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_samples_are_pairs_of_bytes_of_the_load_size(name, split, faces):
    options = {} if name == "synthetic" else {"dataroot": faces}
    sample = create(name, split, **options)[0]
    for key in ("gt", "lq"):
        assert (sample[key].dtype, sample[key].shape) == (np.uint8, (16, 16, 3))
    assert isinstance(sample["path"], str) and sample["bad"] == []


@pytest.mark.parametrize("name", ["celeba", "folder"])
def test_sample_depends_on_epoch_and_seed(name, faces):
    dataset, other = (create(name, dataroot=faces, seed=seed) for seed in (1, 2))
    first = [dataset[0, index]["gt"] for index in range(8)]
    assert not all(np.array_equal(a, dataset[1, at]["gt"]) for at, a in enumerate(first))
    assert not all(np.array_equal(a, other[0, at]["gt"]) for at, a in enumerate(first))


@pytest.mark.parametrize("name", ["celeba", "folder"])
@pytest.mark.parametrize("split", ["val", "test"])
def test_outside_training_nothing_is_augmented(name, split, faces):
    dataset = create(name, split, dataroot=faces)
    sample = dataset[5 if split == "test" else 1]
    expected = bicubic(read_image(faces / sample["path"]), 16, 16)
    assert np.array_equal(sample["gt"], expected)


@pytest.mark.parametrize("num_threads", [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(num_threads, faces):
    (faces / "more/00.png").write_bytes(b"")

    def run(num_threads):
        dataset = create("celeba", dataroot=faces, num_val_images=0)
        sampler = StepBatchSampler(len(dataset), 8, seed=3, total_steps=5)
        return list(create_train_loader(dataset, sampler, num_threads=num_threads))
    alone, together = run(0), run(num_threads)
    assert len(alone) == 5
    assert all(same(a, b) for a, b in zip(alone, together, strict=True))


def test_loader_for_evaluation_keeps_order_and_rest(faces):
    dataset = create("folder", "test", dataroot=faces)
    loaded = list(create_eval_loader(dataset, batch_size=8, num_threads=1))
    assert [path for batch in loaded for path in batch["path"]] == dataset.items
    assert [len(batch["gt"]) for batch in loaded] == [8, 8, 4]


@pytest.mark.parametrize("num_threads", [0, 1])
def test_loaders_leave_the_global_generator_alone(num_threads, faces):
    dataset = create("celeba", dataroot=faces)
    before = torch.get_rng_state()
    next(iter(create_train_loader(dataset, StepBatchSampler(len(dataset), 2, seed=0, total_steps=1),
                                  num_threads=num_threads)))
    next(iter(create_eval_loader(dataset, num_threads=num_threads)))
    assert torch.equal(torch.get_rng_state(), before)


class SignalledDataset(BaseDataset):
    """Sends its own worker process the signals of an interrupted run."""

    def find_items(self):
        return range(2)

    def sample(self, index, rng):
        if get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
        return {"gt": np.zeros((1, 1, 3), np.uint8), "path": str(index)}


def test_workers_outlive_signals_to_the_process_group():
    loader = create_eval_loader(SignalledDataset(BaseDataset.Settings()), num_threads=1)
    assert [batch["path"] for batch in loader] == [["0"], ["1"]]


def test_collate_stacks_bytes_and_lists_names(faces):
    batch = collate([create("synthetic")[index] for index in range(2)])
    assert {key: (value.dtype, tuple(value.shape)) for key, value in batch.items()
            if isinstance(value, torch.Tensor)} == {
        "gt": (torch.uint8, (2, 16, 16, 3)), "lq": (torch.uint8, (2, 16, 16, 3)),
        "labels": (torch.uint8, (2, 16, 16)), "landmarks": (torch.float32, (2, 68, 2))}
    assert batch["path"] == ["face_000000", "face_000001"]


# degradation

def test_bicubic_degradation_shrinks_and_enlarges():
    gt = drawn(0, 32, 24)
    expected = bicubic(bicubic(gt, 4, 3), 32, 24)
    degrade = BicubicDegradation(BicubicDegradation.Settings(scale_factor=8))
    assert np.array_equal(degrade(gt, np.random.default_rng()), expected)


def test_load_size_must_be_a_multiple_of_the_scale(faces):
    with pytest.raises(ValueError, match=r"--load_size must be a multiple of --scale_factor \(8\), "
                                         r"got 100"):
        create("celeba", dataroot=faces, load_size=100, scale_factor=8)


# celeba

def test_augmentation_is_flip_and_crop():
    image = np.arange(30 * 40 * 3).reshape(30, 40, 3).astype(np.int32)    # every value once
    rng, flips = np.random.default_rng(0), 0
    for _ in range(200):
        out = augment(image, rng)
        flipped = out[0, 0, 0] > out[0, -1, 0]
        upright = out[:, ::-1] if flipped else out
        top, left = divmod(int(upright[0, 0, 0]) // 3, 40)
        assert np.array_equal(upright, image[top:top + out.shape[0], left:left + out.shape[1]])
        flips += flipped
    assert 70 < flips < 130


def test_boxes_have_the_published_area_and_ratio():
    rng = np.random.default_rng(0)
    boxes = np.array([random_box(200, 200, rng) for _ in range(2000)])
    top, left, height, width = boxes.T
    area, ratio = height * width / 200**2, width / height
    assert 0.69 < area.min() < 0.72 and 0.98 < area.max() <= 1
    assert 0.74 < ratio.min() < 0.76 and 1.32 < ratio.max() < 1.35
    assert (top + height <= 200).all() and (left + width <= 200).all()
    assert top.max() > 20 and left.max() > 20 and min(top.min(), left.min()) == 0


@pytest.mark.parametrize("size, box", [((10, 1000), (0, 493, 10, 13)), ((1000, 9), (494, 0, 12, 9)),
                                       ((1, 1), (0, 0, 1, 1))])
def test_box_falls_back_to_the_largest_centred_one(size, box):
    assert random_box(*size, np.random.default_rng(0)) == box


def test_now_and_then_nothing_is_cropped():
    image, rng = np.zeros((218, 178, 3), np.uint8), np.random.default_rng(0)
    whole = sum(augment(image, rng).shape == image.shape for _ in range(3000))
    assert 30 < whole < 90      # 1 / (0.3 * 178) = 1.9 %


# folder

def test_no_flip_switches_flipping_off(faces):
    dataset = create("folder", dataroot=faces, flip=False)
    expected = bicubic(read_image(faces / dataset[4]["path"]), 16, 16)
    assert all(np.array_equal(dataset[epoch, 4]["gt"], expected) for epoch in range(8))


def test_lq_folder_is_paired_by_stem_and_flipped_alike(faces, tmp_path):
    for path in faces.rglob("*.png"):
        name = path.relative_to(faces).with_suffix(".bmp")
        write_image(tmp_path / "lq" / name, bicubic(read_image(path), 22, 18))
    dataset = create("folder", dataroot=faces, lq_dataroot=tmp_path / "lq")
    for epoch in range(6):
        sample = dataset[epoch, 3]
        distance = np.abs(sample["gt"].astype(int) - sample["lq"]).mean()
        mirrored = np.abs(sample["gt"].astype(int) - sample["lq"][:, ::-1]).mean()
        assert distance < 10 < mirrored


def test_lq_folder_with_other_names_is_refused(faces, tmp_path):
    for index in range(5):
        write_image(tmp_path / f"lq/{index:02d}.png", drawn(index))
    message = r"17 only in .*faces .such as 05, 07, 08. and 2 only in .*lq .such as 00, 03"
    with pytest.raises(ValueError, match=message):
        create("folder", dataroot=faces, lq_dataroot=tmp_path / "lq")


def test_ambiguous_pairing_is_refused(faces):
    write_image(faces / "01.bmp", drawn(0))
    with pytest.raises(ValueError, match=r"more than their extension .* got 01\.bmp and 01\.png"):
        create("folder", dataroot=faces, lq_dataroot=faces)


# single

def test_single_gives_resized_inputs_and_relative_names(faces):
    dataset = create("single", "test", dataroot=faces)
    assert set(dataset[0]) == {"lq", "path", "bad"} and "more/00.png" in dataset.items
    assert np.array_equal(dataset[0]["lq"], bicubic(drawn(1), 16, 16))


@pytest.mark.parametrize("pattern, count", [("01.png", 1), ("*.png", 13), ("**/*.png", 20)])
def test_single_takes_a_file_or_a_glob(pattern, count, faces):
    assert len(create("single", "test", dataroot=faces / pattern)) == count


# synthetic

def test_synthetic_people_of_the_splits_are_disjoint():
    people = [set(create("synthetic", split).items) for split in ("train", "val", "test")]
    assert [len(each) for each in people] == [6, 3, 100] and len(set.union(*people)) == 109


def test_synthetic_people_do_not_depend_on_the_seed():
    assert same(create("synthetic", seed=1)[2], create("synthetic", seed=2)[2])


# held-out images

@pytest.mark.parametrize("num_names, count, expected", [
    (1, 50, 0), (2, 50, 1), (19, 50, 1), (40, 50, 4), (1000, 50, 50), (1000, 0, 0)])
def test_number_held_out(num_names, count, expected):
    assert len(hold_out([f"{index}.jpg" for index in range(num_names)], count)) == expected


def test_choice_of_held_out_images_ignores_the_order():
    names = [f"{index}.jpg" for index in range(100)]
    assert hold_out(names, 5) == hold_out(names[::-1], 5) < hold_out(names, 6)


def test_train_and_val_share_nothing_and_make_up_the_folder(faces):
    train, val, test = (set(create("celeba", split, dataroot=faces).items)
                        for split in ("train", "val", "test"))
    assert len(val) == 2 and not train & val and train | val == test


def test_validation_folder_replaces_holding_out(faces, tmp_path):
    write_image(tmp_path / "val/a.png", drawn(0))
    options = {"dataroot": faces, "val_dataroot": tmp_path / "val"}
    assert create("celeba", "val", **options).items == ["a.png"]
    assert len(create("celeba", "train", **options)) == 20


# unreadable files

def test_training_replaces_an_unreadable_image(faces):
    dataset = create("celeba", dataroot=faces)
    (faces / dataset.items[2]).write_bytes(b"")
    sample = dataset[0, 2]
    assert sample["path"] != dataset.items[2] and same(sample, dataset[0, 2])
    assert len(sample["bad"]) == 1 and dataset.items[2] in sample["bad"][0]


def test_evaluation_drops_an_unreadable_image(faces):
    dataset = create("folder", "test", dataroot=faces)
    (faces / dataset.items[1]).write_bytes(b"")
    batch = collate([dataset[index] for index in range(3)])
    assert len(batch["gt"]) == 2 and batch["path"] == [dataset.items[0], dataset.items[2]]
    assert len(batch["bad"]) == 1 and "empty file" in batch["bad"][0]


@pytest.mark.parametrize("split", ["train", "test"])
def test_folder_of_unreadable_images_gives_only_messages(split, faces):
    for path in faces.rglob("*.png"):
        path.write_bytes(b"")
    batch = collate([create("folder", split, dataroot=faces)[0]])
    assert set(batch) == {"path", "bad"} and batch["path"] == [] and batch["bad"]


def test_unreadable_images_below_the_limit_are_logged_once(caplog):
    counter = BadImageCounter(0.05, 40)
    with caplog.at_level(logging.WARNING, "facezoo"):
        for _ in range(3):
            counter.add(["a.jpg: empty file", "b.jpg: truncated"])
    assert len(counter) == 2 and len(caplog.records) == 2


def test_too_many_unreadable_images_end_the_run():
    counter = BadImageCounter(0.05, 40)
    with pytest.raises(ValueError, match=r"--max_bad_images allows 5.000% unreadable images of 40, "
                                         r"got 4 so far: "
                                         r"0\.jpg: x; 1\.jpg: x; 2\.jpg: x$"):
        counter.add([f"{index}.jpg: x" for index in range(4)])


def test_datasets_can_be_sent_to_spawned_workers(faces):
    dataset = create("celeba", dataroot=faces)
    assert same(pickle.loads(pickle.dumps(dataset))[3], dataset[3])


# mistakes

@pytest.mark.parametrize("options, message", [
    ({"dataroot": "absent"}, "absent: no such folder"),
    ({"dataroot": ""}, "--dataroot is missing: give a folder"),
    ({"load_size": 0}, "--load_size must be at least 1"),
    ({"scale_factor": 0}, "--scale_factor must be at least 1"),
    ({"max_dataset_size": 0}, "--max_dataset_size must be at least 1"),
    ({"num_val_images": -1}, "--num_val_images must not be negative"),
    ({"lq_dataroot": "a", "val_dataroot": "b"}, "leave out --val_dataroot"),
])
def test_wrong_values_are_named(options, message, faces):
    with pytest.raises(ValueError, match=message):
        create("folder", **{"dataroot": faces, **options})


@pytest.mark.parametrize("size", [0, 1_000_001])
def test_number_of_synthetic_people_is_checked(size):
    with pytest.raises(ValueError, match="--synthetic_size must be from 1 to 1000000"):
        create("synthetic", synthetic_size=size)


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "I;16"])
def test_odd_images_train(mode, tmp_path):
    array = np.full((30, 20), 40000, np.uint16)
    odd = Image.fromarray(array) if mode == "I;16" else Image.fromarray(drawn(0)).convert(mode)
    odd.save(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"))
    sample = create("celeba", dataroot=tmp_path)[0]
    assert sample["lq"].shape == (16, 16, 3) and sample["bad"] == []

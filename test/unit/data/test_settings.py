"""Settings of datasets and degradations: every flag is a field, and every field does something."""
from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

import data
from data.base_dataset import BaseDataset, BaseDegradation
from data.settings import BaseSettings
from data.synthetic.faces import render_face
from utils.images.io import write_image

SIZE, EPOCHS = 128, 12
PLUGINS = ([("dataset", name) for name in data.names()]
           + [("degradation", name) for name in data.degradation_names()])
# A field that is not a flag of its own class, and whose it is.
FLAGS_OF_OTHERS = {"eye_enlarge_ratio": "--model gfpgan"}


def plugin_class(kind: str, name: str) -> Any:
    return data.dataset_class(name) if kind == "dataset" else data.degradation_class(name)


def actions(kind: str, name: str, is_train: bool = True) -> list[argparse.Action]:
    """The flags that a dataset or a degradation adds."""
    parser = argparse.ArgumentParser(add_help=False)
    plugin_class(kind, name).modify_commandline_options(parser, is_train)
    return parser._actions


FLAGS = [(kind, name, action.dest) for kind, name in PLUGINS for action in actions(kind, name)]


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that every dataset can read: images, beside them a folder of label maps."""
    root = tmp_path_factory.mktemp("data")
    for index in range(4):
        face = render_face(index, size=64)
        write_image(root / "CelebA-HQ-img" / f"{index:05d}.png", face.image)
        write_image(root / "CelebAMask-HQ-mask" / f"{index:05d}.png",
                    face.labels[..., None].repeat(3, axis=2))
    return root


def built(kind: str, name: str, root: Path, settings: BaseSettings) -> BaseDataset:
    """The dataset of such settings, or drawn faces with a degradation of such settings."""
    cls = plugin_class(kind, name)
    if kind == "dataset":
        return cls(settings, degrade=data.degradation_class("bicubic")())
    cls = data.dataset_class("synthetic")
    return cls(cls.Settings(load_size=SIZE, synthetic_size=2),
               degrade=data.degradation_class(name)(settings))


def settings_of(kind: str, name: str, root: Path, **values: Any) -> BaseSettings:
    cls = plugin_class(kind, name).Settings
    return cls.from_options({"dataroot": str(root), "load_size": SIZE, "num_val_images": 0,
                             **values})


def samples(dataset: BaseDataset) -> Iterator[dict[str, Any]]:
    for epoch in range(EPOCHS):
        for index in range(min(2, len(dataset))):
            yield dataset[(epoch, index)]


def same(one: BaseDataset, two: BaseDataset) -> bool:
    """Whether two datasets have as many samples, and the first few are equal."""
    return len(one) == len(two) and all(
        first.keys() == second.keys() and all(np.array_equal(first[key], second[key])
                                              for key in first)
        for first, second in zip(samples(one), samples(two), strict=True))


# ---- flags and fields ----------------------------------------------------------------------------

@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_flags_are_fields_with_the_same_default(kind: str, name: str) -> None:
    defaults = {each.name: each.default for each in fields(plugin_class(kind, name).Settings)}
    for is_train in (True, False):
        for action in actions(kind, name, is_train):
            given = tuple(action.default) if isinstance(action.default, list) else action.default
            assert defaults[action.dest] == given, action.dest


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_fields_are_flags(kind: str, name: str) -> None:
    shared = {"seed", "load_size", "max_dataset_size", "dataroot", "num_val_images",
              "val_dataroot"} if kind == "dataset" else set()
    names = {each.name for each in fields(plugin_class(kind, name).Settings)}
    assert names - shared - {a.dest for a in actions(kind, name)} - FLAGS_OF_OTHERS.keys() == set()


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_every_field_is_read(kind: str, name: str, faces: Path) -> None:
    """By the constructor or by a sample; that the settings themselves check a value is not use."""
    cls, read = plugin_class(kind, name).Settings, set()

    class Recorded(cls):
        def __getattribute__(self, attribute: str) -> Any:
            read.add(attribute)
            return super().__getattribute__(attribute)
    settings = Recorded(**vars(settings_of(kind, name, faces)))
    read.clear()
    made = built(kind, name, faces, settings)
    if kind == "dataset":
        plugin_class(kind, name)(settings, split="val")
    list(samples(made))
    assert {each.name for each in fields(cls)} - read == set()


def others(value: Any) -> tuple[Any, Any] | None:
    """Two values of a flag, of which at least one is not its default; None for names of files."""
    if isinstance(value, bool):
        return False, True
    if isinstance(value, int):
        return 1, value
    if isinstance(value, float):
        return 0.0, 1.0
    if isinstance(value, (tuple, list)):
        return (value[0], value[0]), (value[1], value[1])
    return None


@pytest.mark.parametrize(("kind", "name", "flag"), FLAGS)
def test_every_flag_changes_samples(kind: str, name: str, flag: str, faces: Path) -> None:
    """Flags that name files are covered by their own tests, and by what is read."""
    default = getattr(plugin_class(kind, name).Settings, flag)
    if (pair := others(default)) is None:
        pytest.skip("names a file")
    # The rarest steps of a degradation happen in every sample here.
    often = {each.name: 1.0 for each in fields(plugin_class(kind, name).Settings)
             if each.name.endswith("_prob") and each.name != flag and kind == "degradation"}
    one, two = (built(kind, name, faces, settings_of(kind, name, faces, **often, **{flag: value}))
                for value in pair)
    if flag == "gt_gray":       # what it follows is the degradation's choice
        gfpgan = data.degradation_class("gfpgan")
        one.degrade = two.degrade = gfpgan(gfpgan.Settings(lq_gray_prob=1.0))
    assert not same(one, two)


# ---- from options --------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class Example(BaseSettings):
    needed: str
    amount: float = 0.5


def test_options_of_others_are_left_alone_and_missing_ones_keep_their_default() -> None:
    assert Example.from_options({"needed": "a", "lr": 1.0}) == Example(needed="a", amount=0.5)


def test_a_missing_option_is_named() -> None:
    with pytest.raises(ValueError, match="--needed must be given for Example"):
        Example.from_options({"amount": 1.0})


def test_a_typo_is_refused() -> None:
    with pytest.raises(TypeError, match="amuont"):
        Example(needed="a", amuont=1.0)


def test_a_degradation_that_turns_nothing_gray_says_so() -> None:
    class Darker(BaseDegradation):
        def __call__(self, gt: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            return gt // 2
    lq, is_gray = Darker().degrade(np.full((2, 2, 3), 8, np.uint8), np.random.default_rng(0))
    assert (lq == 4).all() and not is_gray


# ---- the example of docs/data.md -----------------------------------------------------------------

def test_the_example_is_a_dataset_without_any_other_edit(tmp_path: Path, faces: Path) -> None:
    for name in ("data", "utils"):
        shutil.copytree(ROOT / name, tmp_path / name,
                        ignore=shutil.ignore_patterns("__pycache__"))
    code = re.search(r"`data/dimmed_dataset\.py`.*?```python\n(.*?)```",
                     (ROOT / "docs" / "data.md").read_text(), flags=re.S)
    (tmp_path / "data" / "dimmed_dataset.py").write_text(code[1])
    program = ("import sys, data; d = data.create_dataset('dimmed', 'train', 'bicubic', {'dataroot'"
               ": sys.argv[1], 'load_size': 16, 'dim_prob': 1.0}); print(len(d), d[0]['gt'].max())")
    done = subprocess.run([sys.executable, "-c", program, str(faces / "CelebA-HQ-img")],
                          cwd=tmp_path, capture_output=True, text=True, timeout=60,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    count, brightest = map(int, done.stdout.split())
    assert count == 3 and 0 < brightest <= 127

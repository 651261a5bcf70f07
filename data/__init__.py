"""Datasets and degradations, found by file name: `<name>_dataset.py`, `<name>_degradation.py`."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils import plugins

if TYPE_CHECKING:
    from data.base_dataset import BaseDataset, BaseDegradation


def names() -> list[str]:
    """Values of --dataset_name."""
    return plugins.names(Path(__file__).parent, "dataset")


def degradation_names() -> list[str]:
    """Values of --degradation."""
    return plugins.names(Path(__file__).parent, "degradation")


def option_setter(name: str) -> Callable[..., None]:
    """The dataset's `modify_commandline_options(parser, is_train)`."""
    return dataset_class(name).modify_commandline_options


def degradation_option_setter(name: str) -> Callable[..., None]:
    """The degradation's `modify_commandline_options(parser, is_train)`."""
    return degradation_class(name).modify_commandline_options


def create_dataset(name: str, split: str, degradation: str | BaseDegradation | None,
                   options: dict[str, Any]) -> BaseDataset:
    """Build a dataset from the resolved options.

    Args:
        name: one of `names()`.
        split: `train`, `val` (held out during training) or `test`.
        degradation: makes `lq` out of `gt`; a name is created from `options`.
        options: `vars(opt)`, of which the settings are made, see `data.settings`.

    Raises:
        ValueError: unknown name, or values that the dataset or the degradation refuses.
    """
    cls = dataset_class(name)
    if not cls.has_targets:
        degradation = None
    elif isinstance(degradation, str):
        degradation = create_degradation(degradation, options)
    return cls(cls.Settings.from_options(options), split=split, degrade=degradation)


def create_degradation(name: str, options: dict[str, Any]) -> BaseDegradation:
    """Build a degradation from the resolved options, as `create_dataset` does.

    Raises:
        ValueError: unknown name, or values that the degradation refuses.
    """
    cls = degradation_class(name)
    return cls(cls.Settings.from_options(options))


def option_names(dataset: str, degradation: str) -> set[str]:
    """The options that decide about the samples, and so about what validation measures."""
    settings = (dataset_class(dataset).Settings, degradation_class(degradation).Settings)
    return {"dataset_name", "degradation", *(field.name for each in settings
                                             for field in fields(each))}


def dataset_class(name: str) -> type[BaseDataset]:
    from data.base_dataset import BaseDataset
    return plugins.load("data", name, "dataset", BaseDataset, flag="--dataset_name")


def degradation_class(name: str) -> type[BaseDegradation]:
    from data.base_dataset import BaseDegradation
    return plugins.load("data", name, "degradation", BaseDegradation, flag="--degradation")

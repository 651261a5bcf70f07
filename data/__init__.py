"""Data sets and degradations, found by file name: `<name>_dataset.py`, `<name>_degradation.py`."""
from __future__ import annotations

import inspect
from collections.abc import Callable
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
    """The data set's `modify_commandline_options(parser, is_train)`."""
    return _dataset_class(name).modify_commandline_options


def degradation_option_setter(name: str) -> Callable[..., None]:
    """The degradation's `modify_commandline_options(parser, is_train)`."""
    return _degradation_class(name).modify_commandline_options


def create_dataset(name: str, split: str, degradation: str | BaseDegradation | None,
                   options: dict[str, Any]) -> BaseDataset:
    """Build a data set from the resolved options.

    Args:
        name: one of `names()`.
        split: `train`, `val` (held out during training) or `test`.
        degradation: makes `lq` out of `gt`; a name is created from `options`.
        options: `vars(opt)`; the entries that the constructor names are handed to it, the others
            belong to somebody else.

    Raises:
        ValueError: unknown name, or values that the data set or the degradation refuses.
    """
    cls = _dataset_class(name)
    accepted = _keywords(cls)
    if "degrade" not in accepted:
        degradation = None
    elif isinstance(degradation, str):
        degradation = create_degradation(degradation, options)
    given = {**options, "split": split, "degrade": degradation}
    return cls(**{key: given[key] for key in accepted if key in given})


def create_degradation(name: str, options: dict[str, Any]) -> BaseDegradation:
    """Build a degradation from the resolved options, as `create_dataset` does.

    Raises:
        ValueError: unknown name, or values that the degradation refuses.
    """
    cls = _degradation_class(name)
    return cls(**{key: options[key] for key in _keywords(cls) if key in options})


def _dataset_class(name: str) -> type[BaseDataset]:
    from data.base_dataset import BaseDataset
    return plugins.load("data", name, "dataset", BaseDataset, flag="--dataset_name")


def _degradation_class(name: str) -> type[BaseDegradation]:
    from data.base_dataset import BaseDegradation
    return plugins.load("data", name, "degradation", BaseDegradation, flag="--degradation")


def _keywords(cls: type) -> list[str]:
    parameters = inspect.signature(cls).parameters.values()
    return [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]

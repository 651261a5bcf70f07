"""Settings of datasets and degradations: frozen objects with a field for each flag."""
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Self


@dataclass(frozen=True, kw_only=True)
class BaseSettings:
    """Base of all settings: a plug-in declares a subclass with one field for each of its flags.

    `__post_init__` refuses bad values with a ValueError that names the flag, so settings that
    exist are valid.
    """

    def __post_init__(self) -> None:
        """Subclasses check their values here, after `super().__post_init__()`."""

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """The settings that resolved options hold.

        Args:
            options: `vars(opt)`. What the class has no field for belongs to somebody else; a field
                without an option keeps its default, as the training flags do outside training.

        Raises:
            ValueError: no option for a field without default; what the class refuses.
        """
        missing = [f"--{each.name}" for each in fields(cls) if each.name not in options
                   and each.default is MISSING and each.default_factory is MISSING]
        if missing:
            raise ValueError(f"{', '.join(missing)} must be given for {cls.__qualname__}")
        return cls(**{each.name: options[each.name] for each in fields(cls)
                      if each.name in options})

    def check_fractions(self, *names: str) -> None:
        """Raise ValueError unless each of these fields is from 0 to 1."""
        for name in names:
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"--{name} must be from 0 to 1, got {value}")

    def check_range(self, name: str, low: float, high: float = math.inf) -> None:
        """Raise ValueError unless a field is two numbers in order, both from low to high."""
        values = getattr(self, name)
        if len(values) != 2 or not low <= values[0] <= values[1] <= high:
            bounds = f"from {low:g} to {high:g}" if high < math.inf else f"not below {low:g}"
            raise ValueError(f"--{name} must be two numbers {bounds}, the smaller first; got "
                             f"{' '.join(map(str, values))}")

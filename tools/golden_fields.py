"""Which fields of a golden case have been read, so that none is left out of a comparison."""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# Of a case: how it was made, the original's own rounding, limits that each record may have for
# itself. `mode`: networks ask for it; other functions have one.
INFORMATIONAL = frozenset("""
    case checkpoint_key dtype fp32_vs_fp64 fp64_error fp64_error_by_kind fp64_error_intermediate
    input_roles mode naming opencv pillow published rules source tolerance_by_output tolerances
    torchvision_key versions
    """.split())
ANYWHERE = frozenset(("measured_noise", "note", "tolerance"))


def informational(key: str, value: Any, path: str) -> bool:
    """Whether a field needs no reader: one of those above, an empty one, or prose."""
    return (key in ANYWHERE or (not path and key in INFORMATIONAL) or value in (None, [], {})
            or (isinstance(value, str) and " " in value))


class Fields(dict):
    """A JSON object, and those inside it, that remember which of their entries were read."""

    def __init__(self, content: dict[str, Any]) -> None:
        super().__init__({key: watched(value) for key, value in content.items()})
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default

    # {**fields} and f(**fields) ask for the entries one by one only if __iter__ is not dict's own.
    def __iter__(self) -> Iterator[str]:
        return super().__iter__()

    def items(self) -> Any:
        self.read.update(dict.keys(self))
        return super().items()

    def values(self) -> Any:
        self.read.update(dict.keys(self))
        return super().values()

    def __or__(self, other: dict[str, Any]) -> Fields:
        """A copy with other entries; what is read there counts as read here."""
        copied = Fields({})
        dict.update(copied, dict.items(self))
        dict.update(copied, other)
        copied.read = self.read
        return copied


def watched(value: Any) -> Any:
    if isinstance(value, dict):
        return value if isinstance(value, Fields) else Fields(value)
    return [watched(item) for item in value] if isinstance(value, list) else value


def unread(value: Any, path: str = "") -> Iterator[str]:
    """Names of the fields that hold something and were not read, such as `config.eps`."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from unread(item, f"{path}[{index}]")
    elif isinstance(value, Fields):
        for key, inner in dict.items(value):
            name = f"{path}.{key}" if path else key
            if informational(key, inner, path):
                continue
            if key in value.read:
                yield from unread(inner, name)
            else:
                yield name

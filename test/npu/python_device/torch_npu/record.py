"""What was asked of the device, in order, for tests: `record.calls` holds (name, arguments)."""
from __future__ import annotations

from typing import Any

calls: list[tuple[str, tuple[Any, ...]]] = []


def note(name: str, *arguments: Any) -> None:
    """Append one call."""
    calls.append((name, arguments))

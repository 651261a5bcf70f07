"""Words of messages."""
from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: 1 image, 2 images."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"

"""What can be wrong with one image while others of the same job are fine."""
from __future__ import annotations


class ImageError(ValueError):
    """One image cannot be read, restored or written; a job names it and goes on with the others."""


class OutOfMemory(ImageError):
    """The device has no room for this one image."""

    def __init__(self) -> None:
        super().__init__("the device is out of memory")


class NotWritten(ImageError):
    """A result that its format cannot hold, or that its folder does not take."""

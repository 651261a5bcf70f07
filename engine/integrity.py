"""Detect damaged `.pth` files when they are read, which torch.load alone does not do.

A `.pth` file is a zip archive whose records carry a CRC-32. What is written here has a SHA-256 of
all its bytes as well, as the comment of the archive, which every reader of zip files
skips. Files in PyTorch's format before 1.6 carry no checksum; only their structure is checked.
"""
from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import IO, Any

import torch

from utils.files import is_zip, stamp_of

MARK = b"facezoo-sha256 "
COMMENT = len(MARK) + 64
BLOCK = 1 << 20
# Files found intact in this process, by path, with size and time of change.
_checked: dict[str, tuple[int, int]] = {}


class _Hashing:
    """A file for torch.save that keeps the digest and the error that torch hides behind its own."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest, self.error = file, hashlib.sha256(), None

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def save(content: Any, file: IO[bytes]) -> None:
    """torch.save to an open binary file, with the digest behind it.

    Raises:
        OSError: the disk is full or fails; torch itself would say "unexpected pos".
    """
    hashing = _Hashing(file)
    try:
        torch.save(content, hashing)
    except RuntimeError:
        if hashing.error is not None:
            raise hashing.error from None
        raise
    # The archive ends with the length of its comment, 0 so far.
    file.seek(-2, 1)
    file.write(COMMENT.to_bytes(2, "little") + MARK + hashing.digest.hexdigest().encode())


def has_digest(path: str | Path) -> bool:
    """Whether a file ends with a digest of `save`."""
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - COMMENT))
        return size > COMMENT and file.read(len(MARK)) == MARK


def check(path: str | Path) -> None:
    """Compare a file with its digest, or else its records with their CRCs; once per process.

    Raises:
        ValueError: it is damaged or truncated.
    """
    stamp = stamp_of(path)
    if _checked.get(str(path)) == stamp:
        return
    if has_digest(path):
        _check_digest(path)
    elif is_zip(path):
        _check_records(path)
    else:
        return      # of another format, or so damaged that no reader takes it
    _checked[str(path)] = stamp


def _check_digest(path: str | Path) -> None:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        body = file.seek(-COMMENT - 2, 2)
        file.seek(0)
        for start in range(0, body, BLOCK):
            digest.update(file.read(min(BLOCK, body - start)))
        digest.update(b"\0\0")      # the comment's length as torch.save wrote it
        length, comment = file.read(2), file.read()
    if (length != COMMENT.to_bytes(2, "little")
            or comment[len(MARK):] != digest.hexdigest().encode()):
        raise ValueError(f"{path} is damaged; its content does not match its digest")


def _check_records(path: str | Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.comment:
                raise ValueError("the digest at its end is damaged")
            records = archive.infolist()
            # torch.serialization.set_crc32_options(False) writes zeros.
            if any(record.CRC for record in records):
                wrong = archive.testzip()
                if wrong is not None:
                    raise ValueError(f"the checksum of its record {wrong} is wrong")
    except Exception as error:      # arbitrary bytes make a zip reader raise anything
        raise ValueError(f"{path} is damaged; {str(error) or type(error).__name__}") from error

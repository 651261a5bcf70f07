"""Video files, frame by frame as uint8 RGB (H, W, 3); OpenCV's BGR order stays in here.

Sound is neither read nor written: OpenCV has images only.
"""
from __future__ import annotations

import glob
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from utils.images.errors import ImageError, NotWritten
from utils.images.io import written_to

VIDEO_EXTENSIONS = frozenset((".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg",
                              ".wmv", ".flv", ".ts", ".3gp"))
# By the name --video_codec takes: the code OpenCV knows it by, and a container that takes it.
CODECS = {"mp4v": ("mp4v", ".mp4"), "avc1": ("avc1", ".mp4"), "mjpg": ("MJPG", ".avi"),
          "ffv1": ("FFV1", ".mkv")}
FALLBACK_FPS = 25.0
# A header's number of frames is an estimate in some containers; so much less means a cut file.
_TOLERATED = 0.05


class BadVideo(ImageError):
    """A file that cannot be used as a video; the message is `<file>: <reason>`."""


def is_video(path: str | Path) -> bool:
    """Whether a file's name says that it is a video."""
    return Path(path).suffix.lower() in VIDEO_EXTENSIONS


def find_videos(pattern: str | Path) -> list[Path]:
    """Videos, by extension, named by one file, a folder (with its subfolders) or a glob; sorted,
    without hidden ones. There may be none."""
    path = Path(pattern)
    if path.is_dir():
        found = [Path(folder) / name for folder, _, names in os.walk(path) for name in names]
        found = [each for each in found
                 if not any(part.startswith(".") for part in each.relative_to(path).parts)]
    else:
        found = [path] if path.exists() else [
            Path(match) for match in glob.glob(str(pattern), recursive=True)]
    return sorted(each for each in found if is_video(each) and each.is_file())


class VideoReader:
    """Frames of a video, turned upright as its header says, all of the first one's size; can be
    gone through again.

    Attributes:
        fps: frames a second; FALLBACK_FPS where the file does not say.
        expected: number of frames by the header, 0 where it does not say.

    Raises:
        BadVideo: no such file, no video, or one without a frame.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise BadVideo(f"{path}: no such file")
        if not self.path.stat().st_size:
            raise BadVideo(f"{path}: empty file (0 bytes)")
        capture = self._open()
        fps, expected = (capture.get(key) for key in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT))
        found, _ = capture.read()
        capture.release()
        if not found:
            raise BadVideo(f"{path}: no frame can be read; the file is incomplete or damaged")
        self.fps = fps if math.isfinite(fps) and 0 < fps <= 1000 else FALLBACK_FPS
        self.expected = max(0, int(expected)) if math.isfinite(expected) else 0

    def _open(self) -> cv2.VideoCapture:
        _quiet()
        capture = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise BadVideo(f"{self.path}: the video format is unknown or the file is incomplete")
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        return capture

    def __iter__(self) -> Iterator[np.ndarray]:
        capture, size = self._open(), None
        try:
            while True:
                found, frame = capture.read()
                if not found:
                    return
                size = size or frame.shape[1::-1]
                if frame.shape[1::-1] != size:      # streams may change it on their way
                    frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        finally:
            capture.release()

    def is_cut(self, count: int) -> bool:
        """Whether a file that gave so many frames ends before its header says."""
        return count < self.expected - max(2, _TOLERATED * self.expected)


class VideoWriter:
    """Writes a video under a temporary name; `with` puts it in place, or nothing after an error.

    A side of odd length loses its last pixel: the formats halve the colors' resolution.

    Args:
        codec: a key of CODECS that `usable_codec` gave.

    Raises:
        NotWritten: this file cannot be written.
        OSError: the disk is full.
    """

    def __init__(self, path: str | Path, fps: float, codec: str) -> None:
        self.path, self.fps, self.code = Path(path), fps, CODECS[codec][0]
        self.writer: cv2.VideoWriter | None = None
        with written_to(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # The extension decides about the container; the name may be as long as names can be.
            handle, self.temporary = tempfile.mkstemp(
                prefix=f".{self.path.stem[:50]}.", suffix=f".tmp{self.path.suffix}",
                dir=self.path.parent)
        os.close(handle)
        self.count = 0

    def write(self, frame: np.ndarray) -> None:
        """Add a frame, uint8 RGB (H, W, 3); the first decides about the size."""
        if self.writer is None:
            self.size = (frame.shape[1], frame.shape[0])
            self.writer = _writer(self.temporary, self.code, self.fps, self.size)
            if not self.writer.isOpened():
                raise NotWritten(f"{self.path}: OpenCV cannot write {self.code} with "
                                 f"{frame.shape[1]}x{frame.shape[0]} pixels at {self.fps:g} frames "
                                 "per second")
        assert self.size == (frame.shape[1], frame.shape[0])
        self.writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        self.count += 1

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 where: TracebackType | None) -> None:
        try:
            if self.writer is not None:
                self.writer.release()
                if kind is None:
                    self._put_in_place()
        finally:
            if os.path.exists(self.temporary):
                os.unlink(self.temporary)

    def _put_in_place(self) -> None:
        # OpenCV reports no write that fails, on a full disk for one: what was written is looked at.
        try:
            expected = VideoReader(self.temporary).expected
            complete = expected >= self.count - max(2, _TOLERATED * self.count)
        except BadVideo:
            complete = False
        if not complete:
            raise OSError(f"{self.path} was not written completely; is the disk full?")
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(self.temporary, 0o666 & ~mask)     # mkstemp makes private files
        with written_to(self.path):
            os.replace(self.temporary, self.path)


def usable_codec(name: str = "auto", flag: str = "--video_codec") -> str:
    """The codec asked for, or for auto the first that this OpenCV can write.

    Raises:
        ValueError: it cannot be written here.
    """
    wanted = [key for key in CODECS if key != "avc1"] if name == "auto" else [name]
    found = next((key for key in wanted if _can_write(key)), None)
    if found is None:
        others = ", ".join(key for key in CODECS if key not in wanted and _can_write(key))
        raise ValueError(f"{flag} {name} cannot be written by this OpenCV, which writes "
                         f"{others or 'no video format'}")
    return found


def _can_write(codec: str) -> bool:
    code, suffix = CODECS[codec]
    with tempfile.TemporaryDirectory() as folder:
        writer = _writer(f"{folder}/probe{suffix}", code, FALLBACK_FPS, (64, 64))
        opened = writer.isOpened()
        writer.release()
    return opened


def _writer(path: str, code: str, fps: float, size: tuple[int, int]) -> cv2.VideoWriter:
    _quiet()
    return cv2.VideoWriter(path, cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*code), fps, size)


def _quiet() -> None:
    """What FFmpeg and OpenCV have to say about a bad file is said once, by us."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

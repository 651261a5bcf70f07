"""A whole video: find and track its faces, restore them in batches, paste them back."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from faces.detect import Face
from faces.photograph import Mask, Restore, Settings, align_crop, paste_back, restore_all
from faces.track import Tracker
from utils.images.video import VideoReader, VideoWriter

LONGEST_GAP = 0.4       # seconds without a detection that are bridged
_FRAMES_AT_ONCE = 8    # frames that wait for a full batch of faces, at most


@dataclass
class VideoResult:
    """How many frames were written, of how many that the file promised; faces in all of them."""
    frames: int
    expected: int
    faces: int


def restore_video(source: str | Path, target: str | Path, find: Callable[[np.ndarray], list[Face]],
                  restore: Restore, settings: Settings, mask: Mask | None = None, *, codec: str,
                  smoothing: float = 0.1, bar: tqdm | None = None) -> VideoResult:
    """Restore the faces of every frame; the file is gone through twice.

    Args:
        target: appears when it is complete.
        find: faces of a frame, uint8 RGB (H, W, 3).
        codec: see `utils.images.video.usable_codec`.
        smoothing: of the landmarks over time, the Gaussian's sigma in seconds; 0 for none.
        bar: is told of each frame that was looked at, and that was written.

    Raises:
        BadVideo: the source cannot be read.
        NotWritten, OSError: see `utils.images.video.VideoWriter`.
    """
    reader = VideoReader(source)
    tracker = Tracker(smoothing * reader.fps, round(LONGEST_GAP * reader.fps))
    bar = tqdm(disable=True) if bar is None else bar
    bar.reset(total=2 * reader.expected or None)
    for frame in reader:
        tracker.add(frame, find(frame))
        bar.update()
    faces_of = tracker.result()
    waiting: list[tuple[np.ndarray, list[Face]]] = []
    with VideoWriter(target, reader.fps, codec) as writer:

        def flush() -> None:
            for frame in restored_frames(waiting, restore, settings, mask):
                writer.write(frame)
                bar.update()
            waiting.clear()
        for frame, faces in zip(reader, faces_of, strict=False):
            waiting.append((frame, faces))
            full = sum(len(found) for _, found in waiting) >= settings.batch_size
            if full or len(waiting) >= _FRAMES_AT_ONCE:
                flush()
        flush()
    cut_off = reader.is_cut(tracker.count)
    return VideoResult(tracker.count, reader.expected if cut_off else tracker.count,
                       sum(map(len, faces_of)))


def restored_frames(frames: list[tuple[np.ndarray, list[Face]]], restore: Restore,
                    settings: Settings, mask: Mask | None) -> Iterator[np.ndarray]:
    """Frames with their faces restored, batches reaching over frames."""
    cuts = [align_crop(frame, faces, settings) for frame, faces in frames]
    restored = iter(restore_all([crop for _, crops in cuts for crop in crops], restore,
                                settings.batch_size))
    for (frame, _), (matrices, crops) in zip(frames, cuts, strict=True):
        yield paste_back(frame, matrices, crops, [next(restored) for _ in crops], settings, mask)

"""The same face from frame to frame of a video: matched, gaps bridged, landmarks smoothed.

All frames are known before any is restored, so smoothing looks forward and back alike: a face that
moves steadily is not lagged behind, as filters that know the past only would.
"""
from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from faces.detect import Face

OVERLAP = 0.3       # minimum intersection over union of a face with itself one frame later
CUT = 25.0          # mean difference of two small gray frames, in gray levels, that ends all tracks
_SMALL = (64, 36)


@dataclass
class Track:
    """One face over time.

    Attributes:
        frames: numbers of the frames it was found in, rising.
        faces: what was found there.
    """
    frames: list[int] = field(default_factory=list)
    faces: list[Face] = field(default_factory=list)

    def smoothed(self, sigma: float) -> dict[int, Face]:
        """A face for every frame from first to last, by frame.

        Args:
            sigma: of the Gaussian over time, in frames; 0 leaves what was found as it is.
        """
        values = np.stack([np.concatenate([face.box, face.points.ravel()]) for face in self.faces])
        every = np.arange(self.frames[0], self.frames[-1] + 1)
        whole = np.stack([np.interp(every, self.frames, column) for column in values.T], axis=1)
        score = np.interp(every, self.frames, [face.score for face in self.faces])
        whole = smooth(whole, sigma).astype(np.float32)
        return {int(frame): Face(row[:4], row[4:].reshape(5, 2), float(sure))
                for frame, row, sure in zip(every, whole, score, strict=True)}


def smooth(values: np.ndarray, sigma: float) -> np.ndarray:
    """Local straight lines through values over time, weighted by a Gaussian.

    Steady motion comes out as it is, at both ends, too; white noise comes out weaker by
    sqrt(1 / (3.5 sigma)) in the middle.

    Args:
        values: (T, N), one row per frame.
        sigma: in frames; 0 returns the values.
    """
    if sigma <= 0 or len(values) < 3:
        return values
    reach = max(1, int(np.ceil(3 * sigma)))
    time = np.arange(-reach, reach + 1)
    result = np.empty_like(values, dtype=np.float64)
    for at in range(len(values)):
        first, last = max(0, at - reach), min(len(values), at + reach + 1)
        t = time[first - at + reach:last - at + reach].astype(np.float64)
        weight = np.exp(-0.5 * (t / sigma) ** 2)
        mean = weight @ t / weight.sum()
        spread = max(weight @ (t - mean) ** 2, 1e-12)
        # The line's value at t = 0, as weights of the rows.
        row_weights = weight / weight.sum() - weight * (t - mean) * mean / spread
        result[at] = row_weights @ values[first:last]
    return result


class Tracker:
    """Takes the faces of frame after frame; in the end gives smoothed ones.

    Args:
        sigma: of the smoothing, in frames; 0 for none.
        longest_gap: so many frames without a detection are bridged.
    """

    def __init__(self, sigma: float, longest_gap: int) -> None:
        self.sigma, self.longest_gap = sigma, longest_gap
        self.count = 0
        self.tracks: list[Track] = []
        self._open: list[Track] = []
        self._small: np.ndarray | None = None

    def add(self, frame: np.ndarray, faces: list[Face]) -> None:
        """The next frame, uint8 RGB (H, W, 3), and the faces found in it.

        A track goes on in the face that overlaps its last one most. It ends after the longest gap,
        and at a cut, where the whole image changes.
        """
        small = cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), _SMALL,
                           interpolation=cv2.INTER_AREA).astype(np.float32)
        if self._small is not None and np.abs(small - self._small).mean() > CUT:
            self._open = []
        self._small = small
        self._open = [track for track in self._open
                      if self.count - track.frames[-1] <= self.longest_gap + 1]
        pairs = sorted(((overlap(track.faces[-1].box, face.box), i, j)
                        for i, track in enumerate(self._open) for j, face in enumerate(faces)),
                       reverse=True)
        track_of: dict[int, Track] = {}
        taken: set[int] = set()
        for shared, i, j in pairs:
            if shared >= OVERLAP and i not in taken and j not in track_of:
                taken.add(i)
                track_of[j] = self._open[i]
        for j, face in enumerate(faces):
            if j not in track_of:
                track_of[j] = Track()
                self.tracks.append(track_of[j])
                self._open.append(track_of[j])
            track_of[j].frames.append(self.count)
            track_of[j].faces.append(face)
        self.count += 1

    def result(self) -> list[list[Face]]:
        """The faces of every frame, each track's in the order it began."""
        found: list[list[Face]] = [[] for _ in range(self.count)]
        for track in self.tracks:
            for frame, face in track.smoothed(self.sigma).items():
                found[frame].append(face)
        return found


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two boxes x1, y1, x2, y2."""
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    shared = float(np.prod(sides.clip(min=0)))
    areas = float(np.prod(first[2:] - first[:2]) + np.prod(second[2:] - second[:2]))
    return shared / max(areas - shared, 1e-9)

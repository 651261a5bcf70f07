"""Videos: reading and writing them, following faces over time, restoring frame by frame."""
from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import torch

from faces import align
from faces.detect import CascadeDetector, Face
from faces.photograph import Settings
from faces.track import Tracker, smooth
from faces.video import restore_video
from models.networks.sparnet import SPARNet
from utils.images import video
from utils.images.io import write_image
from utils.images.video import BadVideo, VideoReader, VideoWriter, usable_codec

SIGMA = 2.5     # what --smoothing 0.1 is at 25 frames a second


def face_at(x: float, y: float, side: float = 60) -> Face:
    return Face(np.array([x, y, x + side, y + side], np.float32),
                (align.template("ffhq", int(side)) + (x, y)).astype(np.float32), 1.0)


def clip(count: int = 10, step: int = 3) -> list[np.ndarray]:
    """The astronaut's head moving to the right."""
    head = cv2.resize(skimage.data.astronaut()[20:230, 110:330], (154, 147),
                      interpolation=cv2.INTER_AREA)
    frames = []
    for index in range(count):
        frame = np.full((160, 240, 3), (90, 110, 130), np.uint8)
        frame[8:155, 5 + step * index:159 + step * index] = head
        frames.append(frame)
    return frames


def written(path: Path, frames: list[np.ndarray], codec: str = "ffv1",
            fps: float = 29.97) -> Path:
    with VideoWriter(path, fps, codec) as writer:
        for frame in frames:
            writer.write(frame)
    return path


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("v") / "moving.mkv", clip())


def unchanged(crops: np.ndarray) -> np.ndarray:
    return crops


def steady(frame: np.ndarray) -> list[Face]:
    return [face_at(40, 40)]


# ---- files ---------------------------------------------------------------------------------------

def test_a_lossless_video_comes_back_bit_for_bit_with_its_rate(moving: Path) -> None:
    reader = VideoReader(moving)
    assert reader.fps == pytest.approx(29.97, abs=1e-3)
    assert np.array_equal(list(reader), clip()) and np.array_equal(list(reader), clip())


@pytest.mark.parametrize("codec", ["mp4v", "mjpg", "ffv1"])
def test_what_every_opencv_wheel_writes_can_be_read_back(codec: str, tmp_path: Path) -> None:
    path = written(tmp_path / f"a{video.CODECS[codec][1]}", clip(4), codec)
    found = np.array(list(VideoReader(path)), int)
    assert found.shape == (4, 160, 240, 3) and np.abs(found - clip(4)).mean() < 4


def test_an_odd_side_loses_its_last_pixel(tmp_path: Path) -> None:
    frames = [frame[:151, :99] for frame in clip(2)]
    found = list(VideoReader(written(tmp_path / "a.mkv", frames)))
    assert np.array_equal(found, [frame[:150, :98] for frame in frames])


def test_a_turned_video_is_read_upright(tmp_path: Path) -> None:
    """A quarter turn in the track header, as phones write it."""
    data = bytearray(written(tmp_path / "a.mp4", clip(2), "mp4v").read_bytes())
    at = data.index(b"tkhd") + 44
    assert struct.unpack(">9i", data[at:at + 36])[0] == 1 << 16
    data[at:at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(data)
    found = next(iter(VideoReader(tmp_path / "turned.mp4")))
    expected = np.rot90(next(iter(VideoReader(tmp_path / "a.mp4"))), 3)
    assert np.abs(found.astype(int) - expected).mean() < 1


@pytest.mark.parametrize("content, said", [
    (b"", "empty file"), (b"no video" * 99, "the video format is unknown"), (None, "no such file")])
def test_what_is_no_video_is_named(content: bytes | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(BadVideo, match=rf"a\.mp4: {said}"):
        VideoReader(tmp_path / "a.mp4")


def test_after_an_error_there_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "a.mp4", 25, "mp4v") as writer:
        writer.write(clip(1)[0])
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_not_written_completely_is_no_result(tmp_path: Path) -> None:
    """OpenCV does not say when the disk is full."""
    with pytest.raises(OSError, match=r"a\.mkv was not written completely"):
        with VideoWriter(tmp_path / "a.mkv", 25, "ffv1") as writer:
            writer.write(clip(1)[0])
            writer.writer.release()
            Path(writer.temporary).write_bytes(b"half")
    assert list(tmp_path.iterdir()) == []


def test_a_codec_that_cannot_be_written_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(video.CODECS, "avc1", ("none", ".mp4"))
    with pytest.raises(ValueError, match=r"--video_codec avc1 .* which writes mp4v, mjpg, ffv1"):
        usable_codec("avc1")


def test_auto_takes_the_next_codec_where_the_first_is_missing(
        monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_codec() == "mp4v"
    monkeypatch.setitem(video.CODECS, "mp4v", ("none", ".mp4"))
    assert usable_codec() == "mjpg"


# ---- smoothing -----------------------------------------------------------------------------------

def tracked(faces: list[list[Face]], sigma: float = SIGMA, gap: int = 5) -> list[list[Face]]:
    tracker = Tracker(sigma, gap)
    for found in faces:
        tracker.add(np.zeros((90, 160, 3), np.uint8), found)
    return tracker.result()


def centres(faces: list[list[Face]]) -> np.ndarray:
    return np.array([found[0].points.mean(axis=0) for found in faces])


def test_noise_on_landmarks_is_reduced_to_less_than_half() -> None:
    """A third of it stays away from the ends; near them, where less is known, more."""
    rng = np.random.default_rng(0)
    noisy = []
    for index in range(200):
        face = face_at(10 + index, 20)
        face.points += rng.normal(0, 2, (5, 2)).astype(np.float32)
        noisy.append([face])
    truth = np.array([face_at(10 + index, 20).points for index in range(200)])
    error = np.array([found[0].points for found in tracked(noisy)]) - truth
    assert error.std() < 0.45 * 2


def test_steady_motion_is_not_lagged_behind() -> None:
    moving = [[face_at(10 + 3 * index, 20 + index)] for index in range(40)]
    assert np.abs(centres(tracked(moving)) - centres(moving)).max() < 1e-3


def test_a_swinging_face_is_followed_in_phase_and_in_extent() -> None:
    """40 pixels to either side in 2 seconds: less than 6 % of it is lost, none of it is late."""
    time = np.arange(100)
    swing = 40 * np.sin(2 * np.pi * time / 50)
    found = centres(tracked([[face_at(60 + x, 20)] for x in swing]))[:, 0]
    found -= centres([[face_at(60, 20)]])[0, 0]
    inner = slice(10, 90)
    assert np.abs(found - swing)[inner].max() < 0.06 * 40
    shifts = range(-5, 6)
    best = max(shifts, key=lambda by: np.corrcoef(np.roll(swing, by)[inner], found[inner])[0, 1])
    assert best == 0


def test_smoothing_can_be_switched_off() -> None:
    rng = np.random.default_rng(1)
    faces = [[face_at(*rng.uniform(20, 24, 2))] for _ in range(9)]
    assert np.array_equal(centres(tracked(faces, sigma=0)), centres(faces))


@pytest.mark.parametrize("sigma", [0.001, 0.3, 50.0])
@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_any_width_smooths_any_length(sigma: float, count: int) -> None:
    line = np.arange(count)[:, None] * np.array([[1.0, -2.0]])
    assert smooth(line, sigma) == pytest.approx(line, abs=1e-6)


def test_a_short_gap_is_bridged_on_the_way_between() -> None:
    faces = [[face_at(10 + 2 * index, 20)] for index in range(20)]
    gaps = [[] if 8 <= index < 13 else found for index, found in enumerate(faces)]
    found = tracked(gaps)
    assert [len(each) for each in found] == [1] * 20
    assert np.abs(centres(found) - centres(faces)).max() < 1e-3


def test_a_long_gap_stays_empty_and_what_follows_begins_anew() -> None:
    faces = [[face_at(10, 20)]] * 5 + [[]] * 6 + [[face_at(22, 20)]] * 5
    found = tracked(faces)
    assert [len(each) for each in found] == [1] * 5 + [0] * 6 + [1] * 5
    assert np.abs(centres(found[:5] + found[11:]) - centres(faces[:5] + faces[11:])).max() < 1e-3


def test_two_faces_are_told_apart_whatever_the_detectors_order() -> None:
    rng = np.random.default_rng(2)
    pairs = [[face_at(10 + index, 20), face_at(90 + index, 20)] for index in range(20)]
    mixed = [[pair[i] for i in rng.permutation(2)] for pair in pairs]
    for found, pair in zip(tracked(mixed), pairs, strict=True):
        found = sorted(found, key=lambda face: face.box[0])
        assert np.abs(found[0].box - pair[0].box).max() < 1e-3
        assert np.abs(found[1].box - pair[1].box).max() < 1e-3


def test_at_a_cut_the_landmarks_jump() -> None:
    """Another face in nearly the same place."""
    tracker = Tracker(SIGMA, 5)
    for index in range(20):
        frame = np.full((90, 160, 3), 200 if index < 10 else 40, np.uint8)
        tracker.add(frame, [face_at(10 if index < 10 else 22, 20)])
    left = np.array([found[0].box[0] for found in tracker.result()])
    assert np.abs(left - np.repeat([10, 22], 10)).max() < 1e-3


# ---- the whole -----------------------------------------------------------------------------------

def test_an_identity_restorer_keeps_every_frame(moving: Path, tmp_path: Path) -> None:
    done = restore_video(moving, tmp_path / "a.mkv", CascadeDetector(), unchanged,
                         Settings(size=128), codec="ffv1")
    assert (done.frames, done.expected) == (10, 10) and done.faces >= 8
    assert np.array_equal(list(VideoReader(tmp_path / "a.mkv")), clip())
    assert VideoReader(tmp_path / "a.mkv").fps == pytest.approx(29.97, abs=1e-3)


def test_an_identity_restorer_keeps_frames_up_to_the_codec(moving: Path, tmp_path: Path) -> None:
    restore_video(moving, tmp_path / "a.mp4", steady, unchanged, Settings(size=64), codec="mp4v")
    coded = written(tmp_path / "b.mp4", clip(), "mp4v")
    assert np.array_equal(list(VideoReader(tmp_path / "a.mp4")), list(VideoReader(coded)))


def test_only_faces_change_and_frames_may_be_enlarged(moving: Path, tmp_path: Path) -> None:
    restore_video(moving, tmp_path / "a.mkv", steady, lambda crops: 255 - crops,
                  Settings(size=64), codec="ffv1")
    found = np.array(list(VideoReader(tmp_path / "a.mkv")))
    assert np.array_equal(found[:, :, 120:], np.array(clip())[:, :, 120:])
    assert np.abs(found[:, 50:90, 50:90].astype(int) - np.array(clip())[:, 50:90, 50:90]).mean() > 9
    restore_video(moving, tmp_path / "b.mkv", steady, unchanged, Settings(size=64, scale=1.5),
                  codec="ffv1")
    assert next(iter(VideoReader(tmp_path / "b.mkv"))).shape == (240, 360, 3)


def test_batches_reach_over_frames(moving: Path, tmp_path: Path) -> None:
    sizes = []

    def restore(crops: np.ndarray) -> np.ndarray:
        sizes.append(len(crops))
        return crops
    restore_video(moving, tmp_path / "a.mkv", steady, restore, Settings(size=64, batch_size=4),
                  codec="ffv1")
    assert sizes == [4, 4, 2]


def test_a_video_that_ends_early_gives_what_it_has(tmp_path: Path) -> None:
    data = written(tmp_path / "a.avi", clip(20), "mjpg").read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[:len(data) // 2])
    done = restore_video(tmp_path / "cut.avi", tmp_path / "out.mkv", steady, unchanged,
                         Settings(size=64), codec="ffv1")
    assert done.expected == 20 and 5 < done.frames < 15
    assert len(list(VideoReader(tmp_path / "out.mkv"))) == done.frames


def test_an_interrupted_video_leaves_no_file(moving: Path, tmp_path: Path) -> None:
    def interrupted(crops: np.ndarray) -> np.ndarray:
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        restore_video(moving, tmp_path / "a.mp4", steady, interrupted, Settings(size=64),
                      codec="mp4v")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_may_mix_pictures_and_videos(run_script: Callable, tmp_path: Path) -> None:
    torch.save(SPARNet(res_depth=0, bottleneck_size=16).state_dict(), tmp_path / "g.pth")
    written(tmp_path / "in" / "sub" / "a.mp4", clip(6), "mp4v", 25)
    (tmp_path / "in" / "bad.mp4").write_bytes(b"x" * 99)
    write_image(tmp_path / "in" / "b.png", clip(1)[0])
    done = run_script(
        "enhance.py", "--photos", "--input", tmp_path / "in", "--output", tmp_path / "out",
        "--pretrain_model_path", tmp_path / "g.pth", "--model", "sparnet", "--load_size", "64",
        "--res_depth", "0", "--bottleneck_size", "16", "--device", "cpu")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "bad.mp4: the video format is unknown" in done.stderr
    assert "restored 2 of 3 inputs" in done.stdout
    kept = sorted(path.relative_to(tmp_path / "out").as_posix()
                  for path in (tmp_path / "out").rglob("*.*"))
    assert kept == ["cmp/b_00.png", "cropped_faces/b_00.png", "restored_faces/b_00.png",
                    "restored_imgs/b.png", "restored_videos/sub/a.mp4"]
    reader = VideoReader(tmp_path / "out" / "restored_videos" / "sub" / "a.mp4")
    frames = np.array(list(reader), int)
    assert reader.fps == 25 and frames.shape == (6, 160, 240, 3)
    assert np.abs(frames - clip(6))[:, 40:110, 60:110].mean() > 5


def test_inputs_are_found_whatever_they_mix(tmp_path: Path) -> None:
    import enhance
    for name in ("a.mp4", "sub/b.MOV", ".hidden/c.mp4", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    only = [tmp_path / "a.mp4", tmp_path / "sub" / "b.MOV"]
    assert enhance.find_inputs(str(tmp_path)) == (tmp_path, only)
    assert enhance.find_inputs(f"{tmp_path}/*.mp4") == (tmp_path, only[:1])
    assert enhance.find_inputs(str(only[1])) == (tmp_path / "sub", only[1:])
    write_image(tmp_path / "b.png", clip(1)[0])
    assert enhance.find_inputs(str(tmp_path)) == (tmp_path, [only[0], tmp_path / "b.png", only[1]])
    with pytest.raises(ValueError, match="matches no image"):
        enhance.find_inputs(f"{tmp_path}/*.wav")


@pytest.mark.parametrize("more, said", [
    ((), "is a video; add --photos"), (("--photos", "--faces", "f.json"), "a.mp4 is a video")])
def test_a_video_where_none_is_expected_is_one_line(more: tuple, said: str, tmp_path: Path) -> None:
    import data
    import enhance
    import models
    from options.enhance_options import EnhanceOptions
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "f.json").write_text("{}")
    more = [str(tmp_path / word) if word == "f.json" else word for word in more]
    opt = EnhanceOptions(models, data, "enhance.py").parse(
        ["--input", str(tmp_path / "a.mp4"), "--output", str(tmp_path / "out"),
         "--pretrain_model_path", "g.pth", *more])
    with pytest.raises(ValueError, match=said):
        enhance.enhance(opt)

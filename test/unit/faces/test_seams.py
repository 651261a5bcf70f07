"""What pasting faces back leaves of a photograph: no seam, and nothing changed around the faces."""
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import torch

from faces import align, detect
from faces.detect import CascadeDetector, Face
from faces.parsing_mask import open_parsing_mask
from faces.paste import parsing_mask, paste, to_upscaled, upscale
from faces.photograph import Settings, align_crop, paste_back, restore_photograph
from models.networks.parsenet import ParseNet

FACE, BACKGROUND = 1, 0     # labels of a parsing network


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    return skimage.data.astronaut()


@pytest.fixture(scope="module")
def group(astronaut: np.ndarray) -> np.ndarray:
    """Four heads of different sizes on a shaded ground."""
    ground = np.linspace(90, 160, 640)[None, :, None] * np.ones((480, 1, 3))
    head = astronaut[20:230, 130:330]
    for (x, y), side in (((20, 30), 150), ((220, 200), 200), ((430, 40), 120), ((470, 300), 170)):
        small = cv2.resize(head, (side, round(side * 1.05)), interpolation=cv2.INTER_AREA)
        ground[y:y + small.shape[0], x:x + side] = small
    return ground.astype(np.uint8)


@pytest.fixture(scope="module")
def detected(group: np.ndarray) -> list[Face]:
    return CascadeDetector()(group)


def turned(degrees: float, scale: float = 1.0, shift: tuple = (0, 0)) -> np.ndarray:
    angle = np.deg2rad(degrees)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (align.template("ffhq", 160) - 80) @ turn.T + 80 + shift


def marked(tmp_path: Path, *points: np.ndarray) -> list[Face]:
    """Faces by way of the file that --faces takes."""
    (tmp_path / "f.json").write_text(json.dumps({"a": [{"points": p.tolist()} for p in points]}))
    return detect.read_faces(tmp_path / "f.json")["a"]


@pytest.fixture(params=["detected", "half outside", "overlapping", "turned"])
def scene(request: pytest.FixtureRequest, group: np.ndarray, detected: list[Face],
          tmp_path: Path) -> tuple[np.ndarray, list[Face]]:
    if request.param == "detected":
        assert len(detected) == 4
        return group, detected
    points = {"half outside": [turned(0, shift=(-80, 40)), turned(0, shift=(560, 380))],
              "overlapping": [turned(0, shift=(100, 100)), turned(20, shift=(170, 130))],
              "turned": [turned(90, shift=(80, 60)), turned(180, 0.7, (300, 100)),
                         turned(-35, 1.3, (420, 200))]}
    return group, marked(tmp_path, *points[request.param])


def ellipse(face: np.ndarray) -> np.ndarray:
    """The way of --mask_weights, with a map of regions drawn by hand."""
    labels = np.full((512, 512), BACKGROUND, np.uint8)
    cv2.ellipse(labels, (256, 280), (150, 190), 0, 0, 360, FACE, -1)
    return parsing_mask(labels, len(face))


masks = pytest.mark.parametrize("mask", [None, ellipse], ids=["square", "outline"])
scales = pytest.mark.parametrize("scale", [1, 2])


def pasted(photo: np.ndarray, faces: list[Face], restore: Callable, scale: float,
           mask: Callable | None, way: str) -> np.ndarray:
    """Restored by enhance.py's way, which pastes the difference; or as published tools paste."""
    settings = Settings(size=512, scale=scale)
    if way == "difference":
        return restore_photograph(photo, faces, restore, settings, mask).image
    result = upscale(photo, scale)
    for matrix, crop in zip(*align_crop(photo, faces, settings), strict=True):
        face = restore(crop[None])[0]
        result = paste(result, face, to_upscaled(align.inverse(matrix), scale),
                       mask(face) if mask else None, edge=max(2, round(2 * scale)))
    return result


def weights(photo: np.ndarray, faces: list[Face], scale: float,
            mask: Callable | None) -> np.ndarray:
    """How much of the faces the result has, (H, W) in 0..1: white pasted on black."""
    black = np.zeros_like(photo)
    settings = Settings(size=512, scale=scale)
    matrices, crops = align_crop(black, faces, settings)
    white = [np.full_like(crop, 255) for crop in crops]
    nothing = [np.zeros_like(crop) for crop in crops]
    return paste_back(black, matrices, nothing, white, settings, mask).max(axis=2) / 255


def unchanged(crops: np.ndarray) -> np.ndarray:
    return crops


@masks
@pytest.mark.parametrize("way, scale", [("difference", 1), ("difference", 2), ("published", 1)])
def test_outside_the_faces_nothing_changes_bit_for_bit(
        way: str, scale: float, mask: Callable | None, scene: tuple) -> None:
    photo, faces = scene
    result = pasted(photo, faces, lambda crops: 255 - crops, scale, mask, way)
    weight, plain = weights(photo, faces, scale, mask), upscale(photo, scale)
    # A weight below half a gray level of 255 shows as black here, and as a level or two there.
    outside = cv2.dilate(weight, np.ones((7, 7))) == 0
    assert 0.2 < outside.mean() < 1
    assert np.array_equal(result[outside], plain[outside])
    assert np.abs(result.astype(int) - plain)[weight > 0.9].mean() > 20


@masks
@scales
def test_an_identity_restorer_changes_nothing_at_all(scale: float, mask: Callable | None,
                                                     scene: tuple) -> None:
    photo, faces = scene
    assert np.array_equal(pasted(photo, faces, unchanged, scale, mask, "difference"),
                          upscale(photo, scale))


@masks
def test_pasted_as_published_an_identity_restorer_stays_within_two_levels(
        mask: Callable | None, scene: tuple) -> None:
    """In the mean: single pixels lose what a crop's two interpolations cost."""
    photo, faces = scene
    distance = np.abs(pasted(photo, faces, unchanged, 1, mask, "published").astype(int) - photo)
    weight = weights(photo, faces, 1, mask)
    assert distance[weight > 0].mean() <= 2
    assert distance[(weight > 0) & (weight < 1)].mean() <= 2


@masks
@pytest.mark.parametrize("way, scale", [("difference", 1), ("difference", 2), ("published", 1)])
def test_the_step_across_the_feather_is_at_most_two_levels(
        way: str, scale: float, mask: Callable | None, group: np.ndarray,
        detected: list[Face]) -> None:
    """From pixel to pixel a brighter face's change may only grow and fade slowly."""
    faces = detected
    result = pasted(group, faces, lambda crops: (crops * 0.8 + 40).astype(np.uint8), scale, mask,
                    way).astype(np.float32)
    change = (result - upscale(group, scale)).mean(axis=2)
    weight = weights(group, faces, scale, mask)
    feather = (weight > 0) & (weight < 1)
    assert change.max() > 15
    for axis in (0, 1):
        steps = np.abs(np.diff(change, axis=axis))
        there = feather[1:] if axis == 0 else feather[:, 1:]
        assert steps[there].mean() <= 2


def test_sixteen_bits_are_kept_outside_and_are_not_left_alone_inside(
        group: np.ndarray, detected: list[Face]) -> None:
    deep = group.astype(np.uint16) * 257 ^ 0x5
    faces = detected
    assert np.array_equal(restore_photograph(deep, faces, unchanged, Settings()).image, deep)
    result = restore_photograph(deep, faces, lambda crops: 255 - crops, Settings()).image
    plain = restore_photograph(group, faces, lambda crops: 255 - crops, Settings()).image
    outside = cv2.dilate(weights(group, faces, 1, None), np.ones((7, 7))) == 0
    assert result.dtype == np.uint16 and np.array_equal(result[outside], deep[outside])
    assert np.abs((result >> 8).astype(int) - plain).max() <= 1


def test_the_photograph_given_is_not_changed(group: np.ndarray, detected: list[Face]) -> None:
    before = group.copy()
    result = restore_photograph(group, detected, lambda c: 255 - c, Settings())
    assert np.array_equal(group, before) and not np.array_equal(result.image, before)
    assert not np.shares_memory(restore_photograph(group, [], unchanged, Settings()).image, group)


def test_a_photograph_without_color_keeps_none(astronaut: np.ndarray) -> None:
    gray = np.repeat(cv2.cvtColor(astronaut, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)

    def tinted(crops: np.ndarray) -> np.ndarray:
        return (crops * np.array([1, 0.8, 0.6])).astype(np.uint8)
    for keep in (False, True):
        faces = CascadeDetector()(gray)
        result = restore_photograph(gray, faces, tinted, Settings(keep_gray=keep)).image
        assert bool(np.ptp(result, axis=2).max() == 0) is keep and not np.array_equal(result, gray)
    colored = restore_photograph(astronaut, CascadeDetector()(astronaut), tinted,
                                  Settings(keep_gray=True)).image
    assert np.array_equal(colored, restore_photograph(
        astronaut, CascadeDetector()(astronaut), tinted, Settings()).image)


@pytest.mark.deep
def test_the_outline_of_a_parsing_networks_file_is_pasted_without_a_trace_outside(
        astronaut: np.ndarray, tmp_path: Path) -> None:
    """Drawn weights see regions somewhere; what counts is where the result may differ."""
    torch.manual_seed(0)
    torch.save(ParseNet().state_dict(), tmp_path / "p.pth")
    outline = open_parsing_mask(str(tmp_path / "p.pth"), torch.device("cpu"))
    faces, masks = CascadeDetector()(astronaut), []

    def mask(face: np.ndarray) -> np.ndarray:
        masks.append(outline(face))
        return masks[-1]
    result = restore_photograph(astronaut, faces, lambda c: 255 - c, Settings(), mask).image
    assert masks[0].shape == (512, 512) and 0 <= masks[0].min() and masks[0].max() <= 1
    weight = weights(astronaut, faces, 1, lambda _: masks[0])
    outside = cv2.dilate(weight, np.ones((7, 7))) == 0
    assert np.array_equal(result[outside], astronaut[outside])
    assert np.array_equal(restore_photograph(astronaut, faces, unchanged, Settings(),
                                             outline).image, astronaut)


# ---- boxes without points ------------------------------------------------------------------------

@pytest.mark.parametrize("box", [(175, 60, 275, 180), (185, 75, 265, 165), (160, 50, 290, 190)])
def test_in_a_box_marked_by_hand_the_face_is_found(box: tuple, astronaut: np.ndarray,
                                                   tmp_path: Path) -> None:
    (tmp_path / "f.json").write_text(json.dumps({"a": [{"box": box}]}))
    face, = detect.with_points(detect.read_faces(tmp_path / "f.json")["a"], astronaut)
    expected = CascadeDetector()(astronaut)[0]
    assert np.abs(face.points - expected.points).max() < 8 and face.box.tolist() == list(box)


def test_in_a_box_without_a_face_the_points_stand_as_in_a_template() -> None:
    blank = np.full((300, 400, 3), 128, np.uint8)
    faces = [Face(np.array([100, 50, 200, 150], np.float32), np.zeros((0, 2), np.float32), 1.0),
             Face(np.array([-60, -60, 40, 40], np.float32), np.zeros((0, 2), np.float32), 1.0),
             Face(np.array([500, 0, 600, 100], np.float32), np.zeros((0, 2), np.float32), 1.0)]
    inside, cut_off = detect.with_points(faces, blank)      # the third lies outside
    assert np.abs(inside.points[:2] - [[131.7, 88.8], [168.6, 88.8]]).max() < 1.5
    assert np.abs(cut_off.points - (inside.points - (160, 110))).max() < 3
    assert (np.diff(inside.points[[0, 2, 3], 1]) > 0).all()

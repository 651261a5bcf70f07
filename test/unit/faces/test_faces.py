"""Aligning faces and pasting them back."""
from __future__ import annotations

import cv2
import numpy as np
import pytest
import skimage.data
import skimage.transform

from faces import align
from faces.nms import nms
from faces.paste import parsing_mask, paste, to_upscaled, upscale


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def turned(points: np.ndarray, scale: float, degrees: float, shift: tuple) -> np.ndarray:
    angle = np.deg2rad(degrees)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return points @ turn.T + shift


@pytest.fixture
def matrix() -> np.ndarray:
    """From a photograph to a crop of 64 pixels: the face stands at (70, 50), slightly turned."""
    points = turned(align.template("ffhq", 64), 0.6, 12, (60, 30))
    return align.similarity(points, align.template("ffhq", 64))


# ---- alignment -----------------------------------------------------------------------------------

@pytest.mark.parametrize("degrees", [0, 33, 90, 180, 271])
def test_a_moved_face_is_found_back_exactly(degrees: float) -> None:
    target = align.template("ffhq", 512)
    found = align.similarity(turned(target, 0.37, degrees, (100, -40)), target)
    back = turned(target, 0.37, degrees, (100, -40)) @ found[:, :2].T + found[:, 2]
    assert np.abs(back - target).max() < 1e-9


def test_a_mirrored_face_is_not_mirrored_back() -> None:
    target = align.template("ffhq", 512)
    found = align.similarity(target * (-1, 1), target)
    assert np.linalg.det(found[:, :2]) > 0


def test_noise_is_shared_out_in_least_squares() -> None:
    rng = np.random.default_rng(0)
    target = align.template("ffhq", 512)
    points = turned(target, 2, 20, (9, 9)) + rng.normal(0, 5, (5, 2))
    x, y = points.T
    zero, one = np.zeros(5), np.ones(5)
    system = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
    a, b, c, d = np.linalg.lstsq(system, target.T.ravel(), rcond=None)[0]
    assert np.allclose(align.similarity(points, target), [[a, -b, c], [b, a, d]], atol=1e-9)


def test_points_in_one_place_are_refused() -> None:
    with pytest.raises(ValueError, match="two different points"):
        align.similarity(np.ones((5, 2)), align.template("ffhq", 512))


def test_an_unknown_template_is_named() -> None:
    with pytest.raises(ValueError, match=r"template must be one of ffhq, arcface, .*got 'dlib'"):
        align.template("dlib", 512)


def test_the_inverse_undoes() -> None:
    matrix = np.array([[0.8, -0.3, 12.0], [0.3, 0.8, -7.0]])
    both = align.inverse(matrix)
    points = np.random.default_rng(0).normal(size=(4, 2))
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    assert np.allclose(moved @ both[:, :2].T + both[:, 2], points)


def test_beyond_the_image_a_crop_shows_the_border() -> None:
    crop = align.crop(np.zeros((10, 10, 3), np.uint8), np.array([[1.0, 0, 20], [0, 1, 20]]), 64)
    assert tuple(crop[0, 0]) == align.BORDER and crop[25, 25].max() == 0


def test_fine_detail_of_a_large_face_is_averaged_not_skipped() -> None:
    board = np.indices((900, 900)).sum(axis=0) % 2 * 255
    photo = np.repeat(board[..., None], 3, axis=2).astype(np.uint8)
    points = turned(align.template("ffhq", 64), 12.6, 20, (20, -20))
    matrix = align.similarity(points, align.template("ffhq", 64))
    plain, smoothed = (align.crop(photo, matrix, 64, smooth)[16:48, 16:48].astype(float)
                       for smooth in (False, True))
    assert plain.std() > 40 and smoothed.std() < 2


@pytest.mark.parametrize("scale", [0.7, 1.9, 2.1, 5.3, 12.6])
def test_a_smooth_crop_is_where_the_plain_one_is(scale: float) -> None:
    """At the largest scale a shift of a tenth of its pixels would show."""
    photo = smooth(1100, 1000)
    points = turned(align.template("ffhq", 64), scale, 20, (60, 20))
    matrix = align.similarity(points, align.template("ffhq", 64))
    plain, averaged = (align.crop(photo, matrix, 64, each).astype(int) for each in (False, True))
    beyond, beyond_too = ((each == align.BORDER).all(axis=2) for each in (plain, averaged))
    assert np.abs(plain - averaged)[~(beyond | beyond_too)].mean() < 0.5
    assert (beyond ^ beyond_too).mean() < 0.03


@pytest.mark.parametrize("shift", [(-5000, 0), (899, 899)])
def test_a_large_face_out_of_the_image_is_border(shift: tuple) -> None:
    points = turned(align.template("ffhq", 64), 4, 0, shift)
    matrix = align.similarity(points, align.template("ffhq", 64))
    crop = align.crop(np.zeros((900, 900, 3), np.uint8), matrix, 64, smooth=True)
    assert (crop[32:] == align.BORDER).all()


# ---- paste ---------------------------------------------------------------------------------------

def changed(photo: np.ndarray, result: np.ndarray) -> np.ndarray:
    return (photo != result).any(axis=2)


def test_only_the_face_changes_and_the_photograph_given_stays(matrix: np.ndarray) -> None:
    photo = smooth(100, 140)
    before = photo.copy()
    result = paste(photo, np.full((64, 64, 3), 255, np.uint8), align.inverse(matrix))
    assert np.array_equal(photo, before)
    rows, columns = np.nonzero(changed(photo, result))
    corners = np.array([(0, 0), (63, 0), (0, 63), (63, 63)], float)
    inverse = align.inverse(matrix)
    reach = corners @ inverse[:, :2].T + inverse[:, 2]
    assert (np.array([columns.min(), rows.min()]) >= np.floor(reach.min(axis=0)) - 1).all()
    assert (np.array([columns.max(), rows.max()]) <= np.ceil(reach.max(axis=0)) + 1).all()
    center = np.array([32, 32]) @ inverse[:, :2].T + inverse[:, 2]
    assert result[round(center[1]), round(center[0])].min() == 255


def test_the_crop_itself_pasted_back_leaves_no_seam(matrix: np.ndarray) -> None:
    photo = smooth(100, 140)
    result = paste(photo, align.crop(photo, matrix, 64), align.inverse(matrix))
    assert np.abs(result.astype(int) - photo).max() <= 2


def test_the_edge_of_a_pasted_face_is_soft(matrix: np.ndarray) -> None:
    photo = np.zeros((100, 140, 3), np.uint8)
    result = paste(photo, np.full((64, 64, 3), 200, np.uint8), align.inverse(matrix))
    steps = np.abs(np.diff(result[..., 0].astype(int), axis=1))
    assert result.max() == 200 and steps.max() < 200 * 0.8


@pytest.mark.parametrize("strength", [0.0, 0.25, 1.0])
def test_strength_goes_from_the_photograph_to_the_face(strength: float,
                                                       matrix: np.ndarray) -> None:
    photo = np.full((100, 140, 3), 40, np.uint8)
    result = paste(photo, np.full((64, 64, 3), 240, np.uint8), align.inverse(matrix),
                   strength=strength)
    assert result.max() == 40 + round(200 * strength)


def test_a_mask_decides_where_the_face_goes(matrix: np.ndarray) -> None:
    photo = smooth(100, 140)
    mask = np.zeros((64, 64), np.float32)
    assert not changed(photo, paste(photo, photo[:64, :64], align.inverse(matrix), mask)).any()
    mask[20:40, 20:40] = 1
    result = paste(photo, np.zeros((64, 64, 3), np.uint8), align.inverse(matrix), mask)
    assert 0 < changed(photo, result).sum() < 30 * 30


@pytest.mark.parametrize("shift", [(-500, 0), (5000, 5000)])
def test_a_face_outside_changes_nothing(shift: tuple) -> None:
    photo = smooth(50, 60)
    matrix = np.array([[1.0, 0, shift[0]], [0, 1, shift[1]]])
    assert np.array_equal(paste(photo, np.zeros((64, 64, 3), np.uint8), matrix), photo)


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_a_face_lands_on_itself_in_the_enlarged_photograph(scale: int,
                                                           matrix: np.ndarray) -> None:
    """Half a pixel of shift would move the smooth image by more than this."""
    photo = smooth(100, 140)
    large = upscale(photo, scale)
    back = to_upscaled(align.inverse(matrix), scale)
    result = paste(large, align.crop(photo, matrix, 64), back, edge=2 * scale)
    touched = changed(large, result)
    mean = np.abs(result.astype(int) - large)[touched].mean() if touched.any() else 0
    assert mean < 1.2


def test_a_parsing_mask_takes_the_face_and_leaves_the_hat() -> None:
    labels = np.full((512, 512), 1)
    labels[:200] = 14
    mask = parsing_mask(labels, 128)
    assert mask.shape == (128, 128) and mask[:25].max() < 0.01 and mask[80:110, 40:90].min() > 0.99


# ---- overlapping boxes ---------------------------------------------------------------------------

def test_the_better_of_two_overlapping_boxes_stays() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 1, 11, 11], [50, 50, 60, 60]], float)
    assert nms(boxes, np.array([0.5, 0.9, 0.7]), 0.4) == [1, 2]


def test_no_boxes_give_none() -> None:
    assert nms(np.zeros((0, 4)), np.zeros(0), 0.4) == []


@pytest.mark.parametrize("matrix", [
    [[1.44, -0.12, 31.2], [0.12, 1.44, -7.4]], [[0.31, 0.02, 5.0], [-0.02, 0.31, 9.5]]])
def test_bicubic_crops_are_those_of_scikit_image(matrix: list[list[float]]) -> None:
    photo = skimage.data.astronaut()[100:300, 150:330]
    back = np.vstack([align.inverse(np.array(matrix)), [0, 0, 1]])
    expected = skimage.transform.warp(
        photo.astype(float), skimage.transform.AffineTransform(back), output_shape=(96, 96),
        order=3, preserve_range=True)
    crop = align.crop_bicubic(photo, np.array(matrix), 96)
    assert crop.dtype == np.float32 and np.abs(crop - expected).max() < 1e-4

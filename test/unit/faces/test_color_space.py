"""Photographs of another color space: the network sees sRGB, the result stays in the space."""
from __future__ import annotations

import numpy as np
import pytest
import skimage.data
from image_files import profile

from faces.detect import CascadeDetector, Face
from faces.photograph import Settings, restore_photograph
from utils.images.color import ColorSpace, color_space

SETTINGS = Settings(size=128)


@pytest.fixture(scope="module")
def space() -> ColorSpace:
    return color_space(profile())


@pytest.fixture(scope="module")
def scene() -> tuple[np.ndarray, list[Face]]:
    photo = np.ascontiguousarray(skimage.data.astronaut()[:256, 96:352])
    faces = CascadeDetector()(photo)
    assert faces
    return photo, faces


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_what_the_network_leaves_alone_stays_bit_for_bit(dtype: type, scene: tuple,
                                                         space: ColorSpace) -> None:
    photo, faces = scene
    photo = photo.astype(dtype) * (257 if dtype == np.uint16 else 1)
    result = restore_photograph(photo, faces, lambda crops: crops, SETTINGS, space=space)
    assert np.array_equal(result.image, photo)


def test_the_network_sees_srgb(scene: tuple, space: ColorSpace) -> None:
    photo, faces = scene
    seen = []
    restore_photograph(photo, faces, lambda crops: seen.append(crops) or crops, SETTINGS,
                       space=space)
    in_srgb = restore_photograph(space.to_srgb(photo), faces, lambda crops: crops, SETTINGS)
    # Converted before or after the crop is resampled.
    assert np.abs(seen[0].astype(int) - np.stack(in_srgb.crops)).mean() < 1
    assert np.abs(seen[0].astype(int) - np.stack(restore_photograph(
        photo, faces, lambda crops: crops, SETTINGS).crops)).mean() > 2


def test_the_result_looks_as_that_of_the_converted_photograph(scene: tuple,
                                                              space: ColorSpace) -> None:
    photo, faces = scene
    photo = photo // 2 + 60     # colors that sRGB holds

    def darker(crops: np.ndarray) -> np.ndarray:
        return (crops * 0.7).astype(np.uint8)
    result = restore_photograph(photo, faces, darker, SETTINGS, space=space).image
    other = restore_photograph(space.to_srgb(photo), faces, darker, SETTINGS).image
    assert not np.array_equal(result, photo)
    # Edges are feathered in one space or the other.
    assert np.abs(space.to_srgb(result).astype(int) - other).mean() < 0.6


def test_a_background_network_sees_srgb_and_its_result_is_of_the_space(
        scene: tuple, space: ColorSpace) -> None:
    photo, _ = scene
    photo = photo // 2 + 60
    seen = []

    def twice(image: np.ndarray, scale: float) -> np.ndarray:
        seen.append(image)
        return image.repeat(2, axis=0).repeat(2, axis=1)
    settings = Settings(size=128, scale=2, background=twice)
    result = restore_photograph(photo, [], lambda crops: crops, settings, space=space).image
    assert np.array_equal(seen[0], space.to_srgb(photo))
    assert np.abs(result[::2, ::2].astype(int) - photo).max() <= 1

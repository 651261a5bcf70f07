"""The drawn faces: image, labels and landmarks agree, and depend on (seed, index, size) only."""
from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from conftest import ROOT

from data.labels import LABELS
from data.synthetic.canvas import L_EYE, L_LIP, NOSE, R_EYE, SKIN, U_LIP
from data.synthetic.faces import Face, render_face
from data.synthetic.shapes import TEMPLATE5


@pytest.fixture(scope="module")
def faces() -> list[Face]:
    return [render_face(index) for index in range(200)]


def digest(face: Face) -> str:
    return hashlib.sha256(b"".join(part.tobytes() for part in face)).hexdigest()


def at(labels: np.ndarray, point: np.ndarray) -> int:
    x, y = np.rint(point).astype(int)
    return int(labels[y, x])


def distance(point: np.ndarray, mask: np.ndarray) -> float:
    """Pixels from a point x y to the nearest set pixel."""
    y, x = np.nonzero(mask)
    return float(np.hypot(x - point[0], y - point[1]).min()) if len(x) else np.inf


def fraction(truths: list[bool]) -> float:
    return sum(truths) / len(truths)


@pytest.mark.parametrize("size", [16, 64, 100, 256])
def test_shapes_and_types_at_every_size(size: int) -> None:
    face = render_face(3, size=size)
    assert [(part.shape, part.dtype) for part in face] == [
        ((size, size, 3), np.uint8), ((size, size), np.uint8), ((68, 2), np.float32),
        ((5, 2), np.float32)]


def test_a_second_call_gives_the_same_bits_whatever_was_drawn_between() -> None:
    first = digest(render_face(7, size=64))
    np.random.seed(1)
    render_face(8, size=64)
    assert digest(render_face(7, size=64)) == first


def test_drawing_leaves_the_global_generator_alone() -> None:
    np.random.seed(5)
    expected = np.random.random()
    np.random.seed(5)
    render_face(1, size=32)
    assert np.random.random() == expected


def test_another_process_with_more_threads_gives_the_same_bits() -> None:
    code = ("import cv2, hashlib\n"
            "from data.synthetic.faces import render_face\n"
            "cv2.setNumThreads(4)\n"
            "for index in range(5):\n"
            "    parts = b''.join(part.tobytes() for part in render_face(index, seed=2))\n"
            "    print(hashlib.sha256(parts).hexdigest())")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "2"})
    assert done.stdout.split() == [digest(render_face(index, seed=2)) for index in range(5)]


def test_neighbouring_people_look_different(faces: list[Face]) -> None:
    images = np.stack([cv2.resize(face.image, (32, 32), interpolation=cv2.INTER_AREA)
                       for face in faces[:50]]).astype(int)
    apart = [np.abs(images[i] - images[j]).mean() for i in range(50) for j in range(i)]
    assert min(apart) > 8


def test_another_seed_is_another_person(faces: list[Face]) -> None:
    other = render_face(0, seed=1)
    assert np.abs(other.image.astype(int) - faces[0].image).mean() > 8
    assert np.abs(other.landmarks68 - faces[0].landmarks68).max() > 1


def test_every_class_occurs(faces: list[Face]) -> None:
    seen = {name: sum((face.labels == k).any() for face in faces) for k, name in enumerate(LABELS)}
    assert min(seen.values()) >= 10, seen
    assert max(face.labels.max() for face in faces) < len(LABELS)


@pytest.mark.parametrize("part", ["eye", "brow", "ear"])
def test_l_is_the_left_of_the_image(part: str, faces: list[Face]) -> None:
    left, right = LABELS.index(f"l_{part}"), LABELS.index(f"r_{part}")
    both = [face.labels for face in faces
            if (face.labels == left).any() and (face.labels == right).any()]
    assert len(both) > 100
    assert all(np.nonzero(labels == left)[1].mean() < np.nonzero(labels == right)[1].mean()
               for labels in both)


@pytest.mark.parametrize(("point", "label"), [(0, L_EYE), (1, R_EYE)])
def test_eye_points_lie_on_open_eyes(point: int, label: int, faces: list[Face]) -> None:
    hits = [at(face.labels, face.landmarks5[point]) == label for face in faces
            if (face.labels == label).sum() > 25]
    assert len(hits) > 150
    assert fraction(hits) > 0.97


def test_nose_tip_lies_on_the_nose(faces: list[Face]) -> None:
    assert fraction([at(face.labels, face.landmarks5[2]) == NOSE for face in faces]) > 0.98


@pytest.mark.parametrize("corner", [48, 54])
def test_mouth_corners_lie_on_the_lips(corner: int, faces: list[Face]) -> None:
    distances = [distance(face.landmarks68[corner], (face.labels == U_LIP) | (face.labels == L_LIP))
            for face in faces]
    assert max(distances) < 2


@pytest.mark.parametrize("points", [slice(17, 22), slice(22, 27)])
def test_brow_points_lie_on_the_brows(points: slice, faces: list[Face]) -> None:
    label = LABELS.index("l_brow" if points.start == 17 else "r_brow")
    distances = [distance(point, face.labels == label) for face in faces
            if (face.labels == label).sum() > 30 for point in face.landmarks68[points]]
    assert fraction([d < 2 for d in distances]) > 0.97


def test_jaw_points_lie_on_the_edge_of_the_skin(faces: list[Face]) -> None:
    on_edge = []
    for face in faces:
        for x, y in np.rint(face.landmarks68[5:12]).astype(int):
            patch = face.labels[y - 2:y + 3, x - 2:x + 3]
            on_edge.append(bool((patch == SKIN).any() and (patch != SKIN).any()))
    assert fraction(on_edge) > 0.95


def test_landmarks_stay_in_the_image(faces: list[Face]) -> None:
    inside = [bool(((face.landmarks68 >= 0) & (face.landmarks68 <= 127)).all()) for face in faces]
    assert fraction(inside) > 0.98


def test_faces_are_aligned_like_real_ones(faces: list[Face]) -> None:
    off = (np.stack([face.landmarks5 for face in faces]) + 0.5) / 128 - TEMPLATE5
    assert np.abs(off.mean(0)).max() < 0.012
    assert np.abs(off).max() < 0.08


def test_the_five_points_are_those_of_the_68(faces: list[Face]) -> None:
    for face in faces[:10]:
        mark = face.landmarks68
        five = np.stack([mark[36:42].mean(0), mark[42:48].mean(0), mark[30], mark[48], mark[54]])
        np.testing.assert_allclose(face.landmarks5, five, atol=1e-4)


def test_skin_is_where_the_labels_say(faces: list[Face]) -> None:
    warm = []
    for face in faces:
        red, _, blue = face.image[face.labels == SKIN].mean(0)
        warm.append(bool(red > blue + 8))
    assert fraction(warm) > 0.95


def test_pupils_are_dark_and_on_the_eye(faces: list[Face]) -> None:
    darker = []
    for face in faces:
        eye = (face.labels == L_EYE) | (face.labels == R_EYE)
        if eye.sum() > 60:
            gray = face.image[eye].mean(1)
            darker.append(bool(np.percentile(gray, 5) < 0.6 * np.percentile(gray, 90)))
    assert fraction(darker) > 0.95


def test_dark_glasses_hide_the_eyes_and_clear_ones_do_not(faces: list[Face]) -> None:
    eye_g = LABELS.index("eye_g")
    behind = [int(np.isin(face.labels, (L_EYE, R_EYE)).sum()) for face in faces
              if (face.labels == eye_g).sum() > 80]
    assert behind.count(0) >= 2
    assert sum(count > 20 for count in behind) >= 10


@pytest.mark.parametrize(("index", "small", "large"),
                         [(0, 128, 256), (4, 64, 128), (13, 100, 256)])
def test_another_size_is_the_same_image(index: int, small: int, large: int) -> None:
    small_face, large_face = render_face(index, size=small), render_face(index, size=large)
    image = cv2.resize(large_face.image, (small, small), interpolation=cv2.INTER_AREA)
    assert np.corrcoef(image.ravel(), small_face.image.ravel())[0, 1] > 0.97
    coarse = [cv2.resize(face.image, (32, 32), interpolation=cv2.INTER_AREA).astype(int)
              for face in (small_face, large_face)]
    assert np.abs(coarse[0] - coarse[1]).mean() < 3.5
    labels = cv2.resize(large_face.labels, (small, small), interpolation=cv2.INTER_NEAREST)
    assert (labels == small_face.labels).mean() > 0.95
    np.testing.assert_allclose((large_face.landmarks68 + 0.5) / large,
                               (small_face.landmarks68 + 0.5) / small, atol=1e-5)


@pytest.mark.parametrize(("arguments", "name"), [
    ({"index": -1}, "index"), ({"index": 0, "size": 15}, "size"),
    ({"index": 0, "seed": -1}, "seed")])
def test_bad_arguments_are_refused_by_name(arguments: dict[str, int], name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least"):
        render_face(**arguments)

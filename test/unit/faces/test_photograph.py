"""Finding faces in photographs and treating whole photographs."""
from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import torch

import models
from faces import align, detect
from faces.detect import CascadeDetector, Face, select
from faces.photograph import Settings, align_crop, restore_photograph, with_colors_of
from faces.restorer import FaceRestorer
from models.networks.pretrained.retinaface import (
    ANCHORS,
    MEAN_BGR,
    RetinaFace,
    anchors,
    decode_boxes,
)
from models.networks.sparnet import SPARNet
from utils.images.io import read_image, write_image

SMALL = ("--model", "sparnet", "--load_size", "64", "--res_depth", "0", "--bottleneck_size", "16")


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    return skimage.data.astronaut()


@pytest.fixture(scope="module")
def group(astronaut: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """The same face at four places and sizes on a shaded ground, and where each center is."""
    ground = np.linspace(90, 160, 640)[None, :, None] * np.ones((480, 1, 3))
    head, centers = astronaut[20:230, 130:330], []
    for (x, y), side in (((20, 30), 150), ((220, 200), 200), ((430, 40), 120), ((470, 300), 170)):
        small = cv2.resize(head, (side, round(side * 1.05)), interpolation=cv2.INTER_AREA)
        ground[y:y + small.shape[0], x:x + side] = small
        centers.append(np.array([x + side * 0.475, y + side * 0.47]))
    return ground.astype(np.uint8), centers


# ---- the detector that needs no file ------------------------------------------------------------

def test_the_astronauts_face_is_found(astronaut: np.ndarray) -> None:
    faces = CascadeDetector()(astronaut)
    eyes = np.array([[204, 102], [245, 104]])
    assert len(faces) == 1 and np.abs(faces[0].points[:2] - eyes).max() < 8


def test_every_face_of_a_group_is_found_once(group: tuple) -> None:
    photo, centers = group
    faces = CascadeDetector()(photo)
    middles = [face.points.mean(axis=0) for face in faces]
    assert len(faces) == len(centers)
    assert all(min(np.linalg.norm(m - c) for m in middles) < 25 for c in centers)


def test_a_large_photograph_is_looked_at_in_a_reduced_copy(astronaut: np.ndarray) -> None:
    large = cv2.resize(astronaut, None, fx=4, fy=4)
    small, = CascadeDetector()(astronaut)
    found = CascadeDetector()(large)
    assert np.abs(found[0].points / 4 - small.points).max() < 8


def test_a_face_before_a_large_even_ground_is_found(astronaut: np.ndarray) -> None:
    """Spreading the gray levels over so much of one of them hides the face."""
    photo = np.full((800, 1000, 3), 120, np.uint8)
    photo[300:576, 400:700] = astronaut[:276, 80:380]
    face, = CascadeDetector()(photo)
    assert np.abs(face.points[:2] - [[524, 402], [565, 404]]).max() < 8


def test_a_larger_copy_shows_smaller_faces(astronaut: np.ndarray) -> None:
    photo = np.full((1600, 3000, 3), 120, np.uint8)
    photo[700:884, 1400:1600] = cv2.resize(astronaut[:276, 80:380], (200, 184),
                                           interpolation=cv2.INTER_AREA)
    assert detect.create("cascade")(photo) == []
    face, = detect.create("cascade", longest=3000)(photo)
    assert 1400 < face.box[0] < face.box[2] < 1600 and 700 < face.box[1] < face.box[3] < 884


def test_an_image_without_faces_has_none() -> None:
    assert CascadeDetector()(np.full((200, 300, 3), 128, np.uint8)) == []


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 2000, 3), (17, 5, 3)])
def test_odd_shapes_are_no_error(shape: tuple) -> None:
    assert CascadeDetector()(np.zeros(shape, np.uint8)) == []


# ---- the other detectors ------------------------------------------------------------------------

def test_the_published_detector_decodes_its_surest_anchor(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = RetinaFace("mobile0.25").eval()
    torch.save({f"module.{k}": v for k, v in network.state_dict().items()}, tmp_path / "r.pth")
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    x = torch.from_numpy(image[..., ::-1].copy()).float() - torch.tensor(MEAN_BGR)
    with torch.no_grad():
        boxes, scores, _ = network(x.permute(2, 0, 1)[None])
    best = int(scores[0, :, 1].argmax())
    expected = decode_boxes(boxes, anchors(70, 90))[0, best] * torch.tensor([90, 70, 90, 70])
    threshold = float(scores[0, :, 1].max()) - 1e-6
    found = detect.create("auto", tmp_path / "r.pth", threshold=threshold, anchors=ANCHORS)(image)
    assert len(found) == 1
    assert np.allclose(found[0].box, expected.numpy(), atol=1e-3)


@pytest.mark.parametrize("backbone, threshold", [("mobile0.25", 0.6), ("resnet50", 0.97)])
def test_each_network_has_a_default_threshold(backbone: str, threshold: float, tmp_path: Path
                                              ) -> None:
    torch.save(RetinaFace(backbone).state_dict(), tmp_path / "r.pth")
    create = partial(detect.create, "retinaface", tmp_path / "r.pth", anchors=ANCHORS)
    assert create().threshold == threshold
    assert create(threshold=0.0).threshold == 0


@pytest.mark.parametrize("arguments, word", [
    (("dlib",), "--detector"), (("retinaface",), "--detector_weights"),
    (("cascade", "x.pth"), "takes no --detector_weights"),
    (("yunet", "nowhere.onnx"), "nowhere.onnx"), (("auto", "nowhere.pth"), "nowhere.pth")])
def test_a_detector_that_cannot_be_had_is_one_line(arguments: tuple, word: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=word):
        detect.create(*arguments)


def test_a_file_that_is_no_network_is_refused(tmp_path: Path) -> None:
    (tmp_path / "y.onnx").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"y\.onnx"):
        detect.create("yunet", tmp_path / "y.onnx")


def test_faces_marked_by_hand_are_read(tmp_path: Path) -> None:
    points = align.template("ffhq", 100).tolist()
    (tmp_path / "f.json").write_text(json.dumps({"a.png": [{"points": points}], "b.png": []}))
    faces = detect.read_faces(tmp_path / "f.json")
    assert np.allclose(faces["a.png"][0].points, points) and faces["b.png"] == []


@pytest.mark.parametrize("content", ["[]", "{", '{"a": [{}]}', '{"a": [{"box": [3, 2, 1, 4]}]}',
                                     '{"a": [{"box": [1, 2, NaN, 4]}]}',
                                     '{"a": [{"points": [[1, 2]]}]}'])
def test_a_wrong_file_of_faces_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "f.json").write_text(content)
    with pytest.raises(ValueError, match=r"--faces .*f\.json must hold JSON"):
        detect.read_faces(tmp_path / "f.json")


# ---- which faces --------------------------------------------------------------------------------

def at(x: float, y: float, side: float) -> Face:
    return Face(np.array([x, y, x + side, y + side]), np.zeros((5, 2)), 1.0)


def test_faces_are_selected_by_size_number_and_place() -> None:
    faces = [at(0, 0, 10), at(40, 40, 20), at(80, 80, 15)]
    assert select(faces, (100, 100), min_size=12) == faces[1:]
    assert select(faces, (100, 100), max_faces=2) == faces[1:]
    assert select(faces, (100, 100), only_center=True) == [faces[1]]
    assert select([], (100, 100), only_center=True) == []


# ---- enhance.py --photos ------------------------------------------------------------------------

@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("w") / "g.pth"
    torch.manual_seed(0)
    torch.save(SPARNet(res_depth=0, bottleneck_size=16).state_dict(), path)
    return path


@pytest.fixture
def photos(tmp_path: Path, astronaut: np.ndarray) -> Path:
    write_image(tmp_path / "in" / "astro.jpg", astronaut)
    write_image(tmp_path / "in" / "sub" / "none.png", np.full((90, 120, 3), 99, np.uint8))
    (tmp_path / "in" / "broken.png").write_bytes(b"\x89PNG")
    return tmp_path / "in"


def enhance(run_script: Callable, weights: Path, photos: Path, folder: Path,
            *arguments: object) -> object:
    return run_script("enhance.py", "--photos", "--input", photos, "--output", folder,
                      "--pretrain_model_path", weights, *SMALL, "--device", "cpu", *arguments)


def test_photographs_get_folders_and_only_faces_change(run_script: Callable, weights: Path,
                                                       photos: Path, tmp_path: Path) -> None:
    done = enhance(run_script, weights, photos, tmp_path / "out")
    assert done.returncode == 1 and "broken.png" in done.stderr
    assert "restored 1 face" in done.stdout and "sub/none.png" in done.stdout
    written = sorted(p.relative_to(tmp_path / "out").as_posix()
                     for p in (tmp_path / "out").rglob("*.png"))
    assert written == ["cmp/astro_00.png", "cropped_faces/astro_00.png",
                       "restored_faces/astro_00.png", "restored_imgs/astro.png",
                       "restored_imgs/sub/none.png"]
    before = read_image(photos / "astro.jpg")
    after = read_image(tmp_path / "out" / "restored_imgs" / "astro.png")
    assert np.array_equal(before[250:], after[250:]) and not np.array_equal(before, after)
    assert read_image(tmp_path / "out" / "cmp" / "astro_00.png").shape == (64, 128, 3)


def test_faces_marked_by_hand_replace_the_detector(run_script: Callable, weights: Path,
                                                   photos: Path, tmp_path: Path) -> None:
    points = (align.template("ffhq", 60) + (10, 20)).tolist()
    marked = {"sub/none.png": [{"points": points}], "gone.png": [{"points": points}]}
    (tmp_path / "f.json").write_text(json.dumps(marked))
    done = enhance(run_script, weights, photos / "sub" / "none.png", tmp_path / "one", "--faces",
                   tmp_path / "f.json")
    assert done.returncode == 2     # names are below the folder that was given
    assert "must name images below" in done.stderr and "gone.png, sub/none.png" in done.stderr
    done = enhance(run_script, weights, photos, tmp_path / "out", "--faces", tmp_path / "f.json",
                   "--upscale", "2")
    assert "restored 1 face" in done.stdout
    assert "note: --faces names 1 image that --input does not have: gone.png" in done.stdout
    result = read_image(tmp_path / "out" / "restored_imgs" / "sub" / "none.png")
    assert result.shape == (180, 240, 3) and (result != 99).any() and (result[:, 160:] == 99).all()


@pytest.mark.parametrize("arguments, word", [
    (("--template", "dlib"), "dlib"), (("--detector", "yunet"), "--detector_weights"),
    (("--faces", "nowhere.json"), "nowhere.json"), (("--simulate_lq",), "--simulate_lq"),
    (("--mask_weights", "nowhere.pth"), "--mask_weights"), (("--strength", "2"), "--strength")])
def test_photographs_are_refused_with_one_line(arguments: tuple, word: str, run_script: Callable,
                                               weights: Path, photos: Path,
                                               tmp_path: Path) -> None:
    done = enhance(run_script, weights, photos, tmp_path / "out", *arguments)
    assert done.returncode == 2 and word in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("wrong", range(5))
def test_robust_alignment_leaves_out_a_point_that_does_not_fit(wrong: int) -> None:
    target = align.template("ffhq", 512)
    turn = np.array([[0.3, -0.1, 40], [0.1, 0.3, 60]])      # from the template to a photograph
    points = target @ turn[:, :2].T + turn[:, 2]
    expected = align.inverse(turn)
    for find in (align.similarity, align.robust_similarity):
        assert np.abs(find(points, target) - expected).max() < 1e-3
    points[wrong] += (25, -10)
    corners = np.array([[60, 80, 1], [180, 80, 1], [120, 200, 1]])
    moved = [np.abs(corners @ (find(points, target) - expected).T).max()
             for find in (align.similarity, align.robust_similarity)]
    assert moved[0] > 15 and moved[1] < 0.1


def test_points_without_a_robust_answer_are_aligned_in_least_squares() -> None:
    target = align.template("ffhq", 512)
    points = np.array([[10, 10], [20, 10], [10, 10], [10, 10], [20, 10]], float)
    assert np.isfinite(align.robust_similarity(points, target)).all()


def test_the_models_say_how_their_faces_are_aligned() -> None:
    assert [name for name in models.names() if models.find(name).robust_alignment] == ["gfpgan"]
    points = align.template("ffhq", 64) + 40
    points[2] += (9, -9)
    face = Face(np.array([40, 40, 104, 104]), points, 1.0)
    photo = np.zeros((160, 160, 3), np.uint8)
    for robust, find in ((True, align.robust_similarity), (False, align.similarity)):
        (matrix,), _ = align_crop(photo, [face], Settings(64, robust_alignment=robust))
        assert np.array_equal(matrix, find(points, align.template("ffhq", 64)))


@pytest.mark.parametrize("name", models.names())
def test_every_model_restores_crops_of_its_own_size(name: str, tiny_run: Callable) -> None:
    """PFSRNet's network takes an eighth of it."""
    model, _ = tiny_run(name)
    size = model.opt.load_size
    kind = np.float32 if model.crop_filter == "bicubic" else np.uint8
    crop = np.full((size, size, 3), 100, kind)
    model.eval()
    vars(model.opt).setdefault("align", "none")     # enhance.py's own flag
    restored = FaceRestorer(model, model.device).restore_crops([crop] * 2)
    assert restored.shape == (2, size, size, 3)


# ---- the whole ----------------------------------------------------------------------------------

def unchanged(crops: np.ndarray) -> np.ndarray:
    return crops


def test_faces_that_restoring_leaves_alone_stay_bit_for_bit(group: tuple) -> None:
    photo, _ = group
    done = restore_photograph(photo, CascadeDetector()(photo), unchanged, Settings(size=512))
    assert len(done.crops) == 4 and np.array_equal(done.image, photo)


def test_bicubic_crops_reach_the_network_unrounded_and_the_result_as_bytes(group: tuple) -> None:
    photo, _ = group
    seen = []

    def rounded(crops: np.ndarray) -> np.ndarray:
        seen.append(crops)
        return np.rint(crops).astype(np.uint8)
    done = restore_photograph(photo, CascadeDetector()(photo), rounded,
                              Settings(size=128, crop_filter="bicubic"))
    assert seen[0].dtype == np.float32 and (seen[0] % 1 > 0).any()
    assert done.crops[0].dtype == np.uint8 and np.array_equal(done.image, photo)


def test_a_pasted_face_has_no_visible_seam(group: tuple) -> None:
    """Brighter faces: from one pixel to the next the change may only grow or fade slowly."""
    photo, _ = group
    done = restore_photograph(photo, CascadeDetector()(photo),
                              lambda crops: (crops * 0.8 + 40).astype(np.uint8), Settings())
    change = (done.image.astype(int) - photo).mean(axis=2)
    steps = np.abs(np.diff(change, axis=1))[np.abs(change[:, 1:]) > 0]
    assert change.max() > 15 and steps.mean() <= 2


def test_outside_of_the_faces_nothing_changes(astronaut: np.ndarray) -> None:
    faces = CascadeDetector()(astronaut)
    done = restore_photograph(astronaut, faces, lambda crops: 255 - crops, Settings(size=128))
    assert np.array_equal(done.image[300:], astronaut[300:])
    assert np.array_equal(done.image[:, 400:], astronaut[:, 400:])
    x, y = faces[0].points[2].round().astype(int)
    assert np.abs(done.image[y, x].astype(int) - (255 - astronaut[y, x])).max() < 40


def test_faces_are_restored_in_batches(group: tuple) -> None:
    photo, _ = group
    sizes = []

    def restore(crops: np.ndarray) -> np.ndarray:
        sizes.append(crops.shape)
        return crops
    restore_photograph(photo, CascadeDetector()(photo), restore, Settings(size=64, batch_size=3))
    assert sizes == [(3, 64, 64, 3), (1, 64, 64, 3)]


def test_the_result_may_be_larger(astronaut: np.ndarray) -> None:
    faces = CascadeDetector()(astronaut)
    done = restore_photograph(astronaut, faces, unchanged, Settings(size=256, scale=2))
    assert done.image.shape == (1024, 1024, 3)


def test_colors_are_matched() -> None:
    rng = np.random.default_rng(0)
    crop = rng.integers(60, 140, (32, 32, 3), dtype=np.uint8)
    shifted = (crop.astype(int) + (40, 0, -30)).clip(0, 255).astype(np.uint8)
    matched = with_colors_of(shifted, crop)
    assert np.abs(shifted.mean((0, 1)) - crop.mean((0, 1))).max() > 25
    assert np.abs(matched.mean((0, 1)) - crop.mean((0, 1))).max() < 3

"""prepare.py components with a landmark network."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import preparation
import prepare
from data.components import read_components
from data.components_dataset import ComponentsDataset
from models.networks.fan import FAN
from models.networks.pretrained.fan_teacher import FAN2D
from models.networks.pretrained.landmark_maps import landmark_maps
from preparation._landmarks import parts_of_maps
from utils.face_parts import TEMPLATE
from utils.images.convert import to_tensor
from utils.images.io import read_image, write_image
from utils.images.resize import bicubic


def run(*arguments: object) -> int:
    opt = prepare.parse([str(argument) for argument in arguments])
    return preparation.find(opt.command).run(opt)


def maps_with(points: dict[int, tuple[int, int, float]], side: int = 64) -> torch.Tensor:
    """Heat-maps (1, 68, side, side) with a peak (x, y, height) in some of them."""
    maps = torch.zeros(1, 68, side, side)
    for index, (x, y, height) in points.items():
        maps[0, index, y, x] = height
    return maps


def template_points(dx: int = 0) -> dict[int, tuple[int, int, float]]:
    """Every point of a part at its center, some of them 3 pixels off to give it an extent."""
    found = {}
    for first, last, (x, y, _) in zip((36, 42, 48), (42, 48, 68), TEMPLATE, strict=True):
        for index in range(first, last):
            side = (-3, 3, 0)[index - first] if index - first < 2 else 0
            found[index] = (int(x / 8) + side + dx, int(y / 8), 0.8)
    return found


def test_parts_lie_where_the_peaks_are() -> None:
    parts, score = parts_of_maps(maps_with(template_points()))
    # The center of pixel 24 of 64 is (24 + 0.5) * 8 of 512; 3 pixels each way are a half of 24.
    assert parts[0, 0].tolist() == pytest.approx([24.5 * 8, 30.5 * 8, 24])
    assert parts[0, 2].tolist() == pytest.approx([32.5 * 8, 46.5 * 8, 24])
    assert float(score) == pytest.approx(0.8)


def test_a_peak_at_the_other_eye_does_not_count() -> None:
    maps = maps_with(template_points())
    maps[0, 36:42, 30, 39] = 2.0            # the right eye, seen by the left one's maps
    found, _ = parts_of_maps(maps)
    assert torch.equal(found, parts_of_maps(maps_with(template_points()))[0])


def test_a_peak_between_pixels_is_found_there() -> None:
    maps = maps_with({})
    maps[0, 36:68, 30, 24], maps[0, 36:68, 30, 25] = 1.0, 0.999
    assert float(parts_of_maps(maps)[0][0, 0, 0]) == pytest.approx(25 * 8, abs=0.02)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.save(FAN(width=4).state_dict(), tmp_path / "fan.pth")
    return tmp_path / "fan.pth"


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    for index in range(3):
        coarse = np.random.default_rng(index).integers(0, 256, (7, 7, 3), np.uint8)
        write_image(tmp_path / "faces" / "in" / f"{index}.png", bicubic(coarse, 40, 40))
    return tmp_path / "faces"


def components(faces: Path, weights: Path, *arguments: object) -> int:
    return run("components", "--input", faces, "--weights", weights, "--output",
               faces.parent / "parts.json", "--device", "cpu", "--num_threads", 0, *arguments)


def test_the_networks_parts_are_written_and_read_by_training(faces: Path, weights: Path) -> None:
    assert components(faces, weights, "--min_score", 0) == 0
    parts, size = read_components(faces.parent / "parts.json")
    network, side = landmark_maps(weights, torch.device("cpu"), "--weights")
    with torch.no_grad():
        face = to_tensor(bicubic(read_image(faces / "in" / "1.png"), side, side))
        expected, _ = parts_of_maps(network(face * 0.5 + 0.5))
    assert size == 512 and torch.allclose(parts["in/1.png"], expected[0], atol=1e-3)
    dataset = ComponentsDataset(ComponentsDataset.Settings(
        dataroot=str(faces), load_size=64, num_val_images=0,
        component_file=str(faces.parent / "parts.json")))
    assert dataset[0]["boxes"].shape == (3, 4)


def test_what_was_found_is_kept_and_what_changed_is_looked_at_again(
        faces: Path, weights: Path, capsys: pytest.CaptureFixture) -> None:
    (faces / "broken.png").write_bytes(b"\x89PNG")
    assert components(faces, weights, "--min_score", 0) == 1
    assert capsys.readouterr().err.count("broken.png") == 1
    (faces / "broken.png").unlink()
    notes = faces.parent / "parts.json.jsonl"
    marked = [json.loads(line) for line in notes.read_text().splitlines()]
    for note in marked:
        note["parts"] = [[1.0, 2.0, 3.0]] * 3
    notes.write_text("".join(json.dumps(note) + "\n" for note in marked) + '{"name": "in')
    write_image(faces / "in" / "0.png", np.zeros((40, 40, 3), np.uint8))
    assert components(faces, weights, "--min_score", 0) == 0
    parts, _ = read_components(faces.parent / "parts.json")
    assert [float(parts[f"in/{index}.png"][0, 0]) == 1.0 for index in range(3)] == [
        False, True, True]


def test_images_without_a_clear_face_get_no_entry(faces: Path, weights: Path,
                                                    capsys: pytest.CaptureFixture) -> None:
    components(faces, weights, "--min_score", 0)
    notes = faces.parent / "parts.json.jsonl"
    lines = [json.loads(line) for line in notes.read_text().splitlines()]
    for note, score in zip(lines, (0.9, 0.1, 0.9), strict=True):
        note["score"] = score
    notes.write_text("".join(json.dumps(note) + "\n" for note in lines))
    assert components(faces, weights) == 1
    assert ("in/1.png: the face's score 0.10 is below --min_score 0.3"
            in capsys.readouterr().err)
    assert sorted(read_components(faces.parent / "parts.json")[0]) == ["in/0.png", "in/2.png"]


@pytest.mark.parametrize("arguments, message", [
    (("--size", 9), "--size has no effect with --input"),
    (("--min_score", 1), "no face was found"), (("--weights", "gone.pth"), "gone.pth")])
def test_wrong_input_is_refused(arguments: tuple, message: str, faces: Path,
                                weights: Path) -> None:
    with pytest.raises((ValueError, OSError), match=message):
        components(faces, weights, *arguments)
    with pytest.raises(ValueError, match="must be given together"):
        run("components", "--input", faces, "--output", faces / "x.json")


@pytest.mark.deep
def test_the_larger_network_is_recognised(faces: Path, tmp_path: Path) -> None:
    torch.save(FAN2D().state_dict(), tmp_path / "2dfan.pth")
    maps, side = landmark_maps(tmp_path / "2dfan.pth", torch.device("cpu"), "--weights")
    with torch.no_grad():
        assert maps(torch.zeros(1, 3, side, side)).shape == (1, 68, 64, 64)

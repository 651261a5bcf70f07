"""Enlarging what lies around the faces with a network."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import data
import enhance
import models
from faces import align
from faces.background import in_tiles, network_upscaler
from faces.detect import Face
from faces.photograph import Settings, restore_photograph
from models.networks.pretrained.rrdbnet import RRDBNet, upscaling_network
from models.networks.sparnet import SPARNet
from options.enhance_options import EnhanceOptions
from tools import golden
from utils.images.io import read_image, write_image

CPU = torch.device("cpu")
SMALL = {"channels": 8, "num_blocks": 1, "growth": 4}


def small(scale: int) -> RRDBNet:
    """Sees 25 pixels far at most, and colors stay between black and white."""
    network = RRDBNet(scale, **SMALL).eval()
    golden.fill(network, gain={"conv_last.weight": 0.5})
    torch.nn.init.constant_(network.conv_last.bias, 0.5)
    return network


def photograph(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "realesrnet_x2.pth"
    torch.save({"params_ema": small(2).state_dict()}, path)
    return path


@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("sides", [(97, 130), (1, 7), (3, 2), (1, 1)])
def test_a_photograph_of_any_size_is_enlarged(scale: int, sides: tuple[int, int]) -> None:
    large = in_tiles(small(scale), photograph(*sides), CPU, 0)
    assert (large.shape, large.dtype) == ((sides[0] * scale, sides[1] * scale, 3), np.uint8)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_tiles_leave_no_seam(scale: int) -> None:
    network, photo = small(scale), photograph(150, 210)
    whole, pieces = (in_tiles(network, photo, CPU, tile).astype(int) for tile in (0, 64))
    assert np.abs(whole - pieces).max() <= 1 and whole.std() > 5


def test_what_a_tile_sees_beyond_its_edge_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    network, photo = small(2), photograph(150, 210)
    whole = in_tiles(network, photo, CPU, 0).astype(int)
    monkeypatch.setattr("faces.background.MARGIN", 0)
    assert np.abs(whole - in_tiles(network, photo, CPU, 64)).max() > 1


def test_16_bits_stay_16_bits() -> None:
    network, photo = small(2), photograph(40, 40)
    deep = in_tiles(network, photo.astype(np.uint16) * 257, CPU, 0)
    assert deep.dtype == np.uint16
    assert np.abs(deep / 257 - in_tiles(network, photo, CPU, 0)).max() <= 0.51


@pytest.mark.parametrize("factor", [1.0, 2.0, 3.0])
def test_any_factor_comes_from_the_networks_own(factor: float, weights: Path) -> None:
    large = network_upscaler(weights, CPU)(photograph(41, 30), factor)
    assert large.shape == (int(41 * factor), int(30 * factor), 3)


@pytest.mark.parametrize("settings", [{"scale": 4, **SMALL},
                                      {"scale": 1, "channels": 6, "num_blocks": 2, "growth": 3}])
def test_the_file_tells_scale_and_widths(settings: dict[str, int], tmp_path: Path) -> None:
    network = RRDBNet(**settings)
    torch.save({"params_ema": network.state_dict()}, tmp_path / "x.pth")
    found = upscaling_network(tmp_path / "x.pth")
    assert found.scale == settings["scale"]
    assert all(torch.equal(value, network.state_dict()[key])
               for key, value in found.state_dict().items())


def test_a_file_of_another_network_is_refused_with_the_flag(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.zeros(3, 3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"--background_weights: .*other.pth must hold an RRDBNet"):
        upscaling_network(tmp_path / "other.pth")


# ---- in photographs -----------------------------------------------------------------------------

@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_whole_faces_are_pasted_into_the_networks_surroundings(scale: float,
                                                               weights: Path) -> None:
    photo = photograph(120, 160)
    points = (align.template("ffhq", 64) + (50, 30)).astype(np.float32)
    enlarge = network_upscaler(weights, CPU)
    settings = Settings(size=64, scale=scale, background=enlarge)

    def to_blue(crops: np.ndarray) -> np.ndarray:
        return np.zeros_like(crops) + np.array([0, 0, 255], np.uint8)
    done = restore_photograph(photo, [Face(points.min(0), points, 1.0)], to_blue, settings).image
    background = enlarge(photo, scale)
    inside = np.rint((points[2] + 0.5) * scale).astype(int)
    assert done[inside[1], inside[0]].tolist() == [0, 0, 255]
    outside = np.ones(done.shape[:2], bool)
    outside[int(28 * scale):int(98 * scale), int(48 * scale):int(118 * scale)] = False
    assert np.array_equal(done[outside], background[outside])
    assert not np.array_equal(background, photo)


def test_enhance_enlarges_the_background_with_the_network(weights: Path, tmp_path: Path) -> None:
    trained, photo = tmp_path / "small.pth", photograph(60, 80)
    torch.save(SPARNet(res_depth=0, bottleneck_size=16).state_dict(), trained)
    write_image(tmp_path / "in.png", photo)
    opt = EnhanceOptions(models, data, "test").parse([
        "--model", "sparnet", "--load_size", "64", "--res_depth", "0", "--bottleneck_size", "16",
        "--device", "cpu", "--photos", "--input", str(tmp_path / "in.png"), "--output",
        str(tmp_path / "out"), "--pretrain_model_path", str(trained), "--upscale", "2",
        "--background_weights", str(weights), "--background_tile", "40"])
    assert enhance.enhance(opt) == 0
    assert np.array_equal(read_image(tmp_path / "out" / "restored_imgs" / "in.png"),
                          network_upscaler(weights, CPU, 40)(photo, 2))


def test_a_tile_without_a_network_is_refused(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        EnhanceOptions(models, data, "test").parse([
            "--photos", "--input", "x", "--name", "run", "--background_tile", "40"])
    assert stopped.value.code == 2
    assert "--background_tile has no effect without --background_weights" in capsys.readouterr().err

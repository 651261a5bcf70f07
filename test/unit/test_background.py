"""Enlarging what lies around the faces with a network."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from faces.background import in_tiles, network_enlarger
from models.networks.rrdbnet import RRDBNet, enlarging_network
from utils import golden

CPU = torch.device("cpu")
SMALL = {"channels": 8, "num_blocks": 1, "growth": 4}


def small(scale: int) -> RRDBNet:
    """Sees 25 pixels far at most, and colours stay between black and white."""
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
    large = network_enlarger(weights, CPU)(photograph(41, 30), factor)
    assert large.shape == (int(41 * factor), int(30 * factor), 3)


@pytest.mark.parametrize("settings", [{"scale": 4, **SMALL},
                                      {"scale": 1, "channels": 6, "num_blocks": 2, "growth": 3}])
def test_the_file_tells_scale_and_widths(settings: dict[str, int], tmp_path: Path) -> None:
    network = RRDBNet(**settings)
    torch.save({"params_ema": network.state_dict()}, tmp_path / "x.pth")
    found = enlarging_network(tmp_path / "x.pth")
    assert found.scale == settings["scale"]
    assert all(torch.equal(value, network.state_dict()[key])
               for key, value in found.state_dict().items())


def test_a_file_of_another_network_is_refused_with_the_flag(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.zeros(3, 3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"--background_weights: .*other.pth is not of an RRDBNet"):
        enlarging_network(tmp_path / "other.pth")

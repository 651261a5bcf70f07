"""The identity network; its values are in the golden cases."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.networks.pretrained.arcface import ArcFace, gray_input
from models.ops.init import draw_fixed

SMALL = {"layers": (1, 1, 1, 1), "widths": (16, 16, 16, 32)}


def test_published_sizes() -> None:
    with torch.device("meta"):
        counts = {use_se: (sum(p.numel() for p in net.parameters()), len(net.state_dict()))
                  for use_se in (False, True) for net in (ArcFace(use_se=use_se),)}
    assert counts == {False: (25_627_081, 181), True: (25_716_169, 221)}


def test_squeeze_and_excitation_has_its_published_names() -> None:
    with torch.device("meta"):
        keys = ArcFace(use_se=True).state_dict().keys()
    assert {key for key in keys if key.startswith("layer3.1.se.")} == {
        f"layer3.1.se.fc.{key}" for key in ("0.weight", "0.bias", "1.weight", "2.weight",
                                            "2.bias")}


@pytest.mark.parametrize("use_se", [False, True])
def test_any_number_of_faces_becomes_vectors(use_se: bool) -> None:
    assert ArcFace(**SMALL, use_se=use_se)(torch.rand(3, 1, 128, 128)).shape == (3, 512)


def test_it_is_never_trained() -> None:
    network = ArcFace(**SMALL).train()
    assert not any(module.training for module in network.modules())
    assert not any(weight.requires_grad for weight in network.parameters())


def test_a_file_with_the_prefix_of_data_parallel_loads(tmp_path: Path) -> None:
    network = ArcFace(**SMALL)
    draw_fixed(network, 18, 1.0)
    path = tmp_path / "arcface.pth"
    torch.save({f"module.{key}": value for key, value in network.state_dict().items()}, path)
    other = ArcFace(**SMALL)
    other.load_published(path)
    assert all(torch.equal(value, network.state_dict()[key])
               for key, value in other.state_dict().items())


@pytest.mark.parametrize("content", [None, {"conv1.weight": torch.zeros(3)}])
def test_another_file_is_refused_by_the_flags_name(content: object, tmp_path: Path) -> None:
    path = tmp_path / "arcface.pth"
    if content is not None:
        torch.save(content, path)
    with pytest.raises((ValueError, FileNotFoundError), match="--id_weights: "):
        ArcFace(**SMALL).load_published(path)


def test_random_weights_are_the_same_each_time_and_announced(
        caplog: pytest.LogCaptureFixture) -> None:
    one, two = ArcFace(**SMALL), ArcFace(**SMALL)
    for network in (one, two):
        network.load_published("random")
    assert torch.equal(one.fc5.weight, two.fc5.weight)
    assert "smoke runs only" in caplog.text


def test_gray_weighs_red_green_and_blue_as_published() -> None:
    image = torch.tensor([1.0, 0.5, -1.0]).view(1, 3, 1, 1).expand(1, 3, 256, 256)
    gray = gray_input(image)
    assert gray.shape == (1, 1, 128, 128)
    assert torch.allclose(gray, torch.tensor(0.2989 + 0.5870 * 0.5 - 0.1140))

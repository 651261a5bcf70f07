"""VGG features: torchvision's files by their names, what is refused, the random stand-in."""
from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.networks.pretrained.vgg import BLOCKS, VGGFeatures

DEEP = {"vgg19": (3, 8, 17, 26, 34), "vgg16": (3, 8, 15, 22, 29)}


def published(arch: str) -> dict[str, Tensor]:
    """A state dict in the layout of torchvision's file, with a shrunk classifier."""
    generator = torch.Generator().manual_seed(1)
    state, index, width = {}, 0, 3
    for block, count in enumerate(BLOCKS[arch]):
        for _ in range(count):
            channels, width = width, min(64 * 2 ** block, 512)
            shape = (width, channels, 3, 3)
            state[f"features.{index}.weight"] = torch.randn(shape, generator=generator) * 0.03
            state[f"features.{index}.bias"] = torch.randn(width, generator=generator)
            index += 2
        index += 1
    for layer in (0, 3, 6):
        state |= {f"classifier.{layer}.weight": torch.zeros(2, 2),
                  f"classifier.{layer}.bias": torch.zeros(2)}
    return state


@pytest.fixture(scope="module")
def file_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("vgg")

    def get(arch: str) -> Path:
        path = folder / f"{arch}.pth"
        if not path.exists():
            torch.save(published(arch), path)
        return path
    return get


@pytest.mark.parametrize("arch", BLOCKS)
def test_every_tensor_of_the_features_is_taken_from_the_file(arch: str, file_of: Callable) -> None:
    network = VGGFeatures(arch, DEEP[arch])
    network.load_published(file_of(arch))
    expected = {key: value for key, value in published(arch).items() if "features" in key}
    found = network.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize("layers", [(3, 8), None], ids=["first layers only", "all layers"])
@pytest.mark.parametrize("arch, other", [("vgg16", "vgg19"), ("vgg19", "vgg16")])
def test_the_file_of_the_other_architecture_is_refused(arch: str, other: str, layers: tuple | None,
                                                       file_of: Callable) -> None:
    network = VGGFeatures(arch, layers or DEEP[arch])
    said = f"--vgg_weights: .*{other}.pth is not torchvision's {arch}"
    with pytest.raises(ValueError, match=said):
        network.load_published(file_of(other))


def truncated(whole: Path, path: Path) -> None:
    path.write_bytes(whole.read_bytes()[:100000])


def another_network(whole: Path, path: Path) -> None:
    torch.save({"encoder.0.conv2d.weight": torch.zeros(3)}, path)


def a_list(whole: Path, path: Path) -> None:
    torch.save([1, 2], path)


def nothing(whole: Path, path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("make", [truncated, another_network, a_list, nothing])
def test_files_without_these_weights_are_refused_by_flag_and_name(
        make: Callable, file_of: Callable, tmp_path: Path) -> None:
    path = tmp_path / "given.pth"
    make(file_of("vgg16"), path)
    with pytest.raises(ValueError, match=r"--vgg_weights.*given\.pth"):
        VGGFeatures("vgg16", (3,)).load_published(path)


def test_a_missing_file_is_refused_by_flag_and_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"--vgg_weights.*none\.pth"):
        VGGFeatures("vgg16", (3,)).load_published(tmp_path / "none.pth")


def test_random_weights_do_not_depend_on_what_was_drawn_before() -> None:
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        network = VGGFeatures("vgg19", (3, 8))
        network.load_published("random")
        drawn.append(network.state_dict())
    assert all(torch.equal(value, drawn[1][key]) for key, value in drawn[0].items())


def test_random_weights_are_announced_as_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "facezoo"):
        VGGFeatures("vgg19", (3,)).load_published("random")
    assert "--vgg_weights random" in caplog.text and "UNTRAINED VGG19" in caplog.text


def test_random_features_keep_their_size_in_depth() -> None:
    network = VGGFeatures("vgg19", DEEP["vgg19"])
    network.load_published("random")
    sizes = [features.std().item() for features in network(torch.rand(1, 3, 64, 64) * 2 - 1)]
    assert all(0.1 < size < 10 for size in sizes)


def test_gradients_reach_the_image_and_no_weight() -> None:
    network = VGGFeatures("vgg19", (3, 8))
    image = torch.rand(1, 3, 16, 16, requires_grad=True)
    sum(features.sum() for features in network(image)).backward()
    assert image.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in network.parameters())


def test_collected_features_survive_what_follows() -> None:
    """The published code collects before in-place ReLUs: what it compares is rectified."""
    network = VGGFeatures("vgg19", DEEP["vgg19"])
    network.load_published("random")
    *rectified, last = network(torch.rand(1, 3, 32, 32) * 2 - 1)
    assert all(features.min() == 0 for features in rectified) and last.min() < 0


@pytest.mark.parametrize("shape, side", [((160, 223), 224), ((160, 224), None), ((300, 200), 224)])
def test_only_the_width_decides_about_enlarging(shape: tuple, side: int | None) -> None:
    with torch.device("meta"):
        network = VGGFeatures("vgg19", (3,), resize=True)
        found, = network(torch.empty(1, 3, *shape))
    assert found.shape[2:] == ((side, side) if side else shape)


@pytest.mark.parametrize("arch, layers", [("vgg11", (3,)), ("vgg16", (40,)), ("vgg16", ())])
def test_what_no_vgg_has_is_refused(arch: str, layers: tuple) -> None:
    with pytest.raises(ValueError, match="vgg"):
        VGGFeatures(arch, layers)

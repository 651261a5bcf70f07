"""LPIPS: what it computes besides the recorded cases, and which files it takes."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.networks.pretrained import lpips
from models.networks.pretrained.lpips import CHANNELS, LPIPS, lpips_network


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.rand(2, 3, 40, 36, generator=generator) * 2 - 1 for _ in range(2))


def drawn(net: str) -> dict[str, Tensor]:
    """Weights of a network by their published names; heads unlike one another, not negative."""
    torch.manual_seed(1)
    state = LPIPS(net).published_state()
    return {key: torch.rand_like(value) if key.startswith("lin") else value.clone()
            for key, value in state.items()}


def heads(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key.startswith("lin")}


def backbone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As torchvision's file has it, with the classifier."""
    return {**{key: value for key, value in state.items() if not key.startswith("lin")},
            "classifier.6.weight": torch.zeros(2, 2)}


def saved(folder: Path, *parts: dict[str, Tensor]) -> list[Path]:
    paths = [folder / f"{index}.pth" for index in range(len(parts))]
    for path, part in zip(paths, parts, strict=True):
        torch.save(part, path)
    return paths


def test_equal_images_are_no_distance_apart(images: tuple) -> None:
    assert LPIPS("alex")(images[0], images[0]).tolist() == [0.0, 0.0]


def test_one_target_serves_several_images(images: tuple) -> None:
    network, (first, second) = LPIPS("alex"), images
    expected = [float(network(first[i:i + 1], second[:1])) for i in range(2)]
    assert network(first, second[:1]).tolist() == pytest.approx(expected, rel=1e-5)


def test_too_small_images_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 32x32 pixels, got 40x31"):
        LPIPS("alex")(torch.zeros(1, 3, 31, 40), torch.zeros(1, 3, 31, 40))


@pytest.mark.parametrize("net", list(CHANNELS))
def test_the_published_files_are_taken_in_any_order(net: str, tmp_path: Path) -> None:
    state = drawn(net)
    network = lpips_network(saved(tmp_path, backbone(state), heads(state)))
    loaded = network.published_state()
    assert network.net == net
    assert [key for key in state if not torch.equal(state[key], loaded[key])] == []


def test_one_file_with_the_packages_names_is_taken(tmp_path: Path) -> None:
    """As lpips.LPIPS().state_dict() has them: backbones in slices, every head twice."""
    state = drawn("alex")
    slices = {0: 1, 3: 2, 6: 3, 8: 4, 10: 5}
    renamed = {f"net.slice{slices[int(key.split('.')[1])]}.{key.removeprefix('features.')}": value
               for key, value in state.items() if key.startswith("features")}
    doubled = {key.replace("lin", "lins."): value for key, value in heads(state).items()}
    more = {"scaling_layer.shift": torch.zeros(1, 3, 1, 1)}
    network = lpips_network(saved(tmp_path, {**renamed, **heads(state), **doubled, **more}))
    loaded = network.published_state()
    assert [key for key in state if not torch.equal(state[key], loaded[key])] == []


@pytest.mark.parametrize("part, said", [
    (heads, "must include the backbone.*alexnet"), (backbone, "must include the linear heads")])
def test_half_of_the_files_is_refused(part: object, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"--lpips_weights.*{said}"):
        lpips_network(saved(tmp_path, part(drawn("alex"))))


def test_heads_of_another_backbone_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--lpips_weights.*another shape"):
        lpips_network(saved(tmp_path, heads(drawn("vgg")), backbone(drawn("alex"))))


def test_a_missing_file_names_the_flag(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"--lpips_weights.*none.pth"):
        lpips_network([tmp_path / "none.pth"])


@pytest.mark.parametrize("part", [heads, backbone])
def test_two_files_of_one_part_are_refused(part: object, tmp_path: Path) -> None:
    state = drawn("alex")
    with pytest.raises(ValueError, match=r"--lpips_weights must be .* twice; .*2.pth"):
        lpips_network(saved(tmp_path, heads(state), backbone(state), part(drawn("vgg"))))


@pytest.mark.parametrize("net", list(CHANNELS))
@pytest.mark.parametrize("factor, warned", [(1.0, False), (0.75, True)])
def test_heads_of_another_version_are_told_by_their_numbers(
        net: str, factor: float, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lpips.logger, "propagate", True)
    state = drawn(net)
    for index, (total, channels) in enumerate(zip(lpips.HEAD_SUMS[net], CHANNELS[net],
                                                  strict=True)):
        state[f"lin{index}.model.1.weight"].fill_(factor * total / channels)
    lpips_network(saved(tmp_path, heads(state), backbone(state)))
    assert ("not those of LPIPS 0.1" in caplog.text) == warned

"""Frechet distances of any feature network that comes as an ONNX graph."""
from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from metrics import metric_set
from metrics.frechet import feature_network, features_of

onnx = pytest.importorskip("onnx", reason="comes with requirements-export.txt")
pytest.importorskip("onnxruntime", reason="comes with requirements-export.txt")
CPU = torch.device("cpu")


def graph(path: Path, network: nn.Module, shape: tuple = (1, 3, 16, 16), free: bool = True) -> Path:
    axes = {"x": {0: "batch", 2: "height", 3: "width"}, "y": {0: "batch"}} if free else None
    torch.onnx.export(network.eval(), (torch.zeros(shape),), str(path), input_names=["x"],
                      output_names=["y"], dynamic_axes=axes, dynamo=False)
    return path


def maps() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3, stride=2), nn.ReLU())


def vectors() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 7))


def sample_images(count: int, side: int) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_a_graph_that_gives_maps_gives_their_means(tmp_path: Path) -> None:
    name, network, dimensions = feature_network(graph(tmp_path / "mine.onnx", maps()))
    images = sample_images(3, 20)
    expected = maps()(images).mean(dim=(2, 3)).detach()
    assert (name, dimensions) == ("fd_mine", 5)
    assert features_of(network.to(CPU), images) == pytest.approx(expected.numpy(), abs=1e-5)


def test_images_are_resized_for_a_graph_of_one_size(tmp_path: Path) -> None:
    _, network, _ = feature_network(graph(tmp_path / "v.onnx", vectors(), free=False))
    images = sample_images(3, 16)
    expected = vectors()(images).detach().numpy()
    assert features_of(network, images) == pytest.approx(expected, abs=1e-5)
    doubled = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert features_of(network, doubled) == pytest.approx(expected, abs=0.5)


def test_its_distance_is_reported_under_its_own_name(tmp_path: Path) -> None:
    path = graph(tmp_path / "mine.onnx", maps())
    made, described, _ = metric_set.create(["fid"], {"fid": str(path)}, None, CPU)
    rng = np.random.default_rng(0)
    for _ in range(3):
        made.of({key: rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
                 for key in ("restored", "gt")})
    numbers, _ = made.of_the_set()
    assert [column.metric for column in numbers] == ["fd_mine"]
    assert str(path) in described["fid"]["files"]


@pytest.mark.parametrize("shape, network, said", [
    ((1, 4, 16, 16), nn.Conv2d(4, 2, 1), "one float32 input"),
    ((2, 3, 16, 16), nn.Conv2d(3, 2, 1), "got a batch of 2"),
    ((1, 3, 16, 16), nn.Flatten(0), r"must give \(B, D\)")])
def test_a_graph_of_another_kind_is_refused(shape: tuple, network: nn.Module, said: str,
                                            tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"--fid_weights: .*g\.onnx.*{said}"):
        feature_network(graph(tmp_path / "g.onnx", network, shape, free=False))


def test_what_is_no_graph_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "g.onnx").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"--fid_weights: .*g\.onnx cannot be read") as error:
        feature_network(tmp_path / "g.onnx")
    assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"--fid_weights: .*none\.onnx"):
        feature_network(tmp_path / "none.onnx")


def test_without_onnxruntime_the_package_is_named(tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "g.onnx").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"--fid_weights.*requirements-export\.txt"):
        feature_network(tmp_path / "g.onnx")

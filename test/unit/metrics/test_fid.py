"""Frechet distance: moments of a stream, the distance, its networks and statistics files."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from metrics.frechet import (
    Moments,
    feature_network,
    features_of,
    frechet_distance,
    read_statistics,
)
from models.networks.pretrained.arcface import ArcFace
from models.networks.pretrained.inception import Inception
from models.networks.pretrained.vgg import VGGFeatures


def features(count: int, dimensions: int, seed: int, distance: float = 1e3) -> np.ndarray:
    """Correlated features, far from zero, where sums of squares would lose digits."""
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(dimensions, dimensions))
    return distance + generator.normal(size=(count, dimensions)) @ mixing


def moments_of(rows: np.ndarray) -> Moments:
    moments = Moments()
    for row in rows:
        moments.add(row)
    return moments


def by_definition(first: np.ndarray, second: np.ndarray) -> float:
    """The distance out of eigenvalues of the product of covariances, all in float64."""
    covariances = [np.cov(rows, rowvar=False) for rows in (first, second)]
    root = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).astype(complex)).sum().real
    distance = first.mean(axis=0) - second.mean(axis=0)
    return distance @ distance + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * root


# ---- moments ------------------------------------------------------------------------------------

@pytest.mark.parametrize("count", [2, 63, 64, 65, 300])
def test_moments_of_a_stream_are_those_of_all_at_once(count: int) -> None:
    rows = features(count, 5, seed=1)
    mean, covariance = moments_of(rows).result()
    assert mean == pytest.approx(rows.mean(axis=0), rel=1e-12)
    assert covariance == pytest.approx(np.cov(rows, rowvar=False), rel=1e-9)


@pytest.mark.parametrize("cut", [0, 1, 100, 200])
def test_merged_parts_are_the_whole(cut: int) -> None:
    rows = features(200, 5, seed=2)
    whole, (first, second) = moments_of(rows), map(moments_of, (rows[:cut], rows[cut:]))
    first.merge(second)
    for ours, expected in zip(first.result(), whole.result(), strict=True):
        assert ours == pytest.approx(expected, rel=1e-9)


def test_a_single_image_has_no_covariance() -> None:
    with pytest.raises(ValueError, match="two or more images, got 1"):
        moments_of(features(1, 3, seed=0)).result()


# ---- distance -----------------------------------------------------------------------------------

def test_distance_of_known_gaussians() -> None:
    """(3 - 0)^2 + 4^2 + (2 - 1)^2 + (5 - 3)^2, of standard deviations 2, 5 and 1, 3."""
    found = frechet_distance(np.array([3.0, 4.0]), np.diag([4.0, 25.0]), np.zeros(2),
                             np.diag([1.0, 9.0]))
    assert found == pytest.approx(9 + 16 + 1 + 4)


def test_distance_agrees_with_its_definition_on_random_features() -> None:
    first, second = features(400, 32, seed=3), features(500, 32, seed=4, distance=1001)
    found = frechet_distance(*moments_of(first).result(), *moments_of(second).result())
    assert found == pytest.approx(by_definition(first, second), rel=1e-8, abs=1e-4)


def test_distance_is_finite_and_right_for_fewer_images_than_dimensions() -> None:
    """The same set moved by 2 in each of 40 dimensions, of which 6 images span 5."""
    rows = features(6, 40, seed=5, distance=0)
    found = frechet_distance(*moments_of(rows).result(), *moments_of(rows + 2.0).result())
    assert found == pytest.approx(40 * 2.0 ** 2, rel=1e-4)


def test_equal_sets_are_no_distance_apart() -> None:
    one = moments_of(features(50, 8, seed=6)).result()
    assert frechet_distance(*one, *one) == pytest.approx(0, abs=1e-6)


def test_features_of_different_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="the same number of dimensions, got 3 and 2"):
        frechet_distance(np.zeros(3), np.eye(3), np.zeros(2), np.eye(2))


# ---- files --------------------------------------------------------------------------------------

def test_a_statistics_file_gives_its_moments(tmp_path: Path) -> None:
    mean, covariance = moments_of(features(20, 4, seed=7)).result()
    np.savez(tmp_path / "s.npz", mu=mean, sigma=covariance)
    found = read_statistics(tmp_path / "s.npz")
    assert np.array_equal(found[0], mean) and np.array_equal(found[1], covariance)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_basicsrs_statistics_are_taken_without_running_code(kind: type, tmp_path: Path) -> None:
    mean, covariance = (x.astype(kind) for x in moments_of(features(20, 4, seed=7)).result())
    torch.save({"name": "FFHQ", "size": 512, "mean": mean, "cov": covariance}, tmp_path / "s.pth")
    found = read_statistics(tmp_path / "s.pth")
    assert np.array_equal(found[0], mean) and np.array_equal(found[1], covariance)
    assert found[0].dtype == np.float64


def test_statistics_that_hold_program_code_are_refused(tmp_path: Path) -> None:
    torch.save({"mean": np.zeros(2), "cov": Path("/")}, tmp_path / "s.pth")
    with pytest.raises(ValueError, match=r"--fid_stats.*objects other than tensors"):
        read_statistics(tmp_path / "s.pth")


@pytest.mark.parametrize("content, said", [
    ({"mu": np.zeros(3)}, "mu and sigma"), ({"mu": np.zeros(3), "sigma": np.eye(2)}, r"\(2, 2\)"),
    ({"mu": np.full(2, np.nan), "sigma": np.eye(2)}, "finite")])
def test_other_statistics_are_refused(content: dict, said: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", **content)
    with pytest.raises(ValueError, match=f"--fid_stats.*{said}"):
        read_statistics(tmp_path / "s.npz")


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.npz").write_bytes(b"not an archive")
    with pytest.raises(ValueError, match="--fid_stats"):
        read_statistics(tmp_path / "s.npz")


def save(network: torch.nn.Module, path: Path) -> Path:
    torch.save(network.state_dict(), path)
    return path


def vgg16() -> VGGFeatures:
    return VGGFeatures("vgg16", [30])


@pytest.mark.parametrize("build, name, dimensions", [
    (Inception, "fid", 2048), (vgg16, "fd_vgg16", 512), (ArcFace, "fd_arcface", 512)])
def test_the_file_decides_about_the_network_and_the_numbers_name(
        build: type, name: str, dimensions: int, tmp_path: Path) -> None:
    found, network, size = feature_network(save(build(), tmp_path / "w.pth"))
    made = features_of(network, torch.zeros(2, 3, 32, 32))
    assert (found, size, made.shape, made.dtype) == (name, dimensions, (2, dimensions), np.float64)


def test_inception_takes_its_files_numbers_without_counters(tmp_path: Path) -> None:
    """Files from before 2018's batch norms have none."""
    state = {key: value + 0.5 for key, value in Inception().state_dict().items()
             if not key.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "w.pth")
    _, network, _ = feature_network(tmp_path / "w.pth")
    loaded = network.state_dict()
    assert [key for key, value in state.items() if not torch.equal(value, loaded[key])] == []


def test_another_networks_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--fid_weights.*must be pt_inception"):
        feature_network(save(torch.nn.Linear(2, 2), tmp_path / "w.pth"))


def test_a_damaged_inception_is_refused(tmp_path: Path) -> None:
    state = Inception().state_dict()
    del state["Mixed_7c.branch_pool.conv.weight"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"--fid_weights.*1 missing"):
        feature_network(tmp_path / "w.pth")

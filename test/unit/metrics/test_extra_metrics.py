"""Numbers of single images by small stand-ins for the networks, and which files are taken."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from metrics import metric_set, ms_ssim
from metrics.evaluation import Column
from metrics.extra_metrics import (
    identity_metric,
    identity_of,
    landmark_metric,
    landmarks_of,
    parsing_metric,
    parsing_of,
    resize,
    structure_metric,
)
from metrics.metric_set import Frechet, MetricSet, SetState
from metrics.psnr_ssim import pooled_psnr
from models.networks.fan import FAN
from models.networks.pretrained.arcface import ArcFace
from models.networks.pretrained.fan_teacher import FAN2D
from models.networks.pretrained.irse import IRSE50
from utils.images.convert import to_tensor

CPU = torch.device("cpu")


def sample_images(count: int, seed: int = 0, side: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, side, side, generator=generator) * 2 - 1


# ---- metrics -------------------------------------------------------------------------------------

def test_ms_ssim_is_that_of_each_image_with_the_target() -> None:
    restored, gt = sample_images(2), sample_images(1, seed=1)
    expected = [float(ms_ssim.ms_ssim(0.5 * one[None].double() + 0.5, 0.5 * gt.double() + 0.5))
                for one in restored]
    assert structure_metric(restored, gt)["ms_ssim"] == pytest.approx(expected, rel=1e-6)


def test_identity_is_the_angle_between_vectors_of_any_length() -> None:
    """Images of red and green: (0, 3), (2, 0) and (1, 1) with the target's (5, 0)."""
    colors = torch.tensor([[0.0, 3], [2, 0], [1, 1], [5, 0]])
    images = torch.cat([colors, torch.zeros(4, 1)], dim=1)[:, :, None, None].expand(-1, -1, 4, 4)
    metric = identity_of(lambda x: x.mean(dim=(2, 3))[:, :2], lambda x: x)
    found = metric(images[:3], images[3:])
    assert found["id_cosine"] == pytest.approx([0, 1, 0.5 ** 0.5], abs=1e-6)
    assert found["id_degrees"] == pytest.approx([90, 0, 45], abs=1e-4)


def bright_spots(spots: list[tuple[int, int]], side: int) -> Tensor:
    """Dark images with one white pixel each, at x y."""
    images = -torch.ones(len(spots), 3, side, side)
    for image, (x, y) in zip(images, spots, strict=True):
        image[:, y, x] = 1
    return images


def spot_maps(x: Tensor) -> Tensor:
    """The image as every landmark's map; eye corner 36 in the corner, 45 eight pixels right."""
    maps = x[:, :1].repeat(1, 68, 1, 1)
    for index, column in ((36, 0), (45, 8)):
        maps[:, index] = 0
        maps[:, index, 0, column] = 1
    return maps


def test_landmarks_are_compared_in_pixels_and_in_distances_of_the_eyes() -> None:
    images = bright_spots([(5, 9), (2, 5), (5, 5)], 16)         # 4 and 3 away from the last
    found = landmarks_of(spot_maps, 16)(images[:2], images[2:])
    mean = [4 * 66 / 68, 3 * 66 / 68]
    assert found["landmark_pixels"] == pytest.approx(mean)
    assert found["landmark_nme"] == pytest.approx([value / 8 for value in mean])


def test_landmark_distances_are_in_pixels_of_the_images_whatever_the_maps_size() -> None:
    images = bright_spots([(2, 9), (5, 5)], 16).repeat_interleave(2, 2).repeat_interleave(2, 3)
    found = landmarks_of(spot_maps, 16)(images[:1], images[1:])
    assert found["landmark_pixels"] == pytest.approx([2 * 5 * 66 / 68])


def test_parsing_overlap_of_known_regions() -> None:
    """The target is half sky; a result has a quarter: 1/2 for one region, 2/3 for the other."""
    images = -torch.ones(3, 3, 8, 8)
    images[0, :, :2] = images[1, :, :4] = images[2, :, :4] = 1

    def network(x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([x[:, :1], -x[:, :1], torch.full((len(x), 17, 8, 8), -9.0)], dim=1), x
    found = parsing_of(network, 8)(images[:2], images[2:])["parsing_iou"]
    assert found == pytest.approx([(1 / 2 + 2 / 3) / 2, 1.0])


@pytest.mark.parametrize("side", [16, 40, 100])
def test_resized_images_keep_their_mean(side: int) -> None:
    gradient = torch.linspace(-1, 1, 50).expand(1, 3, 50, 50)
    made = resize(gradient, side)
    assert made.shape[2:] == (side, side)
    assert float(made.mean()) == pytest.approx(0, abs=1e-5)


def test_shrinking_leaves_no_pixel_out() -> None:
    stripes = torch.full((1, 3, 64, 64), -1 / 3)
    stripes[..., ::4] = 1
    assert float(resize(stripes, 16).abs().max()) == pytest.approx(0, abs=1e-6)


# ---- files --------------------------------------------------------------------------------------

@pytest.mark.parametrize("load, build, number", [
    (identity_metric, ArcFace, "id_cosine"), (identity_metric, IRSE50, "id_cosine"),
    (landmark_metric, FAN, "landmark_nme"), (landmark_metric, FAN2D, "landmark_nme")])
def test_a_network_is_known_by_its_file(load: Callable, build: type, number: str,
                                        tmp_path: Path) -> None:
    torch.save(build().state_dict(), tmp_path / "w.pth")
    image = sample_images(1, side=64)
    with torch.inference_mode():
        found = load(tmp_path / "w.pth", CPU)(image, image)
    assert found[number] == pytest.approx([1.0 if number == "id_cosine" else 0.0], abs=1e-5)


@pytest.mark.parametrize("load, flag", [(identity_metric, "--arcface_weights"),
                                        (landmark_metric, "--landmark_weights"),
                                        (parsing_metric, "--parsing_weights")])
def test_another_networks_file_is_refused(load: Callable, flag: str, tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=flag):
        load(tmp_path / "w.pth", CPU)


@pytest.mark.parametrize("load", [identity_metric, landmark_metric, parsing_metric])
def test_nothing_is_measured_with_random_weights(load: Callable) -> None:
    with pytest.raises(FileNotFoundError, match="random"):
        load("random", CPU)


# ---- what --metrics asks for --------------------------------------------------------------------

def arrays(seed: int, side: int = 32) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {key: generator.integers(0, 256, (side, side, 3), dtype=np.uint8)
            for key in ("lq", "restored", "gt")}


def channel_means(x: Tensor) -> Tensor:
    return x.mean(dim=(2, 3))


def measured(seeds: range, reference: tuple | None = None) -> MetricSet:
    made = MetricSet([structure_metric], Frechet("fd", channel_means, reference), True, CPU)
    for seed in seeds:
        made.of(arrays(seed))
    return made


@pytest.mark.parametrize("name", [name for name, (flag, _) in metric_set.METRICS.items() if flag])
def test_a_metric_without_its_weights_is_left_out_and_says_so(name: str) -> None:
    made, described, remarks = metric_set.create([name], {}, None, CPU)
    found = made.of(arrays(0))
    assert metric_set.METRICS[name][0] in remarks[name] and described == {}
    assert found == {} and made.of_the_set() == ({}, {})


def test_input_and_result_are_measured_each_by_its_own_pixels() -> None:
    images = arrays(3)
    found = MetricSet([structure_metric], None, False, CPU).of(images)
    expected = {method: structure_metric(to_tensor(images[key]), to_tensor(images["gt"]))
                for method, key in (("bicubic", "lq"), ("restored", "restored"))}
    assert found == {Column(method, name): value for method, numbers in expected.items()
                     for name, [value] in numbers.items()}


def test_without_an_input_only_the_result_is_measured() -> None:
    images = arrays(3)
    del images["lq"]
    found = MetricSet([structure_metric], None, True, CPU).of(images)
    assert list(found) == [Column("restored", "ms_ssim")]


def test_pooled_psnr_weighs_images_by_their_pixels() -> None:
    """Mean squared errors of 4 over 10 numbers and of 1 over 20: 2 over all."""
    assert pooled_psnr([(4.0, 10), (1.0, 20)]) == pytest.approx(10 * np.log10(255 ** 2 / 2))


def test_pooled_psnr_of_the_set_is_over_all_its_pixels() -> None:
    made = MetricSet([], None, True, CPU)
    sets = [arrays(0), arrays(1, side=16)]
    for images in sets:
        made.of(images)
    errors = np.concatenate([(images["restored"].astype(float) - images["gt"]).ravel() ** 2
                             for images in sets])
    assert made.of_the_set()[0][Column("restored", "psnr_pooled")] == pytest.approx(
        10 * np.log10(255 ** 2 / errors.mean()))


def test_the_parts_of_several_processes_give_the_numbers_of_one() -> None:
    whole, joined = measured(range(9)), measured(range(4))
    state = SetState()
    for part in (joined.state, measured(range(4, 9)).state):
        state.merge(part)
    joined.state = state
    assert joined.of_the_set()[0] == pytest.approx(whole.of_the_set()[0], rel=1e-9)


def test_the_targets_are_the_reference_unless_a_file_is() -> None:
    found = measured(range(5)).of_the_set()[0]
    assert {column.method for column in found} == {"bicubic", "restored"}
    reference = (np.zeros(3), np.eye(3))
    found = measured(range(5), reference).of_the_set()[0]
    gt = np.stack([arrays(seed)["gt"].mean(axis=(0, 1)) / 127.5 - 1 for seed in range(5)])
    expected = (gt.mean(axis=0) ** 2).sum() + sum((1 - v ** 0.5) ** 2 for v in
                                                  np.linalg.eigvalsh(np.cov(gt.T)))
    assert found[Column("target", "fd")] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("count, remark", [(1, "left out"), (3, "too few"), (4, None)])
def test_too_few_images_are_said(count: int, remark: str | None) -> None:
    remarks = measured(range(count)).of_the_set()[1]
    assert (remarks == {}) if remark is None else remark in remarks["fid"]


def test_statistics_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(ArcFace().state_dict(), tmp_path / "w.pth")
    np.savez(tmp_path / "s.npz", mu=np.zeros(7), sigma=np.eye(7))
    with pytest.raises(ValueError, match=r"--fid_stats must have 512 dimensions.*, got 7"):
        metric_set.create(["fid"], {"fid": tmp_path / "w.pth"}, str(tmp_path / "s.npz"), CPU)

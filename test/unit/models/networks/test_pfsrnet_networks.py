"""Networks, losses and reductions of PFSRNet beyond the golden cases."""
from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from data.pyramid_degradation import PyramidDegradation
from metrics import ms_ssim
from models.losses.gan import gradient_norms, gradient_penalty, wasserstein_loss
from models.losses.landmark import (
    attention_loss,
    attention_map,
    gaussian_maps,
    heatmap_loss,
    normalized_maps,
)
from models.networks.fan import FAN, landmark_network, peaks
from models.networks.pfsrnet import Discriminator, Generator, batch_deviation
from models.networks.pretrained.fan_teacher import FAN2D, teacher_network
from models.ops.pyramid import halved, pyramid
from utils.images.convert import to_tensor
from utils.images.resize import bilinear, center_crop, downscale_through

# ---- generator and discriminator -----------------------------------------------------------------

def test_a_generator_can_be_copied_after_a_forward_with_gradients() -> None:
    network = Generator(width=8)
    network(torch.zeros(2, 3, 4, 4)).sum()
    copied = copy.deepcopy(network)
    assert torch.equal(copied.step1[3].conv[0].conv.weight_orig,
                       network.step1[3].conv[0].conv.weight_orig)


@pytest.mark.parametrize("stage, alpha", [(1, 1.0), (1, 0.3), (2, 0.0), (2, 0.5), (2, 1.0),
                                          (3, 0.25), (3, 1.0), (3, -1.0)])
@pytest.mark.parametrize("kind", [Generator, Discriminator])
def test_what_a_stage_is_said_to_use_is_what_gets_a_gradient(kind: type, stage: int,
                                                             alpha: float) -> None:
    network = kind(width=8)
    side = 4 if kind is Generator else 4 * 2 ** stage
    network(torch.randn(2, 3, side, side), stage, alpha).square().sum().backward()
    with_gradient = {name for name, weight in network.named_parameters()
                     if weight.grad is not None}
    used = {id(weight) for module in network.used(stage, alpha) for weight in module.parameters()}
    assert with_gradient == {name for name, weight in network.named_parameters()
                             if id(weight) in used}


@pytest.mark.parametrize("kind", [Generator, Discriminator])
def test_widths_that_do_not_divide_are_refused(kind: type) -> None:
    with pytest.raises(ValueError, match="--width must be a positive multiple of 8, got 12"):
        kind(width=12)


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (2, 3, 20, 32)])
def test_the_discriminator_names_images_it_cannot_classify(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least 2 images with sides that are multiples of 8"):
        Discriminator(width=8)(torch.zeros(shape))


def test_equal_pixels_leave_the_penaltys_gradients_finite() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(width=8)
    restored, gt = torch.randn(2, 2, 3, 32, 32)
    restored[:, :, :4, :4] = gt[:, :, :4, :4] = 0.25
    gradient_penalty(discriminator, restored, gt, torch.rand(2, 1, 1, 1)).backward()
    grads = [weight.grad for weight in discriminator.parameters() if weight.grad is not None]
    assert grads and all(torch.isfinite(grad).all() for grad in grads)


def test_the_batch_deviation_is_that_of_torch_where_images_differ() -> None:
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert batch_deviation(x) == pytest.approx(float(x.std(dim=0).mean()), rel=1e-6)


# ---- losses --------------------------------------------------------------------------------------

def test_a_discriminator_of_known_slope_is_penalised_by_hand_computed_amounts() -> None:
    x, y = torch.zeros(2, 1, 1, 2), torch.ones(2, 1, 1, 2)
    slope = torch.tensor([3.0, 4.0]).view(1, 1, 1, 2)

    def discriminator(images: torch.Tensor) -> torch.Tensor:
        return (images * slope).sum(dim=(1, 2, 3)) * torch.tensor([1.0, 0.1])
    fraction = torch.full((2, 1, 1, 1), 0.5)
    norms = gradient_norms(discriminator, x)
    assert norms.tolist() == pytest.approx([5.0, 0.5])
    assert gradient_penalty(discriminator, x, y, fraction).item() == pytest.approx((16 + 0.25) / 2)
    one_sided = gradient_penalty(discriminator, x, y, fraction, "one_sided_mean")
    assert one_sided.item() == pytest.approx(1.75)


def test_the_penalty_is_taken_between_real_and_made_images() -> None:
    seen = []

    def discriminator(images: torch.Tensor) -> torch.Tensor:
        seen.append(images.detach().flatten().tolist())
        return images.flatten(1).sum(dim=1)
    gradient_penalty(discriminator, torch.zeros(2, 1, 1, 1), torch.ones(2, 1, 1, 1),
                     torch.tensor([0.25, 1.0]).view(2, 1, 1, 1))
    assert seen == [[0.25, 1.0]]


def test_an_unknown_penalty_is_named() -> None:
    with pytest.raises(ValueError, match="--gp must be one of"):
        gradient_penalty(lambda x: x.sum(), torch.zeros(1), torch.zeros(1), torch.zeros(1), "l2")


def test_the_discriminators_loss_falls_as_real_logits_rise_above_made_ones() -> None:
    real, fake = torch.tensor([2.0, 4.0]), torch.tensor([1.0, -1.0])
    assert wasserstein_loss(real, fake, drift=0.1).item() == pytest.approx(0 - 3 + 0.1 * 10)


def test_maps_are_normalised_per_image_by_their_own_range() -> None:
    maps = torch.stack([torch.arange(8.0).view(2, 2, 2), 10 * torch.arange(8.0).view(2, 2, 2) - 7])
    made = normalized_maps(maps)
    assert torch.allclose(made[0], made[1]) and made.min() == 0
    assert made.max() == pytest.approx(1)


def test_constant_maps_give_zeros_and_finite_gradients() -> None:
    maps = torch.full((1, 2, 4, 4), 0.5, requires_grad=True)
    made = normalized_maps(maps)
    made.sum().backward()
    assert made.abs().max() == 0 and torch.isfinite(maps.grad).all()


def test_attention_weighs_differences_and_gets_no_gradient() -> None:
    maps = torch.zeros(1, 2, 1, 2, requires_grad=True)
    with torch.no_grad():
        maps[0, 1, 0, 1] = 0.5
    restored = torch.ones(1, 3, 1, 2, requires_grad=True)
    loss = attention_loss(restored, torch.zeros(1, 3, 1, 2), attention_map(maps))
    loss.backward()
    assert loss.item() == pytest.approx(0.25)
    assert maps.grad is None and restored.grad[0, :, 0, 1].tolist() == pytest.approx([0.5 / 6] * 3)


def test_the_heatmap_loss_teaches_the_restored_side_only() -> None:
    ours, theirs = torch.ones(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    heatmap_loss(ours, theirs).backward()
    assert theirs.grad is None and ours.grad.tolist() == [1.0, 1.0]


def test_gaussians_are_one_at_the_landmark_and_seven_pixels_wide() -> None:
    maps = gaussian_maps(torch.tensor([[[10.4, 20.0], [-50.0, 3.0]]]), 32)
    assert maps[0, 0, 20, 10] == 1 and (maps[0, 0] > 0).sum() == 49
    assert maps[0, 0, 20, 13] == pytest.approx(np.exp(-9 / (2 * 1.75 ** 2)))
    assert maps[0, 1].max() == 0


def test_peaks_are_x_before_y() -> None:
    maps = torch.zeros(1, 2, 5, 9)
    maps[0, 0, 1, 7] = maps[0, 1, 4, 2] = 1
    assert peaks(maps).tolist() == [[[7, 1], [2, 4]]]


# ---- landmark networks ---------------------------------------------------------------------------

def test_weights_of_another_width_name_the_width(tmp_path: Path) -> None:
    torch.save(FAN(width=16).state_dict(), tmp_path / "fan.pth")
    with pytest.raises(ValueError, match=r"--fan_weights: .*--fan_width 16"):
        landmark_network(tmp_path / "fan.pth", width=128)


def test_the_random_landmark_network_is_the_same_in_every_run() -> None:
    torch.manual_seed(1)
    first = landmark_network("random", width=8).state_dict()
    torch.manual_seed(2)
    second = landmark_network("random", width=8).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("load", [landmark_network, teacher_network])
def test_a_missing_weight_file_names_its_flag(load: Callable, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="--fan_"):
        load(tmp_path / "none.pth")


def test_the_teachers_maps_are_a_quarter_of_its_input() -> None:
    network = FAN2D(num_modules=1).eval()
    with torch.no_grad():
        maps = network(torch.zeros(1, 3, 64, 64))
    assert [tuple(each.shape) for each in maps] == [(1, 68, 16, 16)]


# ---- reductions ----------------------------------------------------------------------------------

@pytest.mark.parametrize("shape", [(128, 128, 3), (6, 10, 3), (2, 4, 3)])
def test_halving_on_the_device_is_pillows_bit_for_bit(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    expected = bilinear(image, shape[0] // 2, shape[1] // 2)
    assert torch.equal(halved(to_tensor(image)), to_tensor(expected))


def test_the_pyramid_is_the_published_chain() -> None:
    image = np.random.default_rng(1).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    small, middle, large = pyramid(to_tensor(image))
    assert torch.equal(middle, to_tensor(bilinear(image, 64, 64)))
    assert torch.equal(small, to_tensor(bilinear(bilinear(image, 64, 64), 32, 32)))
    assert torch.equal(large, to_tensor(image))


def test_the_degradation_goes_through_every_size() -> None:
    image = np.random.default_rng(2).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    made = PyramidDegradation()(image, np.random.default_rng(0))
    assert np.array_equal(made, downscale_through(image, (64, 32, 16)))
    assert (made != bilinear(image, 16, 16)).any()


@pytest.mark.parametrize("shape", [(300, 300), (128, 128), (100, 60), (16, 16), (9, 12)])
def test_images_of_any_size_reach_the_last_side(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(3).integers(0, 256, (*shape, 3), dtype=np.uint8)
    made = downscale_through(image)
    assert made.shape == (16, 16, 3)
    assert shape != (16, 16) or np.array_equal(made, image)


def test_the_crop_of_celeba_starts_at_row_20() -> None:
    image = np.arange(218, dtype=np.uint8)[:, None, None].repeat(178, 1).repeat(3, 2)
    crop = center_crop(image, 178)
    assert crop.shape == (178, 178, 3) and crop[0, 0, 0] == 20


# ---- metrics -------------------------------------------------------------------------------------

def sample_images(count: int, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    gt = torch.rand(count, 3, 32, 32, generator=generator) * 1.6 - 0.8
    levels = torch.linspace(0.2, 1, count).view(-1, 1, 1, 1)
    return gt + noise * levels * torch.randn(gt.shape, generator=generator), gt


def test_published_figures_belong_to_the_batch_and_the_others_to_each_image() -> None:
    found = ms_ssim.quality(*sample_images(3, 0.3))
    assert all(len(values) == 3 for values in found.values())
    assert {name for name, values in found.items() if len(set(values)) == 1} == {
        "psnr_published", "ssim_published", "ms_ssim_published"}


def test_figures_per_image_do_not_depend_on_the_batch() -> None:
    restored, gt = sample_images(3, 0.3)
    whole, single = ms_ssim.quality(restored, gt), ms_ssim.quality(restored[1:2], gt[1:2])
    for name in ("psnr_picture", "ssim_picture", "ms_ssim_picture"):
        assert whole[name][1] == pytest.approx(single[name][0], rel=1e-9)


def test_values_beyond_white_count_in_the_published_form_only() -> None:
    gt = torch.full((1, 3, 32, 32), 0.9)
    inside, outside = torch.ones_like(gt), torch.full_like(gt, 1.5)
    one, two = ms_ssim.quality(inside, gt), ms_ssim.quality(outside, gt)
    assert one["psnr_picture"] == pytest.approx(two["psnr_picture"])
    assert one["psnr_published"][0] > two["psnr_published"][0] + 10


def test_a_mean_squared_error_of_a_hundredth_is_20_db() -> None:
    gt = torch.zeros(2, 3, 16, 16, dtype=torch.float64)
    assert ms_ssim.psnr(gt + 0.1, gt).tolist() == pytest.approx([20, 20])
    assert ms_ssim.batch_psnr(gt + 0.1, gt) == pytest.approx(20)


def test_ms_ssim_refuses_images_it_cannot_halve_four_times() -> None:
    with pytest.raises(ValueError, match="16x16 pixels or more, got 8x8"):
        ms_ssim.ms_ssim(torch.zeros(1, 3, 8, 8).double(), torch.zeros(1, 3, 8, 8).double())


def test_the_width_of_the_landmark_network_is_the_files(tmp_path: Path) -> None:
    torch.save(FAN(width=16).state_dict(), tmp_path / "fan.pth")
    assert landmark_network(tmp_path / "fan.pth").state_dict()["conv.bias"].shape == FAN(
        width=16).state_dict()["conv.bias"].shape

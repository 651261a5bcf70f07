"""The semantic-aware style loss against the masked loop it replaces."""
from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from torch import Tensor

from models.losses.style import (
    BLOCKS,
    Layout,
    feature_mse,
    region_grams,
    resized_labels,
    style_loss,
)
from models.networks.parsenet import one_hot

sys.path.insert(0, str(ROOT / "test" / "npu"))

import operators

REGIONS = 5


def masked_loop(features: Tensor, labels: Tensor, num_regions: int, eps: float = 1e-8) -> Tensor:
    """One masked copy of the features per region, as the paper writes it."""
    mask = F.interpolate(one_hot(labels, num_regions), size=features.shape[2:]).to(features.dtype)
    grams = []
    for region in range(num_regions):
        inside = (features * mask[:, region:region + 1]).flatten(2)
        area = mask[:, region].sum(dim=(1, 2))[:, None, None] + eps
        grams.append(inside @ inside.transpose(1, 2) / (features.shape[1] * area))
    return torch.stack(grams, dim=1)


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def labeled(*shape: int, high: int = REGIONS, seed: int = 0) -> Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


LABELS = {
    "mixed": labeled(2, 12, 10),
    "one region only": torch.full((2, 12, 10), 3),
    "the last region only": torch.full((2, 12, 10), REGIONS - 1),
    "empty regions": labeled(2, 12, 10, high=2) * 3,
    "some pixels of no region": labeled(2, 12, 10, high=REGIONS + 3),
    "negative and large labels": labeled(2, 12, 10) * 300 - 300,
    "no pixel of any region": torch.full((2, 12, 10), 255),
    "images that differ": torch.stack([labeled(12, 10), torch.full((12, 10), 1)]),
    "a larger map": labeled(2, 48, 40),
    "a smaller map": labeled(2, 5, 7),
}
CASES = pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS.keys())


@CASES
def test_grams_are_those_of_the_masked_loop(labels: Tensor) -> None:
    features = drawn(2, 6, 12, 10)
    assert torch.allclose(region_grams(features, labels, REGIONS),
                          masked_loop(features, labels, REGIONS), atol=1e-12)


@CASES
def test_gradients_are_those_of_the_masked_loop(labels: Tensor) -> None:
    features, weights = drawn(2, 6, 12, 10).requires_grad_(), drawn(2, REGIONS, 6, 6, seed=1)
    found, expected = (torch.autograd.grad((grams(features, labels, REGIONS) * weights).sum(),
                                           features)[0] for grams in (region_grams, masked_loop))
    assert torch.allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 9), (8, 4), (16, 16)])
def test_every_number_of_pixels_fits_the_blocks(size: tuple[int, int]) -> None:
    features, labels = drawn(1, 3, *size), labeled(1, *size)
    assert torch.allclose(region_grams(features, labels, REGIONS),
                          masked_loop(features, labels, REGIONS), atol=1e-12)


@CASES
def test_shapes_do_not_depend_on_the_labels(labels: Tensor) -> None:
    layout = Layout(resized_labels(labels, (12, 10)).flatten(1), REGIONS)
    assert layout.source.shape == (2, BLOCKS + REGIONS, 4)      # 4 is 120 pixels / 32, rounded up


@CASES
def test_each_pixel_has_a_place_of_its_own(labels: Tensor) -> None:
    labels = resized_labels(labels, (12, 10)).flatten(1)
    layout = Layout(labels, REGIONS)
    for image, source, slot in zip(labels, layout.source.flatten(1), layout.slot, strict=True):
        known = torch.nonzero((image >= 0) & (image < REGIONS)).flatten()
        assert torch.equal(source[source < len(image)].sort().values, known)
        assert torch.equal(source[slot[known]], known)


def test_memory_format_changes_nothing() -> None:
    features, labels = drawn(2, 6, 12, 10), LABELS["mixed"]
    other = features.contiguous(memory_format=torch.channels_last)
    assert torch.equal(region_grams(features, labels, REGIONS),
                       region_grams(other, labels, REGIONS))


def test_empty_regions_give_zeros_in_half_precision() -> None:
    """Upstream's 1e-8 vanishes there, and 0 / 0 is NaN."""
    grams = region_grams(drawn(2, 6, 12, 10).half(), LABELS["one region only"], REGIONS)
    assert grams.dtype == torch.float32
    assert torch.isfinite(grams).all() and grams[:, 0].abs().max() == 0


def test_autocast_does_not_lower_the_precision() -> None:
    features, labels = drawn(2, 6, 12, 10, dtype=torch.float32), LABELS["mixed"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = region_grams(features, labels, REGIONS)
    assert torch.equal(inside, region_grams(features, labels, REGIONS))


def test_large_features_do_not_overflow_half_precision() -> None:
    grams = region_grams(torch.full((1, 2, 16, 16), 200.0).half(), torch.zeros(1, 16, 16), REGIONS)
    assert grams[0, 0].tolist() == [[20000.0, 20000.0], [20000.0, 20000.0]]


def test_the_gram_does_not_grow_with_the_region() -> None:
    ones = torch.ones(1, 4, 8, 8)
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[:, 0, 0] = 1
    grams = region_grams(ones, labels, 2)
    assert torch.allclose(grams, torch.full((1, 2, 4, 4), 0.25))


@pytest.mark.parametrize("sides", [((8, 8), (4, 4)), ((5, 7), (3, 10)), ((512, 512), (14, 14))])
def test_labels_are_resized_as_masks_are(sides: tuple) -> None:
    labels = labeled(2, *sides[0], high=19)
    assert torch.equal(one_hot(resized_labels(labels, sides[1])),
                       F.interpolate(one_hot(labels), size=sides[1], mode="nearest"))


def test_the_loss_sums_mean_squares_over_the_layers() -> None:
    labels = LABELS["mixed"]
    restored, gt = ([drawn(2, 6, 12, 10, seed=seed), drawn(2, 4, 6, 5, seed=seed)]
                    for seed in (1, 2))
    expected = sum(F.mse_loss(masked_loop(ours, labels, REGIONS), masked_loop(theirs, labels,
                                                                              REGIONS))
                   for ours, theirs in zip(restored, gt, strict=True))
    assert torch.allclose(style_loss(restored, gt, labels, REGIONS), expected)


@pytest.mark.parametrize("loss", [
    lambda ours, theirs: style_loss([ours], [theirs], LABELS["mixed"], REGIONS),
    lambda ours, theirs: feature_mse([ours], [theirs])], ids=["style", "feature"])
def test_no_gradient_reaches_the_target(loss: object) -> None:
    ours, theirs = (drawn(2, 6, 12, 10, seed=seed).requires_grad_() for seed in (0, 1))
    loss(ours, theirs).backward()
    assert theirs.grad is None and ours.grad.abs().max() > 0


def test_feature_mse_weighs_the_layers() -> None:
    ours, theirs = [torch.zeros(2), torch.zeros(3)], [torch.full((2,), 2.0), torch.full((3,), 3.0)]
    assert feature_mse(ours, theirs) == 13 and feature_mse(ours, theirs, [0.5, 2]) == 20


def test_another_number_of_layers_is_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        style_loss([drawn(1, 2, 4, 4)], [], labeled(1, 4, 4), REGIONS)


def test_every_operator_has_an_npu_kernel_and_none_looks_at_values() -> None:
    """`item`, `nonzero` and their like would have to wait for the device."""
    restored = drawn(2, 6, 12, 10, dtype=torch.float32).requires_grad_()
    with operators.Recorder() as recorder:
        style_loss([restored], [drawn(2, 6, 12, 10, seed=1, dtype=torch.float32)],
                   LABELS["a larger map"], REGIONS).backward()
    assert recorder.counts["aten::bmm"] > 0
    assert operators.missing(recorder.counts, operators.registered()) == []
    looks = ("_local_scalar_dense", "nonzero", "unique", "masked_select", "bincount")
    assert [name for name in recorder.counts if any(word in name for word in looks)] == []

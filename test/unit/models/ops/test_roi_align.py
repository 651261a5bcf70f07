"""RoI align against its definition."""
from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.ops.roi_align import roi_align


def ramp(height: int = 12, width: int = 16) -> Tensor:
    """An image whose value is 100 y + x: bilinear samples of it are exact."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (100 * y + x).double()[None, None]


def by_definition(image: Tensor, box: list[float], size: int, ratio: int, aligned: bool) -> Tensor:
    """One sample after the other."""
    offset = 0.5 if aligned else 0.0
    x1, y1, x2, y2 = (value - offset for value in box)
    spans = [b - a if aligned else max(b - a, 1.0) for a, b in ((y1, y2), (x1, x2))]
    counts = [ratio if ratio > 0 else max(1, math.ceil(span / size)) for span in spans]
    out = torch.zeros(size, size, dtype=torch.float64)
    for row in range(size):
        for column in range(size):
            for i in range(counts[0]):
                for j in range(counts[1]):
                    y = y1 + (row + (i + 0.5) / counts[0]) * spans[0] / size
                    x = x1 + (column + (j + 0.5) / counts[1]) * spans[1] / size
                    out[row, column] += sample(image, y, x) / (counts[0] * counts[1])
    return out


def sample(image: Tensor, y: float, x: float) -> float:
    height, width = image.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    return float((1 - dy) * ((1 - dx) * image[top, left] + dx * image[top, right])
                 + dy * ((1 - dx) * image[bottom, left] + dx * image[bottom, right]))


@pytest.mark.parametrize("ratio, aligned", [(-1, False), (-1, True), (2, False), (3, True)])
@pytest.mark.parametrize("box", [[2.0, 3.0, 7.0, 9.0], [1.3, 0.2, 14.9, 10.7],
                                 [-4.0, -3.0, 5.0, 6.0], [9.0, 8.0, 30.0, 20.0],
                                 [5.2, 5.2, 5.4, 5.3]])
def test_a_crop_is_what_the_definition_says(box: list[float], ratio: int, aligned: bool) -> None:
    image = torch.rand(12, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    crop = roi_align(image[None, None], torch.tensor([box], dtype=torch.float64), 4,
                     sampling_ratio=ratio, aligned=aligned, max_samples=8)
    expected = by_definition(image, box, 4, ratio, aligned)
    assert torch.allclose(crop[0, 0], expected, atol=1e-12)


def test_a_box_of_the_crops_size_is_cut_out_between_pixels() -> None:
    crop = roi_align(ramp(), torch.tensor([[2.0, 3.0, 6.0, 7.0]]), 4)
    assert torch.equal(crop, ramp()[..., 3:7, 2:6] + 100 * 0.5 + 0.5)


def test_index_says_which_image_a_box_is_of() -> None:
    images = torch.cat((ramp(), ramp() + 5000))
    boxes = torch.tensor([[2.0, 3.0, 6.0, 7.0]] * 3)
    crops = roi_align(images, boxes, 4, index=torch.tensor([1, 0, 1]))
    assert torch.equal(crops[0] - crops[1], torch.full((1, 4, 4), 5000.0).double())
    assert torch.equal(crops[0], crops[2])


def test_gradients_are_those_of_finite_differences() -> None:
    x = torch.rand(1, 1, 4, 5, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[-1.0, 0.5, 3.2, 3.1]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: roi_align(x, boxes, 2), x)


def test_more_samples_than_the_limit_are_not_taken() -> None:
    image, box = torch.rand(1, 1, 40, 40), torch.tensor([[0.0, 0.0, 40.0, 40.0]])
    assert torch.equal(roi_align(image, box, 4, max_samples=2),
                       roi_align(image, box, 4, sampling_ratio=2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_images_keep_precise_positions(dtype: torch.dtype) -> None:
    """Positions above 256 have no fractions in bfloat16; the ramp would show it."""
    image = (torch.arange(512.0) / 512).expand(1, 1, 8, 512)
    box = torch.tensor([[400.3, 1.0, 404.3, 5.0]])
    crop = roi_align(image.to(dtype), box, 4)
    assert crop.dtype == dtype
    assert torch.allclose(crop.float(), roi_align(image, box, 4), atol=4e-3)


def test_boxes_without_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got 2 boxes and 1 image$"):
        roi_align(ramp(), torch.zeros(2, 4), 4)

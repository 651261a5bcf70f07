"""Norms are exact in every layout, also where a channel's mean is far from 0."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from models.ops.blocks import GROUPS, make_norm

LAYOUTS = (torch.contiguous_format, torch.channels_last)


@pytest.mark.parametrize("mean, deviation", [(3.0, 0.05), (30.0, 1.0), (0.0, 1.0)])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("norm, groups", [("in", 64), ("gn", GROUPS)])
def test_norms_keep_their_digits(norm: str, groups: int, batch: int, layout: torch.memory_format,
                                 mean: float, deviation: float) -> None:
    x = torch.randn(batch, 64, 24, 20, generator=torch.Generator().manual_seed(0)) * deviation
    x = (x + mean).contiguous(memory_format=layout)
    with torch.no_grad():
        found = make_norm(norm, 64)(x)
    assert torch.allclose(found.double(), F.group_norm(x.double(), groups), atol=6e-5)
    assert found.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("norm", ["in", "gn"])
def test_gradients_of_norms_are_right(norm: str, layout: torch.memory_format) -> None:
    x = (torch.randn(1, 64, 6, 5, generator=torch.Generator().manual_seed(1)) + 3)
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    found = []
    for kind, order in ((torch.float32, layout), (torch.float64, torch.contiguous_format)):
        leaf = x.to(kind, copy=True).contiguous(memory_format=order).requires_grad_()
        (make_norm(norm, 64).to(kind)(leaf) * weight.to(kind).contiguous(memory_format=order)
         ).sum().backward()
        found.append(leaf.grad.double())
    assert torch.allclose(*found, atol=1e-4)

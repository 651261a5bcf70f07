"""Networks that only metrics use have NPU kernels for all their operators."""
from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
from conftest import ROOT

from metrics.extra_metrics import landmarks_of, resize
from models.networks.fan import FAN
from models.networks.pretrained.inception import Inception
from models.networks.pretrained.irse import face_crop
from models.networks.pretrained.lpips import LPIPS

sys.path.insert(0, str(ROOT / "test" / "npu"))

import operators


@pytest.mark.parametrize("build, call", [
    (Inception, lambda network, x: network(x)),
    (lambda: LPIPS("alex"), lambda network, x: network(x, x)),
    (lambda: LPIPS("vgg"), lambda network, x: network(x, x)),
    (lambda: FAN(width=8), lambda network, x: network(resize(x, 32))),
    (lambda: None, lambda _, x: (resize(x, 48), resize(x, 100), face_crop(x)))])
def test_no_operator_lacks_an_npu_kernel(build: Callable, call: Callable) -> None:
    network = build()
    with torch.inference_mode(), operators.Recorder() as recorder:
        call(network, torch.zeros(2, 3, 64, 64))
    assert recorder.counts and operators.missing(recorder.counts, operators.registered()) == []


def test_maxima_of_heat_maps_are_sought_on_the_host() -> None:
    """There is no kernel for argmax."""
    seen = []

    class Maps(torch.Tensor):
        def cpu(self) -> torch.Tensor:
            seen.append(tuple(self.shape))
            return super().cpu().as_subclass(torch.Tensor)
    maps = torch.rand(2, 68, 4, 4).as_subclass(Maps)
    landmarks_of(lambda _: maps, 4)(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4))
    assert seen == [(2, 68, 4, 4)]

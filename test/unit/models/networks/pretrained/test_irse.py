"""The identity network and its loss."""
from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.losses.identity import identity_loss
from models.networks.pretrained.irse import IRSE50, face_crop


@pytest.fixture(scope="module")
def network() -> IRSE50:
    found = IRSE50()
    found.load_published("random")
    return found


def test_features_have_length_one(network: IRSE50) -> None:
    assert network(torch.rand(1, 3, 112, 112)).norm(dim=1).item() == pytest.approx(1, abs=1e-5)


def test_it_is_frozen_and_stays_in_eval_mode(network: IRSE50) -> None:
    assert not any(weight.requires_grad for weight in network.parameters())
    assert not any(module.training for module in network.train().modules())


def test_random_weights_are_loud_and_always_the_same(network: IRSE50,
                                                     caplog: pytest.LogCaptureFixture) -> None:
    again = IRSE50()
    with caplog.at_level(logging.WARNING, logger="facezoo"):
        logging.getLogger("facezoo").addHandler(caplog.handler)
        again.load_published("random")
    assert "UNTRAINED" in caplog.text
    assert torch.equal(network.body[5].res_layer[1].weight, again.body[5].res_layer[1].weight)


def test_a_published_file_loads_and_another_is_refused(network: IRSE50, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "model_ir_se50.pth")
    fresh = IRSE50()
    fresh.load_published(tmp_path / "model_ir_se50.pth")
    assert torch.equal(fresh.input_layer[0].weight, network.input_layer[0].weight)
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"--id_weights.*397 missing"):
        fresh.load_published(tmp_path / "other.pth")
    with pytest.raises(FileNotFoundError, match=r"--id_weights.*does not exist"):
        fresh.load_published(tmp_path / "none.pth")


@pytest.mark.parametrize("size", [256, 512, 128, 64])
def test_the_crop_scales_with_the_image(size: int) -> None:
    """A mark on the crop's corner is what comes first, one outside does not show."""
    x = torch.zeros(1, 1, size, size)
    top, left = 35 * size // 256, 32 * size // 256
    x[..., :top, :] = x[..., :left] = 9
    x[..., 223 * size // 256:, :] = x[..., 220 * size // 256:] = 9
    x[..., top, left] = 1
    cropped = face_crop(x)
    assert cropped.shape == (1, 1, 112, 112)
    assert cropped.max() <= 1 and cropped[0, 0, 0, 0] > 0


def mean_color(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x.mean((2, 3)))


def test_the_loss_is_one_minus_the_cosine_per_image() -> None:
    restored, gt = torch.zeros(2, 3, 256, 256), torch.zeros(2, 3, 256, 256)
    restored[:, 0] = gt[0, 0] = gt[1, 1] = 1       # the same color, and a perpendicular one
    assert identity_loss(mean_color, restored, gt).item() == pytest.approx(0.5)


def test_no_gradient_reaches_the_target() -> None:
    restored, gt = (torch.rand(1, 3, 256, 256, requires_grad=True) for _ in range(2))
    identity_loss(mean_color, restored, gt).backward()
    assert restored.grad.abs().sum() > 0 and gt.grad is None

"""What a network gives that is no image is an error of that image, never a black face."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import enhance
from faces.restorer import FaceRestorer
from utils.images.convert import NotFinite


class Overflowing:
    """A network that gives no number in one place for inputs of 255."""
    opt = None

    def __init__(self, number: float) -> None:
        self.number = number

    def prepare(self, batch: dict) -> dict:
        return {"lq": batch["lq"].permute(0, 3, 1, 2).float() / 255}

    def restore(self, lq: torch.Tensor) -> torch.Tensor:
        restored = lq.clone()
        restored[(lq == 1).all(dim=(1, 2, 3)), 1, 2, 3] = self.number
        return restored


def images(*levels: int) -> list[np.ndarray]:
    return [np.full((4, 4, 3), level, np.uint8) for level in levels]


def job_with(network: Overflowing) -> enhance.Job:
    job = enhance.Job.__new__(enhance.Job)
    job.restorer, job.failed = FaceRestorer(network, torch.device("cpu")), []
    return job


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_refused_with_the_images_that_hold_it(number: float) -> None:
    restorer = FaceRestorer(Overflowing(number), torch.device("cpu"))
    with pytest.raises(NotFinite, match="NaN or infinity") as caught:
        restorer.restore(images(3, 255, 7, 255))
    assert caught.value.indices == [1, 3]
    assert restorer.restore(images(3, 7)).shape == (2, 4, 4, 3)


def test_the_other_images_of_a_batch_are_restored() -> None:
    job = job_with(Overflowing(float("nan")))
    paths = [Path(name) for name in ("a.png", "b.png", "c.png")]
    found = job.restored(paths, images(3, 255, 7))
    assert [index for index, _ in found] == [0, 2]
    assert [message.split(":")[0] for message in job.failed] == ["b.png"]


def test_a_batch_without_a_single_image_gives_none() -> None:
    job = job_with(Overflowing(float("nan")))
    assert job.restored([Path("a.png")], images(255)) == []
    assert job.restored([], []) == []
    assert len(job.failed) == 1

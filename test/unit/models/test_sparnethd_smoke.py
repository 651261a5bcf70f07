"""SPARNetHD learns: a short training on drawn faces, with a curve to look at."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

import data
import models
from data.base_dataset import collate
from models.base_model import BaseModel
from models.losses.perceptual import feature_l1
from options.train_options import TrainOptions
from utils.images.convert import image_grid, to_image
from utils.images.io import write_image

STEPS, EVERY, FACES = 200, 25, 4
ARGUMENTS = [
    "--model", "sparnethd", "--dataset_name", "synthetic", "--device", "cpu", "--load_size", "128",
    "--lq_size", "24", "64", "--batch_size", "1", "--num_val_images", str(FACES), "--res_depth",
    "2", "--bottleneck_size", "8", "--max_channels", "64", "--num_D", "2", "--n_layers_D", "3",
    "--ndf", "32", "--vgg_weights", "random", "--ema_decay", "0.95"]


class Watch:
    """Mean logits of the discriminator on real and made images, step by step."""

    def __init__(self, model: BaseModel) -> None:
        self.means: list[float] = []
        model.unwrapped["D"].register_forward_hook(self._note)

    def _note(self, network: object, given: object, result: tuple) -> None:
        self.means.append(torch.stack([logits.mean() for logits in result[0]]).mean().item())

    def separation(self) -> np.ndarray:
        """Real minus fake, by step; the three forwards are of real, fake and fake images."""
        real, fake, _ = np.array(self.means).reshape(-1, 3).T
        return real - fake


def batch_of(model: BaseModel, split: str, keys: Sequence) -> dict[str, Tensor]:
    opt = model.opt
    dataset = data.create_dataset(opt.dataset_name, split, opt.degradation, vars(opt))
    return model.prepare(collate([dataset[key] for key in keys]))


@torch.no_grad()
def perceptual_distance(model: BaseModel, lq: Tensor, gt_features: Sequence[Tensor]
                        ) -> tuple[float, Tensor]:
    """Of what the moving average makes of held-out faces; and these images."""
    model.eval()
    restored = model.restore(lq)
    model.train()
    return feature_l1(model.unwrapped["VGG"](restored), gt_features).item(), restored


def plot(curves: dict[str, tuple[np.ndarray, np.ndarray]], path: Path) -> None:
    """A panel per curve (steps, values), with its range in the title."""
    width, height, edge = 420, 200, 12
    panels = []
    for values in curves.values():
        x, y = (np.asarray(each, float) for each in values)
        panel = np.full((height, width, 3), 255, np.uint8)
        low, high = min(y.min(), 0), y.max()
        points = np.stack([edge + (width - 2 * edge) * x / STEPS,
                           height - edge - (height - 2 * edge) * (y - low) / (high - low)], axis=1)
        zero = round(height - edge + (height - 2 * edge) * low / (high - low))
        cv2.line(panel, (edge, zero), (width - edge, zero), (200, 200, 200))
        cv2.polylines(panel, [points.round().astype(np.int32)], False, (200, 60, 0), 1, cv2.LINE_AA)
        panels.append(panel)
    titles = [f"{name}: {np.min(y):.2f} to {np.max(y):.2f}" for name, (_, y) in curves.items()]
    write_image(path, image_grid([panels], labels=titles))


@pytest.mark.deep
def test_two_hundred_steps_restore_better_and_keep_the_balance(tmp_path: Path) -> None:
    """Perceptual distance with random weights, on held-out faces restored by H.

    The discriminator has collapsed where its hinge loss is 0 (it separates everything by the
    margin, and G gets no useful gradient) and diverged where the loss is far above 1, what one
    without any opinion has. The logits may part by a few units, the hinge does not push them
    beyond 2, but must not go on parting.
    """
    opt = TrainOptions(models, data, "test").parse(ARGUMENTS)
    torch.manual_seed(0)
    model = models.create(opt, torch.device("cpu"))
    model.setup()
    model.train()
    watch, held_out = Watch(model), batch_of(model, "val", range(FACES))
    gt_features = model.unwrapped["VGG"](held_out["gt"])
    losses: dict[str, list[float]] = {}
    distances: dict[int, float] = {}
    for step in range(1, STEPS + 1):
        model.start_step(step, STEPS, STEPS)
        for name, loss in model.run_step(batch_of(model, "train", [step])).items():
            losses.setdefault(name, []).append(loss.item())
        if step % EVERY == 0:
            distances[step], restored = perceptual_distance(model, held_out["lq"], gt_features)
    steps, separation = np.arange(1, STEPS + 1), watch.separation()
    plot({"H, perceptual distance": (list(distances), list(distances.values())),
          "D loss": (steps, losses["D"]), "real - fake logits": (steps, separation),
          "L1 loss": (steps, losses["Pix"])}, tmp_path / "curves.png")
    strip = zip(*(to_image(each) for each in (held_out["lq"], restored, held_out["gt"])),
                strict=True)
    write_image(tmp_path / "faces.png", image_grid(list(strip),
                                                   labels=["input", "restored", "target"]))
    np.savez(tmp_path / "curves.npz", separation=separation, distances=list(distances.values()),
             **losses)
    quarters = np.array(losses["D"]).reshape(4, -1).mean(1)
    parted = separation.reshape(4, -1).mean(1)
    print(tmp_path, distances, quarters, parted, sep="\n")
    assert distances[STEPS] < 0.8 * distances[EVERY]
    assert quarters.min() > 0.1 and quarters.max() < 1.5
    assert np.abs(separation).max() < 6 and parted[3] < 2 * max(parted[2], 1)

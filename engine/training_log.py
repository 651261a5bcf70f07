"""What a run tells: progress lines, metrics.jsonl, TensorBoard, speed."""
from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine import device as devices
from engine import distributed
from utils.files import to_json
from utils.images.io import encode_image

logger = logging.getLogger("facezoo")


class SpeedMeter:
    """Seconds spent training, validation and saving left out, the device idle at every reading.

    Args:
        warmup_steps: steps left out at the start; first steps compile and allocate.
    """

    def __init__(self, device: torch.device, warmup_steps: int) -> None:
        self.device, self.warmup_left = device, warmup_steps
        self.steps, self.seconds = 0, 0.0
        self._since: float | None = None

    def resume(self) -> None:
        devices.synchronize(self.device)
        self._since = time.perf_counter()

    def pause(self) -> None:
        devices.synchronize(self.device)
        if self._since is not None:
            self.seconds += time.perf_counter() - self._since
        self._since = None

    def count_step(self) -> None:
        if self.warmup_left > 0:
            self.warmup_left -= 1
            if self.warmup_left == 0:
                self.resume()
                self.seconds = 0.0
        else:
            self.steps += 1

    def seconds_per_step(self) -> float | None:
        """None before the first timed step."""
        return self.seconds / self.steps if self.steps else None


class LossWindow:
    """Sums of the losses since the last line, kept on the device."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.steps = 0

    def add(self, losses: dict[str, Tensor]) -> None:
        for name, loss in losses.items():
            loss = loss.detach().float()
            self.sums[name] = self.sums[name] + loss if name in self.sums else loss.clone()
        self.steps += 1

    def take(self, *figures: float) -> tuple[dict[str, float], list[float]]:
        """Means of the losses over steps and ranks, and of other figures over ranks: everything
        summed and read back at once. Empties the window."""
        world, losses = distributed.world_size(), list(self.sums.values())
        device = losses[0].device if losses else None
        values = torch.cat([*(loss.view(1) for loss in losses),
                            torch.tensor(figures, device=device)])
        values = (distributed.sum_over_ranks(values) / world).tolist()
        means = {name: value / self.steps for name, value in zip(self.sums, values, strict=False)}
        self.sums, self.steps = {}, 0
        return means, values[len(losses):]


def check_tensorboard() -> None:
    """Raise ValueError where TensorBoard cannot be imported, before a run has begun."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except Exception as error:      # a broken installation raises whatever it meets
        raise ValueError(f"--tensorboard: TensorBoard cannot be used ({error}); repair it with pip "
                         "install --force-reinstall tensorboard, or pass --no-tensorboard"
                         ) from error


def spaced(every: int, total: int, most: int) -> int:
    """The smallest multiple of `every` steps that comes at most `most` times in `total` steps."""
    return every * -(-total // (every * most)) if every and most else 0


class Progress:
    """Writes what happens in a run; does nothing on ranks other than the main one.

    Args:
        start_step: steps already done; later records of an interrupted run are dropped.
        tensorboard: also write event files.
    """

    def __init__(self, folder: Path, start_step: int, total_steps: int, tensorboard: bool) -> None:
        self.active, self.total_steps = distributed.is_main(), total_steps
        self.writer: Any = None
        self.bar: Any = None
        if not self.active:
            return
        self.path = folder / "metrics.jsonl"
        _drop_after(self.path, start_step)
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter
            self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=start_step + 1)
        if sys.stdout.isatty():
            from tqdm import tqdm
            self.bar = tqdm(total=total_steps, initial=start_step, unit="step",
                            dynamic_ncols=True)

    def step(self, record: dict[str, Any]) -> None:
        """One progress report, as Trainer._report makes it."""
        if not self.active:
            return
        self._append(record)
        if self.writer:
            for group in ("losses", "learning_rate", "gradient_norm"):
                for name, value in record[group].items():
                    tag = f"loss/{name}" if group == "losses" else f"{group}/{name}"
                    self.writer.add_scalar(tag, value, record["step"])
            self.writer.add_scalar("speed/images_per_second", record["fps"], record["step"])
            self.writer.add_scalar("speed/data_wait_share", record["data_wait"], record["step"])
        if self.bar is not None:
            self.bar.update(record["step"] - self.bar.n)
            rate = next(iter(record["learning_rate"].values()))
            self.bar.set_postfix_str(
                f"epoch {record['epoch']}, loss {record['loss']:.4f}, rate {rate:.1e}, "
                f"{record['fps']:.1f} images/s, data {record['data_wait']:.0%}, "
                f"{record['peak_memory'] / 2 ** 30:.1f} GiB")
        else:
            logger.info("%s", _line(record, self.total_steps))

    def validation(self, step: int, values: dict[str, float], extra: Iterable[str],
                   best: bool) -> None:
        """PSNR, SSIM and, by the names in `extra`, what else a validation measured."""
        if not self.active:
            return
        self._append({"step": step, "validation": values, "best": best})
        if self.writer:
            for name, value in values.items():
                self.writer.add_scalar(f"validation/{name}", value, step)
        parts = []
        if {"psnr", "psnr_bicubic"} <= values.keys():
            parts += [f"PSNR {values['psnr']:.2f} dB, SSIM {values['ssim']:.4f}",
                      f"bicubic {values['psnr_bicubic']:.2f} dB, {values['ssim_bicubic']:.4f}",
                      f"{values['psnr'] - values['psnr_bicubic']:+.2f} dB"]
        parts += [f"{name} {values[name]:.4f}" for name in extra]
        self.say(f"validation at step {step}: " + "; ".join(parts + ["best so far"] * best))

    def image(self, tag: str, image: np.ndarray, step: int) -> None:
        """A uint8 RGB (H, W, 3) image for TensorBoard, as JPEG: a PNG takes ten times as much."""
        if self.writer:
            from tensorboard.compat.proto.summary_pb2 import Summary
            height, width = image.shape[:2]
            packed = Summary.Image(height=height, width=width, colorspace=3,
                                   encoded_image_string=encode_image(image, ".jpg", quality=90))
            self.writer.file_writer.add_summary(
                Summary(value=[Summary.Value(tag=tag, image=packed)]), step)

    def say(self, text: str) -> None:
        if self.bar is not None:
            self.bar.write(text)
        elif self.active:
            logger.info("%s", text)

    def close(self) -> None:
        if self.writer:
            try:
                self.writer.close()
            except OSError as error:    # a full disk, which must not hide why the run ends
                logger.warning("TensorBoard's last values are not written (%s)", error)
        if self.bar is not None:
            self.bar.close()

    def _append(self, record: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)     # deleted while the run goes on
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(to_json(record, indent=None) + "\n")


def _line(record: dict[str, Any], total_steps: int) -> str:
    losses = " ".join(f"{name}: {value:.5f}" for name, value in record["losses"].items())
    rates = " ".join(f"learning_rate/{name}: {value:.3g}"
                     for name, value in record["learning_rate"].items())
    eta = record["seconds_per_step"] * (total_steps - record["step"])
    return (f"epoch: {record['epoch']} step: {record['step']}/{total_steps} "
            f"loss: {record['loss']:.5f} {losses} {rates} time: {record['seconds_per_step']:.4f} "
            f"FPS: {record['fps']:.2f} data: {record['data_wait']:.0%} "
            f"memory: {record['peak_memory'] / 2 ** 30:.2f} GiB ETA: {clock(eta)}")


def clock(seconds: float) -> str:
    """h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def _drop_after(path: Path, step: int) -> None:
    """Keep the records up to a step, so that a resumed run writes the rest only once."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError):      # a line cut off by a kill
            continue
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text("".join(kept) if step else "", encoding="utf-8")
    os.replace(temporary, path)

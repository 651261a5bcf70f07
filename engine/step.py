"""One step of training: a batch in micro-batches, every optimizer stepping once at the end."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Protocol

from torch import Tensor, nn

from engine import distributed
from engine.optimizer_step import WHOLE, MicroBatch

# Entries of a batch that are not one value per sample.
PER_BATCH = ("bad", "fraction")


class Trained(Protocol):
    """What a step needs of a model."""
    networks: dict[str, nn.Module]
    micro_batch: MicroBatch
    began: bool

    def on_step_end(self) -> None: ...


class Step:
    """Micro-batches of a batch for a model's phases, and the losses they add up to.

        with Step(model, size) as step:
            for phase in model.phases():
                for micro_batch in step.split(batch):
                    step.add(phase(micro_batch))

    `model.optimize` then adds gradients weighted by the micro-batch's fraction of the samples, and
    steps its optimizer at the last one; `model.on_step_end` follows when the block ends.

    Args:
        size: samples of a micro-batch; the last one may be smaller.

    Attributes:
        losses: by name, averaged over the samples; on the device.
    """

    def __init__(self, model: Trained, size: int) -> None:
        self.model, self.size = model, size
        self.losses: dict[str, Tensor] = {}

    def __enter__(self) -> Step:
        self.model.began = False
        return self

    def __exit__(self, failure: Any, *_: Any) -> None:
        self.model.micro_batch = WHOLE
        if failure is None:
            self.model.on_step_end()

    def split(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Micro-batches in order, with two entries more: `place`, the number of each sample in the
        batch, and `fraction`, that of the micro-batch in all samples."""
        count = len(batch["gt"])
        batch = {**batch, "place": list(range(count))}
        for start in range(0, count, self.size):
            samples = cut(batch, start, start + self.size)
            fraction = len(samples["gt"]) / count
            last = start + self.size >= count
            self.model.micro_batch = MicroBatch(start == 0, last, fraction)
            with ExitStack() as stack:
                if not last:        # gradients travel once per step
                    for network in self.model.networks.values():
                        stack.enter_context(distributed.no_sync(network))
                yield {**samples, "fraction": fraction}

    def add(self, losses: dict[str, Tensor]) -> None:
        """Take what a phase returned for the micro-batch that `split` gave last."""
        fraction = self.model.micro_batch.fraction
        for name, loss in losses.items():
            self.losses[name] = (loss if fraction == 1
                                 else self.losses.get(name, 0) + fraction * loss)


def cut(batch: dict[str, Any], start: int, stop: int) -> dict[str, Any]:
    """Samples `start` to `stop` of a batch, without what is not one value per sample."""
    return {key: value[start:stop] for key, value in batch.items() if key not in PER_BATCH}

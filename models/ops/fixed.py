"""Fixed networks: never trained in the run that uses them, with weights from a file."""
from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from engine import checkpoint
from models.ops.init import draw_fixed

logger = logging.getLogger("facezoo")


class FixedNetwork(nn.Module):
    """A network that stays in eval mode, with the published weights of a file.

    A subclass says what its file is called, and overrides `read` where that is more than a state
    dict with exactly the network's keys.

    Attributes:
        flag: the option that names the file.
        published: what the file is called.
        use: what an untrained network would spoil, for the warning.
        kind: what the network is, for the warning.
        draw: seed and gain of the draw that "random" stands for, see models.ops.init.draw_fixed.
    """
    flag = ""
    published = ""
    use = ""
    kind = "NETWORK"
    draw = (0, 1.0)

    def train(self, mode: bool = True) -> FixedNetwork:
        """Stays in eval mode: it is never trained."""
        return super().train(False)

    def load_published(self, path: str | Path, flag: str = "") -> None:
        """Load the published file.

        Args:
            path: the file, or "random" for a seeded draw (smoke runs only).
            flag: named in errors instead of the network's own.

        Raises:
            FileNotFoundError, ValueError: no such file, no checkpoint, or another network's.
        """
        load_fixed(self, path, flag or self.flag, self.read, draw=self.draw, warning=(
            f"{self.use} AN UNTRAINED {self.kind}. This is for smoke runs only; give "
            f"{self.published} for real results"))

    def read(self, path: str | Path) -> dict[str, Tensor]:
        """The state dict of a file, checked.

        Raises:
            FileNotFoundError, ValueError: as `load_published`.
        """
        return checkpoint.load_weights(path, self.state_dict())


def peeked(path: str | Path, name: str = "") -> dict[str, Tensor]:
    """The state dict of a file, for a look at its shapes; empty for "random" and for what is no
    readable weight file, of which loading says more.

    Args:
        name: network letter, for files that hold several networks.
    """
    if str(path) == checkpoint.RANDOM or not Path(path).is_file():
        return {}
    try:
        return checkpoint.unwrap(checkpoint.peek(path), path, name)
    except ValueError:
        return {}


def load_fixed(network: nn.Module, path: str | Path, flag: str,
               read: Callable[[str | Path], dict[str, Tensor]], *, warning: str,
               draw: tuple[int, float] | None = None) -> None:
    """Load a fixed network's weights, or with "random" leave it untrained, with a warning.

    Args:
        path: the file, or "random" (smoke runs only).
        flag: carried the file's name; named in errors.
        read: from the file to the network's state dict, checked.
        warning: what "random" means for the run.
        draw: seed and gain of the draw for "random"; None keeps the weights as they are.

    Raises:
        FileNotFoundError, ValueError: what `read` raises; names the flag.
    """
    if str(path) == checkpoint.RANDOM:
        logger.warning("%s %s: %s", flag, checkpoint.RANDOM, warning)
        if draw:
            draw_fixed(network, *draw)
        return
    with checkpoint.named_by(flag):
        network.load_state_dict(read(path))

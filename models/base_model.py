"""Base class of all models: options, losses, the order of steps, restoring."""
from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from engine.model_engine import ModelEngine
from metrics.published import Figure
from models.ops.sync_batch_norm import synchronize_batch_norms
from utils.images.convert import to_tensor
from utils.images.resize import bicubic


class BaseModel(ModelEngine):
    """A model: networks, losses and the order in which optimizers step.

    A subclass writes `build`, `__init__`, `train_step` and `restore`, adds its flags, and is found
    by its file's name. Class attributes:
        dataset: default of --dataset_name where --dataroot is given.
        degradation: default of --degradation.
        every_gradient: each `train_step` gives every trained parameter a gradient.
        size_multiple: --load_size must be a multiple of it.
        min_size: smallest --load_size, unless its networks have a `min_size` themselves.
        loss_scale: default of O2; "dynamic" for losses with large weights.
        inference_network: letter of the network whose saved weights restore images.
        file_keys: by letter, the key that other tools expect the saved state dict under.
        template: five-point alignment of the faces it was made for, see faces.align.TEMPLATES.
        robust_alignment: whether its faces are aligned without points that do not fit, as facexlib
            aligns them.
        crop_filter: how its faces are sampled from photographs, see faces.photograph.Settings.
        best_by: the validation metric, larger is better, that chooses `best`; None if there is
            none: then only the latest weights are saved.
        rounding: how the published program turns results into bytes, `truncate` or `round`.
        extra_outputs: what an exported graph gives besides the restored image: the output's name,
            and the method from low-quality images that computes it.
        makes_samples: it makes images from codes (`draw_codes`, `sample`), see tools.sample.
        figures: published results, shown next to the measured ones.
        weights_license: of its published weights; empty if unknown.
        gradients: how ranks exchange them. "ddp" overlaps that with the backward pass; "average"
            does it after, for networks with parameters that a step does not use or whose gradients
            are differentiated again. Ranks must agree on which parameters a step uses.

    Its constructor calls `add_network`, `add_ema` and `add_optimizer`; then there are
    `networks` (by letter, to be called), `unwrapped` (the networks themselves), `optimize` and
    `update_ema`, all of engine.model_engine.ModelEngine.
    """
    dataset = "celeba"
    degradation = "bicubic"
    every_gradient = True
    size_multiple = 1
    min_size = 1
    loss_scale: str | float = 128.0
    inference_network = "G"
    file_keys: dict[str, str] = {}
    template = "ffhq"
    crop_filter = "bilinear"
    robust_alignment = False
    best_by: str | None = "psnr"
    rounding = "round"
    extra_outputs: dict[str, str] = {}
    makes_samples = False
    figures: tuple[Figure, ...] = ()
    weights_license = ""
    gradients = "ddp"

    # -- options ----------------------------------------------------------------------------------

    @staticmethod
    def modify_commandline_options(parser: Any, is_train: bool) -> None:
        """Add the model's own flags to a parser."""

    @classmethod
    def defaults(cls, is_train: bool) -> dict[str, Any]:
        """Values this model gives to common flags, below YAML and command line."""
        return {}

    @classmethod
    def resolve(cls, opt: argparse.Namespace) -> None:
        """Derive options from others; a second call changes nothing.

        Raises:
            ValueError: options that contradict each other.
        """

    @classmethod
    def check(cls, opt: argparse.Namespace) -> None:
        """Check that the resolved options fit together; changes none.

        Raises:
            ValueError: such options.
        """
        if opt.load_size % cls.size_multiple:
            raise ValueError(f"--load_size must be a multiple of {cls.size_multiple} for --model "
                             f"{opt.model}, got {opt.load_size}")
        # The meta device makes building free: this only runs the constructors' checks.
        with torch.device("meta"):
            networks = cls.build(opt)
        limits = {f"--model {opt.model}": cls.min_size, **{
            f"network {letter} as these options build it": getattr(network, "min_size", 1)
            for letter, network in networks.items()}}
        which = max(limits, key=limits.get)
        if opt.load_size < limits[which]:
            raise ValueError(f"--load_size must be at least {limits[which]} for {which}, got "
                             f"{opt.load_size}")

    @classmethod
    def build(cls, opt: argparse.Namespace) -> dict[str, nn.Module]:
        """The networks that are trained, by letter, as their constructors leave them.

        Without training, only the one that restores. Checking the options calls it on the meta
        device; `__init__` initializes what it gives and adds it.

        Raises:
            ValueError: options that no network can be built with.
        """
        raise NotImplementedError

    @staticmethod
    def example_inputs(opt: argparse.Namespace) -> tuple[Any, ...]:
        """Arguments of the inference network for one image of any content, on the device in force.
        """
        size = opt.load_size
        return (torch.zeros(1, 3, size, size),)

    @classmethod
    def forward_flops(cls, opt: argparse.Namespace) -> int:
        """Multiplications and additions of the inference network for one image.

        Counted on the meta device: operators have their plain form there, nothing is computed.
        """
        applied = argparse.Namespace(**vars(opt) | {"is_train": False})
        with torch.device("meta"), torch.no_grad():
            network = next(iter(cls.build(applied).values())).eval().requires_grad_(False)
            with FlopCounterMode(display=False) as counter:
                network(*cls.example_inputs(applied))
        return counter.get_total_flops()

    # -- weight files -----------------------------------------------------------------------------

    @classmethod
    def settings_of(cls, state: dict[str, Tensor]) -> dict[str, Any]:
        """Option values that the names and shapes of a state dict show; entries take them over.

        A tuple holds the values that fit where the file does not tell them apart; an option that
        it says nothing about is left out.

        Args:
            state: of the network that restores, as its weight file has it.

        Raises:
            ValueError: it is of another network; says what the file holds, "holds no SPARNet".
        """
        return {}

    @classmethod
    def agrees(cls, name: str, value: Any, shown: Any) -> bool:
        """Whether a value of option `name` builds the same network as one of `settings_of`."""
        return value == shown

    @classmethod
    def describe(cls, state: dict[str, Tensor]) -> str:
        """What a state dict that does not fit holds, for the message."""
        try:
            settings = cls.settings_of(state)
        except ValueError as error:
            return f"The file {error}"
        flags = [f"--{name} {' or '.join(map(str, value)) if isinstance(value, tuple) else value}"
                 for name, value in settings.items()]
        return f"The file is of a network with {' '.join(flags)}" if flags else ""

    # -- what a model defines --------------------------------------------------------------------

    def train_step(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Forward pass, losses, and `optimize` for each optimizer, on a micro-batch.

        What follows an `optimize` sees the weights after that step, at the last micro-batch; it
        is not told which one it has.

        Args:
            batch: "lq" and "gt" (B, 3, H, W) in [-1, 1] on the device, what else the dataset gives,
                and of the engine `place`, the number of each sample in the step's batch, and
                `fraction`, this micro-batch's part of the step's samples.

        Returns:
            Detached scalar losses by name; they stay on the device.
        """
        raise NotImplementedError

    def phases(self) -> Sequence[Callable[[dict[str, Any]], dict[str, Tensor]]]:
        """What a step consists of; all micro-batches go through one phase before the next. A model
        whose optimizers step more than once per step lists its own functions here."""
        return (self.train_step,)

    def before_backward(self) -> None:
        """Called once a step, after the first forward pass, before any gradient or step."""

    def on_step_end(self) -> None:
        """Called once a step, after every optimizer has stepped; for moving averages."""

    def restore(self, lq: Tensor) -> Tensor:
        """Restored faces (B, 3, H, W) for low-quality ones in [-1, 1]; range not clipped."""
        raise NotImplementedError

    def measure(self, batch: dict[str, Any], restored: Tensor) -> dict[str, list[float]]:
        """What validation and evaluation measure besides PSNR and SSIM, by name, for each image.

        Args:
            batch: as for `train_step`, from a held-out part of the data.
            restored: (B, 3, H, W), what `restore` made of it.
        """
        return {}

    @staticmethod
    def preprocess(image: np.ndarray, opt: argparse.Namespace) -> np.ndarray:
        """Resize an image of any size for the network: bicubic to --load_size squared.

        Args:
            image: uint8 RGB (H, W, 3).
            opt: the options; no network is needed.

        Returns:
            uint8 RGB (S, S, 3), S being `input_size(opt)`.
        """
        return bicubic(image, opt.load_size, opt.load_size)

    @staticmethod
    def input_size(opt: argparse.Namespace) -> int:
        """Side of the images that go into the network, in pixels."""
        return opt.load_size

    @staticmethod
    def synchronize_batch_norms(network: nn.Module) -> int:
        """Let a network's batch norms see the batches of all ranks; returns how many there are."""
        return synchronize_batch_norms(network)

    def prepare(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Turn the uint8 images of a batch that is on the device into float ones, in its layout.
        """
        return {key: to_tensor(value, self.memory_format)
                if isinstance(value, Tensor) and value.dtype == torch.uint8 and value.ndim == 4
                else value for key, value in batch.items()}


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Inside, gradients pass through the network but not into its weights."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)

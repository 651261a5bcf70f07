"""Flags of the models built on StyleGAN2, and what they mean for its networks."""
from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from typing import Any

import torch

from engine import checkpoint
from models.networks.gpen import discriminator_config
from models.networks.stylegan2 import Discriminator

# Size and widths of the released networks; 64 is for tests.
PRESETS: dict[str, dict[str, Any]] = {
    "64": {"load_size": 64, "channel_multiplier": 2, "narrow": 0.125},
    "256": {"load_size": 256, "channel_multiplier": 1, "narrow": 0.5},
    **{size: {"load_size": int(size), "channel_multiplier": 2, "narrow": 1.0}
       for size in ("512", "1024", "2048")}}
DEFAULT_PRESET = "512"
# Up to this size --channel_multiplier changes nothing.
WITHOUT_MULTIPLIER = 32
# A half-life of 10000 images at a batch of 32; the published constant for every batch.
EMA_DECAY = 0.5 ** (32 / 10000)
logger = logging.getLogger("facezoo")


# ---- flags ---------------------------------------------------------------------------------------

def add_network_flags(parser: Any) -> None:
    """Flags that decide which published weights fit."""
    parser.add_argument("--preset", choices=tuple(PRESETS),
                        help="image size of a published network, which sets its widths; 64 is for "
                             "quick tests (default: by --load_size and the weight file, else "
                             f"{DEFAULT_PRESET})")
    parser.add_argument("--channel_multiplier", type=int, metavar="N",
                        help="channel multiplier of the layers above 32 pixels (default: the "
                             "preset's)").rare = True
    parser.add_argument("--narrow", type=float, metavar="FACTOR",
                        help="factor on the channels of all layers (default: the preset's)"
                        ).rare = True
    parser.add_argument("--style_dim", type=int, metavar="N",
                        help="length of a latent code (default: 512)").rare = True
    parser.add_argument("--n_mlp", type=int, metavar="N",
                        help="layers of the mapping network (default: 8)").rare = True
    parser.add_argument("--noise", choices=("concat", "add"),
                        help="how noise enters the generator: concat as in the published weights, "
                             "add as in StyleGAN2 (default: concat)").rare = True


def add_training_flags(parser: Any, path_batch_shrink: int) -> None:
    """Flags of the adversarial training."""
    parser.add_argument("--d_weights", metavar="FILE",
                        help="initial weights of D: a weight file or a training checkpoint")
    parser.add_argument("--d_lr", type=float, help="learning rate of D (default: --lr)")
    parser.add_argument("--lambda_g", type=float, default=1.0, help="weight of the GAN loss")
    parser.add_argument("--r1", type=float, default=10.0, metavar="WEIGHT",
                        help="weight of the R1 penalty, 0 for none")
    parser.add_argument("--d_reg_every", type=int, default=16, metavar="STEPS",
                        help="steps between two R1 penalties, 0 for none")
    parser.add_argument("--path_regularize", type=float, default=2.0, metavar="WEIGHT",
                        help="weight of the path length penalty, 0 for none")
    parser.add_argument("--g_reg_every", type=int, default=4, metavar="STEPS",
                        help="steps between two path length penalties, 0 for none")
    for name, kind in (("multiplier", int), ("narrow", float)):
        parser.add_argument(f"--d_{name}", type=kind,
                            help=f"as --{'channel_' if kind is int else ''}{name}, for D (default: "
                                 "that of --d_weights, else G's)").rare = True
    parser.add_argument("--stddev_group", type=int, default=0, metavar="N",
                        help="group size of D's minibatch standard deviation: 0 is the whole "
                             "batch, 4 as in code before August 2022, 1 turns it off").rare = True
    parser.add_argument("--path_batch_shrink", type=int, default=path_batch_shrink, metavar="N",
                        help="compute path lengths on 1/N of the batch").rare = True
    parser.add_argument("--ema_decay", type=float, default=EMA_DECAY,
                        help="decay per step of the EMA weights H; published for all batch sizes"
                        ).rare = True


def resolve_size(opt: argparse.Namespace) -> None:
    """Fill in size and widths: as given or as the weight file shows them, else the preset's.

    Raises:
        ValueError: --preset and --load_size disagree.
    """
    preset = PRESETS[opt.preset or DEFAULT_PRESET]
    if opt.preset and opt.load_size not in (None, preset["load_size"]):
        raise ValueError(f"--load_size must be {preset['load_size']} for --preset {opt.preset}, "
                         f"got {opt.load_size}" + (f", which {opt.pretrain_model_path} needs"
                                                   if opt.pretrain_model_path else "")
                         + "; leave out one of the two flags")
    values = {"style_dim": 512, "n_mlp": 8, "noise": "concat", **preset}
    for name, value in values.items():
        if getattr(opt, name) is None:
            setattr(opt, name, value)


def resolve_discriminator(opt: argparse.Namespace) -> None:
    """Fill in the widths of D as the file of --d_weights shows them.

    Raises:
        ValueError: the file is for images of another size, or of another network.
    """
    config = discriminator_config(read_d_file(opt.d_weights, checkpoint.peek))
    if config["size"] != opt.load_size:
        raise ValueError(f"--load_size must be {config['size']} for --d_weights {opt.d_weights}, "
                         f"got {opt.load_size}")
    opt.d_multiplier = opt.d_multiplier or config["channel_multiplier"]
    opt.d_narrow = opt.d_narrow or config["narrow"]


def check_training_flags(opt: argparse.Namespace) -> None:
    """Raise ValueError for values out of range."""
    if not 0 <= opt.ema_decay < 1:
        raise ValueError(f"--ema_decay must be from 0 to below 1, got {opt.ema_decay}")
    for name, low in (("path_batch_shrink", 1), ("stddev_group", 0), ("d_reg_every", 0),
                      ("g_reg_every", 0), ("r1", 0), ("path_regularize", 0)):
        if getattr(opt, name) < low:
            raise ValueError(f"--{name} must be at least {low}, got {getattr(opt, name)}")


# ---- what they build -----------------------------------------------------------------------------

def network_settings(opt: argparse.Namespace) -> dict[str, Any]:
    """Arguments of Generator and FullGenerator from the flags."""
    return {"size": opt.load_size, "style_dim": opt.style_dim, "n_mlp": opt.n_mlp,
            "channel_multiplier": opt.channel_multiplier, "narrow": opt.narrow,
            "isconcat": opt.noise == "concat"}


def settings_of(config: dict[str, Any]) -> dict[str, Any]:
    """The flags of a network's arguments, as far as its weights show them."""
    found = {"load_size": config["size"], "noise": "concat" if config["isconcat"] else "add",
             **{name: config[name] for name in ("narrow", "style_dim", "n_mlp")}}
    if config["size"] > WITHOUT_MULTIPLIER:
        found["channel_multiplier"] = config["channel_multiplier"]
    return found


def agrees(name: str, value: Any, shown: Any) -> bool:
    """Whether a flag's value builds the network of one that its weights show."""
    if name == "narrow":        # widths are whole numbers
        return int(512 * value) == int(512 * shown)
    return value == shown


def build_discriminator(opt: argparse.Namespace) -> Discriminator:
    """D as wide as G, unless flags say otherwise."""
    return Discriminator(
        size=opt.load_size, group=opt.stddev_group,
        channel_multiplier=opt.channel_multiplier if opt.d_multiplier is None else opt.d_multiplier,
        narrow=opt.narrow if opt.d_narrow is None else opt.d_narrow)


def read_d_file(path: str, read: Callable[[str], Any]) -> dict[str, torch.Tensor]:
    """State dict of a discriminator, from a file of its own or from a training checkpoint.

    Args:
        read: `checkpoint.read`, or `checkpoint.peek` for names and shapes.
    """
    with checkpoint.named_by("--d_weights"):
        content = read(path)
        if isinstance(content, dict) and isinstance(content.get("d"), dict):
            content = content["d"]
        return checkpoint.unwrap(content, path, "D")


def read_discriminator(network: Discriminator, path: str) -> None:
    """Load --d_weights strictly."""
    state = read_d_file(path, checkpoint.read)
    checkpoint.check_match(state, network.state_dict(), f"--d_weights {path}")
    network.load_state_dict(state)
    logger.info("network D starts from the weights in %s", path)

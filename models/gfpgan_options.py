"""Flags of the gfpgan model, and what they say about its network."""
from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from models.networks.gfpgan import PRESETS, config_of, layout_of

# The paper's training starts from the original network; its published weights are clean ones.
DEFAULT_PRESET = {True: "1", False: "1.3"}
# Up to this size --channel_multiplier changes nothing.
WITHOUT_MULTIPLIER = 32
LOSSES = {
    "pix": (0.1, "L1 loss"), "pyramid": (1.0, "L1 loss at every size of the U-Net"),
    "pcp": (1.0, "perceptual loss"), "style": (50.0, "style loss"),
    "g": (0.1, "GAN loss"), "component": (1.0, "GAN losses of eyes and mouth"),
    "comp_style": (200.0, "style loss of eyes and mouth, on their discriminators' features"),
    "id": (10.0, "identity loss"), "r1": (10.0, "R1 penalty of the discriminator")}


def add_network_flags(parser: Any) -> None:
    parser.add_argument("--preset", default="auto", choices=("auto", *PRESETS),
                        help="published network: 1 (original), bilinear (trainable form of 1.2), "
                             "or the clean 1.2, 1.3 and 1.4; auto: by the weight file, without "
                             "one 1 in training, else 1.3")
    parser.add_argument("--pretrained", dest="pretrain_model_path", metavar="FILE",
                        help="same as --pretrain_model_path")
    parser.add_argument("--channel_multiplier", type=int, choices=(1, 2), default=None,
                        help="channel multiplier of the layers above 32 pixels (default: the "
                             "preset's)").rare = True
    parser.add_argument("--narrow", type=float, default=1.0, metavar="FACTOR",
                        help="factor on the channels of all layers; below 1 is for quick tests"
                        ).rare = True
    parser.add_argument("--style_dim", type=int, default=512, metavar="N",
                        help="length of a latent code").rare = True
    parser.add_argument("--num_mlp", type=int, default=8, metavar="N",
                        help="layers of the mapping network, which is saved but not used"
                        ).rare = True


def add_training_flags(parser: Any) -> None:
    for name, (default, text) in LOSSES.items():
        parser.add_argument(f"--lambda_{name}", type=float, default=default,
                            help=f"weight of the {text}")
    parser.add_argument("--decoder_weights", metavar="FILE",
                        help="StyleGAN2 prior (StyleGAN2_512_Cmul1_FFHQ_B12G4_scratch_800k.pth); "
                             "`random` for quick tests only")
    parser.add_argument("--fix_decoder", action=argparse.BooleanOptionalAction, default=True,
                        help="do not train the StyleGAN2 decoder")
    parser.add_argument("--vgg_weights", metavar="FILE",
                        help="torchvision's vgg19-dcbb9e9d.pth for perceptual and style loss; "
                             "`random` for quick tests only")
    parser.add_argument("--id_weights", metavar="FILE",
                        help="arcface_resnet18.pth for the identity loss; `random` for quick tests "
                             "only")
    parser.add_argument("--g_lr", type=float,
                        help="learning rate of G (default: --lr, for clean networks 1/20 of it)")
    parser.add_argument("--d_lr", type=float, help="learning rate of D (default: --lr)")
    parser.add_argument("--component_lr", type=float,
                        help="learning rate of the eye and mouth discriminators (default: --lr)")
    parser.add_argument("--lr_milestones", type=int, nargs="*", default=[600000, 700000],
                        metavar="STEP",
                        help="steps after which the learning rates are multiplied by --lr_gamma")
    parser.add_argument("--lr_gamma", type=float, default=0.5, metavar="FACTOR",
                        help="factor on the learning rates at --lr_milestones")
    parser.add_argument("--remove_pyramid", type=int, default=50000, metavar="STEP",
                        help="last step with the loss of --lambda_pyramid").rare = True
    parser.add_argument("--r1_every", type=int, default=16, metavar="N",
                        help="steps between two R1 penalties, which weigh N times as much"
                        ).rare = True
    parser.add_argument("--d_iters", type=int, default=1, metavar="N",
                        help="steps of D for each step of G").rare = True
    parser.add_argument("--d_init_steps", type=int, default=None, metavar="N",
                        help="first steps, which train the discriminators only (default: 500 when "
                             "fine-tuning, else 0)").rare = True
    parser.add_argument("--ema_decay", type=float, default=0.5 ** (32 / 10000),
                        help="decay per step of the EMA weights H").rare = True
    parser.add_argument("--randomize_noise", action=argparse.BooleanOptionalAction, default=True,
                        help="use random decoder noise in training; inference uses the saved noise"
                        ).rare = True
    parser.add_argument("--D_channel_multiplier", type=int, choices=(1, 2), default=None,
                        help="channel multiplier of the discriminator (default: G's)").rare = True
    parser.add_argument("--stddev_group", type=int, default=4, metavar="N",
                        help="group size of D's minibatch standard deviation").rare = True
    parser.add_argument("--component_channels", type=int, default=64, metavar="N",
                        help="channels of the eye and mouth discriminators; other than 64 is for "
                             "quick tests").rare = True
    parser.add_argument("--eye_enlarge_ratio", type=float, default=1.4, metavar="FACTOR",
                        help="factor on the size of the eyes' boxes").rare = True


# ---- what they say about the network -------------------------------------------------------------

def settings_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The flags that a state dict shows.

    Raises:
        ValueError: the entries are not a GFPGAN's.
    """
    config = config_of(state)
    found = {"load_size": config["size"], **{name: config[name] for name in (
        "narrow", "style_dim", "num_mlp")}}
    if layout_of(state) == "equalized":
        # The width is left to the preset: it tells published files of the two apart in loading.
        return {"preset": ("1", "bilinear"), **found}
    if config["size"] > WITHOUT_MULTIPLIER:
        found["channel_multiplier"] = config["channel_multiplier"]
    return {"preset": "1.3", **found}


def agrees(name: str, value: Any, shown: Any) -> bool:
    """Whether a flag's value builds the network of one that its weights show."""
    if name == "preset":        # clean ones differ in their weights only
        return PRESETS[value]["arch"] == PRESETS[shown]["arch"]
    if name == "narrow":        # widths are whole numbers
        return int(512 * value) == int(512 * shown)
    return value == shown


def network_settings(opt: argparse.Namespace) -> dict[str, Any]:
    """GFPGAN's arguments."""
    preset = PRESETS[opt.preset]
    multiplier = opt.channel_multiplier or preset["channel_multiplier"]
    return {"arch": preset["arch"], "size": opt.load_size, "style_dim": opt.style_dim,
            "channel_multiplier": multiplier, "num_mlp": opt.num_mlp, "narrow": opt.narrow}


def check_training_flags(opt: argparse.Namespace) -> None:
    """Raise ValueError for options that do not go together."""
    for flag in ("d_iters", "r1_every", "stddev_group", "component_channels"):
        if getattr(opt, flag) < 1:
            raise ValueError(f"--{flag} must be at least 1, got {getattr(opt, flag)}")
    if not 0 <= opt.ema_decay < 1:
        raise ValueError(f"--ema_decay must be from 0 to below 1, got {opt.ema_decay}")
    if opt.preview_degradation:     # which needs no network
        return
    for flag, wanted, what in (
            ("vgg_weights", opt.lambda_pcp or opt.lambda_style,
             "torchvision's vgg19-dcbb9e9d.pth, or leave perceptual and style loss out with "
             "--lambda_pcp 0 --lambda_style 0"),
            ("id_weights", opt.lambda_id,
             "arcface_resnet18.pth, or leave the identity loss out with --lambda_id 0"),
            ("decoder_weights", opt.fix_decoder and not opt.pretrain_model_path,
             "the StyleGAN2 prior, or start from a whole network with --pretrained, or train the "
             "decoder too with --no-fix_decoder")):
        if wanted and not getattr(opt, flag):
            raise ValueError(f"--{flag} is missing: give {what}")

"""Options of newtrain.py."""
from __future__ import annotations

import argparse

from options.base_options import BaseOptions
from options.parser import OneLineParser, count, non_negative, positive, positive_int


class TrainOptions(BaseOptions):
    """Adds training length, saving, precision and validation flags."""
    is_train = True
    usage = "--model NAME --dataroot DIR [options]"
    description = "Train a face restoration model."

    def initialize(self, parser: argparse.ArgumentParser) -> None:
        super().initialize(parser)
        self._add_training_flags(parser)
        self._add_precision_flags(parser)
        self._add_output_flags(parser)
        group = parser.add_argument_group("validation")
        group.add_argument("--eval_freq", type=count, default=1000, metavar="STEPS",
                           help="steps between validations, 0 for none; the last step always has "
                                "one")
        group.add_argument("--num_val_images", type=count, default=50, metavar="N",
                           help="validation images held out of --dataroot, at most a tenth of them")
        group.add_argument("--val_dataroot", metavar="DIR",
                           help="folder of validation images, instead of holding some out")

    def _add_training_flags(self, parser: argparse.ArgumentParser) -> None:
        group = parser.add_argument_group("training")
        group.add_argument("--total_epochs", "--train_epochs", type=positive_int, default=20,
                           metavar="N", help="number of epochs")
        group.add_argument("--train_steps", type=positive_int, metavar="N",
                           help="total number of steps, instead of --total_epochs")
        group.add_argument("--continue_train", action=argparse.BooleanOptionalAction,
                           default=False, help="resume the run --name from its last save")
        group.add_argument("--pretrain_model_path", "--pth_path", metavar="FILE",
                           help="initial weights of network G, for fine-tuning")
        group.add_argument("--lr", "--learning_rate", type=positive, default=2e-4,
                           help="learning rate")
        group.add_argument("--accumulate", type=positive_int, default=1, metavar="N",
                           help="accumulate the gradients of N batches in each step")
        group.add_argument("--checkpointing", action=argparse.BooleanOptionalAction,
                           default=False,
                           help="gradient checkpointing: less memory, 1.2 to 1.6 times slower")
        group.add_argument("--debug", action=argparse.BooleanOptionalAction, default=False,
                           help="quick test run of 6 steps with logging, validation and saving")
        group.add_argument("--preview_degradation", metavar="FILE",
                           help="only save an image that shows training targets and inputs")
        group = parser.add_argument_group("optimization")
        group.rare = True
        group.add_argument("--beta1", type=non_negative, default=0.9, help="beta1 of Adam")
        group.add_argument("--lr_policy", default="constant",
                           choices=("constant", "linear", "step", "cosine"),
                           help="learning rate schedule: linear falls to 0 in --n_epochs_decay "
                                "epochs after --n_epochs, step divides by 10 every "
                                "--lr_decay_epochs, cosine falls to 0 over the run")
        group.add_argument("--n_epochs", type=count, default=10, metavar="N",
                           help="with --lr_policy linear: epochs at the full learning rate")
        group.add_argument("--n_epochs_decay", type=positive_int, default=10, metavar="N",
                           help="with --lr_policy linear: epochs over which it falls to 0")
        group.add_argument("--lr_decay_epochs", type=positive_int, default=50, metavar="N",
                           help="with --lr_policy step: epochs between two divisions")
        group.add_argument("--grad_clip", type=non_negative, default=0.0, metavar="NORM",
                           help="max gradient norm, 0 for no limit")
        group.add_argument("--init_type", default="normal",
                           choices=("normal", "xavier", "kaiming", "orthogonal", "default"),
                           help="weight initialization; default: PyTorch's")
        group.add_argument("--init_gain", type=positive, default=0.02,
                           help="standard deviation of normal, gain of xavier and orthogonal")
        group.add_argument("--serial_batches", action=argparse.BooleanOptionalAction,
                           default=False, help="do not shuffle the images")
        group.add_argument("--max_bad_steps", type=count, default=10, metavar="N",
                           help="max steps with a non-finite loss; after more the run stops")
        group = parser.add_argument_group("several cards")
        group.rare = True
        group.add_argument("--local_rank", "--local-rank", type=count, default=None, metavar="N",
                           help="card of this process, as passed by older launchers")
        group.add_argument("--sync_bn", action=argparse.BooleanOptionalAction, default=False,
                           help="synchronize batch norm statistics across processes")
        group.add_argument("--collective_timeout", type=positive_int, default=1800,
                           metavar="SECONDS",
                           help="max time a process waits for the others before the job fails")

    def _add_precision_flags(self, parser: argparse.ArgumentParser) -> None:
        group = parser.add_argument_group("precision")
        group.add_argument("--opt_level", default="auto", choices=("auto", "O0", "O1", "O2"),
                           help="O0 is fp32, O1 autocast, O2 fp16 weights with fp32 master "
                                "weights; auto is O2 on NPU and CUDA, O0 on CPU")
        group.add_argument("--loss_scale", metavar="dynamic|FLOAT",
                           help="default: 128 with O2 (dynamic for models with large loss "
                                "weights), dynamic with O1").rare = True
        group.add_argument("--amp_backend", default="auto", choices=("auto", "native", "apex"),
                           help="implementation of O1 and O2; auto is native, apex is Ascend's"
                           ).rare = True
        group.add_argument("--amp_dtype", default="auto", choices=("auto", "fp16", "bf16"),
                           help="reduced precision type; auto is fp16, with O1 on CPU bf16"
                           ).rare = True
        group.add_argument("--optimizer", default="auto", choices=("auto", "adam", "fused"),
                           help="auto is the device's fused Adam, if it has one").rare = True
        group.add_argument("--master_init", default="rounded", choices=("rounded", "exact"),
                           help="O2 master weights start from the fp16 weights, as in apex, or "
                                "from the fp32 ones").rare = True
        group.add_argument("--keep_fp32", default="safe", choices=("safe", "apex"),
                           help="what O2 keeps in fp32: all norm layers, or batch norms only as in "
                                "apex").rare = True

    def _add_output_flags(self, parser: argparse.ArgumentParser) -> None:
        group = parser.add_argument_group("output")
        group.add_argument("--print_freq", type=positive_int, default=10, metavar="STEPS",
                           help="steps between two log lines")
        group.add_argument("--save_latest_freq", type=positive_int, default=500, metavar="STEPS",
                           help="steps between two saves of the training state")
        group.add_argument("--save_iter_freq", type=count, default=5000, metavar="STEPS",
                           help="steps between two numbered weight files, 0 for none")
        group.add_argument("--save_epoch_freq", type=count, default=5, metavar="EPOCHS",
                           help="epochs between two numbered weight files, 0 for none")
        group.add_argument("--keep_last", type=count, default=0, metavar="N",
                           help="keep only the last N numbered weight files, 0 for all")
        group.add_argument("--tensorboard", action=argparse.BooleanOptionalAction, default=True,
                           help="write TensorBoard files")
        group.add_argument("--visual_freq", type=count, default=100, metavar="STEPS",
                           help="steps between two images in TensorBoard, 0 for none").rare = True
        group.add_argument("--max_visuals", type=count, default=100, metavar="N",
                           help="at most so many images in TensorBoard over the run: where "
                                "--visual_freq gives more, they are farther apart").rare = True
        group.add_argument("--warmup_steps", type=count, default=10, metavar="N",
                           help="first steps, left out of the reported speed").rare = True

    def finish(self, opt: argparse.Namespace, parser: OneLineParser) -> None:
        super().finish(opt, parser)
        if opt.beta1 >= 1:
            raise ValueError(f"--beta1 must be below 1, got {opt.beta1}")
        if opt.name is None:
            opt.name = f"{opt.model}_{opt.dataset_name}"
        if opt.debug:
            opt.train_steps = 6
            opt.print_freq = opt.visual_freq = 1
            opt.eval_freq = opt.save_latest_freq = 3

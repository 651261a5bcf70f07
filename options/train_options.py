"""Options of newtrain.py."""
from __future__ import annotations

import argparse

from options.base_options import BaseOptions
from options.parser import OneLineParser, count, non_negative, positive, positive_int


class TrainOptions(BaseOptions):
    """Adds training length, saving, precision and validation flags."""
    is_train = True
    description = "Train a face restoration network."

    def initialize(self, parser: argparse.ArgumentParser) -> None:
        super().initialize(parser)
        group = parser.add_argument_group("training")
        group.add_argument("--total_epochs", "--train_epochs", type=positive_int, default=20,
                           help="passes over the data")
        group.add_argument("--train_steps", type=positive_int, metavar="N",
                           help="stop after N steps in all (default: --total_epochs decides)")
        group.add_argument("--continue_train", action=argparse.BooleanOptionalAction,
                           default=False, help="go on where the run called --name stopped")
        group.add_argument("--pretrain_model_path", "--pth_path", metavar="FILE",
                           help="start network G from these weights (fine-tuning)")
        group.add_argument("--lr", "--learning_rate", type=positive, default=2e-4,
                           help="learning rate")
        group.add_argument("--beta1", type=non_negative, default=0.9, help="first beta of Adam")
        group.add_argument("--lr_policy", default="constant",
                           choices=("constant", "linear", "step", "cosine"),
                           help="the published training is constant; linear falls to 0 over "
                                "--n_epochs_decay after --n_epochs, step divides by 10 every "
                                "--lr_decay_epochs, cosine ends with the run")
        group.add_argument("--n_epochs", type=count, default=10,
                           help="epochs at the full rate, --lr_policy linear")
        group.add_argument("--n_epochs_decay", type=positive_int, default=10,
                           help="epochs of falling rate, --lr_policy linear")
        group.add_argument("--lr_decay_epochs", type=positive_int, default=50,
                           help="epochs between divisions, --lr_policy step")
        group.add_argument("--grad_clip", type=non_negative, default=0.0,
                           help="largest gradient norm, 0 for no limit")
        group.add_argument("--accumulate", type=positive_int, default=1, metavar="N",
                           help="sum the gradients of N batches per step: an N times larger "
                                "batch in the same memory")
        group.add_argument("--checkpointing", action=argparse.BooleanOptionalAction,
                           default=False,
                           help="compute activations again in the backward pass: less memory, "
                                "1.2 to 1.6 times the time")
        group.add_argument("--init_type", default="normal",
                           choices=("normal", "xavier", "kaiming", "orthogonal", "default"),
                           help="weight initialisation")
        group.add_argument("--init_gain", type=positive, default=0.02,
                           help="deviation of normal, gain of xavier and orthogonal")
        group.add_argument("--serial_batches", action=argparse.BooleanOptionalAction,
                           default=False, help="take the pictures in order, not shuffled")
        group.add_argument("--max_bad_steps", type=count, default=10,
                           help="steps with a non-finite loss that are tolerated before stopping")
        group.add_argument("--debug", action=argparse.BooleanOptionalAction, default=False,
                           help="short run: 6 steps, everything printed, validated and saved")
        group.add_argument("--local_rank", "--local-rank", type=count, default=None,
                           help="card of this process, as older launchers pass it")
        group.add_argument("--sync_bn", action=argparse.BooleanOptionalAction, default=False,
                           help="batch norm statistics over all processes instead of each "
                                "process's own")
        group.add_argument("--collective_timeout", type=positive_int, default=1800, metavar="S",
                           help="seconds a process waits for the others before the job fails")
        group = parser.add_argument_group("precision")
        group.add_argument("--opt_level", default="auto", choices=("auto", "O0", "O1", "O2"),
                           help="O0 fp32, O1 autocast, O2 fp16 weights with fp32 masters; auto is "
                                "O2 on NPU and CUDA, O0 on CPU")
        group.add_argument("--loss_scale", metavar="dynamic|FLOAT",
                           help="default: 128 with O2 (dynamic for models with large loss "
                                "weights), dynamic with O1")
        group.add_argument("--amp_backend", default="auto", choices=("auto", "native", "apex"),
                           help="who does O1 and O2; auto is native, apex is Ascend's")
        group.add_argument("--amp_dtype", default="auto", choices=("auto", "fp16", "bf16"),
                           help="reduced type; auto is fp16, with O1 on CPU bf16")
        group.add_argument("--optimizer", default="auto", choices=("auto", "adam", "fused"),
                           help="auto takes the device's fused Adam where it has one")
        group.add_argument("--master_init", default="rounded", choices=("rounded", "exact"),
                           help="O2 masters start from the rounded weights as in apex, or exactly")
        group.add_argument("--keep_fp32", default="safe", choices=("safe", "apex"),
                           help="modules O2 keeps in fp32: all norms, or apex's batch norms only")
        group = parser.add_argument_group("output")
        group.add_argument("--print_freq", type=positive_int, default=10,
                           help="steps between progress lines")
        group.add_argument("--visual_freq", type=count, default=100,
                           help="steps between pictures in TensorBoard, 0 for none")
        group.add_argument("--save_latest_freq", type=positive_int, default=500,
                           help="steps between saves of the resumable state")
        group.add_argument("--save_iter_freq", type=count, default=5000,
                           help="steps between numbered weight files, 0 for none")
        group.add_argument("--save_epoch_freq", type=count, default=5,
                           help="epochs between numbered weight files, 0 for none")
        group.add_argument("--keep_last", type=count, default=0, metavar="N",
                           help="keep only the newest N numbered weight files, 0 for all")
        group.add_argument("--tensorboard", action=argparse.BooleanOptionalAction, default=True,
                           help="write TensorBoard event files")
        group.add_argument("--warmup_steps", type=count, default=10,
                           help="steps left out of the reported speed")
        group.add_argument("--preview_degradation", metavar="FILE",
                           help="write a picture of training targets and inputs, and end")
        group = parser.add_argument_group("validation")
        group.add_argument("--eval_freq", type=count, default=1000,
                           help="steps between validations, 0 for none; the last step always is")
        group.add_argument("--num_val_images", type=count, default=50,
                           help="pictures held out of --dataroot for validation, at most a "
                                "tenth of them; 0 holds none out")
        group.add_argument("--val_dataroot", metavar="DIR",
                           help="folder with validation pictures, instead of holding some out")

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

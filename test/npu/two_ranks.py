"""Started on two ranks by test_npu_ranks.py: python two_ranks.py FOLDER MODEL DEVICE

Trains the model with plain operators (see conftest.py). One process group per process: a second
one at the same meeting place now and then waits for ever.
"""
from __future__ import annotations

import sys

import npu_suite

import data
import models
import newtrain
from engine import distributed
from models.ops import padded_conv
from options.train_options import TrainOptions

if __name__ == "__main__":
    padded_conv.MIN_PHASE_NUMEL = padded_conv.MIN_PAD_NUMEL = sys.maxsize
    padded_conv.uses_custom_kernel = lambda x: False
    folder, model, device = sys.argv[1:]
    argv = npu_suite.arguments_of(
        model, device, "--opt_level", "O0", "--optimizer", "adam", "--train_steps", 2,
        "--checkpoints_dir", folder, "--name", device.partition(":")[0])
    distributed.leave(newtrain.train(TrainOptions(models, data, "newtrain.py").parse(argv)))

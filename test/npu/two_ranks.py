"""Started on two ranks by test_npu_ranks.py: python two_ranks.py FOLDER RECIPE DEVICE...

Trains the recipe on each device in turn, with plain operators on both (see conftest.py).
"""
from __future__ import annotations

import os
import sys

import npu_suite

import data
import models
import newtrain
from models.networks import padded_conv
from options.train_options import TrainOptions

if __name__ == "__main__":
    padded_conv.MIN_PHASE_NUMEL = padded_conv.MIN_PAD_NUMEL = sys.maxsize
    folder, recipe, *devices = sys.argv[1:]
    for attempt, device in enumerate(devices):
        # Keeps the rendezvous of the second group apart from what the first left in the store.
        os.environ["TORCHELASTIC_RESTART_COUNT"] = str(attempt)
        argv = npu_suite.arguments_of(
            recipe, device, "--opt_level", "O0", "--optimizer", "adam", "--train_steps", 2,
            "--checkpoints_dir", folder, "--name", device.partition(":")[0])
        status = newtrain.train(TrainOptions(models, data, "newtrain.py").parse(argv))
        assert status == 0, f"{device}: status {status}"

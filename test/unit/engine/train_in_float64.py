"""newtrain.py in double precision: what differs then is arithmetic, not rounding.

In float32 Adam turns rounding noise in tiny gradients into steps of full size, and two correct runs
drift apart by a thousandth within ten steps. A further argument --average shares the gradients
after the backward pass instead of through DDP.
"""
from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import torch

import data
import models
import newtrain
from engine import distributed
from models import base_model
from options.train_options import TrainOptions

if __name__ == "__main__":
    if "--average" in sys.argv:
        sys.argv.remove("--average")
        base_model.BaseModel.gradients = "average"
    torch.set_default_dtype(torch.float64)
    in_float32 = base_model.to_tensor
    base_model.to_tensor = lambda *arguments: in_float32(*arguments).double()
    options = TrainOptions(models, data, "newtrain.py").parse()
    distributed.leave(distributed.recorded(newtrain.train)(options))

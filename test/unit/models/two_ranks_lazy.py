"""Started on two ranks by test_stylegan2.py: two steps with both regularizers, per model."""
from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
sys.path[:0] = [str(Path(__file__).resolve().parents[3]), str(Path(__file__).resolve().parents[1])]

import torch
from conftest import tiny_arguments

import data
import models
from data.base_dataset import collate
from engine import distributed
from options.train_options import TrainOptions


def digest(model: object) -> str:
    """Of all weights, H's included."""
    found = hashlib.sha256()
    for state in model.weights().values():
        for value in state.values():
            found.update(value.contiguous().numpy().tobytes())
    return found.hexdigest()


if __name__ == "__main__":
    device = torch.device("cpu")
    distributed.start(device)
    results = {}
    for name in ("stylegan2", "gpen"):
        opt = TrainOptions(models, data, "ranks").parse(
            [*tiny_arguments(name), "--d_reg_every", "1", "--g_reg_every", "1"])
        torch.manual_seed(distributed.rank())       # start weights are rank 0's nevertheless
        model = models.create(opt, device)
        model.setup()
        model.train()
        start = digest(model)
        dataset = data.create_dataset(opt.dataset_name, "train", opt.degradation, vars(opt))
        mine = [dataset[2 * distributed.rank() + index] for index in range(2)]
        batch, losses = model.prepare(collate(mine)), []
        for step in (1, 2):
            model.start_step(step, 100, 100)
            losses.append(sum(model.run_step(batch).values()).item())
        results[name] = {"digest": digest(model), "start": start, "losses": losses,
                         "path_mean": model.path_mean.item()}
    path = Path(sys.argv[1]) / f"rank{distributed.rank()}.json"
    path.write_text(json.dumps(results))
    distributed.stop()
    distributed.leave(0)

"""What entries that use trained weights share: which weights, and the options they imply."""
from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from options.base_options import BaseOptions, read_yaml
from options.parser import (
    OneLineParser,
    count,
)

# What a run's own options say about its network; where the data lies is the caller's business, and
# the weights a run started from are not those it ended with.
NOT_IMPLIED = {"dataroot", "dataset_name", "name", "checkpoints_dir", "device", "batch_size",
               "num_threads", "max_dataset_size", "max_bad_images", "verbose", "seed",
               "synthetic_size", "memory_format", "pretrain_model_path"}


class TestOptions(BaseOptions):
    """Adds the choice of weights. Options of the run called --name are taken over from its
    folder, so that a network is rebuilt as it was trained."""
    __test__ = False    # not a test class, whatever pytest thinks of the name

    def initialize(self, parser: argparse.ArgumentParser) -> None:
        super().initialize(parser)
        parser.set_defaults(batch_size=8)
        group = parser.add_argument_group("weights")
        group.add_argument("--pretrain_model_path", "--pth_path", metavar="FILE",
                           help="weights of network G, ours or published")
        group.add_argument("--epoch", default="best",
                           help="without --pretrain_model_path: which weights of the run --name, "
                                "`best`, `latest` or an epoch number; best falls back to latest")
        group.add_argument("--load_iter", type=count, default=0,
                           help="the numbered weights of this step instead, 0 for none")

    def _config_values(self, first: argparse.Namespace) -> dict[str, Any]:
        """The options the run's weights were trained with come below those of --config."""
        implied: dict[str, Any] = {}
        folder = run_folder_of(first)
        saved = folder / "train_opt.yaml" if folder else None
        if saved is not None and saved.exists():
            implied = {key: value for key, value in read_yaml(saved).items()
                       if key not in NOT_IMPLIED}
        return {**implied, **super()._config_values(first), "__implied__": set(implied)}

    def _add_plugin_flags(self, parser: OneLineParser, first: argparse.Namespace,
                          values: dict[str, Any]) -> dict[str, str]:
        implied = values.pop("__implied__")
        choice = super()._add_plugin_flags(parser, first, values)
        for name in implied - set(parser.by_name()):    # training-only flags of that run
            values.pop(name, None)
        return choice


def with_graph_options(graph: str | None, values: dict[str, Any]) -> dict[str, Any]:
    """Option values, with those from the JSON beside a graph below them, if there is one."""
    beside = Path(graph).with_suffix(".json") if graph else None
    if beside is None or not beside.is_file():
        return values
    made = read_yaml(beside).get("options", {})     # JSON is YAML, too
    return {**made, **values, "__implied__": values["__implied__"] | set(made)}


def run_folder_of(opt: argparse.Namespace) -> Path | None:
    """Folder of the run the weights come from: that of --name, or of the weight file."""
    path = getattr(opt, "pretrain_model_path", None)
    if path:
        return Path(path).parent
    return Path(opt.checkpoints_dir) / opt.name if opt.name else None

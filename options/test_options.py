"""Options of entries that use trained weights: which weights, and the options they imply."""
from __future__ import annotations

import argparse
from pathlib import Path

from options.base_options import BaseOptions, read_yaml
from options.layers import Layer
from options.parser import count

# Options of a run that do not describe its network: the caller chooses the data, and the weights a
# run started from are not those it ended with.
NOT_IMPLIED = {"dataroot", "dataset_name", "name", "checkpoints_dir", "device", "batch_size",
               "num_threads", "max_dataset_size", "max_bad_images", "verbose", "seed",
               "max_image_memory", "synthetic_size", "memory_format", "pretrain_model_path"}


class TestOptions(BaseOptions):
    """Adds the choice of weights. Options of the run called --name are taken over from its
    folder, so that a network is rebuilt as it was trained."""
    __test__ = False    # not a test class, whatever pytest thinks of the name

    def initialize(self, parser: argparse.ArgumentParser) -> None:
        group = parser.add_argument_group("weights")
        group.add_argument("--pretrain_model_path", "--pth_path", metavar="FILE",
                           help="weights of network G: published ones or your own")
        group.add_argument("--epoch", default="best",
                           help="which weights of the run --name: best (or latest, if there is no "
                                "best), latest or an epoch number").rare = True
        group.add_argument("--load_iter", type=count, default=0, metavar="STEP",
                           help="load the weights that the run --name saved at this step; 0: by "
                                "--epoch").rare = True
        super().initialize(parser)
        parser.set_defaults(batch_size=8)

    def _layers(self, first: argparse.Namespace) -> list[Layer]:
        """The options the run's weights were trained with come below those of --config."""
        folder = run_folder_of(first)
        saved = folder / "train_opt.yaml" if folder else None
        values = read_yaml(saved) if saved is not None and saved.exists() else {}
        own = Layer({key: value for key, value in values.items() if key not in NOT_IMPLIED},
                    str(saved), said=False)
        return [own, *super()._layers(first)]

    def _weights_of(self, opt: argparse.Namespace) -> Path | None:
        if not (opt.pretrain_model_path or opt.name):
            return None
        try:
            return self.models.find_weights(opt)
        except FileNotFoundError:
            return None


def graph_options(graph: str | None) -> list[Layer]:
    """The options a graph was made with, from the JSON beside it, if there is one."""
    beside = Path(graph).with_suffix(".json") if graph else None
    if beside is None or not beside.is_file():
        return []
    return [Layer(read_yaml(beside).get("options", {}), str(beside), said=False)]  # JSON is YAML


def run_folder_of(opt: argparse.Namespace) -> Path | None:
    """Folder of the run the weights come from: that of --name, or of the weight file."""
    path = getattr(opt, "pretrain_model_path", None)
    if path:
        return Path(path).parent
    return Path(opt.checkpoints_dir) / opt.name if opt.name else None

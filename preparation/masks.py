"""Write a label map for each face in a folder, for --model psfrgan."""
from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Subset
from tqdm import tqdm

from data.labels import color_map
from data.loader import create_eval_loader
from data.single_dataset import SingleDataset
from engine import device as devices
from engine.prefetch import Prefetcher
from models.networks.parsenet import labels_of, parsing_network
from models.parse_model import add_parse_flags, parse_settings
from options.parser import count, positive_int
from preparation import _pictures
from utils.images.convert import to_tensor
from utils.images.errors import NotWritten
from utils.images.io import write_image


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input", required=True, metavar="PATH",
                        help="aligned faces: a folder (including subfolders) or a quoted pattern")
    parser.add_argument("--output", required=True, metavar="DIR",
                        help="folder for NAME.png, e.g. FFHQ/masks512 for images in FFHQ/imgs1024")
    parser.add_argument("--parse_weights", "--parse_net_weight", required=True, metavar="FILE",
                        help="parsing network: parse_multi_iter_90000.pth or one of --model parse; "
                             "`random` for quick tests only")
    add_parse_flags(parser, fixed=True)
    parser.add_argument("--size", type=positive_int, default=512, metavar="PIXELS",
                        help="side of the label maps and of the resized faces, a multiple of 16")
    parser.add_argument("--format", default="colors", choices=("colors", "labels"),
                        type=lambda text: text.replace("colours", "colors"),
                        help="colors as published, or labels as gray levels 0 to 18")
    parser.add_argument("--batch_size", type=positive_int, default=8, help="faces per batch")
    parser.add_argument("--num_threads", type=count, default=2, help="data loading processes")
    parser.add_argument("--device", default="auto", help="auto, npu, cuda or cpu; npu:3 is card 3")


def run(opt: argparse.Namespace) -> int:
    """Parse every image that has no map yet; 1 if some could not be read.

    Raises:
        ValueError: a size the network cannot take, no images, two images for one map, a map
            that would overwrite an image, weights that do not fit.
    """
    if opt.size % 16 or opt.size < 32:
        raise ValueError(f"--size must be a multiple of 16 from 32 on, got {opt.size}")
    dataset = SingleDataset(SingleDataset.Settings(dataroot=opt.input, load_size=opt.size),
                            split="test")
    folder = Path(opt.output)
    targets = targets_of(dataset, folder)
    waiting = [index for index, name in enumerate(dataset.items) if not targets[name].exists()]
    device = devices.open_device(opt.device)
    network = parsing_network(opt.parse_weights, "--parse_weights", **parse_settings(opt))
    network.to(device)
    loader = create_eval_loader(Subset(dataset, waiting), batch_size=opt.batch_size,
                                num_threads=opt.num_threads,
                                pin_memory=devices.pins_memory(device))
    failed: list[str] = []
    with tqdm(total=len(waiting), unit="face", disable=None) as bar:
        for batch in Prefetcher(loader, device, prepare):
            failed += batch["bad"]
            if batch["path"]:
                with torch.inference_mode():
                    maps = labels_of(network(batch["lq"])[0]).to(torch.uint8).cpu().numpy()
                for name, labels in zip(batch["path"], maps, strict=True):
                    try:
                        write_image(targets[name],
                                    color_map(labels) if opt.format == "colors" else labels)
                    except NotWritten as error:
                        failed.append(str(error))
            bar.update(len(batch["path"]) + len(batch["bad"]))
    print(_pictures.written(len(waiting) - len(failed), "label map", len(targets) - len(waiting),
                            folder))
    return _pictures.conclude(failed)


def prepare(batch: dict[str, Any]) -> dict[str, Any]:
    return {**batch, "lq": to_tensor(batch["lq"])} if batch["path"] else batch


def targets_of(dataset: SingleDataset, folder: Path) -> dict[str, Path]:
    """The map each image gets: its path below the data set's root, in `folder`, as PNG."""
    targets = {name: (folder / name).with_suffix(".png") for name in dataset.items}
    if len(set(targets.values())) < len(targets):
        raise ValueError(f"images in {dataset.root} must differ in more than their extension, "
                         "since their label maps would have the same name")
    originals = {os.path.realpath(dataset.root / name) for name in dataset.items}
    clash = next((target for target in targets.values() if os.path.realpath(target) in originals),
                 None)
    if clash is not None:
        raise ValueError(f"--output would overwrite the image {clash}; choose another folder")
    return targets

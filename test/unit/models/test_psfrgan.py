"""The models psfrgan and parse: options, labels, what is fixed, files; CelebAMask-HQ's data."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import tiny_arguments
from torch import Tensor

import data
import models
from data.celebahqmask_dataset import CelebAHQMaskDataset, mirrored
from models.networks.parsenet import ParseNet, one_hot, parsing_network
from options.train_options import TrainOptions
from utils.images.io import BadImage, write_image
from utils.images.resize import flip

TINY_PARSER = {"base_channels": 16, "min_channels": 16, "res_depth": 1}


def moved(before: dict, after: dict) -> bool:
    return any(not torch.equal(before[key], after[key]) for key in before)


def by_brightness(image: Tensor) -> Tensor:
    """In place of an untrained parser, which tells hardly any two images apart."""
    return ((image.mean(dim=1) + 1) * 9).long()


def copied(state: dict) -> dict:
    return {key: value.clone() for key, value in state.items()}


# ---- psfrgan -------------------------------------------------------------------------------------

def test_the_parsing_network_stays_as_it_is(tiny_run: Callable) -> None:
    """Its batch statistics too: it is in eval mode while G trains."""
    model, batch = tiny_run("psfrgan")
    before = copied(model.unwrapped["P"].state_dict())
    model.run_step(batch)
    assert not moved(before, model.unwrapped["P"].state_dict()) and "P" not in model.weights()


def test_the_optimizers_are_the_published_ones(tiny_run: Callable) -> None:
    model, _ = tiny_run("psfrgan")
    found = {name: (update.optimizer.param_groups[0]["lr"], update.optimizer.defaults["betas"])
             for name, update in model.precision.steps.items()}
    assert found == {"G": (1e-4, (0.5, 0.999)), "D": (4e-4, (0.5, 0.999))}


def test_targets_without_labels_are_parsed(tiny_run: Callable) -> None:
    model, batch = tiny_run("psfrgan")
    model.parse = by_brightness
    seen = []
    model.unwrapped["D"].register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    del batch["labels"]
    model.run_step(batch)
    assert torch.equal(seen[0], one_hot(by_brightness(batch["gt"])))


def test_given_labels_reach_the_discriminator(tiny_run: Callable) -> None:
    model, batch = tiny_run("psfrgan")
    seen = []
    model.unwrapped["D"].register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    model.run_step(batch)
    assert len(seen) == 3 and all(torch.equal(mask, one_hot(batch["labels"])) for mask in seen)


def test_the_generator_sees_the_map_of_the_degraded_image(tiny_run: Callable) -> None:
    model, batch = tiny_run("psfrgan")
    model.parse = by_brightness
    seen = []
    model.unwrapped["G"].register_forward_pre_hook(lambda _, args: seen.append(args))
    model.run_step(batch)
    lq, mask = seen[0]
    assert torch.equal(lq, batch["lq"]) and torch.equal(mask, one_hot(by_brightness(lq)))


@pytest.mark.parametrize("name", ["SS", "PCP"])
def test_a_vgg_loss_is_there_when_its_weight_is(name: str, tiny_run: Callable) -> None:
    model, batch = tiny_run("psfrgan", f"--lambda_{name.lower()}", "7", "--vgg_weights", "random")
    losses = model.run_step(batch)
    assert set(losses) == {"Pix", "FM", "G", "D", name}
    assert torch.isfinite(losses[name]) and losses[name] > 0


def test_a_map_without_labels_has_no_style_loss(tiny_run: Callable) -> None:
    model, batch = tiny_run("psfrgan", "--lambda_ss", "100", "--vgg_weights", "random")
    batch["labels"].fill_(255)
    losses = model.run_step(batch)
    assert losses["SS"] == 0 and model.weights_are_finite()


@pytest.mark.parametrize("arguments, words", [
    (["--lambda_ss", "1"], "--vgg_weights is missing"),
    (["--lambda_pcp", "1"], "--vgg_weights is missing"),
    (["--load_size", "16", "--lq_size", "8", "16"], "--load_size must be at least 32"),
    (["--load_size", "48"], "16 times a power of two, got 48"),
    (["--n_layers_D", "4"], "--load_size must be at least 95 for network D")])
def test_options_that_do_not_go_together_are_named(arguments: list[str], words: str,
                                                   capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        TrainOptions(models, data, "test").parse([*tiny_arguments("psfrgan"), *arguments])
    assert words in capsys.readouterr().err


def test_the_parsing_network_must_be_given(tiny_options: Callable, capsys: pytest.CaptureFixture
                                           ) -> None:
    with pytest.raises(SystemExit):
        tiny_options("psfrgan", without="--parse_weights")
    assert "--parse_weights is missing" in capsys.readouterr().err


def test_a_file_of_another_size_names_the_options_it_needs(tiny_run: Callable,
                                                           tmp_path: Path) -> None:
    model, _ = tiny_run("psfrgan")
    torch.save(model.weights()["G"], tmp_path / "small.pth")
    other, _ = tiny_run("psfrgan", "--load_size", "64")
    with pytest.raises(ValueError, match="--load_size 32 --max_channels 16"):
        other.load_weights("G", tmp_path / "small.pth")


def test_an_old_file_is_refused_by_its_design(tiny_run: Callable, tmp_path: Path) -> None:
    model, _ = tiny_run("psfrgan")
    torch.save({**model.weights()["G"], "to_rgb.0.weight": torch.zeros(1)}, tmp_path / "old.pth")
    with pytest.raises(ValueError, match="before March 2021"):
        model.load_weights("G", tmp_path / "old.pth")


# ---- parse ---------------------------------------------------------------------------------------

def test_weights_of_parse_are_what_psfrgan_takes(tiny_run: Callable, tmp_path: Path) -> None:
    parse, batch = tiny_run("parse")
    path = tmp_path / "latest_net_P.pth"
    torch.save(parse.weights()["P"], path)
    model, _ = tiny_run("psfrgan", "--parse_weights", str(path))
    parse.eval()
    assert torch.equal(model.parse(batch["lq"]), parse.parse(batch["lq"]))


def test_start_weights_go_into_p(tiny_run: Callable, tiny_options: Callable,
                                 tmp_path: Path) -> None:
    source, _ = tiny_run("parse")
    source.unwrapped["P"].out_img_conv.conv2d.bias.data.fill_(7)
    torch.save(source.weights()["P"], tmp_path / "start.pth")
    model, _ = tiny_run("parse", "--pretrain_model_path", str(tmp_path / "start.pth"))
    assert not moved(source.weights()["P"], model.weights()["P"])


def test_parsing_needs_labels(tiny_run: Callable) -> None:
    model, batch = tiny_run("parse")
    del batch["labels"]
    with pytest.raises(ValueError, match="needs a dataset with labels"):
        model.run_step(batch)


def test_a_few_steps_teach_labels(tiny_run: Callable) -> None:
    model, batch = tiny_run("parse", "--lr", "1e-3")
    first = (model.parse(batch["gt"]) == batch["labels"]).float().mean()
    batch = {**batch, "lq": batch["gt"]}
    for step in range(1, 25):
        model.start_step(step, 100, 100)
        model.run_step(batch)
    assert (model.parse(batch["gt"]) == batch["labels"]).float().mean() > max(0.6, first)


def test_a_missing_or_unfit_parsing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"--parse_weights: .*nothing.pth does not exist"):
        parsing_network(tmp_path / "nothing.pth", "--parse_weights")
    torch.save(ParseNet(**TINY_PARSER).state_dict(), tmp_path / "small.pth")
    with pytest.raises(ValueError, match=r"--parse_weights: .*does not fit the network"):
        parsing_network(tmp_path / "small.pth", "--parse_weights", res_depth=5)


def test_random_parsing_weights_are_always_the_same_and_move_no_draw() -> None:
    torch.manual_seed(5)
    one = parsing_network("random", "--parse_weights", **TINY_PARSER)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), drawn)
    other = parsing_network("random", "--parse_weights", **TINY_PARSER)
    assert not moved(one.state_dict(), other.state_dict())
    assert not one.training and not any(weight.requires_grad for weight in one.parameters())


# ---- CelebAMask-HQ -------------------------------------------------------------------------------

@pytest.fixture
def celeba(tmp_path: Path) -> Path:
    """Three faces of 48 pixels with maps of 32, one label per face but for a corner."""
    for number in range(3):
        image = np.random.default_rng(number).integers(0, 256, (48, 48, 3), dtype=np.uint8)
        write_image(tmp_path / "CelebA-HQ-img" / f"{number}.png", image)
        labels = np.full((32, 32), number + 4, np.uint8)
        labels[:8, :8] = 18
        write_image(tmp_path / "CelebAMask-HQ-mask" / f"{number}.png", labels)
    return tmp_path


def dataset_of(root: Path, split: str = "train", **settings: object) -> CelebAHQMaskDataset:
    return CelebAHQMaskDataset(CelebAHQMaskDataset.Settings(**{
        "dataroot": str(root), "load_size": 64, "num_val_images": 0, "gray_prob": 0.0,
        **settings}), split=split)


def test_labels_come_with_the_image_and_stay_labels(celeba: Path) -> None:
    sample = dataset_of(celeba)[1]
    assert sample["gt"].shape == (64, 64, 3) and sample["path"] == "1.png"
    assert sample["labels"].shape == (64, 64) and sample["labels"].dtype == np.uint8
    assert set(np.unique(sample["labels"])) == {5, 18}
    assert (sample["labels"][:16, :16] == 18).all() and (sample["labels"] == 18).sum() == 256


def test_mirroring_takes_the_labels_along(celeba: Path) -> None:
    plain, other = (dataset_of(celeba, flip_prob=fraction)[0] for fraction in (0.0, 1.0))
    assert np.array_equal(other["gt"], flip(plain["gt"]))
    assert np.array_equal(other["labels"], mirrored(plain["labels"]))


def test_only_training_images_are_mirrored_and_grayed(celeba: Path) -> None:
    plain = dataset_of(celeba, split="test")[0]
    other = dataset_of(celeba, split="test", flip_prob=1.0, gray_prob=1.0)[0]
    assert all(np.array_equal(plain[key], other[key]) for key in ("gt", "labels"))


def test_left_and_right_change_places() -> None:
    labels = np.arange(19, dtype=np.uint8)[None]
    assert mirrored(labels)[0, ::-1].tolist() == [0, 1, 2, 3, 5, 4, 7, 6, 9, 8, *range(10, 19)]


@pytest.mark.parametrize("spoil", [
    lambda path: path.unlink(),
    lambda path: cv2.imwrite(str(path), np.full((8, 8), 19, np.uint8)),
    lambda path: cv2.imwrite(str(path), np.full((8, 8, 3), (1, 2, 3), np.uint8))],
    ids=["missing", "a level too high", "colors"])
def test_a_map_that_is_none_is_an_unreadable_image(spoil: Callable, celeba: Path) -> None:
    path = celeba / "CelebAMask-HQ-mask" / "0.png"
    spoil(path)
    with pytest.raises(BadImage, match=r"0\.png"):
        dataset_of(celeba).read_labels(0)


@pytest.mark.parametrize("settings, words", [
    ({"gray_prob": 2}, "--gray_prob must be from 0 to 1"),
    ({"flip_prob": -1}, "--flip_prob must be from 0 to 1"),
    ({"dataroot": ""}, "--dataroot is missing: give a folder"),
    ({"dataroot": "nowhere"}, "prepare.py labels")])
def test_the_data_set_refuses(settings: dict, words: str, celeba: Path) -> None:
    with pytest.raises(ValueError, match=words):
        dataset_of(celeba, **settings)


def test_validation_images_have_their_own_maps(celeba: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_image(other / "CelebA-HQ-img" / "9.png", np.zeros((8, 8, 3), np.uint8))
    write_image(other / "CelebAMask-HQ-mask" / "9.png", np.full((8, 8), 13, np.uint8))
    dataset = dataset_of(celeba, val_dataroot=str(other), split="val")
    assert len(dataset) == 1 and (dataset[0]["labels"] == 13).all()

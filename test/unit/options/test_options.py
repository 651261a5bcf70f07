"""Options: precedence, plug-in flags, and mistakes that cost one line."""
from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT, tiny_arguments

import data
import models
import newtrain
from options.base_options import read_yaml, to_yaml
from options.enhance_options import EnhanceOptions
from options.evaluate_options import EvaluateOptions
from options.export_options import ExportOptions
from options.train_options import TrainOptions


def parse(*arguments: str, kind: type = TrainOptions) -> object:
    return kind(models, data, "prog").parse(list(arguments))


def complaint(capsys: pytest.CaptureFixture, *arguments: str, kind: type = TrainOptions) -> str:
    """What is printed for a wrong command line; checks status 2 and that it is one line."""
    with pytest.raises(SystemExit) as stop:
        parse(*arguments, kind=kind)
    text = capsys.readouterr().err
    assert stop.value.code == 2
    assert text.count("\n") == 1
    return text


def config(tmp_path: Path, **values: object) -> str:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


def test_the_command_line_beats_yaml_which_beats_defaults(tmp_path: Path) -> None:
    path = config(tmp_path, batch_size=7, lr=0.5, res_depth=3)
    opt = parse("--config", path, "--lr", "0.25")
    assert (opt.batch_size, opt.lr, opt.res_depth, opt.beta1) == (7, 0.25, 3, 0.9)


@pytest.mark.parametrize("flag, name", [
    ("--dataroot", "dataroot"), ("--data_path", "dataroot"), ("--data_url", "dataroot"),
    ("--checkpoints_dir", "checkpoints_dir"), ("--output_path", "checkpoints_dir"),
    ("--train_url", "checkpoints_dir"), ("--workers", "num_threads"),
    ("--train_epochs", "total_epochs"), ("--local_rank", "local_rank"),
    ("--local-rank", "local_rank"), ("--learning_rate", "lr")])
def test_modelzoo_spellings_are_aliases(flag: str, name: str) -> None:
    assert str(getattr(parse(flag, "3"), name)) in ("3", "3.0")


@pytest.mark.parametrize("key", ["data_path", "train_epochs", "output_path"])
def test_aliases_work_in_yaml_too(key: str, tmp_path: Path) -> None:
    target = {"data_path": "dataroot", "train_epochs": "total_epochs",
              "output_path": "checkpoints_dir"}[key]
    assert str(getattr(parse("--config", config(tmp_path, **{key: 4})), target)) == "4"


@pytest.mark.parametrize("kind, before, now, more", [
    (EnhanceOptions, "keep_grey", "keep_gray", ("--name", "x", "--input", "x", "--photos")),
    (EnhanceOptions, "match_colours", "match_colors", ("--name", "x", "--input", "x", "--photos")),
    (ExportOptions, "licence", "license", ("--name", "x")),
    (TrainOptions, "colour_shift", "color_shift", ("--degradation", "gfpgan")),
    (TrainOptions, "kernel_side", "kernel_size", ("--degradation", "gfpgan"))])
def test_spellings_of_earlier_versions_work_everywhere(kind: type, before: str, now: str,
                                                       more: tuple[str, ...],
                                                       tmp_path: Path) -> None:
    on = kind is EnhanceOptions
    value = True if on else 7
    opt = parse(f"--{before}", *([] if on else ["7"]), *more, kind=kind)
    assert float(getattr(opt, now)) == value and not hasattr(opt, before)
    opt = parse("--config", config(tmp_path, **{before: value}), *more, kind=kind)
    assert float(getattr(opt, now)) == value


def test_no_data_means_synthetic_faces_and_a_folder_the_models_own_dataset() -> None:
    assert parse().dataset_name == "synthetic"
    assert parse("--dataroot", "x").dataset_name == "celeba"


def test_resolved_options_can_be_fed_back(tmp_path: Path) -> None:
    first = parse("--res_depth", "2", "--dataroot", "x", "--lr", "1e-5", "--no-tensorboard",
                  "--train_steps", "9")
    path = tmp_path / "saved.yaml"
    path.write_text(to_yaml(first))
    again = parse("--config", str(path))
    again.config = first.config
    assert vars(again) == vars(first)


def test_a_model_named_on_the_command_line_beats_the_yaml_even_if_it_is_the_default(
        tmp_path: Path) -> None:
    assert parse("--config", config(tmp_path, model="unheard_of"), "--model",
                 "sparnet").model == "sparnet"


@pytest.mark.parametrize("path", sorted((ROOT / "options").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_settings_parse_and_say_what_they_are(path: Path) -> None:
    opt = parse("--config", str(path), "--dataroot", "x")
    assert opt.model == read_yaml(path)["model"]
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("alias, name, more", [
    ("enhance", "psfrgan", ["--parse_weights", "random", "--lambda_ss", "0"]),
    ("fpn", "parse", [])])
def test_the_originals_names_of_models_are_understood(alias: str, name: str,
                                                       more: list[str]) -> None:
    opt = parse("--model", alias, *more)
    assert (opt.model, opt.name.split("_")[0]) == (name, name)


@pytest.mark.parametrize("kind, needed", [
    (TrainOptions, ["--res_depth", "--lambda_pix", "--scale_factor", "--lq_dataroot"]),
    (EvaluateOptions, ["--res_depth", "--protocol", "--lq_dataroot"]),
    (EnhanceOptions, ["--res_depth", "--input"])])
def test_help_shows_the_models_and_the_datasets_flags(kind: type, needed: list[str],
                                                      capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        parse("--help", "--model", "sparnet", "--dataset_name", "folder", kind=kind)
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert [flag for flag in needed if flag not in text] == []


@pytest.mark.parametrize("arguments, words", [
    (["--batchsize", "3"], ["--batchsize", "--batch_size"]),
    (["--res_deph", "3"], ["--res_depth"]),
    (["--model", "sparnett"], ["sparnett", "sparnet"]),
    (["--dataset_name", "celebA"], ["celebA", "celeba"]),
    (["--degradation", "bicubik"], ["bicubik", "bicubic"]),
    (["--batch_size", "0"], ["--batch_size", "positive integer", "'0'"]),
    (["--lr", "nan"], ["--lr", "nan"]),
    (["--lr", "fast"], ["--lr", "fast"]),
    (["--opt_level", "O4"], ["--opt_level", "O4", "O2"]),
    (["--gpus", "2"], ["--gpus", "--device"]),
    (["stray"], ["stray"]),
    (["--load_size", "100"], ["--load_size", "multiple of 8", "100"]),
    (["--load_size", "24"], ["--load_size", "at least", "24"]),
    (["--bottleneck_size", "64"], ["bottleneck_size", "64"]),
    (["--Gnorm", "layer"], ["--Gnorm", "layer", "bn"]),
    (["--beta1", "1.5"], ["--beta1", "1.5"]),
    (["--name", "a/b"], ["--name", "a/b"]), (["--name", ".."], ["--name", ".."]),
    (["--name", "."], ["--name", "."]), (["--name", ""], ["--name", "empty"]),
    (["--max_bad_images", "2"], ["--max_bad_images", "'2'"]),
    (["--config", "missing.yaml"], ["--config", "missing.yaml"])])
def test_mistakes_are_named_with_what_is_valid(arguments: list[str], words: list[str],
                                               capsys: pytest.CaptureFixture) -> None:
    text = complaint(capsys, *arguments)
    assert [word for word in words if word not in text] == []


@pytest.mark.parametrize("values, words", [
    ({"batch_sise": 3}, ["batch_sise", "batch_size"]),
    ({"batch_size": "many"}, ["batch_size", "many"]),
    ({"batch_size": [1, 2]}, ["batch_size", "single value, got a list"]),
    ({"continue_train": "yes please"}, ["continue_train", "true or false"]),
    ({"opt_level": "O9"}, ["opt_level", "O9"])])
def test_mistakes_in_yaml_name_the_file_and_the_key(values: dict, words: list[str], tmp_path: Path,
                                                    capsys: pytest.CaptureFixture) -> None:
    text = complaint(capsys, "--config", config(tmp_path, **values))
    assert [word for word in [*words, "config.yaml"] if word not in text] == []


@pytest.mark.parametrize("content", ["- 1\n- 2\n", "a: [", "\x00\x01"])
def test_a_file_that_is_no_option_file_is_refused(content: str, tmp_path: Path,
                                                  capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    assert "bad.yaml" in complaint(capsys, "--config", str(path))


@pytest.mark.parametrize("kind, arguments, words", [
    (EvaluateOptions, [], ["--pretrain_model_path", "--name", "--restored"]),
    (EvaluateOptions, ["--restored", "x"], ["--restored", "--gt"]),
    (EvaluateOptions, ["--lq", "x", "--name", "y"], ["--lq"]),
    (EnhanceOptions, ["--name", "x"], ["--input"]),
    (EnhanceOptions, ["--input", "x"], ["--pretrain_model_path"])])
def test_missing_partners_are_named(kind: type, arguments: list[str], words: list[str],
                                    capsys: pytest.CaptureFixture) -> None:
    text = complaint(capsys, *arguments, kind=kind)
    assert [word for word in words if word not in text] == []


def test_the_options_of_a_run_name_neither_it_nor_that_it_goes_on() -> None:
    lines = to_yaml(parse("--name", "mine", "--continue_train", kind=TrainOptions)).splitlines()
    assert [line for line in lines if line.startswith(("name:", "continue_train:"))] == []


def test_a_runs_own_options_rebuild_its_network(tmp_path: Path) -> None:
    run = tmp_path / "small"
    run.mkdir()
    (run / "train_opt.yaml").write_text(to_yaml(parse(
        "--res_depth", "1", "--att_name", "spar3d", "--load_size", "64", "--batch_size", "3",
        "--dataroot", "faces")))
    opt = parse("--checkpoints_dir", str(tmp_path), "--name", "small", "--input", "x",
                kind=EnhanceOptions)
    assert (opt.res_depth, opt.att_name, opt.load_size, opt.batch_size) == (1, "spar3d", 64, 8)
    again = parse("--pretrain_model_path", str(run / "latest_net_G.pth"), "--res_depth", "4",
                  "--input", "x", kind=EnhanceOptions)
    assert (again.res_depth, again.att_name) == (4, "spar3d")


@pytest.mark.parametrize("arguments, said", [
    (("--upscale", "2"), "--upscale has no effect without --photos"),
    (("--only_center_face", "--max_faces", "2", "--photos"), "leave --max_faces out")])
def test_photograph_flags_that_would_do_nothing_are_refused(
        arguments: tuple, said: str, capsys: pytest.CaptureFixture) -> None:
    given = ("--input", "a.png", "--name", "one", *arguments)
    assert said in complaint(capsys, *given, kind=EnhanceOptions)


# ---- resolve and check --------------------------------------------------------------------------

def options_of(name: str, kind: type) -> argparse.Namespace:
    """Resolved options of a tiny training, or of applying the network."""
    if kind is TrainOptions:
        return parse(*tiny_arguments(name))
    more = ["--parse_weights", "random"] if name == "psfrgan" else []
    return parse("--model", name, "--restored", "x", "--gt", "y", *more, kind=kind)


@pytest.mark.parametrize("kind", [TrainOptions, EvaluateOptions])
@pytest.mark.parametrize("method", ["resolve", "check"])
@pytest.mark.parametrize("name", models.names())
def test_resolved_options_stay_as_they_are(name: str, method: str, kind: type) -> None:
    """Checking changes none, and resolving again changes none."""
    opt = options_of(name, kind)
    before = copy.deepcopy(vars(opt))
    getattr(models.find(name), method)(opt)
    assert vars(opt) == before


# ---- build --------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", models.names())
def test_what_is_built_is_what_is_trained(name: str, tiny_options: Callable) -> None:
    opt = tiny_options(name)
    model = models.create(opt, torch.device("cpu"))
    trained = {letter: type(model.unwrapped[letter]) for letter in model._trained()}
    assert {letter: type(network) for letter, network in model.build(opt).items()} == trained


@pytest.mark.parametrize("name", models.names())
def test_without_training_only_what_restores_is_built(name: str, tiny_options: Callable) -> None:
    model, opt = models.find(name), tiny_options(name)
    opt.is_train = False
    assert list(model.build(opt)) == ["P" if model.inference_network == "P" else "G"]


@pytest.mark.parametrize("name", models.names())
def test_every_model_counts_its_operations_without_computing(name: str,
                                                             tiny_options: Callable) -> None:
    opt = tiny_options(name)
    state = torch.get_rng_state()
    small, large = (models.find(name).forward_flops(argparse.Namespace(**vars(opt) | {
        "load_size": opt.load_size * factor})) for factor in (1, 2))
    assert 0 < small < large and torch.equal(state, torch.get_rng_state())


# ---- what YAML and shells make of values --------------------------------------------------------

def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "own.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(("text", "name", "value"), [
    ("name: 12:30:45", "name", "12:30:45"), ("name: no", "name", "no"),
    ("name: 2024-01-02", "name", "2024-01-02"), ("seed: 010", "seed", 10),
    ("name: 0x1F", "name", "0x1F"), ("lr: 1e-4", "lr", 1e-4), ("name: 1_000", "name", "1_000"),
    ("tensorboard: off", "tensorboard", False), ("tensorboard: True", "tensorboard", True),
    ("train_steps: null", "train_steps", None), ("\ufeffseed: 5", "seed", 5)])
def test_yaml_values_are_read_like_the_command_line(tmp_path: Path, text: str, name: str,
                                                    value: object) -> None:
    assert getattr(parse("--config", written(tmp_path, text)), name) == value


@pytest.mark.parametrize(("text", "words"), [
    ("seed: 1\nseed: 2", "seed is given twice"),
    ("dataroot:\nseed: 2", "dataroot must have a value"),
    ("dataroot: ''", "dataroot: expected a value, got an empty one"),
    ("batch_size:", "batch_size must have a value"), ("model: [1]", "model takes a single value"),
    ("tensorboard: perhaps", "tensorboard must be true or false, got 'perhaps'"),
    ("seed: 0o17", "seed: expected")])
def test_yaml_values_that_say_nothing_are_one_line(tmp_path: Path, text: str, words: str,
                                                   capsys: pytest.CaptureFixture) -> None:
    said = complaint(capsys, "--config", written(tmp_path, text))
    assert words in said and "own.yaml" in said and said.count("\n") == 1


@pytest.mark.parametrize("flag", ["--dataroot", "--pretrain_model_path", "--val_dataroot",
                                  "--config", "--checkpoints_dir", "--name", "--model"])
@pytest.mark.parametrize("value", ["", " "])
def test_an_empty_value_names_its_flag(flag: str, value: str, capsys: pytest.CaptureFixture
                                       ) -> None:
    said = complaint(capsys, flag, value)
    assert flag in said and "is a shell variable unset?" in said


@pytest.mark.parametrize("flag", ["--input", "--output", "--pretrain_model_path", "--faces"])
def test_an_empty_value_of_enhance_names_its_flag(flag: str, capsys: pytest.CaptureFixture) -> None:
    assert flag in complaint(capsys, "--name", "x", "--input", "y", flag, "", kind=EnhanceOptions)


def test_output_path_is_where_results_go() -> None:
    assert parse("--name", "x", "--input", "y", "--output_path", "z",
                 kind=EnhanceOptions).output == "z"


@pytest.mark.parametrize("model, flag", [("psfrgan", "--vgg_weights"), ("gpen", "--id_weights")])
def test_weights_that_are_not_there_are_refused_before_networks_are_built(
        model: str, flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "create", lambda *_: pytest.fail("a network was built"))
    opt = TrainOptions(models, data, "newtrain.py").parse(
        [*tiny_arguments(model), flag, str(tmp_path / "none.pth")])
    with pytest.raises(ValueError, match=f"^{flag}: checkpoint .*none.pth does not exist$"):
        newtrain.train(opt)

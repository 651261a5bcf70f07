"""What weight files show of their networks ends up in the options."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from conftest import TINY_MODEL, tiny_arguments

import data
import models
from engine import checkpoint, weight_formats
from models.networks.gfpgan import GFPGAN
from models.networks.pfsrnet import Generator
from models.networks.sparnet import SPARNet
from models.networks.stylegan2 import Generator as Prior
from options.enhance_options import EnhanceOptions
from options.evaluate_options import EvaluateOptions
from options.export_options import ExportOptions
from options.serve_options import ServeOptions
from options.test_options import TestOptions
from options.train_options import TrainOptions
from tools.sample import SampleOptions

CPU = torch.device("cpu")
SMALL_GFPGAN = {"size": 16, "narrow": 1 / 32, "style_dim": 16, "num_mlp": 1}
# What no weight file of the model shows, but its options ask for.
NOT_SHOWN = {"psfrgan": ["--parse_weights", "random", "--parse_channels", "16", "--parse_depth",
                         "1"]}
# Files of its tiny training's network do not show which of two they are of.
CLEAN = {"gfpgan": ["--preset", "1.3"]}
ENTRIES = {EnhanceOptions: ["--input", "x"], EvaluateOptions: [], ExportOptions: [],
           ServeOptions: []}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For every model a weight file of its tiny network."""
    folder, found = tmp_path_factory.mktemp("files"), {}
    for name in models.names():
        model = models.create(tiny(name), CPU)
        found[name] = folder / f"{name}.pth"
        torch.save(model.weights()[model.inference_network], found[name])
    return found


def tiny(name: str) -> object:
    return TrainOptions(models, data, "test").parse([*tiny_arguments(name), *CLEAN.get(name, [])])


def parse(name: str, path: object, *arguments: str, kind: type = EnhanceOptions) -> object:
    return kind(models, data, "prog").parse(
        ["--model", name, "--pretrain_model_path", str(path), "--device", "cpu",
         *ENTRIES.get(kind, []), *NOT_SHOWN.get(name, []), *arguments])


def refusal(capsys: pytest.CaptureFixture, *arguments: object, **settings: object) -> str:
    """The line that a command line is refused with."""
    with pytest.raises(SystemExit) as stop:
        parse(*arguments, **settings)
    text = capsys.readouterr().err
    assert stop.value.code == 2 and text.count("\n") == 1
    return text


def saved(path: Path, network: torch.nn.Module, **settings: object) -> Path:
    torch.save(network.state_dict(), path, **settings)
    return path


# ---- every model ---------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ENTRIES)
@pytest.mark.parametrize("name", models.names())
def test_a_file_alone_says_how_its_network_is_built(name: str, kind: type,
                                                    files: dict[str, Path]) -> None:
    wanted, found = tiny(name), parse(name, files[name], kind=kind)
    shown = models.settings_of(name, files[name])
    assert shown
    assert {flag: getattr(found, flag) for flag in shown} == {
        flag: getattr(wanted, flag) for flag in shown}


@pytest.mark.parametrize("name", models.names())
def test_a_file_alone_is_enough_to_restore(name: str, files: dict[str, Path]) -> None:
    model, _ = models.load_trained(parse(name, files[name]), CPU)
    state = torch.load(files[name], weights_only=True)
    assert all(torch.equal(value, state[key])
               for key, value in next(iter(model.weights().values())).items())


@pytest.mark.parametrize("name", models.names())
def test_a_flag_that_contradicts_the_file_is_named_with_what_the_file_says(
        name: str, files: dict[str, Path], capsys: pytest.CaptureFixture) -> None:
    flag, shown = next((flag, shown) for flag, shown in models.settings_of(
        name, files[name]).items() if isinstance(shown, int))
    text = refusal(capsys, name, files[name], f"--{flag}", str(2 * shown + 2))
    assert (f"--{flag} {2 * shown + 2} contradicts {files[name]}, which needs --{flag} {shown}"
            in text)


@pytest.mark.parametrize("name", models.names())
def test_a_file_of_another_model_says_whose_it_is(name: str, files: dict[str, Path],
                                                  capsys: pytest.CaptureFixture) -> None:
    for other in models.names():
        if other != name:
            text = refusal(capsys, name, files[other])
            assert f"{files[other]} holds no" in text and f"it is of --model {other}" in text


@pytest.mark.parametrize("name", models.names())
def test_fine_tuning_takes_the_settings_of_its_file(name: str, files: dict[str, Path]) -> None:
    shown = models.settings_of(name, files[name])
    given = [word for flag, *words in _flags(TINY_MODEL[name]) if flag[2:] not in shown
             for word in (flag, *words)]
    opt = TrainOptions(models, data, "test").parse(
        ["--model", name, "--pretrain_model_path", str(files[name]), "--batch_size", "2", *given])
    assert all(getattr(opt, flag) == value for flag, value in shown.items()
               if not isinstance(value, tuple))


def _flags(words: list[str]) -> list[list[str]]:
    """Flags with their values."""
    found: list[list[str]] = []
    for word in words:
        if word.startswith("--"):
            found.append([])
        found[-1].append(word)
    return found


# ---- where the file comes from, and what stands against it ---------------------------------------

def test_the_light_3d_network_needs_no_flags(tmp_path: Path) -> None:
    path = saved(tmp_path / "LIGHT3D.pth", SPARNet(res_depth=1, att_name="spar3d"))
    opt = parse("sparnet", path)
    assert (opt.res_depth, opt.att_name, opt.load_size) == (1, "spar3d", 128)
    models.load_trained(opt, CPU)


def test_a_runs_weights_are_enough_without_its_options(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    saved(tmp_path / "run" / "latest_net_G.pth", SPARNet(res_depth=2, bottleneck_size=8))
    opt = EnhanceOptions(models, data, "prog").parse(
        ["--name", "run", "--checkpoints_dir", str(tmp_path), "--input", "x"])
    assert (opt.res_depth, opt.bottleneck_size) == (2, 8)


def test_a_prior_alone_is_enough_to_sample(files: dict[str, Path]) -> None:
    opt = SampleOptions(models, data, "prog").parse(
        ["--pretrain_model_path", str(files["stylegan2"])])
    assert (opt.load_size, opt.style_dim, opt.n_mlp) == (16, 16, 2)


def test_weights_beat_the_options_that_lie_beside_them(tmp_path: Path) -> None:
    (tmp_path / "train_opt.yaml").write_text("{res_depth: 7, load_size: 64}")
    opt = parse("sparnet", saved(tmp_path / "other.pth", SPARNet(res_depth=1)))
    assert (opt.res_depth, opt.load_size) == (1, 64)


def test_yaml_that_contradicts_the_file_is_named_with_its_file(
        tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path, config = saved(tmp_path / "G.pth", SPARNet(res_depth=1)), tmp_path / "mine.yaml"
    config.write_text(yaml.safe_dump({"res_depth": 10}))
    text = refusal(capsys, "sparnet", path, "--config", str(config))
    assert f"{config}: res_depth 10 contradicts {path}, which needs --res_depth 1" in text


def test_a_flag_may_say_what_the_file_shows(tmp_path: Path) -> None:
    path = saved(tmp_path / "G.pth", SPARNet(res_depth=1))
    assert parse("sparnet", path, "--res_depth", "1", "--Gnorm", "bn").res_depth == 1


def test_norms_that_look_alike_in_a_file_must_be_told_apart(
        tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = saved(tmp_path / "G.pth", SPARNet(res_depth=0, norm="gn"))
    assert "--Gnorm in or --Gnorm gn" in refusal(capsys, "sparnet", path)
    assert parse("sparnet", path, "--Gnorm", "gn").Gnorm == "gn"
    assert "--Gnorm bn contradicts" in refusal(capsys, "sparnet", path, "--Gnorm", "bn")


@pytest.mark.parametrize("preset", ["1.2", "1.4"])
def test_any_name_of_the_same_network_fits(preset: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "G.pth", GFPGAN(arch="clean", **SMALL_GFPGAN))
    assert parse("gfpgan", path, "--preset", preset).preset == preset


def test_a_preset_of_another_size_is_refused(files: dict[str, Path],
                                             capsys: pytest.CaptureFixture) -> None:
    text = refusal(capsys, "gpen", files["gpen"], "--preset", "256")
    assert "--load_size must be 256 for --preset 256, got 16" in text and str(files["gpen"]) in text


def test_narrow_is_compared_by_the_widths_it_gives(tmp_path: Path) -> None:
    path = saved(tmp_path / "G.pth", Prior(size=16, narrow=0.1, style_dim=16, n_mlp=1))
    assert parse("stylegan2", path, "--narrow", "0.1").narrow == 0.1


def test_a_published_file_of_pfsrnet_says_its_width(tmp_path: Path) -> None:
    torch.save({"step": 2, "alpha": 0.5, "iteration": 1,
                "model_state_dict": Generator(width=8).state_dict()}, tmp_path / "g.ckpt")
    assert parse("pfsrnet", tmp_path / "g.ckpt").width == 8


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_is_read_once(zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                             ) -> None:
    path = saved(tmp_path / "G.pth", SPARNet(res_depth=1),
                 _use_new_zipfile_serialization=zipped)
    reads, read = [], weight_formats.read_file

    def counting(found: Path, mmap: bool = False) -> object:
        reads.extend([] if mmap else [found])
        return read(found, mmap)
    monkeypatch.setattr(weight_formats, "read_file", counting)
    models.load_trained(parse("sparnet", path), CPU)
    assert reads == [path]


def test_a_file_that_changes_meanwhile_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "G.pth"
    torch.save({"a": torch.zeros(1)}, path, _use_new_zipfile_serialization=False)
    checkpoint.peek(path)
    torch.save({"b": torch.zeros(9)}, path, _use_new_zipfile_serialization=False)
    assert list(checkpoint.read(path)) == ["b"]


@pytest.mark.parametrize("content", [b"", b"no checkpoint"])
def test_what_cannot_be_read_is_left_to_loading(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "G.pth").write_bytes(content)
    opt = parse("sparnet", tmp_path / "G.pth", kind=TestOptions)
    with pytest.raises(ValueError, match=r"G\.pth"):
        models.load_trained(opt, CPU)

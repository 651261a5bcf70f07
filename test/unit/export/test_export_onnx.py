"""Exported graphs: what they compute, what they say about themselves, and that wrong ones are not
kept; half precision, integers, enhance.py. All of it needs requirements-export.txt."""
from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY_MODEL

for package in ("onnx", "onnxruntime"):
    pytest.importorskip(package, reason=f"{package} is not installed: requirements-export.txt")

import onnx

import data
import enhance
import export_onnx
import models
from export import graph, metadata, smaller
from export.engine import OnnxModel
from models.ops.spectral import spectral_hooks
from options.enhance_options import EnhanceOptions
from options.export_options import ExportOptions
from options.parser import OneLineParser
from tools import quantize
from utils.images.io import read_image, write_image
from utils.images.resize import bicubic

# What the networks of GFP-GAN's other presets need besides.
PRESETS = {"gfpgan": (("--preset", "1"), ("--preset", "bilinear"), ("--preset", "1.3"))}
STAGES = ("train", "saved", "resume", "resumed", "evaluate", "export", "infer_torch", "infer_onnx",
          "compare")
pytestmark = pytest.mark.deep
CASES = [(name, preset) for name in models.names() for preset in PRESETS.get(name, ((),))]


def flags_of(name: str) -> list[str]:
    """The flags of a tiny network that are known where nothing is trained."""
    parser = OneLineParser()
    parser.add_argument("--load_size")
    models.option_setter(name)(parser, False)
    flags, known, keep = [], parser.flags(), False
    for word in TINY_MODEL.get(name, []):
        keep = word in known if word.startswith("--") else keep
        flags += [word] if keep else []
    return ["--model", name, *flags, "--device", "cpu"]


def parse_export(*arguments: object) -> Namespace:
    return ExportOptions(models, data, "test").parse([*map(str, arguments)])


@lru_cache
def weights_of(name: str, preset: tuple[str, ...], folder: Path) -> Path:
    """A weight file of a tiny network, drawn at random."""
    opt = parse_export(*flags_of(name), *preset, "--name", "unused")
    torch.manual_seed(0)
    trained = models.create(opt, torch.device("cpu"))
    trained.setup()
    path = folder / f"{'_'.join((name, *preset[1:]))}.pth"
    letter = "G" if "G" in trained.unwrapped else trained.inference_network
    torch.save(trained.weights()[letter], path)
    return path


@lru_cache
def made(name: str, flags: tuple[str, ...], preset: tuple[str, ...], folder: Path) -> Path:
    """The graph of a tiny network; tests share it and must not change it."""
    path = folder / "_".join((name, *flags, *preset)) / f"{name}.onnx"
    weights = weights_of(name, preset, folder)
    assert export_onnx.export(parse_export(*flags_of(name), *preset, *flags, "--output", path,
                                           "--pretrain_model_path", weights)) == 0
    return path


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where shared graphs are."""
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture
def exported(folder: Path) -> Callable[..., tuple[Path, Any]]:
    """The graph of a tiny network, and the model it is of."""
    def make(name: str = "sparnet", *flags: str, preset: tuple[str, ...] = ()) -> tuple[Path, Any]:
        path = made(name, flags, preset, folder)
        opt = parse_export(*flags_of(name), *preset, "--pretrain_model_path",
                           weights_of(name, preset, folder))
        return path, models.load_trained(opt, torch.device("cpu"))[0]
    return make


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """A folder with two small images: more than a graph's batch."""
    rng = np.random.default_rng(0)
    for index in range(2):
        write_image(tmp_path / "in" / f"{index}.png",
                    rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    return tmp_path / "in"


def difference(path: Path, trained: Any, batch: int) -> float:
    """Largest difference of graph and model over other images than the export looked at."""
    side = trained.input_size(trained.opt)
    x = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1
    smooth = torch.nn.functional.avg_pool2d(x, 3, stride=1, padding=1)
    with torch.inference_mode():
        expected = trained.restore(smooth).numpy()
    restored = graph.session(path.read_bytes()).run(["output"], {"input": smooth.numpy()})[0]
    return float(np.abs(restored - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize(("name", "preset"), CASES)
def test_the_graph_of_every_model_restores_as_the_network(
        name: str, preset: tuple[str, ...], exported: Callable) -> None:
    path, trained = exported(name, "--dynamic_batch", preset=preset)
    assert max(difference(path, trained, batch) for batch in (1, 2)) <= graph.TOLERANCE


@pytest.mark.parametrize("name", models.names())
def test_every_model_exports_at_opset_11_with_constant_weights(name: str,
                                                                exported: Callable) -> None:
    path, _ = exported(name)
    model = onnx.load(path)
    constants = {entry.name for entry in model.graph.initializer}
    computed = [node.name for node in model.graph.node
                if node.op_type in ("Conv", "ConvTranspose") and node.input[1] not in constants]
    assert ([(entry.domain, entry.version) for entry in model.opset_import], computed) == (
        [("", 11)], [])


def test_input_and_output_have_the_names_and_shapes_that_applications_expect(
        exported: Callable) -> None:
    path, _ = exported("sparnet", "--batch_size", "2")
    model = onnx.load(path).graph
    assert [(v.name, metadata.shape_of(v)) for v in (*model.input, *model.output)] == [
        ("input", [2, 3, 32, 32]), ("output", [2, 3, 32, 32])]


@pytest.mark.parametrize("name", models.names())
def test_one_image_at_a_time_is_the_default(name: str, exported: Callable) -> None:
    path, _ = exported(name)
    assert metadata.shape_of(onnx.load(path).graph.input[0])[0] == 1


@pytest.mark.parametrize(("name", "extra"), [("parse", "labels"), ("psfrgan", "labels"),
                                               ("fan", "heatmaps")])
def test_parsing_and_landmarks_are_extra_outputs(name: str, extra: str,
                                                   exported: Callable) -> None:
    path, trained = exported(name)
    x = graph.samples(1, trained.opt.load_size)
    with torch.inference_mode():
        expected = (trained.parse if extra == "labels" else trained.heatmaps)(x).numpy()
    restored = graph.session(path.read_bytes()).run([extra], {"input": x.numpy()})[0]
    assert np.allclose(restored, expected, atol=1e-5)


def test_a_graph_with_random_numbers_is_the_same_each_time(exported: Callable) -> None:
    path, _ = exported("stylegan2")
    assert not {node.op_type for node in onnx.load(path).graph.node} & {"RandomNormal",
                                                                         "RandomNormalLike"}


def test_spectral_norms_are_folded(exported: Callable) -> None:
    trained = exported("sparnethd")[1]
    network = trained.unwrapped["G"]
    assert any(spectral_hooks(module) for module in network.modules())
    graph.fold_spectral_norms(network)
    assert not any(spectral_hooks(module) for module in network.modules())


def test_no_file_is_left_where_the_graph_computes_something_else(
        folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(content: bytes) -> onnx.ModelProto:
        model = right(content)
        for entry in model.graph.initializer:
            if len(entry.dims) == 4:
                weight = onnx.numpy_helper.to_array(entry) * 1.01
                entry.CopyFrom(onnx.numpy_helper.from_array(weight, entry.name))
        return model
    right = graph.fold_constants
    monkeypatch.setattr(graph, "fold_constants", spoilt)
    with pytest.raises(ValueError, match=r"must give the network's result"):
        export_onnx.export(parse_export(
            *flags_of("sparnet"), "--output", tmp_path / "wrong.onnx", "--pretrain_model_path",
            weights_of("sparnet", (), folder)))
    assert list(tmp_path.glob("*")) == []


def test_the_error_of_an_opset_that_is_too_low_names_it(exported: Callable) -> None:
    with pytest.raises(ValueError, match=r"sparnethd cannot be exported: opset 8: "):
        exported("sparnethd", "--opset", "8")


def test_metadata_rebuilds_the_model(exported: Callable) -> None:
    path, trained = exported("sparnet", "--licence", "mine")
    about = metadata.metadata(onnx.load(path))
    found = json.loads(about["options"])
    assert (about["licence"], about["input_size"], found["load_size"], found["res_depth"]) == (
        "mine", "32", 32, trained.opt.res_depth)


def test_no_path_of_this_machine_gets_into_the_files(exported: Callable, folder: Path) -> None:
    path, _ = exported("psfrgan")
    for file in (path, path.with_suffix(".json")):
        assert str(folder).encode() not in file.read_bytes()
        assert str(ROOT).encode() not in file.read_bytes()


def test_of_a_file_among_the_options_only_the_name_is_told(tmp_path: Path) -> None:
    weights = tmp_path / "parsing.pth"
    weights.touch()
    opt = parse_export(*flags_of("psfrgan"), "--name", "run", "--parse_weights", weights)
    found = metadata.network_options(opt, models.option_setter("psfrgan"))
    assert found["parse_weights"] == "parsing.pth"


@pytest.mark.parametrize(("flags", "shape"), [(("--batch_size", "4"), "4,3,32,32"),
                                              (("--dynamic_batch",), "-1,3,32,32")])
def test_the_json_holds_an_atc_command_for_each_chip(flags: tuple[str, ...], shape: str,
                                                     exported: Callable) -> None:
    path, _ = exported("sparnet", *flags)
    commands = json.loads(path.with_suffix(".json").read_text())["atc"]
    assert set(commands) == set(metadata.CHIPS)
    for chip, command in commands.items():
        assert f'--input_shape="input:{shape}"' in command
        assert re.search(rf"--soc_version={chip}\b", command)
        assert ("--dynamic_batch_size" in command) == shape.startswith("-1")


def test_half_precision_halves_the_file(exported: Callable) -> None:
    whole = exported("sparnet")[0].stat().st_size
    path, _ = exported("sparnet", "--fp16")
    assert path.stat().st_size < 0.65 * whole


@pytest.mark.parametrize("name", models.names())
def test_half_precision_shows_nearly_the_same_image(name: str, exported: Callable) -> None:
    path, _ = exported(name, "--fp16")
    assert float(json.loads(path.with_suffix(".json").read_text())["fp16_psnr"]) > 40


# ---- half precision of a graph, 8-bit integers --------------------------------------------------

def test_a_half_precision_graph_that_overflows_is_refused(exported: Callable) -> None:
    model = onnx.load(exported("sparnet")[0])
    for entry in model.graph.initializer:
        if len(entry.dims) == 4:
            weight = onnx.numpy_helper.to_array(entry) * 100
            entry.CopyFrom(onnx.numpy_helper.from_array(weight, entry.name))
    with pytest.raises(ValueError, match="overflow or underflow"):
        smaller.checked_half(model, 32)


def test_the_first_and_the_last_convolution_stay_float(exported: Callable) -> None:
    model = onnx.load(exported("pfsrnet")[0])
    convs = [node.name for node in model.graph.node if node.op_type in smaller.QUANTIZED]
    assert smaller.sensitive(model) == sorted([convs[0], convs[-1]])


def test_convolutions_that_are_named_stay_float(exported: Callable) -> None:
    model = onnx.load(exported("pfsrnet")[0])
    x = graph.samples(1, metadata.shape_of(model.graph.input[0])[2]).numpy()
    integers = smaller.quantize(model, [x], ["step2"]).graph
    narrow = {name for node in integers.node if node.op_type == "DequantizeLinear"
              for name in node.output}
    float_convs = {node.name for node in integers.node if node.op_type in smaller.QUANTIZED
                   and node.input[1] not in narrow}
    assert float_convs == set(smaller.sensitive(model, ["step2"]))
    assert len(float_convs) > len(smaller.sensitive(model))


def test_a_name_that_no_convolution_has_is_refused(exported: Callable) -> None:
    with pytest.raises(ValueError, match=r"--keep_float must be part of .*, got nowhere"):
        smaller.sensitive(onnx.load(exported("sparnet")[0]), ["nowhere"])


def test_quantize_writes_both_graphs_and_a_table_that_compares_them(
        exported: Callable, samples: Path, tmp_path: Path) -> None:
    path = tmp_path / "face.onnx"
    path.write_bytes(exported("gfpgan")[0].read_bytes())
    gt = tmp_path / "gt"
    for file in samples.iterdir():
        write_image(gt / file.name, bicubic(read_image(file), 16, 16))
    assert quantize.quantize(quantize.parse(
        ["--onnx", str(path), "--calibration", str(samples), "--gt", str(gt)])) == 0
    rows = [line.split("|")[1:-1] for line in (tmp_path / "face_table.md").read_text().splitlines()
            if line.startswith(("| fp", "| int"))]
    cells = {row[0].strip(): [float(cell) for cell in row[1:]] for row in rows}
    assert cells["fp32"][1] == float("inf") and cells["fp16"][1] > cells["int8"][1] > 15
    for name in ("fp16", "int8"):
        size = (tmp_path / f"face_{name}.onnx").stat().st_size
        assert cells[name][0] == pytest.approx(size / 2 ** 20, abs=0.005)
        about = metadata.metadata(onnx.load(tmp_path / f"face_{name}.onnx"))
        assert (about["precision"], about["model"]) == (name, "gfpgan")


@pytest.mark.parametrize("spoil, words", [
    (lambda gt, file: write_image(gt / file.name, np.zeros((9, 8, 3), np.uint8)),
     "must be 16x16 like its result, got 8x9"),
    (lambda gt, file: (gt / file.name).unlink(), "--gt has no target for")])
def test_quantize_looks_at_targets_before_it_writes(
        spoil: Callable, words: str, exported: Callable, samples: Path, tmp_path: Path) -> None:
    path, gt = tmp_path / "face.onnx", tmp_path / "gt"
    path.write_bytes(exported("gfpgan")[0].read_bytes())
    for file in samples.iterdir():
        write_image(gt / file.name, bicubic(read_image(file), 16, 16))
    spoil(gt, sorted(samples.iterdir())[-1])
    with pytest.raises(ValueError, match=words):
        quantize.quantize(quantize.parse(
            ["--onnx", str(path), "--calibration", str(samples), "--gt", str(gt)]))
    assert sorted(p.name for p in tmp_path.glob("*.onnx")) == ["face.onnx"]


def test_quantize_refuses_what_is_quantized_already(exported: Callable, samples: Path) -> None:
    path, _ = exported("sparnet", "--fp16")
    with pytest.raises(ValueError, match=r"must be a float32 graph .* got precision fp16"):
        quantize.quantize(quantize.parse(["--onnx", str(path), "--calibration", str(samples)]))


# ---- enhance.py ----------------------------------------------------------------------------------

def parse_enhance(*arguments: object) -> Namespace:
    return EnhanceOptions(models, data, "test").parse([*map(str, arguments), "--device", "cpu"])


@pytest.mark.parametrize("name", models.names())
def test_enhance_gives_the_same_images_with_the_graph(
        name: str, exported: Callable, samples: Path, tmp_path: Path) -> None:
    path, trained = exported(name)
    common = ["--input", samples, "--output"]
    assert enhance.enhance(parse_enhance(
        *common, tmp_path / "onnx", "--engine", "onnx", "--onnx", path)) == 0
    assert enhance.enhance(parse_enhance(
        *flags_of(name), *common, tmp_path / "torch", "--pretrain_model_path",
        trained.opt.pretrain_model_path)) == 0
    for index in range(2):
        ours, theirs = (read_image(tmp_path / engine / f"{index}.png").astype(int)
                        for engine in ("onnx", "torch"))
        assert np.abs(ours - theirs).max() <= 1


def test_whole_photographs_are_the_same_with_the_graph(exported: Callable,
                                                       tmp_path: Path) -> None:
    path, trained = exported("sparnet", "--dynamic_batch")
    photo = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    write_image(tmp_path / "in.png", photo.repeat(8, axis=0).repeat(8, axis=1))
    points = [[35, 40], [61, 40], [48, 55], [38, 68], [58, 68]]
    (tmp_path / "faces.json").write_text(json.dumps({"in.png": [{"points": points}]}))
    common = ["--input", tmp_path / "in.png", "--photos", "--faces", tmp_path / "faces.json",
              "--output"]
    enhance.enhance(parse_enhance(*common, tmp_path / "onnx", "--engine", "onnx", "--onnx", path))
    enhance.enhance(parse_enhance(*flags_of("sparnet"), *common, tmp_path / "torch",
                                  "--pretrain_model_path", trained.opt.pretrain_model_path))
    ours, theirs = (read_image(tmp_path / engine / "restored_imgs" / "in.png").astype(int)
                    for engine in ("onnx", "torch"))
    assert np.abs(ours - theirs).max() <= 1
    assert np.abs(ours - read_image(tmp_path / "in.png")).max() > 1


def test_a_graph_with_a_fixed_batch_restores_any_number(exported: Callable) -> None:
    path, trained = exported("sparnet", "--batch_size", "2")
    engine = OnnxModel(path, models.find("sparnet").preprocess, trained.opt, torch.device("cpu"))
    x = graph.samples(3, 32)
    with torch.inference_mode():
        assert torch.allclose(engine.restore(x), trained.restore(x), atol=1e-3)


def test_a_graph_of_another_network_than_the_flags_say_is_refused(
        exported: Callable, tmp_path: Path, samples: Path) -> None:
    path = tmp_path / "alone.onnx"      # without its JSON
    path.write_bytes(exported("sparnet")[0].read_bytes())
    with pytest.raises(ValueError, match=r"--load_size must be 32 for --onnx .*, got 64"):
        enhance.enhance(parse_enhance("--input", samples, "--output", tmp_path / "out",
                                      "--engine", "onnx", "--onnx", path, "--load_size", 64))


def test_a_file_that_is_no_graph_is_one_line(tmp_path: Path, samples: Path) -> None:
    (tmp_path / "no.onnx").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"no.onnx cannot be read as a graph"):
        enhance.enhance(parse_enhance("--input", samples, "--output", tmp_path / "out",
                                      "--engine", "onnx", "--onnx", tmp_path / "no.onnx"))


# ---- benchmarks/deploy.py ------------------------------------------------------------------------

def test_the_command_puts_a_row_into_the_document(tmp_path: Path) -> None:
    document = tmp_path / "deploy.md"
    document.write_text((ROOT / "docs" / "deploy.md").read_text())
    text = document.read_text()
    command = [sys.executable, str(ROOT / "benchmarks" / "deploy.py"), "--only",
               "landmark network", "--work", str(tmp_path / "work"), "--update", str(document)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line for line in document.read_text().splitlines()
            if line.startswith("| landmark network |")]
    assert len(rows) == 1 and rows[0].split(" | ")[1:3] == ["64", "11"]
    made, rest = document.read_text(), text.index("The exporter is torch's")
    assert made.endswith(text[text.index("## The whole way"):]) and text[rest:rest + 80] in made
    again = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert again.stdout == done.stdout      # what is known is not measured again


# ---- the whole way ------------------------------------------------------------------------------

@pytest.mark.parametrize("name", models.names())
def test_a_model_trains_resumes_evaluates_exports_and_restores(name: str) -> None:
    done = subprocess.run(["bash", str(ROOT / "test" / "chain_1p.sh"), name], capture_output=True,
                          text=True, timeout=600, env={**os.environ, "PYTHON": sys.executable})
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[1:3] for line in done.stdout.splitlines()[:-1]] == [
        [stage, "ok"] for stage in STAGES]


def test_the_chain_stops_at_the_first_stage_that_fails(tmp_path: Path) -> None:
    done = subprocess.run(["bash", str(ROOT / "test" / "chain_1p.sh"), "sparnet"],
                          capture_output=True, text=True, timeout=600,
                          env={**os.environ, "PYTHON": sys.executable,
                               "PYTHONPATH": str(broken(tmp_path))})
    assert done.returncode != 0
    assert done.stdout.split()[:3] == ["sparnet", "train", "FAILED"]


def broken(folder: Path) -> Path:
    """A folder whose module keeps newtrain.py from starting."""
    (folder / "tqdm.py").write_text("raise SystemExit(3)\n")
    return folder

"""A golden case is run by what it carries, whatever its name, and all of it is taken."""
from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from torch import Tensor

from models import style_training
from tools import golden, selftest
from tools.golden_fields import Fields, unread

FOLDER = ROOT / "test" / "golden"
CPU = torch.device("cpu")
# Which function of which test/golden/<file>_cases.py the cases had when their names chose it.
CHOSEN = {
    "degradation.blind": "psfrgan_degradation",
    "faces.alignment_gpen": "gpen_align",
    "faces.alignment_psfrgan": "psfrgan_align",
    "faces.background": "gpen_realesrnet_*",
    "faces.detector": "facexlib_retinaface_*",
    "faces.detector_with_boxes": "gpen_retinaface_*",
    "faces.paste_masks": "gpen_paste_mask",
    "faces.photograph": "gfpgan_paste_*",
    "faces.suppression": "gpen_nms",
    "gfpgan.adversarial": "gfpgan_gan_losses",
    "gfpgan.boxes": "gfpgan_component_boxes",
    "gfpgan.component_discriminator": "facial_component_disc_*",
    "gfpgan.conversion": "gfpgan_convert_to_clean_*",
    "gfpgan.crops": "gfpgan_roi_align_*",
    "gfpgan.decoder": "stylegan2_64* stylegan2_clean_*",
    "gfpgan.degradation": "gfpgan_degradation_chain",
    "gfpgan.jitter": "gfpgan_color_jitter",
    "gfpgan.landmarks": "gfpgan_parse_landmark",
    "gfpgan.network": "arcface_* gfpgan_bilinear_* gfpgan_clean_* gfpgan_v1* stylegan2_disc_*",
    "gfpgan.perceptual": "gfpgan_perceptual_*",
    "gfpgan.regularized": "gfpgan_r1_*",
    "gfpgan.training_step": "gfpgan_train_step_*",
    "gpen.blur_kernels": "gfpgan_blur_kernels gpen_blur_kernels",
    "gpen.filters": "gpen_upfirdn2d",
    "gpen.identity": "gpen_idloss*",
    "gpen.losses": "gpen_losses",
    "gpen.network": "gpen_bfr* gpen_disc* gpen_fullgen* gpen_generator* gpen_irse50 gpen_modconv_* "
                    "gpen_styledconv_*",
    "gpen.path_length": "gpen_path",
    "gpen.r1": "gpen_r1",
    "gpen.train_loop": "gpen_trainloop",
    "metrics.image_metrics": "psfrgan_metrics",
    "metrics.inception": "fid_inception",
    "metrics.lpips": "lpips_*",
    "pfsrnet.discriminator": "pfsrnet_d_*",
    "pfsrnet.generator": "pfsrnet_g_*",
    "pfsrnet.losses": "pfsrnet_losses_*",
    "pfsrnet.metrics": "pfsrnet_metrics",
    "pfsrnet.resize": "pfsrnet_resize",
    "pfsrnet.student": "pfsrnet_fan_fill pfsrnet_fan_real*",
    "pfsrnet.teacher": "pfsrnet_fan_teacher",
    "pipeline.pipeline": "pipeline_*",
    "psfrgan.discriminator": "psfrgan_discriminator",
    "psfrgan.enhance_iterations": "psfrgan_train_step",
    "psfrgan.generator": "psfrgan_generator_*",
    "psfrgan.losses": "psfrgan_losses",
    "psfrgan.parse_iteration": "psfrgan_parse_train_step",
    "psfrgan.parsing": "*_parsenet*",
    "sparnet.losses": "sparnet_losses",
    "sparnet.network": "sparnet_x* sparnethd_generator",
    "sparnet.train_step": "sparnet_train_step",
    "sparnethd.discriminator": "sparnethd_discriminator",
    "sparnethd.iterations": "sparnethd_losses",
    "sparnethd.perceptual": "sparnethd_vgg19_pcp"}


@pytest.fixture(scope="module")
def known() -> list[selftest.Row]:
    return selftest.runners()


def load(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text())


def save(case: dict[str, Any], folder: Path) -> Path:
    """Under a name that says nothing."""
    path = folder / "case1.json"
    path.write_text(json.dumps({**case, "case": "case1"}))
    return path


def function_of(case: dict[str, Any], known: list[selftest.Row]) -> str | None:
    run = selftest.runner_for(case, known)
    if run is None:
        return None
    return f"{run.__module__.removeprefix('golden_').removesuffix('_cases')}.{run.__name__}"


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.json")))
def test_a_case_without_its_name_and_commit_finds_the_same_function(
        name: str, known: list[selftest.Row]) -> None:
    case = load(name)
    expected, = (function for function, patterns in CHOSEN.items()
                 if any(fnmatchcase(name, pattern) for pattern in patterns.split()))
    case["source"] = re.sub(r"\b[0-9a-f]{7,40}\b", "0123abc", case["source"])
    assert function_of({**case, "case": "case1"}, known) == expected


@pytest.mark.parametrize("name", ["sparnet_losses", "facexlib_retinaface_mnet", "psfrgan_align",
                                  "pfsrnet_metrics", "gpen_nms"])
def test_a_file_of_another_name_passes(name: str, known: list[selftest.Row],
                                       tmp_path: Path) -> None:
    row = selftest.run_case(save(load(name), tmp_path), known, CPU)
    assert row["ok"] and row["case"] == "case1"


@pytest.mark.parametrize("name, change", [
    ("psfrgan_discriminator", {"source": "chaofengc/Face-SPARNet b1a0986"}),
    ("facexlib_retinaface_r50", {"source": "yangxy/GPEN@2c73670"}),
    ("gfpgan_clean_64", {"network": "CodeFormer", "source": "sczhou/CodeFormer@b33cc7d"}),
    ("sparnet_x8_128", {"network": "WFEN", "source": "PRIS-CV/WFEN@16dfeaa"}),
    ("psfrgan_losses", {"network": None})])
def test_what_belongs_to_no_function_is_an_unknown_network(
        name: str, change: dict, known: list[selftest.Row], tmp_path: Path) -> None:
    row = selftest.run_case(save(load(name) | change, tmp_path), known, CPU)
    assert not row["ok"] and "unknown network" in row["problem"]


def test_losses_of_two_models_are_told_apart_by_their_source(known: list[selftest.Row]) -> None:
    case = {"kind": "losses", "case": "case1"}
    found = [function_of({**case, "source": source}, known) for source in (
        "chaofengc/Face-SPARNet b1a0986", "AntonLinderer/Progressive-Face-Super-Resolution@4")]
    assert found == ["sparnet.losses", "pfsrnet.losses"]


def test_training_of_two_models_is_told_apart_by_the_config(known: list[selftest.Row]) -> None:
    case = {"network": "training of a generator", "source": "chaofengc/Face-SPARNet"}
    found = [function_of({**case, "config": {"model": model}}, known)
             for model in ("sparnet", "sparnethd", "other")]
    assert found == ["sparnet.train_step", "sparnethd.iterations", None]


# ---- nothing is left out ------------------------------------------------------------------------

@pytest.mark.parametrize("name, where", [
    ("gpen_losses", ()), ("gpen_losses", ("config",)), ("psfrgan_align", ("config",)),
    ("gfpgan_degradation_chain", ("config", "kernel")), ("pfsrnet_metrics", ("items", 0)),
    ("sparnet_losses", ("metrics", 1)), ("gfpgan_gan_losses", ("outputs", 3)),
    ("pipeline_sparnet", ("items", 1, "image")), ("pipeline_sparnet", ("items", 1, "saved"))])
def test_a_field_that_no_function_knows_is_named(name: str, where: tuple, known: list[selftest.Row],
                                                 tmp_path: Path) -> None:
    case = place = load(name)
    for key in where:
        place = place[key]
    place["new_flag"] = 1
    row = selftest.run_case(save(case, tmp_path), known, CPU)
    assert any("new_flag" in text for text in row["unused"])
    assert "not used: " in selftest.line(row)


@pytest.mark.parametrize("name", ["gpen_losses", "psfrgan_metrics", "sparnet_losses"])
def test_an_input_more_than_the_function_knows_is_named(name: str, known: list[selftest.Row],
                                                        tmp_path: Path) -> None:
    case = load(name)
    case["inputs"].append({**case["inputs"][0], "name": "something_else"})
    row = selftest.run_case(save(case, tmp_path), known, CPU)
    assert any("inputs[" in text for text in row["unused"])


@pytest.mark.parametrize("name, key, value", [
    ("psfrgan_losses", "eps", 1e-3), ("gpen_paste_mask", "thres", 20),
    ("sparnet_train_step", "weight_decay", 0.1), ("gfpgan_roi_align_eyes", "spatial_scale", 0.5)])
def test_a_setting_that_the_code_has_one_value_of_is_not_ignored(
        name: str, key: str, value: float, known: list[selftest.Row], tmp_path: Path) -> None:
    case = load(name)
    case["config"][key] = value
    row = selftest.run_case(save(case, tmp_path), known, CPU)
    assert not row["ok"] and key in row["problem"]


def test_fields_know_what_was_read() -> None:
    case = Fields({"a": 1, "b": {"c": 2, "d": 3}, "e": [{"f": 4}, {"f": 5}], "note": "x", "g": []})
    assert list(unread(case)) == ["a", "b", "e"]
    assert dict(**case["b"]) == {"c": 2, "d": 3} and case["e"][1]["f"] == 5
    assert (case | {"a": 0})["a"] == 0
    assert list(unread(case)) == ["e[0].f"]


# ---- lists of any length ------------------------------------------------------------------------

def record(name: str, value: Tensor) -> dict[str, Any]:
    flat = value.detach().double().reshape(-1).numpy()
    index = np.unique(np.linspace(0, flat.size - 1, 64).astype(int))
    return {"name": name, "shape": list(value.shape), "absmax": float(np.abs(flat).max()),
            "mean": float(flat.mean()), "std": float(flat.std()),
            "samples": [[int(i), float(flat[i])] for i in index]}


@pytest.fixture(scope="module")
def two_noises(known: list[selftest.Row]) -> dict[str, Any]:
    """A training loop of GPEN with path lengths at both of its steps, recorded from our own code:
    the model alone is run, with a noise for each."""
    case, weight = load("gpen_trainloop"), 2
    case["config"] |= {"iterations": 2, "g_reg_every": 1, "path_regularize": weight}
    case["inputs"] = [{**entry, "shape": [2, 3, 32, 32]} for entry in case["inputs"]
                      if entry["name"][-1] in "01"]
    case["inputs"].append({**case["inputs"][-1], "name": "gpen.gpen_trainloop.pathnoise1"})
    image = {entry["name"].rsplit(".")[-1]: golden.make_input(**entry) for entry in case["inputs"]}
    run = selftest.runner_for(case, known)
    model = run.__globals__["filled_model"](Fields(copy.deepcopy(case)), CPU, FOLDER)
    model.directions = iter([image["pathnoise0"], image["pathnoise1"]])
    penalties, lengths, published = [], [], style_training.path_lengths

    def noted(*args: Tensor) -> Tensor:
        lengths.append(published(*args))
        return lengths[-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style_training, "path_lengths", noted)
        for index in range(2):
            model.start_step(index + 1, 100, 100)
            found = model.run_step({"lq": image[f"lq{index}"], "gt": image[f"hq{index}"]})
            penalties.append(found["Path"] / weight)
    key = "generator.to_rgbs.2.conv.weight"
    case["outputs"] = [
        record("path", torch.stack(penalties)),
        record("path_length", torch.stack([each.mean() for each in lengths])),
        record(f"g_ema {key}", model.unwrapped["H"].state_dict()[key])]
    return case


def test_a_training_loop_takes_several_noises(two_noises: dict, known: list[selftest.Row],
                                              tmp_path: Path) -> None:
    row = selftest.run_case(save(two_noises, tmp_path), known, CPU)
    assert row["ok"], selftest.line(row)


def test_each_noise_of_a_training_loop_is_used_once(two_noises: dict, known: list[selftest.Row],
                                                    tmp_path: Path) -> None:
    case = copy.deepcopy(two_noises)
    case["inputs"][-1] |= {"low": 0.5, "high": 1.0}
    assert not selftest.run_case(save(case, tmp_path), known, CPU)["ok"]
    case["inputs"].append({**case["inputs"][-1], "name": "gpen.gpen_trainloop.pathnoise2"})
    assert "3 noises for 2" in selftest.run_case(save(case, tmp_path), known, CPU)["problem"]


@pytest.mark.parametrize("count, used", [(1, "aa"), (2, "ab"), (3, "ac")])
def test_noises_go_to_the_steps_with_path_lengths(count: int, used: str,
                                                  known: list[selftest.Row]) -> None:
    case = load("gpen_trainloop")
    directions_of = selftest.runner_for(case, known).__globals__["directions_of"]
    config = {"iterations": 3, "g_reg_every": 2, "path_regularize": 2}
    assert directions_of(list("abc"[:count]), config) == list(used)
    assert directions_of([], {**config, "path_regularize": 0}) == []


def test_inputs_come_in_numerical_order() -> None:
    entries = [{"name": f"a.lq{number}", "shape": [1]} for number in (10, 2, 0)]
    x = golden.Inputs({"inputs": [*entries, {"name": "gt", "shape": [1]}]}, CPU)
    assert x.roles() == ["lq", "gt"]
    assert [float(value) for value in x.series("lq")] == [
        float(golden.make_input(f"a.lq{number}", [1])) for number in (0, 2, 10)]


def test_a_training_case_may_have_a_batch_for_each_step() -> None:
    case = {"inputs": [{"name": name, "shape": [1, 1, 2, 2]}
                       for name in ("lr0", "hr0", "lr1", "hr1")],
            "config": {"same_batch_every_step": False}}
    given = golden.batches(case, CPU, torch.contiguous_format)
    for index in (0, 1, 0):
        batch = next(given)
        for key, role in (("lq", "lr"), ("gt", "hr")):
            expected = golden.make_input(f"{role}{index}", [1, 1, 2, 2])
            assert torch.equal(batch[key], expected)


@pytest.mark.parametrize("name, change", [
    ("gpen_upfirdn2d", lambda case: (case["config"]["calls"].append(case["config"]["calls"][1]),
                                     case["outputs"].append({**case["outputs"][1],
                                                             "name": "call7"}))),
    ("gpen_align", lambda case: (case["config"]["items"].append(case["config"]["items"][0]),
                                 case["outputs"].extend({**entry, "name": f"3{entry['name'][1:]}"}
                                                        for entry in case["outputs"][:3]))),
    ("psfrgan_metrics", lambda case: case["inputs"].reverse()),
    ("gfpgan_parse_landmark", lambda case: (case["config"]["landmarks"].reverse(),
                                            case["config"]["order"].reverse())),
    ("gfpgan_blur_kernels", lambda case: case["config"]["kernels"].reverse()),
    ("sparnet_losses", lambda case: case["metrics"].append(case["metrics"][0]))])
def test_longer_and_reordered_lists_are_followed(name: str, change: Callable[[dict], Any],
                                                 known: list[selftest.Row],
                                                 tmp_path: Path) -> None:
    case = load(name)
    change(case)
    row = selftest.run_case(save(case, tmp_path), known, CPU)
    assert row["ok"], selftest.line(row)


# ---- published weights --------------------------------------------------------------------------

def test_without_its_weights_a_case_is_skipped_and_names_the_variable(
        known: list[selftest.Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FACEZOO_TEST_DATA", raising=False)
    for name in ("pfsrnet_fan_real", "pfsrnet_losses_step2"):
        row = selftest.run_case(save(load(name), tmp_path), known, CPU)
        assert row["skipped"] and not row["ok"] and "FACEZOO_TEST_DATA" in row["problem"]
        assert "skipped" in selftest.line(row)


def test_weights_are_found_above_the_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                           ) -> None:
    monkeypatch.delenv("FACEZOO_TEST_DATA", raising=False)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "w.pth").touch()
    case = {"weights": "data/w.pth"}
    assert golden.weight_file(case, tmp_path / "cases") == tmp_path / "data" / "w.pth"
    monkeypatch.setenv("FACEZOO_TEST_DATA", str(tmp_path / "data"))
    assert golden.weight_file(case, tmp_path / "a" / "b") == tmp_path / "data" / "w.pth"


def test_skipped_cases_do_not_fail_the_tool(run_script: Callable, tmp_path: Path,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FACEZOO_TEST_DATA", raising=False)
    (tmp_path / "good.json").write_text(json.dumps(load("gpen_nms")))
    save(load("pfsrnet_fan_real"), tmp_path)
    done = run_script("tools.selftest", "--golden", tmp_path, "--device", "cpu")
    assert done.returncode == 0 and "1 of 2 cases passed, 1 skipped" in done.stdout

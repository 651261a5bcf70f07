"""The comparison of test/same_numbers.py, without running anything."""
from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, tiny_arguments

SPEC = importlib.util.spec_from_file_location("same_numbers", ROOT / "test" / "same_numbers.py")
same_numbers = importlib.util.module_from_spec(SPEC)
sys.modules["same_numbers"] = same_numbers
SPEC.loader.exec_module(same_numbers)
compare, flatten, verdict = same_numbers.compare, same_numbers.flatten, same_numbers.verdict


def state() -> dict:
    """A small training state."""
    return {"networks": {"G": {"weight": torch.arange(6.0).reshape(2, 3)}}, "rng": [1, (2, 0.5)],
            "half": torch.ones(3, dtype=torch.bfloat16), "scalar": torch.tensor(2.0),
            "loss": 0.25, "options": {"name": "a"}, "fps": 3.0}


def difference(changed: dict) -> tuple:
    return compare(flatten(state()), flatten(changed))


def test_equal_states_are_equal() -> None:
    assert verdict(difference(state()), 6) == ("equal", "6 values")


def test_one_changed_bit_of_a_tensor_is_found() -> None:
    changed = state()
    changed["networks"]["G"]["weight"].view(torch.int32)[1, 2] ^= 1
    assert difference(changed) == (["networks/G/weight"], [], [], [])
    assert verdict(difference(changed), 6)[0] == "DIFFERS"


@pytest.mark.parametrize(("key", "value"), [
    ("half", torch.ones(3, dtype=torch.float16)), ("half", torch.ones(3, 1, dtype=torch.bfloat16)),
    ("scalar", 2.0), ("loss", 0.25 + 2 ** -54), ("loss", np.float32(0.25)), ("half", None)])
def test_type_shape_and_last_bit_count(key: str, value: object) -> None:
    assert difference(state() | {key: value}).numbers == [key]


def test_a_sign_of_zero_counts() -> None:
    assert flatten({"x": torch.zeros(1)}) != flatten({"x": -torch.zeros(1)})


def test_a_missing_and_a_new_name_are_told_from_numbers() -> None:
    changed = state() | {"new": 7}
    del changed["loss"]
    assert difference(changed) == ([], [], ["loss"], ["new"])
    assert verdict(difference(changed), 6)[0] == "renamed"


def test_a_renamed_key_with_the_same_number_is_paired() -> None:
    changed = state()
    changed["nets"] = changed.pop("networks")
    assert difference(changed) == ([], ["networks/G/weight -> nets/G/weight"], [], [])


def test_volatile_entries_are_ignored_at_any_depth() -> None:
    changed = state() | {"options": {"name": "b", "more": 1}, "fps": 4.0}
    changed["networks"]["G"]["seconds_per_step"] = 1.5
    assert verdict(difference(changed), 6)[0] == "equal"


def test_three_names_are_shown() -> None:
    word, detail = verdict(same_numbers.Difference(list("abcd"), [], [], []), 9)
    assert (word, detail) == ("DIFFERS", "4 of 9 values have other bits: a, b, c ...")


def test_losses_of_weight_zero_come_back() -> None:
    left = same_numbers.without_zero_weights(
        ["--lambda_pcp", "0", "0", "0", "--lambda_pix", "10", "--d_reg_every", "0", "--lambda_id",
         "0"])
    assert left == ["--lambda_pix", "10", "--d_reg_every", "0"]
    assert same_numbers.without_zero_weights(tiny_arguments("sparnet")) == tiny_arguments("sparnet")


def test_the_working_tree_is_copied_with_uncommitted_files(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "repository"
    (root / "utils").mkdir(parents=True)
    (root / "utils" / "new.py").write_text("x = 1\n")
    (root / "run.log").write_text("ignored")
    (root / ".gitignore").write_text("*.log\n")
    same_numbers.subprocess.run(["git", "init", "-q", str(root)], check=True)
    monkeypatch.setattr(same_numbers, "ROOT", root)
    same_numbers.check_out(".", "A", tmp_path / "copy", sys.executable)
    assert sorted(path.name for path in (tmp_path / "copy").rglob("*.*")) == [".gitignore",
                                                                             "new.py"]

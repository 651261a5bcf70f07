"""Tensors come out of pickled modules, and nothing in the file runs."""
from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from torch import nn

from engine import legacy_pickle
from engine.legacy_pickle import MAGIC, holds_module, read_legacy_module
from models.networks.fan import FAN, landmark_network
from tools import legacy_pickle as command


@pytest.fixture
def pickled(tmp_path: Path) -> tuple[Path, FAN]:
    """A landmark network pickled whole in the format before 1.6, and the network."""
    network = FAN(width=8)
    path = tmp_path / "old.pth"
    torch.save(network, path, _use_new_zipfile_serialization=False)
    return path, network


def test_names_values_types_and_order_are_the_modules(pickled: tuple[Path, FAN]) -> None:
    path, network = pickled
    found, expected = read_legacy_module(path), network.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], expected[key]) and found[key].dtype == expected[key].dtype
               for key in expected)


def test_views_of_a_shared_storage_come_out_right(tmp_path: Path) -> None:
    module = nn.Module()
    whole = torch.arange(12.0).view(3, 4)
    module.register_buffer("a", whole.t())
    module.register_buffer("b", whole[1:, 2:])
    torch.save(module, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    found = read_legacy_module(tmp_path / "old.pth")
    assert torch.equal(found["a"], whole.t()) and torch.equal(found["b"], whole[1:, 2:])


class Harmful(nn.Module):
    """Its file makes whoever unpickles it write another file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.mark = Trigger(path)


class Trigger:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable, tuple]:
        return os.system, (f"touch {self.path}",)


def test_nothing_from_the_file_is_executed(tmp_path: Path) -> None:
    torch.save(Harmful(tmp_path / "ran"), tmp_path / "old.pth",
               _use_new_zipfile_serialization=False)
    assert read_legacy_module(tmp_path / "old.pth")["weight"].tolist() == [1, 1]
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "old.pth", weights_only=False)     # the file is a real trap
    assert (tmp_path / "ran").exists()


def test_classes_that_do_not_exist_here_do_not_matter(pickled: tuple[Path, FAN]) -> None:
    path, network = pickled
    content = path.read_bytes()
    path.write_bytes(content.replace(b"models.networks.fan", b"modelz.networkz.fan"))
    assert list(read_legacy_module(path)) == list(network.state_dict())


def test_a_state_dict_is_not_taken_for_a_module(tmp_path: Path) -> None:
    torch.save(FAN(width=8).state_dict(), tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    torch.save(FAN(width=8).state_dict(), tmp_path / "b.pth")
    assert not holds_module(tmp_path / "a.pth") and not holds_module(tmp_path / "b.pth")


def test_a_legacy_state_dict_loads_as_weights(tmp_path: Path) -> None:
    network = FAN(width=8)
    torch.save(network.state_dict(), tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    loaded = landmark_network(tmp_path / "a.pth", width=8)
    assert torch.equal(loaded.conv.weight, network.conv.weight)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(pickled: tuple[Path, FAN], part: float) -> None:
    path, _ = pickled
    content = path.read_bytes()
    path.write_bytes(content[:int(part * len(content))])
    with pytest.raises(ValueError, match=r"old\.pth must be an intact module .*"):
        read_legacy_module(path)


def test_a_changed_byte_raises_one_error_or_changes_values_only(pickled: tuple[Path, FAN]) -> None:
    path, _ = pickled
    content = bytearray(path.read_bytes())
    generator = np.random.default_rng(0)
    refused = 0
    for at in generator.integers(0, 4000, 60):
        changed = content.copy()
        changed[at] ^= 0x55
        path.write_bytes(changed)
        try:
            read_legacy_module(path)
        except ValueError:
            refused += 1
    assert refused > 5




def test_a_tensor_beyond_its_storage_is_refused() -> None:
    storage = legacy_pickle.StorageOf("0", "<f4", 4)
    values = {"0": np.zeros(4, "<f4")}
    for size, stride, offset in (((5,), (1,), 0), ((2,), (1,), 3), ((1000, 1000), (0, 0), 0)):
        with pytest.raises(ValueError, match="beyond its storage"):
            legacy_pickle._tensor(legacy_pickle.TensorOf(storage, offset, size, stride), values)


def test_the_landmark_network_names_the_command(pickled: tuple[Path, FAN]) -> None:
    path, _ = pickled
    with pytest.raises(ValueError, match=rf"python -m tools\.legacy_pickle {path} fan\.pth"):
        landmark_network(path, width=8)


def test_the_command_writes_what_the_landmark_network_loads(
        pickled: tuple[Path, FAN], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path, network = pickled
    assert command.main([str(path), str(tmp_path / "fan.pth")]) == 0
    loaded = landmark_network(tmp_path / "fan.pth", width=8)
    assert torch.equal(loaded.layers[9].weight, network.layers[9].weight)
    assert "25 tensors" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"nonsense", pickle.dumps({"a": 1})])
def test_the_command_reports_other_files_in_one_line(content: bytes, tmp_path: Path,
                                                     capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "x").write_bytes(content)
    assert command.main([str(tmp_path / "x"), str(tmp_path / "out.pth")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "before 1.6" in error
    assert not (tmp_path / "out.pth").exists()


# ---- files that ask for more than they hold -----------------------------------------------------

def peak_of(path: Path) -> tuple[int, str]:
    """Megabytes that reading a file takes beyond the program's own, and what it says."""
    code = ("import resource, sys, time; from engine.legacy_pickle import *\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; began = time.time()\n"
            "try: read_legacy_module(sys.argv[1]); said = 'read'\n"
            "except ValueError as error: said = str(error)\n"
            "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, said)")
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    took, _, said = done.stdout.partition(" ")
    return int(took), said


def test_an_index_into_the_unpicklers_memory_makes_it_no_larger(tmp_path: Path) -> None:
    path = tmp_path / "memo.pth"
    path.write_bytes(pickle.dumps(MAGIC, 2)
                     + b"\x80\x02Nr" + (1 << 28).to_bytes(4, "little") + b".")
    took, said = peak_of(path)
    assert took < 50 and "must be an intact module" in said


def test_a_tree_whose_branches_are_shared_has_an_end(tmp_path: Path) -> None:
    inner = nn.Linear(1, 1)
    for _ in range(40):
        inner = nn.Sequential(inner, inner)
    torch.save(inner, tmp_path / "tree.pth", _use_new_zipfile_serialization=False)
    took, said = peak_of(tmp_path / "tree.pth")
    assert took < 100 and "more than 100000 modules" in said


def test_tensors_that_share_one_storage_take_no_more_than_four_times_the_file(
        tmp_path: Path) -> None:
    module = nn.Module()
    values = torch.zeros(100_000)
    for number in range(100):
        module.register_buffer(f"b{number}", values)
    torch.save(module, tmp_path / "shared.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="would take 40000000 bytes, more than 4 times"):
        read_legacy_module(tmp_path / "shared.pth")

"""Damage of weight and state files is noticed, whatever byte of them changed."""
from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from engine import checkpoint, integrity

STATE = {"networks": {"G": {"weight": torch.arange(2000.0).view(40, 50)}}, "optimizers": {},
         "step": 3, "steps_per_epoch": 5, "rng": []}


def flip_bit(data: bytearray, rng: np.random.Generator) -> None:
    data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))


def overwrite_block(data: bytearray, rng: np.random.Generator) -> None:
    start = int(rng.integers(len(data)))
    data[start:start + 512] = b"\x55" * len(data[start:start + 512])


def truncate(data: bytearray, rng: np.random.Generator) -> None:
    del data[int(rng.integers(len(data))):]


DAMAGES = (flip_bit, overwrite_block, truncate)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    checkpoint.save_state(folder, STATE)
    checkpoint.save_weights(folder, "latest", STATE["networks"])
    return folder


@pytest.mark.parametrize("cases", [60, pytest.param(670, marks=pytest.mark.deep)])
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["latest_state.pth", "latest_net_G.pth"])
def test_no_damage_of_a_written_file_is_read(saved: Path, tmp_path: Path, name: str, damage,
                                             cases: int) -> None:
    whole, rng, accepted = (saved / name).read_bytes(), np.random.default_rng(5), []
    for case in range(cases):
        data = bytearray(whole)
        damage(data, rng)
        if bytes(data) == whole:
            continue
        folder = tmp_path / str(case)
        folder.mkdir()
        (folder / name).write_bytes(data)
        try:
            content = (checkpoint.load_state(folder) if name == "latest_state.pth"
                       else checkpoint.read(folder / name))
        except ValueError as error:
            assert "\n" not in str(error)
            continue
        # Of weights without more, the content is all that must be right.
        if name == "latest_state.pth" or not torch.equal(content["weight"],
                                                         STATE["networks"]["G"]["weight"]):
            accepted.append(case)
    assert accepted == []


def test_a_damaged_state_is_named_and_the_one_before_is_used(
        tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("facezoo"), "propagate", True)
    checkpoint.save_state(tmp_path, STATE)
    checkpoint.save_state(tmp_path, {**STATE, "step": 6})
    data = bytearray((tmp_path / "latest_state.pth").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "latest_state.pth").write_bytes(data)
    with caplog.at_level(logging.WARNING, "facezoo"):
        assert checkpoint.load_state(tmp_path)["step"] == 3
    assert "latest_state.pth is damaged" in caplog.text


def test_a_file_of_another_program_is_checked_by_its_own_checksums(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(STATE["networks"]["G"], path)
    assert not integrity.has_digest(path)
    assert torch.equal(checkpoint.read(path)["weight"], STATE["networks"]["G"]["weight"])
    data = bytearray(path.read_bytes())
    data[data.index(torch.tensor([7.0]).numpy().tobytes())] ^= 1
    path.write_bytes(data)
    for read in (checkpoint.read, checkpoint.peek):
        with pytest.raises(ValueError, match=r"is damaged; the checksum of its record .*data/0"):
            read(path)


def test_a_state_from_before_digests_is_read(tmp_path: Path) -> None:
    torch.save({"version": 1, **STATE}, tmp_path / "latest_state.pth")
    assert checkpoint.load_state(tmp_path)["step"] == 3


def test_a_written_file_is_one_that_torch_reads(saved: Path) -> None:
    for mmap in (False, True):
        weights = torch.load(saved / "latest_net_G.pth", weights_only=True, mmap=mmap)
        assert torch.equal(weights["weight"], STATE["networks"]["G"]["weight"])


def test_a_full_disk_is_said_by_its_own_error(tmp_path: Path) -> None:
    with open("/dev/full", "wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        integrity.save(STATE, file)

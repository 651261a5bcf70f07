"""What the layers under the NPU path refuse, warn of or leave out; needs no device."""
from __future__ import annotations

import logging
from collections import namedtuple
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from engine import device as devices
from engine import distributed
from engine.casting import convert
from engine.optimizer_step import LossScaler
from engine.precision import Precision

CPU = torch.device("cpu")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[list]:
    """A machine with one CUDA card, as far as choosing it goes; the cards selected."""
    selected: list = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", selected.append)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"card {index}")
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield selected
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize("short", [False, True])
def test_a_cuda_card_is_selected_and_its_tf32_follows_the_flag(short: bool, cuda: list) -> None:
    device = devices.open_device("cuda", allow_hf32=short)
    assert (device, cuda) == (torch.device("cuda", 0), [torch.device("cuda", 0)])
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (
        short, short)


def test_a_cuda_card_that_is_missing_is_an_error_with_the_count(cuda: list) -> None:
    with pytest.raises(ValueError, match=r"cuda:1 must name a card: this machine has 1 card,"):
        devices.open_device("cuda:1")
    assert cuda == []


def test_a_torch_without_fused_adam_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **settings: object) -> None:
        raise RuntimeError("`fused=True` requires CUDA")
    monkeypatch.setattr(torch.optim, "Adam", refuse)
    build, why = devices.fused_adam(CPU)
    assert build is None and "no fused Adam for cpu" in why and "requires CUDA" in why


@pytest.mark.parametrize("environ", [{"RANK_SIZE": "many", "RANK_ID": "0"},
                                     {"RANK_SIZE": "8", "RANK_ID": "first"}])
def test_modelzoo_ranks_must_be_numbers(environ: dict) -> None:
    with pytest.raises(ValueError, match="RANK_SIZE and RANK_ID must be integers"):
        distributed.adopt_modelzoo_environment(environ)


def test_without_a_group_this_process_is_all_there_is() -> None:
    values, network = torch.ones(2), nn.Linear(1, 1)
    distributed.barrier()
    assert distributed.sum_over_ranks(values) is values
    assert distributed.any_rank(True, CPU) and not distributed.any_rank(False, CPU)
    assert distributed.gather_from_ranks("x") == ["x"]
    assert distributed.wrap(network, CPU) is network


def test_converting_reaches_into_named_tuples_and_leaves_integers() -> None:
    Pair = namedtuple("Pair", "image labels")
    found = convert([Pair(torch.ones(1), torch.ones(1, dtype=torch.int64)), {"x": "text"}],
                    torch.float16)
    assert isinstance(found[0], Pair) and found[1] == {"x": "text"}
    assert (found[0].image.dtype, found[0].labels.dtype) == (torch.float16, torch.int64)


@pytest.mark.parametrize("settings, flag", [({"loss_scale": "64"}, "--loss_scale"),
                                            ({"amp_dtype": "fp16"}, "--amp_dtype")])
def test_flags_without_effect_at_o0_are_warned_of(settings: dict, flag: str,
                                                  monkeypatch: pytest.MonkeyPatch,
                                                  caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(logging.getLogger("facezoo"), "propagate", True)
    Precision(CPU, opt_level="O0", **settings)
    assert f"{flag} has no effect" in caplog.text


@pytest.mark.parametrize("scale", ["0", "-8", "inf", "nan", "much"])
def test_a_loss_scale_must_be_a_positive_number(scale: str) -> None:
    with pytest.raises(ValueError, match="--loss_scale must be dynamic or a positive number"):
        Precision(CPU, opt_level="O2", loss_scale=scale)


def test_a_step_without_gradients_has_no_overflow() -> None:
    assert LossScaler("dynamic").unscale([]) is False


def test_a_master_without_gradient_is_left_alone_under_o2() -> None:
    """A branch that a step does not use: its weights stay, and nothing is made up for it."""
    network = nn.ModuleDict({"used": nn.Linear(2, 2), "unused": nn.Linear(2, 2)})
    precision = Precision(CPU, opt_level="O2", optimizer="adam")
    plan = (["G"], lambda net: [{"params": list(net.parameters())}],
            {"lr": 1e-2, "betas": (0.9, 0.99)})
    precision.prepare({"G": network}, {"G": plan}, False)
    before = {key: value.clone() for key, value in precision.state_of(network).items()}
    precision.steps["G"].step(network["used"](torch.ones(1, 2).half()).float().sum())
    after = precision.state_of(network)
    assert {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])} == {
        "used"}
    assert all(precision.master(p).grad is None for p in network["unused"].parameters())

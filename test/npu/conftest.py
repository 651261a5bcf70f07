"""The NPU suite: the same tests on every device that can be called npu.

    python -m pytest test/npu                       tier 1, the pure Python device of this folder
    FACEZOO_NPU_TIER=3 python -m pytest test/npu    the published torch_npu that is installed

It runs apart from test/unit: once the device is registered a process cannot be rid of it.
"""
from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import npu_suite
import pytest
import torch

from engine import device as devices
from models.ops import padded_conv

for variable in ("LOCAL_RANK", "ASCEND_DEVICE_ID", "NPU_CALCULATE_DEVICE", "FACEZOO_NPU_SOC",
                 "ASCEND_RT_VISIBLE_DEVICES", "FACEZOO_NPU_CARDS"):
    devices.os.environ.pop(variable, None)      # the tests set them where they matter


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out wheel/, an environment with a suite of its own, unless it is asked for."""
    asked = any("wheel" in str(argument) for argument in config.invocation_params.args)
    return True if collection_path == npu_suite.FOLDER / "wheel" and not asked else None


def pytest_report_header() -> str:
    return f"NPU tier {npu_suite.TIER}: {npu_suite.MEANING[npu_suite.TIER]}"


@pytest.fixture(scope="session", autouse=True)
def plain_operators() -> Iterator[None]:
    """The CPU's faster forms of some operators round differently; both devices take plain ones."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(padded_conv, "MIN_PHASE_NUMEL", sys.maxsize)
        patch.setattr(padded_conv, "MIN_PAD_NUMEL", sys.maxsize)
        patch.setattr(padded_conv, "uses_custom_kernel", lambda x: False)
        yield


@pytest.fixture(scope="session", autouse=True)
def npu() -> torch.device:
    """The device; opened first, because the autograd engine counts devices at the first backward.
    """
    return devices.open_device("npu")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., npu_suite.Run]:
    """`train` in a fresh folder; the same run is not trained twice by one process."""
    known: dict[tuple, npu_suite.Run] = {}

    def run(*arguments: object) -> npu_suite.Run:
        if arguments not in known:
            known[arguments] = npu_suite.train(tmp_path_factory.mktemp("trained"), *arguments)
        return known[arguments]
    return run

"""Which of the packages called apex is installed? Each is told apart by importing it."""
from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from engine.apex import find_apex
from engine.precision import Precision

NVIDIA_AMP = "def initialize(models, optimizers=None, opt_level='O1', loss_scale=None): ..."
ASCEND_AMP = "def initialize(models, optimizers=None, opt_level='O1', combine_grad=None): ..."
# what is installed -> (its files, what is said about it)
PACKAGES = {
    "nothing": ({}, "no package called apex is installed"),
    "PyPI's web toolkit": ({"__init__": "", "interfaces": ""},
                           "this is another package called apex (PyPI's web toolkit), not the amp "
                           "one"),
    "PyPI's on a new Python": ({"__init__": "import pyramid_that_is_not_there"},
                               "apex cannot be imported (No module named "
                               "'pyramid_that_is_not_there')"),
    "NVIDIA's since 2025": ({"__init__": "", "optimizers": ""},
                            "this is NVIDIA's apex, which removed amp in 2025"),
    "NVIDIA's before": ({"__init__": "", "amp": NVIDIA_AMP, "optimizers": ""},
                        "this is NVIDIA's apex; Ascend's amp.initialize takes combine_grad"),
    "an old Ascend build": ({"__init__": "import torch._six"},
                            "apex cannot be imported (No module named 'torch._six')"),
    "a build whose amp is broken": ({"__init__": "", "amp": "import torch._six"},
                                    "apex.amp cannot be imported (No module named 'torch._six')"),
    "a library that does not load": ({"__init__": "raise OSError('libascendcl.so: not found')"},
                                     "apex cannot be imported (OSError: libascendcl.so: not "
                                     "found)"),
    "an amp that raises": ({"__init__": "", "amp": "raise AttributeError('npu')"},
                           "apex.amp cannot be imported (AttributeError: npu)"),
    "optimizers that raise": ({"__init__": "", "amp": ASCEND_AMP, "optimizers": "1 / 0"},
                              "apex.optimizers cannot be imported (ZeroDivisionError: division by "
                              "zero)"),
    "no fused Adam": ({"__init__": "", "amp": ASCEND_AMP, "optimizers": ""},
                      "its apex.optimizers has no NpuFusedAdam, which Ascend's has")}


@pytest.fixture(autouse=True)
def forget_apex() -> Iterator[None]:
    """Every test imports its own package."""
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "apex"]:
        del sys.modules[name]


@pytest.mark.parametrize("installed", PACKAGES)
def test_packages_called_apex_are_told_apart(installed: str, tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    files, said = PACKAGES[installed]
    for name, text in files.items():
        (tmp_path / "apex").mkdir(exist_ok=True)
        (tmp_path / "apex" / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_apex() == (None, said)


def test_ascends_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "test" / "npu" / "ascend_apex"))
    amp, said = find_apex()
    assert (amp.__name__, said) == ("apex.amp", "Ascend apex")


def test_the_apex_backend_is_refused_on_other_devices() -> None:
    with pytest.raises(ValueError, match=r"--amp_backend apex needs an Ascend NPU.*cpu"):
        Precision(torch.device("cpu"), opt_level="O2", amp_backend="apex")

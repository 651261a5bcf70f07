"""Tier 2: which process may import torch_npu, and what is said where no card can be used."""
from __future__ import annotations

from collections.abc import Callable

import pytest

TINY = ["newtrain.py", "--model", "sparnet", "--load_size", "64", "--scale_factor", "8",
        "--batch_size", "2", "--num_threads", "0", "--num_val_images", "2", "--res_depth", "0",
        "--bottleneck_size", "16", "--no-tensorboard", "--name", "tiny", "--train_steps", "1"]
WITHOUT_CANN = {"FACEZOO_NPU_RUNTIME": "none"}


def test_without_cann_the_import_of_torch_fails_unless_autoload_is_off(python: Callable) -> None:
    died = python("import torch", TORCH_DEVICE_BACKEND_AUTOLOAD="unset", **WITHOUT_CANN)
    assert died.returncode and "Failed to load the backend extension: torch_npu" in died.stderr
    lived = python("import torch; torch.zeros(2)", TORCH_DEVICE_BACKEND_AUTOLOAD="0",
                   **WITHOUT_CANN)
    assert lived.returncode == 0


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_without_cann_a_cpu_run_trains_and_never_imports_torch_npu(
        device: str, python: Callable, tmp_path: object) -> None:
    done = python(*TINY, "--device", device, "--checkpoints_dir", tmp_path,
                  TORCH_DEVICE_BACKEND_AUTOLOAD="unset", PYTHONVERBOSE="1", **WITHOUT_CANN)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "finished step 1" in done.stdout
    assert "import 'torch_npu'" not in done.stderr


def test_auto_says_in_one_line_why_the_cpu_is_used(python: Callable, tmp_path: object) -> None:
    done = python(*TINY, "--device", "auto", "--checkpoints_dir", tmp_path, **WITHOUT_CANN)
    lines = [line for line in done.stdout.splitlines() if line.startswith("device: cpu")]
    assert len(lines) == 1 and "torch_npu is installed" in lines[0] and "davinci" in lines[0]


def test_without_cann_an_explicit_npu_is_one_error_line_with_cause_and_remedies(
        python: Callable) -> None:
    done = python(*TINY, "--device", "npu", **WITHOUT_CANN)
    assert done.returncode == 2
    line, = [line for line in done.stderr.splitlines() if "error:" in line]
    for part in ("libhccl.so", "set_env.sh", "--device cpu"):
        assert part in line


def test_no_card_is_an_error_that_names_the_cpu(python: Callable) -> None:
    done = python(*TINY, "--device", "npu", FACEZOO_NPU_RUNTIME="null")
    assert done.returncode == 2
    line, = [line for line in done.stderr.splitlines() if "error:" in line]
    assert "no Ascend card" in line and "--device cpu" in line


def test_a_card_number_beyond_the_last_is_an_error(python: Callable) -> None:
    done = python(*TINY, "--device", "npu:2", FACEZOO_NPU_CARDS="2")
    assert done.returncode == 2 and "has 2 cards" in done.stderr


NULL_FACTS = {
    "is_available": "assert not torch.npu.is_available()",
    "count": "assert torch.npu.device_count() == 0",
    "accelerator": "assert torch.accelerator.current_accelerator().type == 'npu'",
    "seeds": "torch.npu.manual_seed_all(1)",
    "hccl": "assert 'hccl' in torch.distributed.Backend.backend_list",
}


@pytest.mark.parametrize("fact", NULL_FACTS)
def test_the_null_runtime_imports_and_finds_no_card(fact: str, python: Callable) -> None:
    done = python("import torch, torch_npu\n" + NULL_FACTS[fact], FACEZOO_NPU_RUNTIME="null")
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("optimizer", ["Adam", "SGD"])
def test_with_torch_npu_in_the_process_even_a_cpu_optimizer_needs_a_card(
        optimizer: str, python: Callable) -> None:
    done = python(f"""
import torch, torch_npu
weight = torch.nn.Parameter(torch.ones(3))
weight.grad = torch.ones(3)
torch.optim.{optimizer}([weight], lr=0.1).step()
""", FACEZOO_NPU_RUNTIME="null")
    assert done.returncode and "Error" in done.stderr


def test_a_process_without_torch_npu_has_neither_torch_nor_the_runtime_loaded(
        python: Callable) -> None:
    done = python("""
import sys
loaded = {"torch", "ctypes", "npu_host_kernels", "importlib.machinery"} & set(sys.modules)
print(loaded)
assert "ascendcl" not in open("/proc/self/maps").read()
assert "torch" not in loaded and "ctypes" not in loaded and "npu_host_kernels" not in loaded
""")
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_unknown_runtime_is_named(python: Callable) -> None:
    done = python("import torch_npu", FACEZOO_NPU_RUNTIME="real")
    assert done.returncode and "host, null, none" in done.stderr

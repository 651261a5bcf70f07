"""What a card refuses is refused on the host runtime, or by torch_npu itself."""
from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parents[4]
SHAPE = (2, 4, 8, 8)
WITHOUT_KERNEL = {
    "huber_loss": "F.huber_loss(x, 2 * x)", "inv": "torch.linalg.inv(x)",
    "lstsq": "torch.linalg.lstsq(x, x)", "eigh": "torch.linalg.eigh(x)"}


@pytest.mark.parametrize("ask", [
    lambda x: x.to(memory_format=torch.channels_last),
    lambda x: x.contiguous(memory_format=torch.channels_last),
    lambda x: torch.empty(SHAPE, device=x.device, memory_format=torch.channels_last)],
    ids=["to", "contiguous", "empty"])
def test_channels_last_raises(ask: Callable, card: torch.device) -> None:
    with pytest.raises(RuntimeError, match="Contiguous"):
        ask(torch.zeros(SHAPE, device=card))


def test_a_cast_to_float64_gives_float32_with_a_warning(card: torch.device) -> None:
    with pytest.warns(UserWarning, match="double"):
        assert torch.ones(2, device=card).double().dtype is torch.float32


def test_float64_survives_the_way_to_the_card(card: torch.device) -> None:
    assert torch.ones(2, dtype=torch.float64).to(card).dtype is torch.float64


def test_mixed_devices_raise_but_for_numbers_and_indices(card: torch.device) -> None:
    x = torch.arange(4.0, device=card)
    with pytest.raises(RuntimeError, match="same device"):
        x + torch.ones(4)
    assert (x * torch.tensor(2.0)).tolist() == [0, 2, 4, 6]
    assert x[torch.tensor([3, 1])].tolist() == [3, 1]


NO_BFLOAT16 = {
    "batch_norm": lambda x: F.batch_norm(x, None, None, training=True),
    "prelu": lambda x: F.prelu(x, x.new_ones(1)),
    "reflection": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "replication": lambda x: F.pad(x, (1, 1, 1, 1), mode="replicate"),
    "grid_sample": lambda x: F.grid_sample(x, x.new_zeros(2, 8, 8, 2), align_corners=False),
    "conv_transpose": lambda x: F.conv_transpose2d(x, x.new_ones(4, 2, 3, 3))}


@pytest.mark.parametrize("name", NO_BFLOAT16)
def test_bf16_raises_where_the_documents_list_no_kernel(name: str, card: torch.device) -> None:
    x = torch.rand(SHAPE, device=card)
    NO_BFLOAT16[name](x)
    with pytest.raises(RuntimeError, match="DT_BFLOAT16"):
        NO_BFLOAT16[name](x.bfloat16())


def test_bf16_convolution_is_allowed(card: torch.device) -> None:
    x = torch.rand(SHAPE, device=card).bfloat16()
    assert F.conv2d(x, x.new_ones(2, 4, 3, 3)).dtype is torch.bfloat16


@pytest.fixture(scope="module")
def refused() -> dict[str, str]:
    """What each operator without kernel says in a process opened with npu_strict."""
    calls = "".join(f"try: {call}; said['{name}'] = 'ran'\nexcept RuntimeError as e: "
                    f"said['{name}'] = str(e)\n" for name, call in WITHOUT_KERNEL.items())
    done = subprocess.run([sys.executable, "-c", f"""
import json, torch, torch.nn.functional as F
from engine import device as devices
x = torch.eye(3).to(devices.open_device("npu", npu_strict=True))
said = {{}}
{calls}
print("SAID" + json.dumps(said))
"""], cwd=ROOT, text=True, capture_output=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.partition("SAID")[2])


@pytest.mark.parametrize("name", WITHOUT_KERNEL)
def test_npu_strict_turns_a_cpu_fallback_into_an_error(name: str, refused: dict[str, str]) -> None:
    assert "TORCH_NPU_FALLBACK_CPU_DISABLE=1" in refused[name]


@pytest.mark.parametrize("name", WITHOUT_KERNEL)
def test_otherwise_it_falls_back_and_the_result_is_on_the_card(name: str,
                                                               card: torch.device) -> None:
    x = torch.eye(3).to(card)
    result = eval(WITHOUT_KERNEL[name], {"torch": torch, "F": F, "x": x})
    assert (result if isinstance(result, torch.Tensor) else result[0]).device == card


def test_an_operator_the_runtime_does_not_have_fails_with_its_name(card: torch.device,
                                                                   capfd: object) -> None:
    torch_npu = __import__("torch_npu")
    with pytest.raises(RuntimeError):
        torch_npu.npu_sort_v2(torch.rand(8, device=card))
        torch.npu.synchronize()
    assert "no operator" in capfd.readouterr().err


def test_autocast_lists_are_torch_npus(card: torch.device) -> None:
    x = torch.rand(SHAPE, device=card)
    with torch.autocast("npu", dtype=torch.float16):
        assert F.conv2d(x, x.new_ones(2, 4, 3, 3)).dtype is torch.float16
        assert F.prelu(x, x.new_ones(1)).dtype is torch.float16
        assert F.softplus(x.half()).dtype is torch.float32
        assert F.l1_loss(x.half(), x.half()).dtype is torch.float32
        with pytest.raises(RuntimeError, match="autocast"):
            F.binary_cross_entropy(x, x)

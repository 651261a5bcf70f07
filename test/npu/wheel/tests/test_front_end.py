"""torch_npu's own front end on the host runtime: scalers, streams, random state, files, chips."""
from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from engine import device as devices
from engine.prefetch import Prefetcher


def scaled_step(scaler: object, card: torch.device, factor: float) -> tuple[nn.Module, nn.Module]:
    """One SGD step through a scaler; the network before and after."""
    torch.manual_seed(0)
    net = nn.Linear(3, 1).to(card)
    before = nn.Linear(3, 1)
    before.load_state_dict({key: value.cpu() for key, value in net.state_dict().items()})
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    loss = net(torch.ones(2, 3, device=card)).sum() * factor
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    return before, net


SCALERS = {"torch": lambda: torch.amp.GradScaler("npu", init_scale=1024.0),
           "torch_npu": lambda: torch.npu.amp.GradScaler(init_scale=1024.0)}


@pytest.mark.parametrize("kind", SCALERS)
def test_a_clean_step_moves_by_the_unscaled_gradient(kind: str, card: torch.device) -> None:
    scaler = SCALERS[kind]()
    before, net = scaled_step(scaler, card, 1.0)
    assert torch.allclose(net.weight.cpu(), before.weight - 0.1 * 2, atol=1e-6)
    assert scaler.get_scale() == 1024


@pytest.mark.parametrize("kind", SCALERS)
def test_an_overflow_skips_the_step_and_halves_the_scale(kind: str, card: torch.device) -> None:
    scaler = SCALERS[kind]()
    before, net = scaled_step(scaler, card, float("inf"))
    assert torch.equal(net.weight.cpu(), before.weight)
    assert scaler.get_scale() == 512


def test_torch_npus_scaler_couples_optimizers_and_torchs_does_not(card: torch.device) -> None:
    moved = {}
    for kind, make in SCALERS.items():
        scaler = make()
        nets = [nn.Linear(2, 1).to(card) for _ in range(2)]
        optimizers = [torch.optim.SGD(net.parameters(), lr=0.1) for net in nets]
        starts = [net.weight.detach().clone() for net in nets]
        for net, factor in zip(nets, (float("inf"), 1.0), strict=True):
            scaler.scale(net(torch.ones(1, 2, device=card)).sum() * factor).backward()
        for optimizer in optimizers:
            scaler.step(optimizer)
        scaler.update()
        moved[kind] = [not torch.equal(net.weight, start)
                       for net, start in zip(nets, starts, strict=True)]
    assert moved == {"torch": [False, True], "torch_npu": [False, False]}


def test_a_side_stream_copy_reaches_the_current_stream(card: torch.device) -> None:
    batches = [{"lq": torch.full((2, 3), float(number)).pin_memory(), "path": [str(number)]}
               for number in range(3)]
    assert batches[0]["lq"].is_pinned()
    fed = list(Prefetcher(batches, card, lambda batch: batch))
    assert [float(batch["lq"].mean()) for batch in fed] == [0, 1, 2]
    assert all(batch["lq"].device == card for batch in fed)


def test_the_stopwatch_measures_with_events(card: torch.device) -> None:
    watch = devices.Stopwatch(card)
    watch.start()
    torch.ones(10, device=card).sum()
    watch.stop()
    assert 0 < watch.seconds() < 60


def test_random_state_is_16_bytes_and_brings_the_same_numbers_back(card: torch.device) -> None:
    devices.seed_everything(3, card)
    state = devices.rng_state(card)
    assert state["device"].numel() == 16
    first = [torch.randn(5, device=card).cpu() for _ in range(2)]
    devices.set_rng_state(card, state)
    again = [torch.randn(5, device=card).cpu() for _ in range(2)]
    assert all(map(torch.equal, first, again)) and not torch.equal(first[0], first[1])


def test_random_numbers_on_the_card_leave_the_hosts_alone(card: torch.device) -> None:
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    torch.randn(7, device=card)
    assert torch.equal(torch.randn(3), expected)


def test_seeds_decide_the_cards_numbers(card: torch.device) -> None:
    drawn = []
    for seed in (1, 1, 2):
        torch.npu.manual_seed_all(seed)
        drawn.append(torch.rand(4, device=card).cpu())
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_peak_memory_counts_the_cards_bytes(card: torch.device) -> None:
    before = devices.peak_memory(card)
    kept = torch.zeros(1 << 20, device=card)
    assert devices.peak_memory(card) >= before + kept.nbytes - (1 << 16) > 0


def test_a_file_with_card_tensors_needs_map_location_elsewhere(python: Callable, tmp_path: object,
                                                               card: torch.device) -> None:
    torch.save({"w": torch.arange(3.0, device=card)}, tmp_path / "w.pth")
    path = str(tmp_path / "w.pth")
    failed = python(f"import torch; torch.load({path!r})")
    assert failed.returncode and "npu:0" in failed.stderr
    done = python(f"import torch; print(torch.load({path!r}, map_location='cpu')['w'].tolist())")
    assert done.returncode == 0 and "[0.0, 1.0, 2.0]" in done.stdout


CHIP = """
import torch
from engine import device as devices
card = devices.open_device("npu")
from engine.precision import Precision
scaler = Precision(card, opt_level="O1")._make_scaler()
print("FOUND", devices.name_of(card), devices.overflow_saturates(card),
      torch.npu.is_bf16_supported(),
      type(scaler).__module__.split(".")[0])
"""


@pytest.mark.parametrize("chip, saturates, bf16, scaler", [
    ("Ascend910A", True, False, "torch_npu"), ("Ascend910ProB", True, False, "torch_npu"),
    ("Ascend910B", True, False, "torch_npu"), ("Ascend910B1", False, True, "torch"),
    ("Ascend910B4", False, True, "torch")])
def test_the_chips_name_decides_scaler_and_bf16(chip: str, saturates: bool, bf16: bool,
                                                scaler: str, python: Callable) -> None:
    done = python(CHIP, FACEZOO_NPU_SOC=chip)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"FOUND {chip} {saturates} {bf16} {scaler}" in done.stdout


def test_on_a_saturating_chip_overflow_is_finite_and_only_the_flag_tells(python: Callable) -> None:
    done = python("""
import torch
from engine import device as devices
card = devices.open_device("npu")
scaler = devices.grad_scaler(card, init_scale=1024.0)
net = torch.nn.Linear(2, 1).to(card)
start = net.weight.detach().clone()
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
loss = net(torch.ones(1, 2, device=card)).sum() * 3e38
scaler.scale(loss).backward()
assert bool(torch.isfinite(net.weight.grad).all())
scaler.step(optimizer)
scaler.update()
assert torch.equal(net.weight, start) and scaler.get_scale() == 512.0, scaler.get_scale()
""", FACEZOO_NPU_SOC="Ascend910A")
    assert done.returncode == 0, done.stderr[-2000:]

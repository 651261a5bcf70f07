"""The device layer on a device: card choice, switches, random state, timing, feeding."""
from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator

import pytest
import torch
from npu_suite import TIER, child

from engine import device as devices
from engine.prefetch import Prefetcher
from engine.training_log import SpeedMeter

only_recorded = pytest.mark.skipif(TIER != 1, reason="only the pure Python device keeps a record")


@pytest.fixture
def calls(npu: torch.device) -> list[tuple]:
    """What is asked of the device from here on, as (name, arguments)."""
    from torch_npu import record
    record.calls.clear()
    return record.calls


# ---- opening ------------------------------------------------------------------------------------

def test_the_card_of_the_environment_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASCEND_DEVICE_ID", "0")
    device = devices.open_device("auto")
    assert (device.type, device.index, torch.npu.current_device()) == ("npu", 0, 0)


def test_auto_says_why_it_took_the_npu(monkeypatch: pytest.MonkeyPatch,
                                       caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("ASCEND_DEVICE_ID", "0")
    monkeypatch.setattr(logging.getLogger("facezoo"), "propagate", True)
    caplog.set_level(logging.INFO, "facezoo")
    devices.open_device("auto")
    assert "ASCEND_DEVICE_ID is set" in caplog.text and "Ascend910B1" in caplog.text


def test_a_card_that_is_missing_is_an_error_with_the_count(npu: torch.device) -> None:
    count = torch.npu.device_count()
    with pytest.raises(ValueError, match=rf"npu:{count} must name a card: .* has {count} card"):
        devices.open_device(f"npu:{count}")


def test_no_card_at_all_is_an_error_that_names_the_cpu() -> None:
    done = child("newtrain.py", "--device", "npu", "--train_steps", 1, "--checkpoints_dir",
                 "/nonexistent", env={"FACEZOO_NPU_CARDS": "0"})
    assert done.returncode == 2
    assert "finds no Ascend card" in done.stderr and "--device cpu" in done.stderr


@only_recorded
def test_the_card_is_selected_first_and_the_switches_follow(calls: list[tuple]) -> None:
    devices.open_device("npu:0")
    assert calls[:5] == [("set_device", (0,)), ("set_compile_mode", (False,)),
                         ("config.allow_internal_format", (False,)),
                         ("conv.allow_hf32", (False,)), ("matmul.allow_hf32", (False,))]


@only_recorded
def test_jit_and_hf32_are_switched_on_when_asked_for(calls: list[tuple]) -> None:
    devices.open_device("npu", npu_jit=True, allow_hf32=True)
    assert {("set_compile_mode", (True,)), ("conv.allow_hf32", (True,)),
            ("matmul.allow_hf32", (True,))} <= set(calls)


def test_npu_strict_reaches_torch_npu_before_its_import() -> None:
    done = child("-c", "import os, sys\n"
                 "from engine import device\n"
                 "load = device.importlib.import_module\n"
                 "def note(name):\n"
                 "    print(name, os.environ.get('TORCH_NPU_FALLBACK_CPU_DISABLE'),"
                 " 'torch_npu' in sys.modules)\n"
                 "    return load(name)\n"
                 "device.importlib.import_module = note\n"
                 "device.open_device('npu', npu_strict=True)\n")
    assert "torch_npu 1 False" in done.stdout, done.stderr


def test_deterministic_covers_the_collectives(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HCCL_DETERMINISTIC", "CUBLAS_WORKSPACE_CONFIG"):
        monkeypatch.setenv(name, "")        # so that they are put back
        monkeypatch.delenv(name)
    try:
        devices.open_device("npu", deterministic=True)
        assert torch.are_deterministic_algorithms_enabled()
        assert devices.os.environ["HCCL_DETERMINISTIC"] == "true"
    finally:
        torch.use_deterministic_algorithms(False)


def test_properties_of_the_npu(npu: torch.device) -> None:
    assert devices.name_of(npu) == "Ascend910B1"
    assert (devices.collective(npu), devices.pins_memory(npu), devices.overflow_saturates(npu)) == (
        "hccl", True, False)
    assert devices.memory_format(npu) is torch.contiguous_format
    assert devices.default_opt_level(npu) == "O2"


CHIP_FACTS = """
import json, torch
from engine import device as devices
from engine.precision import Precision
npu = devices.open_device("npu")
try:
    Precision(npu, opt_level="O2", loss_scale="dynamic")
    refusal = ""
except ValueError as error:
    refusal = str(error)
print(json.dumps({"name": devices.name_of(npu), "saturates": devices.overflow_saturates(npu),
                  "bf16": torch.npu.is_bf16_supported(), "refusal": refusal,
                  "scaler": type(devices.grad_scaler(npu)).__module__.split(".")[0],
                  "static": Precision(npu, opt_level="O2").loss_scale}))
"""


@pytest.mark.parametrize("chip, saturates, scaler, refusal", [
    ("Ascend910A", True, "torch_npu", "turns overflow into its largest"),
    ("Ascend910ProB", True, "torch_npu", "turns overflow into its largest"),
    ("Ascend910B2", False, "torch", "")])
def test_the_chips_name_decides_on_scaler_and_dynamic_scale(chip: str, saturates: bool, scaler: str,
                                                            refusal: str) -> None:
    done = child("-c", CHIP_FACTS, env={"FACEZOO_NPU_SOC": chip})
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert (facts["name"], facts["saturates"], facts["scaler"], facts["bf16"]) == (
        chip, saturates, scaler, not saturates)
    assert refusal in facts["refusal"] and bool(refusal) is bool(facts["refusal"])
    assert facts["static"] == 128.0


# ---- state --------------------------------------------------------------------------------------

def test_seeding_decides_what_the_device_draws(npu: torch.device) -> None:
    draws = []
    for seed in (3, 3, 4):
        devices.seed_everything(seed, npu)
        draws.append(torch.randn(5, device=npu).cpu())
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_random_state_comes_back_on_host_and_device(npu: torch.device) -> None:
    def draw() -> list[float]:
        return [float(torch.rand(())), *torch.rand(3, device=npu).cpu().tolist()]
    devices.seed_everything(5, npu)
    draw()
    state = devices.rng_state(npu)
    expected, later = draw(), draw()
    devices.set_rng_state(npu, state)
    assert draw() == expected != later
    assert state["device"].device.type == "cpu"


def test_a_cpu_runs_random_state_is_put_back_without_a_device_part(npu: torch.device) -> None:
    state = devices.rng_state(torch.device("cpu"))
    expected = float(torch.rand(()))
    devices.set_rng_state(npu, state)
    assert float(torch.rand(())) == expected


def test_peak_memory_covers_what_was_allocated(npu: torch.device) -> None:
    before = devices.peak_memory(npu)
    large = torch.zeros(before // 4 + (1 << 20), device=npu)
    assert devices.peak_memory(npu) >= large.numel() * 4
    del large
    assert devices.peak_memory(npu) >= before + (1 << 20)


def test_stopwatch_reads_the_devices_events(npu: torch.device) -> None:
    watch = devices.Stopwatch(npu)
    watch.start()
    host = devices.time.perf_counter()
    while devices.time.perf_counter() - host < 0.02:
        torch.ones(8, device=npu).sum()
    watch.stop()
    assert 0.01 < watch.seconds() < 60


@only_recorded
def test_the_speed_meter_waits_for_the_device_at_both_ends(npu: torch.device,
                                                           calls: list[tuple]) -> None:
    meter = SpeedMeter(npu, 0)
    meter.resume()
    meter.pause()
    assert calls == [("synchronize", ()), ("synchronize", ())]


# ---- feeding ------------------------------------------------------------------------------------

def batches(count: int) -> Iterator[dict]:
    for index in range(count):
        yield {"x": torch.full((2, 3), float(index)), "path": [str(index)]}


def test_prefetched_batches_come_in_order_complete_and_on_the_device(npu: torch.device) -> None:
    found = [(batch["x"].device.type, float(batch["x"].mean().cpu()), batch["path"])
             for batch in Prefetcher(batches(5), npu, lambda b: {**b, "x": b["x"] + 10})]
    assert found == [("npu", index + 10.0, [str(index)]) for index in range(5)]


def test_batches_are_prepared_on_a_side_stream(npu: torch.device) -> None:
    main, seen = torch.npu.current_stream(), []

    def prepare(batch: dict) -> dict:
        seen.append(torch.npu.current_stream() == main)
        return batch
    for _ in Prefetcher(batches(2), npu, prepare):
        assert torch.npu.current_stream() == main
    assert seen == [False, False]


def test_the_next_batch_is_fetched_before_the_step_on_the_current_one(npu: torch.device) -> None:
    order = []

    def prepare(batch: dict) -> dict:
        order.append(f"load {batch['path'][0]}")
        return batch
    for batch in Prefetcher(batches(3), npu, prepare):
        order.append(f"step {batch['path'][0]}")
    assert order == ["load 0", "load 1", "step 0", "load 2", "step 1", "step 2"]


@only_recorded
def test_the_step_waits_for_the_copy_and_claims_its_memory(npu: torch.device,
                                                           calls: list[tuple]) -> None:
    prefetcher = Prefetcher(batches(2), npu, lambda batch: batch)
    main = torch.npu.current_stream().stream_id
    side = prefetcher._stream.stream_id
    for batch in prefetcher:
        calls.append(("step", tuple(batch["path"])))
    assert calls == [
        ("stream", (side,)), ("wait_stream", (main, side)), ("record_stream", (main,)),
        ("stream", (side,)), ("step", ("0",)), ("wait_stream", (main, side)),
        ("record_stream", (main,)), ("step", ("1",))]


def test_images_become_floats_in_the_devices_layout(npu: torch.device) -> None:
    from utils.images.convert import to_tensor
    images = torch.arange(2 * 4 * 4 * 3, dtype=torch.uint8).view(2, 4, 4, 3)
    found = to_tensor(images.to(npu), devices.memory_format(npu))
    assert found.device.type == "npu" and found.is_contiguous()
    assert torch.equal(found.cpu(), to_tensor(images, torch.contiguous_format))


def test_pinned_batches_of_a_loader_reach_the_device(npu: torch.device) -> None:
    rows = torch.arange(12.0).view(6, 2)
    loader = torch.utils.data.DataLoader([{"x": row} for row in rows], batch_size=2,
                                         pin_memory=devices.pins_memory(npu))
    pinned = []

    def watch(loader: torch.utils.data.DataLoader) -> Iterator[dict]:
        for batch in loader:
            pinned.append(batch["x"].is_pinned())
            yield batch
    found = [batch["x"].cpu() for batch in Prefetcher(watch(loader), npu, lambda b: b)]
    assert torch.equal(torch.cat(found), rows) and pinned == [True] * 3


# ---- what the real device refuses, and the tests above therefore rule out ------------------------

def _mix(npu: torch.device) -> None:
    torch.ones(3, device=npu) + torch.ones(3)


def _channels_last(npu: torch.device) -> None:
    torch.ones(1, 2, 3, 3, device=npu).contiguous(memory_format=torch.channels_last)


def _bf16_batch_norm(npu: torch.device) -> None:
    torch.nn.BatchNorm2d(2).to(npu).bfloat16()(torch.ones(2, 2, 3, 3, device=npu).bfloat16())


def _bf16_reflection(npu: torch.device) -> None:
    torch.nn.ReflectionPad2d(1)(torch.ones(1, 2, 3, 3, device=npu).bfloat16())


def _bf16_transposed(npu: torch.device) -> None:
    torch.nn.ConvTranspose2d(2, 2, 3).to(npu).bfloat16()(
        torch.ones(1, 2, 3, 3, device=npu).bfloat16())


def _bf16_prelu(npu: torch.device) -> None:
    torch.nn.PReLU().to(npu).bfloat16()(torch.ones(1, 2, 3, 3, device=npu).bfloat16())


def _unsafe_loss(npu: torch.device) -> None:
    with torch.autocast("npu", dtype=torch.float16):
        torch.nn.functional.binary_cross_entropy(torch.full((2,), 0.5, device=npu),
                                                 torch.ones(2, device=npu))


@pytest.mark.parametrize("refused", [
    _mix, _channels_last, _bf16_batch_norm, _bf16_reflection, _bf16_transposed, _bf16_prelu,
    _unsafe_loss])
def test_the_device_refuses(refused: Callable, npu: torch.device) -> None:
    with pytest.raises(RuntimeError):
        refused(npu)


def test_numpy_needs_a_copy_on_the_host(npu: torch.device) -> None:
    with pytest.raises(TypeError, match="numpy"):
        torch.ones(3, device=npu).numpy()


def test_double_silently_gives_single(npu: torch.device) -> None:
    assert torch.ones(3, device=npu).double().dtype is torch.float32


def test_autocast_takes_the_npus_own_lists(npu: torch.device) -> None:
    conv = torch.nn.Conv2d(2, 2, 1).to(npu)
    x = torch.rand(1, 2, 3, 3, device=npu)
    with torch.autocast("npu", dtype=torch.float16):
        low = conv(x)
        prelu = torch.nn.functional.prelu(x, torch.full((1,), 0.1, device=npu))
        high = [torch.nn.functional.softplus(low), low.exp(), low.softmax(1),
                torch.nn.functional.l1_loss(low, low)]
        norm = torch.nn.BatchNorm2d(2).to(npu)(low)
    assert (low.dtype, prelu.dtype, norm.dtype) == (torch.float16,) * 3
    assert {tensor.dtype for tensor in high} == {torch.float32}

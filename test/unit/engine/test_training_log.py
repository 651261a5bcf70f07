"""Speed, loss windows and the log file."""
from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from data.synthetic.faces import render_face
from engine.training_log import (
    LossWindow,
    Progress,
    SpeedMeter,
    check_tensorboard,
    clock,
    spaced,
)
from utils.files import to_json
from utils.images.io import decode_image, encode_image

CPU = torch.device("cpu")


def test_warm_up_and_pauses_are_left_out_of_the_speed() -> None:
    meter = SpeedMeter(CPU, warmup_steps=1)
    meter.resume()
    time.sleep(0.05)        # the warm-up step
    meter.count_step()
    for _ in range(2):
        time.sleep(0.01)
        meter.count_step()
        meter.pause()
        time.sleep(0.05)    # a validation
        meter.resume()
    meter.pause()
    assert meter.steps == 2
    assert 0.01 <= meter.seconds_per_step() < 0.04


def test_no_timed_step_gives_no_speed() -> None:
    meter = SpeedMeter(CPU, warmup_steps=3)
    meter.resume()
    meter.count_step()
    assert meter.seconds_per_step() is None


def test_a_window_gives_means_and_empties_itself() -> None:
    window = LossWindow()
    for value in (1.0, 3.0):
        window.add({"a": torch.tensor(value), "b": torch.tensor(value * 10)})
    assert window.take(0.5, 7.0) == ({"a": 2.0, "b": 20.0}, [0.5, 7.0])
    assert window.take() == ({}, [])


def test_a_window_does_not_keep_the_callers_tensor() -> None:
    window, loss = LossWindow(), torch.tensor(1.0)
    window.add({"a": loss})
    loss.add_(5)
    assert window.take() == ({"a": 1.0}, [])


@pytest.mark.parametrize("content, kept", [
    ('{"step": 2}\n{"step": 4}\n{"step": 6}\n', [2, 4]),
    ('{"step": 2}\n{"step": 4, "los', [2])])
def test_resuming_drops_records_from_after_the_state(content: str, kept: list[int],
                                                     tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(content)
    Progress(tmp_path, start_step=4, total_steps=9, tensorboard=False).close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == kept


def test_json_has_no_infinity_or_nan() -> None:
    text = to_json({"a": [float("inf"), float("nan"), 1.5, None], "b": ("x", True)})
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name)) == {
        "a": ["inf", "nan", 1.5, None], "b": ["x", True]}


@pytest.mark.parametrize("seconds, text", [(0, "0:00:00"), (59.6, "0:01:00"), (3661, "1:01:01")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


# ---- event files stay small ----------------------------------------------------------------------

@pytest.mark.parametrize("every, total, most, expected", [
    (100, 800_000, 100, 8000), (100, 5000, 100, 100), (100, 10_100, 100, 200), (1, 6, 100, 1),
    (0, 100, 100, 0), (100, 100, 0, 0), (7, 1000, 3, 336), (400, 1, 1, 400)])
def test_images_are_spaced_over_the_run(every: int, total: int, most: int, expected: int) -> None:
    found = spaced(every, total, most)
    assert found == expected
    assert not found or (found % every == 0 and total // found <= most)


def test_an_image_is_written_as_jpeg(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    shown = render_face(0, size=256).image
    progress = Progress(tmp_path, start_step=0, total_steps=9, tensorboard=True)
    progress.image("strip", shown, 3)
    progress.close()
    read = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    event, = read.Images("strip")
    assert (event.step, event.width, event.height) == (3, 256, 256)
    assert event.encoded_image_string.startswith(b"\xff\xd8")
    found = decode_image(event.encoded_image_string, "event")
    assert np.abs(found.astype(int) - shown).mean() < 3
    size = sum(path.stat().st_size for path in (tmp_path / "tensorboard").iterdir())
    assert size < len(encode_image(shown, ".png")) / 2


def test_a_broken_tensorboard_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"--tensorboard: .* pass --no-tensorboard"):
        check_tensorboard()

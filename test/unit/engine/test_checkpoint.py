"""Files: atomic, strict, readable reports, every common wrapper, nothing executed."""
from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from data.components import read_components
from engine import checkpoint
from utils.files import write_atomically

WEIGHTS = {"a.weight": torch.arange(4.0).reshape(2, 2), "a.bias": torch.ones(2)}


def saved(tmp_path: Path, content: object, name: str = "w.pth") -> Path:
    torch.save(content, tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("wrap", [
    lambda w: w, lambda w: {"params_ema": w}, lambda w: {"params": w}, lambda w: {"g_ema": w},
    lambda w: {"state_dict": w}, lambda w: {"G": w, "D": {}}, lambda w: {"epoch": 3, "g": w},
    lambda w: {"params-ema": w, "params": {}}, lambda w: {"model": w, "epoch": 3},
    lambda w: {"model_state_dict": w}, lambda w: {"net": w, "optimizer": {"state": {}}},
    lambda w: {"ema": w, "model": {"c": torch.ones(1)}}, lambda w: {"state_dict": {"model": w}},
    lambda w: {"generator": w, "discriminator": {"c": torch.ones(1)}},
    lambda w: {**w, "epoch": 3}, lambda w: {**w, "arch": "sparnet", "best": 31.5, "date": None},
    lambda w: {f"_orig_mod.{k}": v for k, v in w.items()},
    lambda w: {k.replace("a.", "a._orig_mod."): v for k, v in w.items()},
    lambda w: {f"module._orig_mod.{k}": v for k, v in w.items()},
    *(lambda w, prefix=prefix: {f"{prefix}{k}": v for k, v in w.items()}
      for prefix in ("model.", "net_g.", "generator.", "net.", "model.module.")),
    lambda w: {f"module.{k}": v for k, v in w.items()},
    lambda w: {f"netG.{k}": v for k, v in w.items()},
    lambda w: {"state_dict": {f"netG.module.{k}": v for k, v in w.items()}, "epoch": 4}])
def test_wrappers_and_prefixes_are_understood(wrap: object, tmp_path: Path) -> None:
    found = checkpoint.load_weights(saved(tmp_path, wrap(WEIGHTS)), WEIGHTS, "G")
    assert {key: value.tolist() for key, value in found.items()} == {
        key: value.tolist() for key, value in WEIGHTS.items()}


def test_a_network_in_a_file_of_several_is_the_one_that_was_asked_for(tmp_path: Path) -> None:
    path = saved(tmp_path, {"generator": {"c": torch.ones(1)}, "discriminator": WEIGHTS})
    assert checkpoint.load_weights(path, WEIGHTS, "D").keys() == WEIGHTS.keys()


def test_a_prefix_that_the_network_has_itself_stays(tmp_path: Path) -> None:
    own = {f"model.{key}": value for key, value in WEIGHTS.items()}
    for content in (own, {f"model.{key}": value for key, value in own.items()}):
        if content is own:
            assert checkpoint.load_weights(saved(tmp_path, content), own).keys() == own.keys()
    assert checkpoint.load_weights(saved(tmp_path, {f"module.{k}": v for k, v in own.items()}),
                                   own).keys() == own.keys()


def test_counters_that_old_files_lack_are_zero(tmp_path: Path) -> None:
    expected = WEIGHTS | {"bn.num_batches_tracked": torch.tensor(5)}
    found = checkpoint.load_weights(saved(tmp_path, WEIGHTS), expected)
    assert found["bn.num_batches_tracked"].item() == 0
    with pytest.raises(ValueError, match=r"2 missing \(bn.num_batches_tracked, bn.running_mean\)"):
        checkpoint.load_weights(saved(tmp_path, WEIGHTS),
                                expected | {"bn.running_mean": torch.zeros(1)})


@pytest.mark.parametrize("name", ["w.pth", "w.ckpt", "w"])
def test_the_content_and_not_the_name_says_what_a_file_is(name: str, tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / name)
    assert checkpoint.load_weights(tmp_path / name, WEIGHTS).keys() == WEIGHTS.keys()
    assert checkpoint.peek(tmp_path / name).keys() == WEIGHTS.keys()
    torch.save(WEIGHTS, tmp_path / "zip.safetensors")
    assert checkpoint.load_weights(tmp_path / "zip.safetensors", WEIGHTS).keys() == WEIGHTS.keys()


@pytest.mark.parametrize("content, words", [
    (b"<!DOCTYPE html>\n<html><title>Sign in</title></html>", "a web page, not the weights"),
    (b"\n  <html>", "a web page"), (b"<?xml version='1.0'?><Error/>", "a web page"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
    (b"\x1f\x8b\x08\0\0\0", "packed by gzip"), (b"Rar!\x1a\x07\x01\0", "RAR archive"),
    (b"\x89HDF\r\n\x1a\n", "HDF5"), (b"\x93NUMPY\x01\0", "NumPy"),
    (b"\x89PNG\r\n\x1a\n", "an image")])
@pytest.mark.parametrize("read", [checkpoint.read, checkpoint.peek])
def test_what_people_take_for_weights_is_called_by_its_name(content: bytes, words: str, read,
                                                            tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(ValueError, match=rf"w\.pth is .*{words}"):
        read(tmp_path / "w.pth")


def test_a_zip_of_other_files_is_no_checkpoint(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("a/weights.txt", "1")
    with pytest.raises(ValueError, match=r"w\.pth is a zip archive of other files"):
        checkpoint.read(tmp_path / "w.pth")


@pytest.mark.parametrize("read", [checkpoint.read, checkpoint.peek,
                                  lambda path: read_components(path)])
def test_a_file_that_would_take_far_more_memory_than_its_size_is_refused(read,
                                                                         tmp_path: Path) -> None:
    stored = saved(tmp_path, {"a.weight": torch.zeros(1 << 20)}, "stored.pth")
    packed = tmp_path / "packed.pth"
    with zipfile.ZipFile(stored) as source, zipfile.ZipFile(packed, "w",
                                                            zipfile.ZIP_DEFLATED) as target:
        for record in source.infolist():
            target.writestr(record.filename, source.read(record))
    assert packed.stat().st_size < 10_000
    with pytest.raises(ValueError, match=r"packed\.pth.* would take 4\d+ in memory, more than 4 "
                                         "times as many"):
        read(packed)


def test_tensors_that_an_older_torch_npu_pickled_are_read(tmp_path: Path) -> None:
    """Its function stands in the file by name; made here by renaming torch's own."""
    path = saved(tmp_path, WEIGHTS, "plain.pth")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / "npu.pth", "w") as target:
        for record in source.infolist():
            data = source.read(record)
            if record.filename.endswith("data.pkl"):
                data = data.replace(b"ctorch._utils\n_rebuild_tensor_v2\n",
                                    b"ctorch_npu.utils.storage\n_rebuild_npu_tensor\n")
                # One more argument than torch has, and the place on the card.
                data = data.replace(b"X\x03\x00\x00\x00cpu", b"X\x05\x00\x00\x00npu:0")
                assert b"npu:0" in data
            target.writestr(record.filename, data)
    found = checkpoint.load_weights(tmp_path / "npu.pth", WEIGHTS)
    assert all(torch.equal(found[key], value) for key, value in WEIGHTS.items())


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "w.safetensors")
    found = checkpoint.load_weights(tmp_path / "w.safetensors", WEIGHTS)
    assert torch.equal(found["a.weight"], WEIGHTS["a.weight"])


def test_a_mismatch_counts_and_shows_what_differs(tmp_path: Path) -> None:
    wrong = {"a.weight": torch.zeros(3), "b": torch.zeros(1), "c": torch.zeros(1),
             "d": torch.zeros(1), "e": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"1 missing \(a.bias\).*4 unexpected \(b, c, d \.\.\.\)"
                                         r".*1 of another shape \(a.weight \(3,\) instead of "
                                         r"\(2, 2\)\)\. try this"):
        checkpoint.load_weights(saved(tmp_path, wrong), WEIGHTS, hint=lambda state: "try this")


class Evil:
    def __reduce__(self) -> tuple:
        return os.system, ("touch executed",)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"])
def test_damaged_files_are_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.pth"):
        checkpoint.load_weights(path, WEIGHTS)


def test_code_in_a_pickle_is_refused_not_run(tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="run code"):
        checkpoint.load_weights(saved(tmp_path, {"a": Evil()}), WEIGHTS)
    assert not (tmp_path / "executed").exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        checkpoint.load_weights(tmp_path / "nowhere.pth", WEIGHTS)


def test_saved_weights_are_plain_contiguous_cpu_tensors(tmp_path: Path) -> None:
    tensor = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    checkpoint.save_weights(tmp_path, "latest", {"G": {"w": tensor}})
    found = torch.load(tmp_path / "latest_net_G.pth", weights_only=True)
    assert list(found) == ["w"]
    assert found["w"].is_contiguous()
    assert torch.equal(found["w"], tensor)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")

    def fail(file: object) -> None:
        file.write(b"half")
        raise OSError("disk full")
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"old", ["f"])


def test_the_state_before_is_kept_and_used_when_the_latest_is_damaged(tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoint.save_state(tmp_path, {"step": step})
    assert checkpoint.load_state(tmp_path)["step"] == 2
    (tmp_path / "latest_state.pth").write_bytes(b"cut off")
    assert checkpoint.load_state(tmp_path)["step"] == 1


def test_only_damaged_states_are_an_error_not_a_fresh_start(tmp_path: Path) -> None:
    (tmp_path / "latest_state.pth").write_bytes(b"cut off")
    with pytest.raises(ValueError, match=r"latest_state\.pth"):
        checkpoint.load_state(tmp_path)


def test_a_state_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    torch.save({"version": 99}, tmp_path / "latest_state.pth")
    with pytest.raises(ValueError, match="newer"):
        checkpoint.load_state(tmp_path)


def test_keep_last_removes_the_oldest_numbered_weights_only(tmp_path: Path) -> None:
    for suffix in ("iter_5", "iter_10", "iter_100", "epoch_1", "latest", "best"):
        checkpoint.save_weights(tmp_path, suffix, {"G": WEIGHTS})
    checkpoint.prune(tmp_path, 2)
    assert sorted(p.name.removesuffix("_net_G.pth") for p in tmp_path.iterdir()) == [
        "best", "epoch_1", "iter_10", "iter_100", "latest"]


def test_the_published_three_file_state_is_read(tmp_path: Path) -> None:
    saved(tmp_path, WEIGHTS, "latest_net_G.pth")
    saved(tmp_path, [{"state": {}, "param_groups": []}], "latest_opts.pth")
    saved(tmp_path, {"resume_epoch": 3, "resume_iter": 17}, "latest.info")
    state = checkpoint.load_published_state(tmp_path, "latest", ["G"], ["G"])
    assert state["published"] == {"epoch": 3, "iter": 17}
    assert torch.equal(state["networks"]["G"]["a.bias"], WEIGHTS["a.bias"])


@pytest.mark.parametrize("present, arguments, expected", [
    (["best", "latest"], {}, "best"), (["latest"], {}, "latest"),
    (["best", "latest"], {"epoch": "latest"}, "latest"),
    (["epoch_3"], {"epoch": "3"}, "epoch_3"), (["iter_40"], {"load_iter": 40}, "iter_40")])
def test_weights_of_a_run_are_found(present: list[str], arguments: dict, expected: str,
                                    tmp_path: Path) -> None:
    for suffix in present:
        checkpoint.save_weights(tmp_path / "run", suffix, {"G": WEIGHTS})
    found = checkpoint.find_weights(None, tmp_path, "run", **arguments)
    assert found.name == f"{expected}_net_G.pth"


def test_missing_weights_of_a_run_list_those_there_are(tmp_path: Path) -> None:
    checkpoint.save_weights(tmp_path / "run", "epoch_2", {"G": WEIGHTS})
    with pytest.raises(FileNotFoundError, match=r"epoch_2_net_G\.pth"):
        checkpoint.find_weights(None, tmp_path, "run")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path: Path, number: float,
                                                         kind: torch.dtype) -> None:
    state = {"body.weight": torch.ones(3, 3, dtype=kind), "steps": torch.tensor(3)}
    state["body.weight"][1, 1] = number
    checkpoint.write(tmp_path / "w.pth", state)
    with pytest.raises(ValueError, match=r"w.pth must hold finite .* 1 tensor \(body.weight\)"):
        checkpoint.load_weights(tmp_path / "w.pth", state)

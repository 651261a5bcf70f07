"""JPEGs that a decoder takes although they are damaged: each is noticed, good ones never are."""
from __future__ import annotations

import ctypes
import io
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from image_files import exif
from PIL import Image

import preparation
import prepare
from data.base_dataset import collate
from data.folder_dataset import FolderDataset
from utils.images import jpeg
from utils.images.deep import decode_layers
from utils.images.io import DamagedImage, decode_image
from utils.images.resize import bicubic

PIXELS = bicubic(np.random.default_rng(0).integers(0, 256, (40, 32, 3), np.uint8), 320, 256)
KINDS = {"baseline": {}, "progressive": {"progressive": True}, "optimized": {"optimize": True},
         "restarts": {"restart_marker_rows": 1}, "many restarts": {"restart_marker_blocks": 3},
         "full color": {"subsampling": 0}, "turned": {"exif": exif(6)}, "profile": {
             "icc_profile": b"x" * 3000}}


def jpeg_file(kind: str = "baseline", mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(file, "JPEG", quality=92, **KINDS[kind])
    return file.getvalue()


def cut(data: bytes, fraction: float = 0.5) -> bytes:
    return data[:int(len(data) * fraction)] + b"\xff\xd9"


def zeroed(data: bytes, count: int = 3000, fraction: float = 0.5) -> bytes:
    at = int(len(data) * fraction)
    return data[:at] + bytes(count) + data[at + count:]


def piece_missing(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + data[at + 2000:]


# ---- noticed -------------------------------------------------------------------------------------

@pytest.mark.parametrize("damage", [cut, zeroed, piece_missing])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_noticed(kind: str, mode: str, damage: object) -> None:
    data = damage(jpeg_file(kind, mode))
    assert len(jpeg_file(kind, mode)) > 12_000
    for read in (decode_image, decode_layers):
        with pytest.raises(DamagedImage, match=r"^a\.jpg: the JPEG is damaged \(.*\)$"):
            read(data, "a.jpg")


@pytest.mark.parametrize("fraction", np.linspace(0.2, 0.95, 16).round(2).tolist())
def test_damage_is_noticed_wherever_it_is(fraction: float) -> None:
    for data in (cut(jpeg_file(), fraction), zeroed(jpeg_file(), 300, fraction),
                 zeroed(jpeg_file(), 1000, fraction)):
        with pytest.raises(DamagedImage):
            decode_image(data, "a")


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_good_file_is_never_called_damaged(kind: str, mode: str) -> None:
    data = jpeg_file(kind, mode)
    at = data.rindex(b"\xff\xd9")
    for good in (data, data + b"camera notes", data[:at] + b"\0" * 200 + data[at:],
                 data[:at] + b"\xff" * 9 + data[at:], data[:at] + b"\x5a" + data[at:]):
        assert decode_image(good, "a").ndim == 3


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_image_of_one_color_is_not_a_hole(kind: str, mode: str) -> None:
    """Of which optimized codes make zeros only."""
    file = io.BytesIO()
    image = Image.new(mode, (2000, 1000), "gray")
    image.paste(Image.fromarray(PIXELS).convert(mode), (0, 700))
    image.save(file, "JPEG", **KINDS[kind])
    assert decode_image(file.getvalue(), "a").ndim == 3
    if kind == "optimized":
        assert bytes(256) in file.getvalue()


# ---- how it is heard -----------------------------------------------------------------------------

def test_nothing_is_printed_and_other_remarks_still_are(capfd: pytest.CaptureFixture) -> None:
    libc = ctypes.CDLL(None)
    stderr = ctypes.c_void_p.in_dll(libc, "stderr")

    def talk() -> int:
        libc.fputs(b"a remark\n", stderr)
        return 7
    with pytest.raises(DamagedImage):
        decode_image(cut(jpeg_file()), "a")
    assert capfd.readouterr().err == ""
    assert jpeg._watch(talk)[0] == 7
    assert "a remark" in capfd.readouterr().err
    libc.fputs(b"after\n", stderr)
    assert capfd.readouterr().err == "after\n"


def test_threads_do_not_mix_up_their_files() -> None:
    good, bad = jpeg_file(), cut(jpeg_file())
    wrong: list[int] = []

    def work(first: int) -> None:
        for number in range(first, first + 40):
            try:
                decode_image(bad if number % 3 == 0 else good, "a")
                heard = False
            except DamagedImage:
                heard = True
            wrong.extend([number] * (heard != (number % 3 == 0)))
    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == [] and not any(thread.is_alive() for thread in threads)


def test_a_forked_process_hears_it_too() -> None:
    decode_image(jpeg_file(), "a")
    child = os.fork()
    if child == 0:
        try:
            decode_image(cut(jpeg_file()), "a")
            os._exit(1)
        except DamagedImage:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_where_c_cannot_be_asked_files_are_still_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg, "_stream", lambda: None)
    assert decode_image(jpeg_file(), "a").shape == PIXELS.shape


# ---- what programs make of it --------------------------------------------------------------------

@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "in"
    made.mkdir()
    for number in range(6):
        Image.fromarray(PIXELS // (number + 1)).save(made / f"{number}.jpg")
    (made / "half.jpg").write_bytes(cut(jpeg_file()))
    (made / "zeros.jpg").write_bytes(zeroed(jpeg_file()))
    return made


def test_check_reports_damaged_files_by_name(folder: Path, capsys: pytest.CaptureFixture) -> None:
    opt = prepare.parse(["check", "--input", str(folder), "--output", str(folder.parent / "out"),
                         "--workers", "1"])
    assert preparation.find("check").run(opt) == 1
    said = capsys.readouterr().out
    assert "damaged: half.jpg: the JPEG is damaged (" in said and "damaged: zeros.jpg: " in said
    report = json.loads((folder.parent / "out" / "report.json").read_text())
    assert report["counts"] == {"damaged": 2}
    usable = (folder.parent / "out" / "usable.txt").read_text().splitlines()
    assert usable[1:] == [f"{number}.jpg" for number in range(6)]
    assert preparation.find("check").run(opt) == 1      # once more, from its notes
    assert "damaged: half.jpg" in capsys.readouterr().out


def test_training_counts_them_as_bad(folder: Path) -> None:
    faces = FolderDataset(FolderDataset.Settings(dataroot=str(folder), load_size=32, flip=False),
                          split="test")
    batch = collate([faces[index] for index in range(len(faces))])
    assert sorted(Path(text.split(": ")[0]).name for text in batch["bad"]) == ["half.jpg",
                                                                              "zeros.jpg"]

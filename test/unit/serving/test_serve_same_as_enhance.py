"""Files of every kind: the service answers with the bytes that enhance.py --photos writes."""
from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
from image_files import exif, profile, tiff
from PIL import Image
from served import SMALL, ask, small_weights

import data
import models
import serve
from enhance import enhance
from options.enhance_options import EnhanceOptions
from options.serve_options import ServeOptions
from serving.service import Service


def files() -> dict[str, bytes]:
    face = np.ascontiguousarray(skimage.data.astronaut()[:240, 100:340])
    ramp = np.tile(np.linspace(0, 255, 240).astype(np.uint8), (240, 1))
    image, deep = Image.fromarray(face), face.astype(np.uint16) * 257 ^ 5
    clear = Image.fromarray(np.dstack([face, ramp]))
    block = {"icc_profile": profile(), "exif": exif(1), "dpi": (300, 300)}

    def saved(image: Image.Image, file_format: str, **settings: object) -> bytes:
        file = io.BytesIO()
        image.save(file, file_format, **settings)
        return file.getvalue()

    def opencv(pixels: np.ndarray) -> bytes:
        return cv2.imencode(".png", pixels)[1].tobytes()
    return {
        "plain.jpg": saved(image, "JPEG"), "alpha.png": saved(clear, "PNG"),
        "gray_alpha.png": saved(clear.convert("LA"), "PNG"),
        "deep.png": opencv(deep[..., ::-1]),
        "deep_alpha.png": opencv(np.dstack([deep[..., ::-1], ramp.astype(np.uint16) * 257])),
        "gray16.png": saved(Image.fromarray(deep[..., 1]), "PNG"),
        "alpha.webp": saved(clear, "WEBP"), "twelve.tif": tiff(deep >> 4, 2),
        "p3.jpg": saved(image, "JPEG", quality=95, **block), "p3.png": saved(clear, "PNG", **block),
        "turned.jpg": saved(image.rotate(90), "JPEG", **{**block, "exif": exif(6)}),
        "cmyk.jpg": saved(image.convert("CMYK"), "JPEG")}


FILES = files()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = small_weights(tmp_path_factory.mktemp("w") / "g.pth")
    return [*SMALL, "--pretrain_model_path", str(path)]


@pytest.fixture(scope="module")
def service(weights: list[str]) -> Iterator[Service]:
    opt, tables = ServeOptions(models, data).parse_all(weights)
    made = serve.open_service(opt, tables, workers=1)
    yield made
    made.close()


@pytest.fixture(scope="module", params=["1", "2"])
def written(request: pytest.FixtureRequest, weights: list[str],
            tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What enhance.py makes of all of them in one go."""
    folder = tmp_path_factory.mktemp("in")
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    assert enhance(EnhanceOptions(models, data).parse(
        [*weights, "--photos", "--input", str(folder), "--output", str(folder / "out"),
         "--upscale", request.param])) == 0
    return folder / "out" / "restored_imgs", request.param


@pytest.mark.parametrize("name", FILES)
def test_the_answer_has_the_bytes_of_the_command_line(name: str, service: Service,
                                                      written: tuple[Path, str]) -> None:
    folder, scale = written
    answer = ask(service, content=FILES[name], params={"upscale": scale})
    expected = [path for path in folder.iterdir()
                if path.name in (f"{name}.png", f"{Path(name).stem}.png")]
    assert answer.status_code == 200, answer.text
    assert int(answer.headers["x-faces"]) == 1
    assert answer.content == expected[0].read_bytes()


def test_alpha_and_16_bits_come_back_from_the_service(service: Service) -> None:
    answer = ask(service, content=FILES["deep_alpha.png"], params={"faces": "none"})
    sent, back = (cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED)
                  for body in (FILES["deep_alpha.png"], answer.content))
    assert back.dtype == np.uint16 and np.array_equal(back, sent)


@pytest.mark.parametrize("extension", ["png", "jpg", "webp"])
def test_profile_and_exif_come_back_from_the_service(extension: str, service: Service) -> None:
    answer = ask(service, content=FILES["turned.jpg"], params={"format": extension})
    image = Image.open(io.BytesIO(answer.content))
    assert image.info["icc_profile"] == profile() and image.getexif()[0x010F] == "Maker"
    assert image.getexif()[0x0112] == 1 and image.size == (240, 240)


def test_strip_metadata_answers_in_srgb(weights: list[str]) -> None:
    opt, tables = ServeOptions(models, data).parse_all([*weights, "--strip_metadata"])
    made = serve.open_service(opt, tables, workers=1)
    try:
        answer = ask(made, content=FILES["p3.png"], params={"faces": "none"})
    finally:
        made.close()
    image = Image.open(io.BytesIO(answer.content))
    assert not {"icc_profile", "exif", "dpi"} & set(image.info) and image.mode == "RGBA"
    sent = np.asarray(Image.open(io.BytesIO(FILES["p3.png"])))[..., :3]
    assert np.abs(np.asarray(image)[..., :3].astype(int) - sent).max() > 10


def test_enhance_strips_alike(weights: list[str], tmp_path: Path) -> None:
    (tmp_path / "p3.png").write_bytes(FILES["p3.png"])
    assert enhance(EnhanceOptions(models, data).parse(
        [*weights, "--photos", "--input", str(tmp_path / "p3.png"), "--output",
         str(tmp_path / "out"), "--strip_metadata"])) == 0
    image = Image.open(tmp_path / "out" / "restored_imgs" / "p3.png")
    assert not {"icc_profile", "exif", "dpi"} & set(image.info)


def test_an_aligned_face_is_read_in_srgb_by_both(weights: list[str], service: Service,
                                                 tmp_path: Path) -> None:
    (tmp_path / "p3.jpg").write_bytes(FILES["p3.jpg"])
    assert enhance(EnhanceOptions(models, data).parse(
        [*weights, "--input", str(tmp_path / "p3.jpg"), "--output", str(tmp_path / "out")])) == 0
    answer = ask(service, content=FILES["p3.jpg"], params={"aligned": "1"})
    assert answer.content == (tmp_path / "out" / "p3.png").read_bytes()

"""The restoration service in this process: statuses, limits, batching, equality with enhance.py."""
from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from served import ask, client, decoded, photo, png

import serving.app
from faces.detect import Face
from faces.photograph import Settings
from faces.restorer import FaceRestorer
from serving.app import create_app
from serving.batching import Batcher
from serving.limits import Limits, PixelBudget
from serving.service import Model, Service
from utils.images.io import encode_image

# ---- a service without a network ----------------------------------------------------------------

class Brighter:
    """Stands in for a model: shifts each image by an amount of its own; can be held up."""
    opt = None

    def __init__(self, size: int = 32) -> None:
        self.size, self.sizes, self.go = size, [], threading.Event()
        self.go.set()

    def preprocess(self, image: np.ndarray, opt: None) -> np.ndarray:
        return np.array(Image.fromarray(image).resize((self.size, self.size)))

    def prepare(self, batch: dict) -> dict:
        return batch

    def restore(self, lq: torch.Tensor) -> torch.Tensor:
        assert self.go.wait(30)
        self.sizes.append(len(lq))
        if (lq == 13).all(dim=(1, 2, 3)).any():
            raise RuntimeError("the device fails at thirteen")
        shifted = (lq.float() + 10).clamp(max=255)
        return shifted.permute(0, 3, 1, 2) / 255 * 2 - 1


class Fixed:
    """Stands in for a detector: faces by the image's size, and how many look at a time."""
    points = np.array([[40, 50], [60, 50], [50, 62], [41, 71], [59, 71]], np.float32)

    def __init__(self) -> None:
        self.busy = 0

    def __call__(self, image: np.ndarray) -> list[Face]:
        self.busy += 1
        assert self.busy == 1
        time.sleep(0.002)
        self.busy -= 1
        return [Face(np.array([x, 10, x + 100, 110], np.float32), self.points + (x, 10), 0.9)
                for x in range(0, image.shape[1] - 100, 110)]


@pytest.fixture
def brighter() -> Brighter:
    return Brighter()


@pytest.fixture
def service(brighter: Brighter) -> Iterator[Callable[..., Service]]:
    """A service with the fakes: service(queue=1) sets limits."""
    made = []

    def make(workers: int = 2, wait: float = 0.005, **limits: Any) -> Service:
        restorer = FaceRestorer(brighter, torch.device("cpu"))
        model = Model("small", "none", restorer, Settings(32, batch_size=4))
        second = Model("other", "none", restorer, Settings(32, strength=0.5))
        made.append(Service({"small": model, "other": second}, [Fixed() for _ in range(workers)],
                            Limits(**limits), wait))
        return made[-1]
    yield make
    brighter.go.set()
    for each in made:
        each.close()


def error(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]


# ---- what comes back ----------------------------------------------------------------------------

def test_the_restored_image_comes_back(service: Callable) -> None:
    answer = ask(service())
    restored = decoded(answer)
    assert answer.headers["content-type"] == "image/png" and answer.headers["x-faces"] == "2"
    assert restored.shape == (120, 240, 3) and restored.max() == 110 and restored[0, 239, 0] == 100


@pytest.mark.parametrize("extension, kind", [("png", "PNG"), ("jpg", "JPEG"), ("webp", "WEBP")])
def test_formats(extension: str, kind: str, service: Callable) -> None:
    answer = ask(service(), params={"format": extension})
    assert Image.open(io.BytesIO(answer.content)).format == kind


def test_a_form_is_taken_like_a_body(service: Callable) -> None:
    made = service()
    form = ask(made, files={"image": ("../../etc/passwd", png(photo()), "text/plain")},
               data={"faces": "1"})
    assert np.array_equal(decoded(form), decoded(ask(made, params={"faces": "1"})))


def test_json_holds_boxes_points_scores_crops_and_the_image(service: Callable) -> None:
    made = service()
    answer = ask(made, params={"faces": "1"}, headers={"Accept": "application/json"}).json()
    left, right = answer["faces"]
    assert (left["restored"], right["restored"]) == (False, True) and "crop" not in left
    assert right["box"] == [110, 10, 210, 110] and len(right["points"]) == 5
    assert right["score"] == 0.9 and np.shape(right["crop"]["matrix"]) == (2, 3)
    sample = np.array(Image.open(io.BytesIO(base64.b64decode(answer["picture"]))))
    assert np.array_equal(sample, decoded(ask(made, params={"faces": "1"})))
    assert (answer["width"], answer["height"]) == (240, 120)


def test_only_the_faces_asked_for_change(service: Callable) -> None:
    made = service()
    only = decoded(ask(made, params={"faces": "1"}))
    assert (only[:, :105] == 100).all() and only[60, 160, 0] == 110
    assert (decoded(ask(made, params={"faces": "none"})) == 100).all()


def test_strength_size_and_model_are_the_requests(service: Callable) -> None:
    made = service()
    assert decoded(ask(made, params={"strength": "0.5"})).max() == 105
    assert decoded(ask(made, params={"model": "other"})).max() == 105       # its own default
    assert decoded(ask(made, params={"model": "other", "strength": "1"})).max() == 110
    assert decoded(ask(made, params={"upscale": "1.5"})).shape == (180, 360, 3)


def test_an_aligned_face_is_restored_as_it_is(service: Callable) -> None:
    restored = decoded(ask(service(), params={"aligned": "1"}))
    assert restored.shape == (32, 32, 3) and (restored == 110).all()


def test_faces_are_found_without_restoring(service: Callable, brighter: Brighter) -> None:
    answer = ask(service(), path="/v1/detect").json()
    assert [face["index"] for face in answer["faces"]] == [0, 1] and brighter.sizes == []


def test_models_health_and_metrics(service: Callable) -> None:
    made = service()
    ask(made)
    listed = ask(made, "GET", "/v1/models").json()
    assert [model["name"] for model in listed["models"]] == ["small", "other"]
    assert listed["models"][0] == {
        "name": "small", "model": "none", "size": 32, "template": "ffhq", "device": "cpu",
        "batch_size": 4, "upscale": 1.0, "strength": 1.0}
    assert ask(made, "GET", "/healthz").json() == {"status": "alive"}
    assert ask(made, "GET", "/readyz").json() == {"status": "ready"}
    text = ask(made, "GET", "/metrics").text
    for line in ('facezoo_requests_total{route="/v1/restore",status="200"} 1.0',
                 'facezoo_faces_total{model="small"} 2.0', "facezoo_queue_depth 0.0",
                 'facezoo_batch_faces_count{model="small"} 1.0', "facezoo_upload_bytes 0.0",
                 'facezoo_stage_seconds_count{stage="find"} 1.0'):
        assert line in text


def test_the_page_brings_all_it_needs(service: Callable) -> None:
    made = service()
    page = ask(made, "GET", "/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    named = [word.split('"')[0] for part in ('src="', 'href="') for word in
             page.text.split(part)[1:]]
    for path in named:
        assert ask(made, "GET", f"/{path}").status_code == 200


# ---- what is refused ----------------------------------------------------------------------------

@pytest.mark.parametrize("parameters, word", [
    ({"model": "gone"}, "small, other"), ({"faces": "2"}, "faces 0 to 1"),
    ({"faces": "-1"}, "faces must be"), ({"strength": "1.1"}, "from 0 to 1"),
    ({"strength": "nan"}, "from 0 to 1"), ({"upscale": "9"}, "from 0.25 to 8"),
    ({"upscale": "1_0"}, "from 0.25 to 8"), ({"format": "gif"}, "png, jpg, webp"),
    ({"aligned": "yes"}, "0, 1"), ({"aligned": "1", "strength": "1"}, "has no effect"),
    ({"path": "/etc/passwd"}, "unknown parameter"), ({"strenght": "1"}, "did you mean strength")])
def test_wrong_parameters_are_400(parameters: dict, word: str, service: Callable) -> None:
    status, message = error(ask(service(), params=parameters))
    assert status == 400 and word in message


def test_a_parameter_given_twice_is_400(service: Callable) -> None:
    form = {"files": {"image": ("x", png(photo()))}, "data": {"strength": "1"}}
    assert error(ask(service(), params={"strength": "0"}, **form))[0] == 400


@pytest.mark.parametrize("content", [b"", b"no image", png(photo())[:200], b"%!PS-Adobe",
                                     b"<svg xmlns='http://www.w3.org/2000/svg'/>"])
def test_no_image_is_400(content: bytes, service: Callable) -> None:
    status, message = error(ask(service(), content=content))
    assert status == 400 and "image" in message


@pytest.mark.parametrize("headers", [
    {"Content-Type": "application/json"}, {"Content-Type": "text/html"},
    {"Content-Type": "application/x-www-form-urlencoded"}, {"Content-Encoding": "gzip"}])
def test_other_media_are_415(headers: dict, service: Callable) -> None:
    assert error(ask(service(), headers=headers))[0] == 415


@pytest.mark.parametrize("kind, body", [
    ("multipart/form-data", b"--x--"), ("multipart/form-data; boundary=x", b"--x\r\n"),
    ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data; name=\"image\"; "
                                        b"filename=\"a\"\r\n\r\nhalf a file"),
    ("multipart/form-data; boundary=x", b"garbage\x00\xff" * 50),
    ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data; name=\"image\""
                                        b"\r\n\r\nno file\r\n--x--\r\n")])
def test_a_broken_form_is_400(kind: str, body: bytes, service: Callable) -> None:
    assert error(ask(service(), content=body, headers={"Content-Type": kind}))[0] == 400


def test_two_files_and_other_fields_are_400(service: Callable) -> None:
    made, sample = service(), png(photo())
    assert error(ask(made, files=[("image", ("a", sample)), ("image", ("b", sample))]))[0] == 400
    assert error(ask(made, files={"picture": ("a", sample)}))[0] == 400
    assert error(ask(made, files={"image": ("a", sample)}, data={"x": "1"}))[0] == 400
    assert error(ask(made, files={"image": ("a", sample)}, data={"faces": "0," * 4096}))[0] == 400


def claiming(width: int, height: int) -> bytes:
    """A PNG of that size by its header, black throughout, a few kilobytes for gigapixels."""
    def chunk(kind: bytes, content: bytes) -> bytes:
        return (struct.pack(">I", len(content)) + kind + content
                + struct.pack(">I", zlib.crc32(kind + content)))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0,
                                                             0))
            + chunk(b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b""))


@pytest.mark.parametrize("parameters, content", [
    ({}, claiming(101, 100)), ({}, claiming(60_000, 60_000)), ({}, claiming(2**31 - 1, 2**31 - 1)),
    ({"upscale": "2"}, claiming(80, 80)), ({"aligned": "1"}, claiming(20_000, 20_000)),
    ({}, b"P6 50000 50000 255\n"), ({}, bytes(60_000))])
def test_too_large_is_413_before_anything_is_decoded(parameters: dict, content: bytes,
                                                     service: Callable) -> None:
    made = service(max_pixels=10_000, max_result_pixels=20_000, max_bytes=50_000)
    assert error(ask(made, content=content, params=parameters))[0] == 413


@pytest.mark.parametrize("form", [False, True])
def test_an_upload_ends_at_the_limit_whatever_it_declares(form: bool, service: Callable) -> None:
    made, taken = service(max_bytes=100_000), 0

    async def endless() -> Any:
        nonlocal taken
        if form:
            yield (b"--x\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a\"\r\n\r\n")
        while taken < 10_000_000:
            taken += 10_000
            yield bytes(10_000)
    kind = "multipart/form-data; boundary=x" if form else "image/png"
    assert error(ask(made, content=endless(), headers={"Content-Type": kind}))[0] == 413
    assert taken < 300_000 and made.uploads.held == 0


def test_a_jpeg_of_endless_scans_is_400(service: Callable) -> None:
    content = encode_image(photo(), ".jpg") + b"\xff\xda" * 200
    assert error(ask(service(), content=content)) == (400, "the JPEG has more than 100 scans")


def test_a_body_that_does_not_come_is_408(service: Callable) -> None:
    async def slow() -> Any:
        yield b"\x89PNG"
        await asyncio.sleep(30)
    began = time.monotonic()
    assert error(ask(service(receive_timeout=0.2), content=slow()))[0] == 408
    assert time.monotonic() - began < 15


def test_work_that_takes_too_long_is_504(service: Callable, brighter: Brighter) -> None:
    made = service(timeout=0.3)
    brighter.go.clear()
    assert error(ask(made))[0] == 504
    brighter.go.set()
    assert made.gate.inside == 0 and ask(made).status_code == 200


def test_a_full_queue_is_429_at_once(service: Callable, brighter: Brighter) -> None:
    made = service(queue=3)
    brighter.go.clear()

    async def many() -> list[httpx.Response]:
        async with client(made) as asking:
            tasks = [asyncio.ensure_future(asking.post(
                "/v1/restore", content=png(photo()), headers={"Content-Type": "image/png"}))
                for _ in range(10)]
            while sum(task.done() for task in tasks) < 7:
                await asyncio.sleep(0.01)
            ready = await asking.get("/readyz")
            alive = await asking.get("/healthz")
            brighter.go.set()
            return [*await asyncio.gather(*tasks), ready, alive]
    *answers, ready, alive = asyncio.run(many())
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [429] * 7
    assert all(answer.headers["retry-after"] == "1" for answer in answers
               if answer.status_code == 429)
    assert (ready.status_code, alive.status_code) == (503, 200)


def test_the_page_works_below_a_prefix_of_a_proxy(service: Callable) -> None:
    """Every address in its files is relative, and leads to a route."""
    made, found = service(), set()
    for name in ("/", "/page.js", "/page.css"):
        text = ask(made, "GET", name).text
        found |= set(re.findall(r"""(?:href=|src=|fetch\(|open\("POST", |url\()["']?([^"')]+)""",
                                text))
    assert {"page.css", "page.js", "icon.svg", "v1/restore", "v1/models"} <= found
    assert [address for address in found if address.startswith(("/", "http"))] == []


def test_other_hosts_and_other_sites_are_refused(service: Callable) -> None:
    made = service()
    assert ask(made, "GET", "/", headers={"Host": "evil.example"}).status_code == 400
    assert error(ask(made, headers={"Origin": "http://evil.example"}))[0] == 403
    for origin in ("null", "http://[", "", "http://", "localhost", "http://[::1"):
        assert error(ask(made, headers={"Origin": origin}))[0] == 403
    assert ask(made, headers={"Origin": "http://localhost"}).status_code == 200
    assert "access-control-allow-origin" not in ask(made).headers


@pytest.mark.parametrize("method, path, status", [
    ("GET", "/v1/restore", 405), ("DELETE", "/v1/models", 405), ("GET", "/../serve.py", 404),
    ("GET", "/page/index.html", 404), ("GET", "/page.css/", 404), ("GET", "/page.css%00", 404),
    ("GET", "/%2e%2e/etc/passwd", 404)])
def test_other_routes_are_refused(method: str, path: str, status: int, service: Callable) -> None:
    assert error(ask(service(), method, path))[0] == status


def test_a_defect_is_500_without_its_cause(service: Callable) -> None:
    made = service()
    status, message = error(ask(made, content=png(photo(13, 120))))
    assert (status, message) == (500, "the service failed; its log has the reason")
    assert ask(made).status_code == 200


# ---- many at a time -----------------------------------------------------------------------------

def test_requests_share_batches_and_keep_their_answers_apart(service: Callable,
                                                             brighter: Brighter) -> None:
    made = service(wait=0.05)

    async def many() -> list[httpx.Response]:
        async with client(made) as asking:
            return await asyncio.gather(*(asking.post(
                "/v1/restore", content=png(photo(value, 120 + 110 * (value % 3))),
                headers={"Content-Type": "image/png"}) for value in range(20, 60)))
    for value, answer in zip(range(20, 60), asyncio.run(many()), strict=True):
        restored = decoded(answer)
        assert restored.shape[1] == 120 + 110 * (value % 3)
        assert (restored.min(), restored.max()) == (value, value + 10)
    assert max(brighter.sizes) == 4 and len(brighter.sizes) < 40


def test_one_requests_failure_is_not_the_others(service: Callable) -> None:
    made = service(wait=0.2)

    async def many() -> list[httpx.Response]:
        async with client(made) as asking:
            return await asyncio.gather(*(asking.post(
                "/v1/restore", content=png(photo(value, 120)), headers={
                    "Content-Type": "image/png"}) for value in (12, 13, 14)))
    assert [answer.status_code for answer in asyncio.run(many())] == [200, 500, 200]


def test_a_request_with_many_faces_does_not_keep_others_waiting() -> None:
    order, go = [], threading.Event()

    def restore(images: list[np.ndarray]) -> np.ndarray:
        go.wait(30)
        order.append([int(image[0, 0, 0]) for image in images])
        return np.stack(images)

    def sample_images(value: int, number: int) -> list[np.ndarray]:
        return [np.full((2, 2, 3), value, np.uint8)] * number
    batcher = Batcher(restore, 4, wait=0)
    first = batcher.submit(sample_images(1, 1))
    time.sleep(0.05)            # it is in the network now; the others wait together
    large, small = batcher.submit(sample_images(2, 20)), batcher.submit(sample_images(3, 1))
    gone = batcher.submit(sample_images(4, 20))
    gone.cancel()
    go.set()
    assert len(first.result(30)) == 1 and len(small.result(30)) == 1
    assert len(large.result(30)) == 20
    batcher.close()
    assert order[1] == [2, 3, 2, 2] and not any(4 in batch for batch in order)


def test_pixels_are_handed_out_in_turn() -> None:
    async def run() -> list[str]:
        budget, seen = PixelBudget(10), []

        async def one(name: str, pixels: int) -> None:
            async with budget.hold(pixels):
                seen.append(f"+{name}")
                await asyncio.sleep(0.01)
                seen.append(f"-{name}")
        await asyncio.gather(one("a", 6), one("b", 99), one("c", 1))
        return seen
    assert asyncio.run(run()) == ["+a", "-a", "+b", "-b", "+c", "-c"]


def test_a_client_that_leaves_frees_its_place(service: Callable, brighter: Brighter) -> None:
    made = service()
    brighter.go.clear()
    app = create_app(made, access_log=False)

    async def leave() -> None:
        gone, sent = asyncio.Event(), []
        messages = [{"type": "http.request", "body": png(photo()), "more_body": False}]

        async def receive() -> dict:
            if messages:
                return messages.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict) -> None:
            sent.append(message)
        scope = {"type": "http", "method": "POST", "path": "/v1/restore", "query_string": b"",
                 "headers": [(b"content-type", b"image/png"), (b"host", b"localhost")],
                 "http_version": "1.1", "scheme": "http", "root_path": ""}
        running = asyncio.ensure_future(app(scope, receive, send))
        while not made.gate.inside:
            await asyncio.sleep(0.01)
        gone.set()
        await asyncio.wait_for(running, 20)
        assert made.gate.inside == 0 and sent[0]["status"] == 499
    asyncio.run(leave())


def test_the_access_log_has_no_names_and_addresses(service: Callable,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(serving.app, "logger", SimpleNamespace(info=lines.append))
    app = create_app(service())

    async def once() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app),
                                     base_url="http://localhost") as asking:
            await asking.post("/v1/secret-path?faces=all")
            await asking.post("/v1/restore?faces=0", files={"image": ("secret.png",
                                                                      png(photo()))})
    asyncio.run(once())
    assert [(entry["route"], entry["status"]) for entry in map(json.loads, lines)] == [
        ("other", 404), ("/v1/restore", 200)]
    assert "secret" not in str(lines) and "127.0.0.1" not in str(lines)

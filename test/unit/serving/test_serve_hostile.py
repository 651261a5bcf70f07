"""A real service among hostile and many clients, over sockets of loopback."""
from __future__ import annotations

import io
import json
import random
import socket
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import skimage.data
from PIL import Image
from served import Served, served, small_weights

from utils.images.io import encode_image

RECEIVE_TIMEOUT = 2
LIMITS = ("--receive_timeout", RECEIVE_TIMEOUT, "--max_bytes", 300_000, "--max_pixels", 1_000_000,
          "--max_result_pixels", 6_000_000, "--no-access_log")
KINDS = ("truncated header", "truncated body", "truncated chunks", "slow header", "slow body",
         "garbage", "garbage chunks", "wrong type", "no image", "broken image", "png bomb",
         "huge size", "many scans", "declared too long", "sent too long", "path", "file name",
         "parameter", "broken form", "many fields", "method", "long header", "host", "length")

pytestmark = pytest.mark.deep


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_weights(tmp_path_factory.mktemp("w") / "g.pth")


@pytest.fixture(scope="module")
def server(weights: Path) -> Iterator[Served]:
    with served(weights, *LIMITS) as running:
        yield running


# ---- clients ------------------------------------------------------------------------------------

def head(length: int | str = 0, path: str = "/v1/restore", kind: str = "image/png",
         method: str = "POST", host: str = "localhost", more: str = "") -> bytes:
    return (f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {length}\r\n{more}\r\n").encode("latin-1")


def posted(body: bytes, **settings: str) -> bytes:
    return head(len(body), **settings) + body


def form(body: bytes) -> bytes:
    return posted(body, kind="multipart/form-data; boundary=x")


def part(name: str, body: bytes, file: str | None = None) -> bytes:
    named = "" if file is None else f'; filename="{file}"'
    return (f'--x\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode("latin-1")
            + body + b"\r\n")


def png_of(width: int, height: int, content: bytes) -> bytes:
    def chunk(kind: bytes, inside: bytes) -> bytes:
        return (struct.pack(">I", len(inside)) + kind + inside
                + struct.pack(">I", zlib.crc32(kind + inside)))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content)
            + chunk(b"IEND", b""))


def request(kind: str, rng: random.Random, good: bytes) -> tuple[bytes, bool]:
    """What a hostile client of this kind sends, and whether it closes its side after that."""
    cut = rng.randrange(1, len(good) - 1)
    junk = rng.randbytes(rng.randrange(20, 3000))
    chunked = head().replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    large = rng.randrange(2_000, 2**31 - 1)
    bomb = zlib.compress(bytes(3_000_000))
    wrong_path = rng.choice((
        "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/page.css/../../serve.py",
        "//etc/passwd", "/v1/restore/../../x", "/v1/models%00.png", "/.git/config", "/%ff%fe",
        "/" + "a" * 3000))
    wrong_parameter = rng.choice((
        "image=/etc/passwd", "image=http://127.0.0.1/", "url=file:///etc/passwd", "faces=9",
        "faces=" + "1," * 2000, "strength=1e400", "strength=nan", "upscale=1000000", "upscale=-1",
        "upscale=0", "model=../../x", "format=exe", "faces=0&faces=0", "aligned=2", "%00=1"))
    made = {
        "truncated header": lambda: (head(len(good))[:rng.randrange(5, 60)], True),
        "truncated body": lambda: (head(len(good)) + good[:cut], True),
        "truncated chunks": lambda: (chunked + b"%x\r\n" % len(good) + good[:cut], True),
        "slow header": lambda: (head(len(good))[:rng.randrange(5, 60)], False),
        "slow body": lambda: (head(len(good)) + good[:cut], False),
        "garbage": lambda: (b"\x16\x03" + junk + b"\r\n\r\n", False),
        "garbage chunks": lambda: (chunked + b"zz\r\n" + junk, False),
        "wrong type": lambda: (posted(good, kind=rng.choice((
            "text/html", "application/json", "video/mp4", "image", "", "x" * 500))), False),
        "no image": lambda: (posted(junk), False),
        "broken image": lambda: (posted(good[:cut]), False),
        "png bomb": lambda: (posted(png_of(30_000, 30_000, bomb)), False),
        "huge size": lambda: (posted(rng.choice((
            png_of(large, large, zlib.compress(b"")), b"P6 %d %d 255\n" % (large, large) + junk,
            b"BM" + struct.pack("<IIIIiiHHIIIIII", 99, 0, 54, 40, large, large, 1, 24, *[0] * 6)
            + junk))), False),
        "many scans": lambda: (posted(encode_image(np.zeros((64, 64, 3), np.uint8), ".jpg")[:-2]
                                      + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" * 200), False),
        "declared too long": lambda: (head(10**rng.randrange(6, 18)) + good, False),
        "sent too long": lambda: (chunked + b"".join(
            b"10000\r\n" + bytes(65536) + b"\r\n" for _ in range(8)) + b"0\r\n\r\n", False),
        "path": lambda: (head(path=wrong_path, method="GET"), False),
        "file name": lambda: (form(part("image", b"x" * 99, "../../../etc/passwd\x00.png")
                                   + b"--x--\r\n"), False),
        "parameter": lambda: (posted(good, path=f"/v1/restore?{wrong_parameter}"), False),
        "broken form": lambda: (form(rng.choice((
            junk, part("image", good, "a")[:cut], b"--x\r\n\r\n--x--", part("image", good)))),
            False),
        "many fields": lambda: (form(b"".join(part(f"f{i}", b"1") for i in range(500))
                                     + b"--x--\r\n"), False),
        "method": lambda: (head(method=rng.choice(("PUT", "DELETE", "TRACE", "OPTIONS", "X" * 40))),
                           False),
        "long header": lambda: (head(more="X-Long: " + "a" * 100_000 + "\r\n"), False),
        "host": lambda: (posted(good, host=rng.choice((
            "evil.example", "", "localhost.evil", "a b"))), False),
        "length": lambda: (head(rng.choice(("-1", "abc", "1e3", "99 99", "0x10"))) + good, False)}
    return made[kind]()


def answer(server: Served, sent: bytes, close: bool) -> tuple[int, float]:
    """Status of the answer, 0 for a connection that was closed without one; and the seconds."""
    began = time.monotonic()
    received = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        try:
            client.sendall(sent)
            if close:
                client.shutdown(socket.SHUT_WR)
            while b"\r\n" not in received:
                piece = client.recv(65536)
                if not piece:
                    break
                received += piece
        except (ConnectionResetError, BrokenPipeError):
            pass
    status = int(received.split(b" ", 2)[1]) if received.startswith(b"HTTP/1.1 ") else 0
    return status, time.monotonic() - began


def restored(server: Served, content: bytes, **settings: object) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/restore", content=content, timeout=60,
                      headers={"Content-Type": "image/png"}, **settings)


@pytest.fixture(scope="module")
def good() -> bytes:
    """An image the service restores; its face by the cascade."""
    return encode_image(skimage.data.astronaut()[:256, 100:356], ".png")


# ---- claims -------------------------------------------------------------------------------------

def test_500_hostile_requests_get_4xx_and_the_service_goes_on(server: Served, good: bytes) -> None:
    rng = random.Random(5)
    expected = restored(server, good)
    assert expected.status_code == 200
    kinds = [KINDS[i % len(KINDS)] for i in range(500)]
    requests = [request(kind, rng, good) for kind in kinds]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda sent: answer(server, *sent), requests))
    seen: dict[str, Counter] = {kind: Counter() for kind in KINDS}
    for kind, (status, _) in zip(kinds, answers, strict=True):
        seen[kind][status] += 1
    print(json.dumps({kind: dict(counts) for kind, counts in seen.items()}))
    wrong = {kind: dict(counts) for kind, counts in seen.items()
             if any(not 400 <= status < 500 for status in counts)}
    assert wrong == {}
    slow = max(seconds for _, seconds in answers)
    assert slow < RECEIVE_TIMEOUT + 20
    again = restored(server, good)
    assert again.status_code == 200 and again.content == expected.content
    assert httpx.get(f"{server.url}/readyz").status_code == 200
    text = httpx.get(f"{server.url}/metrics").text
    assert "facezoo_queue_depth 0.0" in text and "facezoo_upload_bytes 0.0" in text
    assert 'status="500"' not in text
    assert "Traceback" not in "".join(server.lines)


@pytest.mark.parametrize("sent, status", [
    (b"GET /healthz HTTP/1.1\r\nHo", 408), (head(500) + b"\x89PNG", 408), (b"", 0)])
def test_a_client_that_stops_sending_is_let_go(sent: bytes, status: int, server: Served) -> None:
    found, seconds = answer(server, sent, close=False)
    assert found == status and seconds < RECEIVE_TIMEOUT + 20


def test_a_client_that_drips_is_let_go(server: Served) -> None:
    """Each piece comes soon enough, the whole would take for ever."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.settimeout(0.2)
        received, end = b"", time.monotonic() + RECEIVE_TIMEOUT + 20
        client.sendall(b"GET / HTTP/1.1\r\n")
        while b"408" not in received:
            assert time.monotonic() < end
            try:
                client.sendall(b"X: y\r\n")
                received += client.recv(1000)
            except TimeoutError:
                pass


def test_an_endless_body_after_a_refusal_is_cut(server: Served) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(head(10**12))
        assert b" 413 " in client.recv(1000)
        end = time.monotonic() + RECEIVE_TIMEOUT + 20
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while time.monotonic() < end:
                client.sendall(bytes(1000))
                time.sleep(0.02)


def done_by(server: Served) -> float:
    """How many images it has restored so far."""
    text = httpx.get(f"{server.url}/metrics").text
    name = 'facezoo_requests_total{route="/v1/restore",status="200"} '
    return float(text.split(name)[1].split()[0]) if name in text else 0.0


def test_a_client_that_does_not_read_is_cut(server: Served, good: bytes) -> None:
    before = done_by(server)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(60)
    client.connect(("127.0.0.1", server.port))
    with client:
        # 5.6 megapixels of noise: more than the buffers of the kernel hold.
        noise = np.random.default_rng(0).integers(0, 255, (250, 350, 3), dtype=np.uint8)
        client.sendall(posted(encode_image(noise, ".png"), path="/v1/restore?upscale=8"))
        end = time.monotonic() + 60
        while done_by(server) == before:
            assert time.monotonic() < end
        time.sleep(RECEIVE_TIMEOUT + 2)
        received = b""
        while piece := client.recv(65536):
            received += piece
    length = int(received.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    assert 0 < len(received) < length
    assert restored(server, good).status_code == 200


def test_requests_on_one_connection_follow_each_other(server: Served, good: bytes) -> None:
    with httpx.Client() as client:
        for _ in range(3):
            assert client.get(f"{server.url}/healthz").status_code == 200
            bad = client.post(f"{server.url}/v1/restore", content=b"x",
                              headers={"Content-Type": "image/png"})
            assert bad.status_code == 400
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(head(method="GET", path="/healthz") * 3)         # pipelined
        received = b""
        while received.count(b"alive") < 3:
            received += client.recv(65536)


def test_many_clients_get_their_own_images(weights: Path) -> None:
    """40 clients and 8 places for some seconds: answers fit their requests, refusals are quick."""
    face = Image.fromarray(skimage.data.astronaut()[20:230, 130:330]).resize((100, 105))
    statuses, slowest, wrong = Counter(), 0.0, []
    lock = threading.Lock()
    with served(weights, "--queue", 8, "--no-access_log") as server:
        def client(number: int) -> None:
            nonlocal slowest
            ground = np.full((120, 130, 3), number * 6, np.uint8)
            ground[10:115, 10:110] = np.array(face)
            content = encode_image(ground, ".png")
            end = time.monotonic() + 8
            with httpx.Client(timeout=60) as asking:
                while time.monotonic() < end:
                    began = time.monotonic()
                    got = asking.post(f"{server.url}/v1/restore", content=content,
                                      headers={"Content-Type": "image/png"})
                    with lock:
                        statuses[got.status_code] += 1
                        if got.status_code == 429:
                            slowest = max(slowest, time.monotonic() - began)
                        elif got.status_code == 200:
                            image = np.array(Image.open(io.BytesIO(got.content)))
                            if not (image[:, 120:] == number * 6).all():
                                wrong.append(number)
                    if got.status_code == 429:
                        time.sleep(0.2)
        threads = [threading.Thread(target=client, args=(number,)) for number in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.stop() == 0
    assert set(statuses) == {200, 429} and wrong == [] and statuses[200] > 20
    assert slowest < 10     # a second on a machine that does nothing else


def test_stopping_finishes_what_is_in_work(weights: Path, good: bytes) -> None:
    with served(weights) as server:
        with ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(restored, server, good) for _ in range(8)]
            end = time.monotonic() + 30
            while "facezoo_queue_depth 8.0" not in httpx.get(f"{server.url}/metrics").text:
                assert time.monotonic() < end and not all(each.done() for each in answers)
            assert server.stop() == 0
            assert [each.result().status_code for each in answers] == [200] * 8
        assert server.lines[-1] == "the service has stopped\n"
        with pytest.raises(httpx.ConnectError):
            httpx.get(server.url)


def test_a_missing_file_and_a_taken_port_end_with_one_line(server: Served,
                                                           run_script: object) -> None:
    for arguments, word in ((("--port", "0"), "nowhere.pth"),
                            (("--port", server.port), "Address already in use")):
        done = run_script("serve.py", "--pretrain_model_path", "nowhere.pth", *arguments)
        assert done.returncode == 2 and word in done.stderr and done.stderr.count("\n") == 1

"""The page of the service as its user has it: in a browser, through chromedriver."""
from __future__ import annotations

import base64
import io
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from PIL import Image
from served import Served, served, small_weights

from utils.images.io import read_image, write_image

httpx = pytest.importorskip("httpx")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update"]
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"     # the W3C's name of an element's number
TAB, RIGHT, SPACE = "\ue004", "\ue014", " "

pytestmark = [pytest.mark.deep, pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="chromium and chromedriver are not installed")]


class Browser:
    """The few commands of the WebDriver protocol that a test needs."""

    def __init__(self, url: str, downloads: Path) -> None:
        self.client = httpx.Client(base_url=url, timeout=60)
        options = {"args": FLAGS, "binary": shutil.which("chromium"),
                   "prefs": {"download.default_directory": str(downloads)}}
        made = self._post("/session", {"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}}})
        self.session = f"/session/{made['sessionId']}"

    def _post(self, path: str, body: dict) -> Any:
        answer = self.client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["value"]

    def do(self, command: str, **body: Any) -> Any:
        return self._post(f"{self.session}/{command}", body)

    def js(self, code: str) -> Any:
        return self.do("execute/sync", script=f"return {code}", args=[])

    def element(self, css: str) -> str:
        return self.do("element", using="css selector", value=css)[ELEMENT]

    def type(self, css: str, text: str) -> None:
        self.do(f"element/{self.element(css)}/value", text=text)

    def click(self, css: str) -> None:
        self.do(f"element/{self.element(css)}/click")

    def press(self, *keys: str) -> None:
        """Keys, wherever the focus is."""
        self.do("actions", actions=[{"type": "key", "id": "keys", "actions": [
            {"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]}])

    def cdp(self, command: str, **settings: Any) -> Any:
        return self.do("goog/cdp/execute", cmd=command, params=settings)

    def window(self, width: int, height: int) -> None:
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height,
                 deviceScaleFactor=1, mobile=False)

    def screenshot(self, path: Path | None = None) -> np.ndarray:
        png = base64.b64decode(self.client.get(f"{self.session}/screenshot").json()["value"])
        if path:
            path.write_bytes(png)
        return np.array(Image.open(io.BytesIO(png)).convert("RGB"))

    def until(self, code: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not self.js(code):
            assert time.monotonic() < end, f"{code}: {self.js('document.body.innerText')}"
            time.sleep(0.05)

    def complaints(self) -> list[str]:
        """Errors in the console, those of the content security policy among them."""
        entries = self._post(f"{self.session}/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(small_weights(tmp_path_factory.mktemp("w") / "g.pth")) as running:
        yield running


@pytest.fixture
def browser(server: Served, tmp_path: Path) -> Iterator[Browser]:
    process = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
    try:
        port = next(line.rsplit(" ", 1)[1].strip(" .\n") for line in process.stdout
                    if "started successfully on port" in line)
        opened = Browser(f"http://127.0.0.1:{port}", tmp_path)
        try:
            opened.window(1400, 900)
            opened.do("url", url=server.url)
            opened.until("document.getElementById('model').options.length > 0")
            yield opened
        finally:
            opened.client.delete(opened.session)
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """Two faces, the right one smaller."""
    face = skimage.data.astronaut()[20:230, 130:330]
    ground = np.full((300, 520, 3), 128, np.uint8)
    ground[40:250, 20:220] = face
    ground[60:228, 300:460] = np.array(Image.fromarray(face).resize((160, 168)))
    write_image(tmp_path / "two of them.png", ground)
    return tmp_path / "two of them.png"


DONE = "document.getElementById('status').textContent.includes('restored')"


def upload(browser: Browser, path: Path) -> None:
    browser.type("#file", str(path))
    browser.until(DONE)


def downloaded(browser: Browser, folder: Path) -> np.ndarray:
    """What the page's link gives, under the name the page gives it."""
    browser.click("#download")
    target = folder / "two of them_restored.png"
    end = time.monotonic() + 30
    while not target.exists():
        assert time.monotonic() < end, list(folder.iterdir())
        time.sleep(0.1)
    return read_image(target)


def test_upload_restore_slide_and_download(browser: Browser, photo: Path, tmp_path: Path,
                                           shots: Callable) -> None:
    shots("start")
    upload(browser, photo)
    assert browser.js("document.getElementById('status').textContent").startswith("2 of 2 faces")
    shots("restored")
    browser.js("(document.getElementById('outlines').click(), 1)")
    browser.js("(document.getElementById('slider').focus(), 1)")
    views = {}
    for name, keys in {"before": ["\ue010"], "after": ["\ue011"]}.items():      # End, Home
        browser.press(*keys)
        views[name] = browser.screenshot()
    assert np.abs(views["before"].astype(int) - views["after"]).max() > 30
    for _ in range(100):
        browser.press(RIGHT)
    assert float(browser.js("document.getElementById('slider').value")) == 50
    shots("middle")
    restored, before = downloaded(browser, tmp_path), read_image(photo)
    assert restored.shape == before.shape and not np.array_equal(restored, before)
    assert browser.complaints() == []


def test_a_face_is_left_out_by_keyboard(browser: Browser, photo: Path, tmp_path: Path,
                                        shots: Callable) -> None:
    upload(browser, photo)
    right = browser.js("[...document.querySelectorAll('.face')].findIndex(x => "
                       "parseFloat(x.style.left) > 50)")
    browser.js(f"(document.querySelector('[data-face=\"{right}\"]').focus(), 1)")
    browser.press(SPACE)
    browser.until("document.getElementById('status').textContent.startsWith('1 of 2 faces')")
    assert browser.js("document.activeElement.dataset.face") == str(right)
    shots("one_face")
    after = downloaded(browser, tmp_path)
    before = read_image(photo)
    assert np.array_equal(after[:, 290:], before[:, 290:])
    assert not np.array_equal(after[:, :260], before[:, :260])


def test_everything_is_reached_by_keyboard(browser: Browser, photo: Path) -> None:
    browser.press(TAB)
    assert browser.js("document.activeElement.id") == "drop"
    upload(browser, photo)
    browser.js("(document.activeElement.blur(), 1)")
    reached = set()
    for _ in range(14):
        browser.press(TAB)
        reached.add(browser.js("document.activeElement.id || document.activeElement.dataset.face "
                               "|| document.activeElement.tagName"))
    assert {"0", "1", "slider", "model", "strength", "upscale", "format", "outlines", "aligned",
            "download", "again"} <= reached


def test_progress_is_told_while_an_image_is_sent(browser: Browser, photo: Path,
                                                  shots: Callable) -> None:
    browser.cdp("Network.enable")
    browser.cdp("Network.emulateNetworkConditions", offline=False, latency=0,
                downloadThroughput=-1, uploadThroughput=100_000)
    browser.type("#file", str(photo))
    browser.until("document.getElementById('status').textContent.startsWith('Sending') && "
                  "document.getElementById('progress').value > 20")
    shots("sending")
    browser.until(DONE)
    assert browser.js("document.getElementById('progress').hidden")


def test_strength_and_size_ask_again(browser: Browser, photo: Path) -> None:
    upload(browser, photo)
    first = browser.js("document.getElementById('download').href")
    browser.js("(document.getElementById('upscale').value = '2', "
               "document.getElementById('upscale').dispatchEvent(new Event('change')), 1)")
    browser.until("document.getElementById('status').textContent.includes('1040')")
    assert browser.js("document.getElementById('download').href") != first
    browser.type("#strength", "\ue012" * 4)         # left: 0.8
    assert browser.js("document.getElementById('strength-shown').textContent") == "80 %"


def test_a_file_that_is_no_image_is_an_error_in_words(browser: Browser, tmp_path: Path,
                                                       shots: Callable) -> None:
    (tmp_path / "x.png").write_bytes(b"no image at all")
    browser.type("#file", str(tmp_path / "x.png"))
    browser.until("!document.getElementById('error').hidden")
    said = browser.js("document.getElementById('error').textContent")
    assert "the format is unknown" in said
    assert browser.js("!document.getElementById('drop').hidden")
    shots("error")


@pytest.mark.parametrize("width, scheme", [(400, "light"), (400, "dark"), (1400, "dark")])
def test_nothing_sticks_out(width: int, scheme: str, browser: Browser, photo: Path,
                            shots: Callable) -> None:
    browser.window(width, 900)
    browser.cdp("Emulation.setEmulatedMedia",
                features=[{"name": "prefers-color-scheme", "value": scheme}])
    upload(browser, photo)
    assert browser.js("document.documentElement.scrollWidth") <= width
    shots(f"{scheme}_{width}")
    light = browser.screenshot()[-20:, :5].mean()
    assert light > 200 if scheme == "light" else light < 60


@pytest.fixture
def shots(browser: Browser, request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Keep a screenshot where the variable FACEZOO_SHOTS names a folder."""
    folder = os.environ.get("FACEZOO_SHOTS")

    def take(name: str) -> None:
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            browser.screenshot(Path(folder) / f"{name}.png")
    return take

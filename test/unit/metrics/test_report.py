"""The HTML page of an evaluation, and evaluate.py with --metrics as its users see it."""
from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import data
import models
from data.synthetic.faces import render_face
from metrics.evaluation import Column, Row
from metrics.metric_set import METRICS
from metrics.report import Extremes, data_uri, histogram, html_table, page
from models.networks.pretrained.arcface import ArcFace
from options.evaluate_options import METRIC_WEIGHTS, EvaluateOptions
from utils.files import sha256
from utils.images.io import read_image, write_image


def gray(level: int) -> dict[str, np.ndarray]:
    return {key: np.full((8, 8, 3), level, np.uint8) for key in ("restored", "gt")}


def extremes_of(values: list[float], count: int = 2) -> Extremes:
    made = Extremes(count)
    for index, value in enumerate(values):
        made.add(value, f"{index}", gray(index))
    return made


def shown(extremes: Extremes) -> tuple[list[float], list[float]]:
    return ([case.value for case in extremes.worst], [case.value for case in extremes.best])


# ---- cases --------------------------------------------------------------------------------------

def test_the_worst_and_the_best_cases_are_kept() -> None:
    assert shown(extremes_of([3, 9, 1, float("inf"), 5])) == ([1, 3], [float("inf"), 9])


def test_only_kept_cases_hold_images() -> None:
    made = extremes_of([1, 9, 5, 2, 8])
    assert all(case.thumbnails for case in (*made.worst, *made.best))
    middle = Extremes(0)
    middle.add(1.0, "a", gray(0))
    assert shown(middle) == ([], [])


@pytest.mark.parametrize("cut", [0, 1, 3, 6])
def test_merged_cases_are_those_of_one_process(cut: int) -> None:
    values = [4.0, 2.0, 2.0, 7.0, 7.0, 1.0]
    parts = [Extremes(2), Extremes(2)]
    for index, value in enumerate(values):
        parts[index >= cut].add(value, f"{index}", gray(index))
    joined = Extremes(2)
    for part in parts:
        joined.merge(part)
    whole = extremes_of(values)
    assert (joined.worst, joined.best) == (whole.worst, whole.best)


@pytest.mark.parametrize("values, worst, best", [
    ([], [], []), ([3.0], [3], []), ([3.0, 1.0], [1], [3]), ([3.0, 1.0, 2.0], [1, 2], [3]),
    ([3.0, 1.0, 2.0, 4.0], [1, 2], [4, 3]), ([5.0, 3.0, 1.0, 2.0, 4.0], [1, 2], [5, 4]),
    ([1.0, 1.0, 1.0], [1], [1])])
def test_no_case_is_among_the_worst_and_the_best(values: list, worst: list, best: list) -> None:
    found = extremes_of(values).ends()
    assert [[case.value for case in end] for end in found] == [worst, best]
    assert not {case.path for case in found[0]} & {case.path for case in found[1]}


def test_equal_cases_are_ordered_by_path_whoever_came_first() -> None:
    made = Extremes(2)
    for path in ("c", "b", "a"):
        made.add(1.0, path, gray(0))
    assert [case.path for case in made.worst] == [case.path for case in made.best] == ["a", "b"]


def test_a_thumbnail_is_a_small_jpeg_of_the_image() -> None:
    uri = data_uri(np.full((300, 600, 3), 200, np.uint8), 100)
    kind, _, content = uri.partition(",")
    sample_image = Image.open(io.BytesIO(base64.b64decode(content)))
    assert kind == "data:image/jpeg;base64" and sample_image.size == (100, 50)
    assert sample_image.getpixel((50, 25)) == pytest.approx((200, 200, 200), abs=2)


# ---- plots --------------------------------------------------------------------------------------

def heights(svg: str, series: int) -> list[float]:
    """Levels of a series' line above the axis, bin by bin."""
    drawn = re.findall(r'<path d="M30 128((?:V[\d.]+H[\d.]+)+)V128"', svg)[series]
    return [128 - float(level) for level in re.findall(r"V([\d.]+)H", drawn)]


def test_a_histogram_is_as_high_as_its_counts() -> None:
    svg = histogram("x", {"bicubic": [0.0, 0.0, 0.0, 1.0], "restored": [1.0]})
    first, second = heights(svg, 0), heights(svg, 1)
    assert len(first) == 24 and first[0] == pytest.approx(3 * first[-1], abs=0.2)
    assert sum(second) == pytest.approx(second[-1]) == pytest.approx(first[-1])


def test_a_histogram_is_valid_and_escapes_its_title() -> None:
    root = ElementTree.fromstring(histogram("a < b & c", {"r": [1.0, 2.0]}))
    assert root.find("title").text == "a < b & c"


def test_equal_numbers_have_a_histogram_of_some_width() -> None:
    svg = histogram("x", {"r": [5.0, 5.0]})
    assert max(heights(svg, 0)) > 0 and ">4.5<" in svg and ">5.5<" in svg


def test_infinite_numbers_are_counted_in_the_title() -> None:
    assert "(2 not finite)" in histogram("x", {"r": [1.0, float("inf"), float("nan")]})
    assert histogram("x", {"r": [float("inf")]}) == ""


# ---- page ---------------------------------------------------------------------------------------

class Outline(HTMLParser):
    """Text of the page, where its images come from, and what was opened and closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append(tag)
        self.sources += [value for key, value in attributes if key in ("src", "href")]

    def handle_data(self, text: str) -> None:
        self.text += text


NUMBERS = {Column("restored", "psnr", "standard"): 20.0,
           Column("restored", "ssim", "standard"): 0.5}


def made_page(**changes: object) -> str:
    settings = {"title": "faces", "rows": [Row("a.png", NUMBERS)], "protocols": {},
                "numbers": NUMBERS, "facts": {}, "remarks": {},
                "figures": (), "extremes": extremes_of([20.0]), "order": "PSNR standard"}
    return page(**{**settings, **changes})


def test_the_page_needs_no_other_file() -> None:
    outline = Outline(made_page())
    assert outline.sources and all(uri.startswith("data:image/jpeg") for uri in outline.sources)
    assert {"script", "link", "iframe"} & set(outline.tags) == set()


def test_the_window_is_called_as_the_page() -> None:
    made = made_page()
    assert re.findall(r"<(?:title|h1)>(faces)</", made) == ["faces", "faces"]


@pytest.mark.parametrize("change", [
    {"title": "<b>x</b>"}, {"facts": {"<b>x</b>": 1}}, {"protocols": {"p": "<b>x</b>"}},
    {"remarks": {"fid": "<b>x</b>"}}, {"numbers": {Column("restored", "<b>x</b>"): 1.0}}])
def test_text_from_outside_is_escaped(change: dict) -> None:
    outline = Outline(made_page(**change))
    assert "<b>x</b>" in outline.text
    assert outline.tags.count("b") == Outline(made_page()).tags.count("b")


def test_a_files_name_is_escaped() -> None:
    extremes = Extremes(1)
    extremes.add(1.0, '"><img src=x>', gray(0))
    assert all(uri.startswith("data:") for uri in Outline(made_page(extremes=extremes)).sources)


def test_a_number_that_a_method_lacks_is_a_dash() -> None:
    cells = re.findall(r"<td>(.*?)</td>", html_table(["", "a"], [[1.0, None]]))
    assert cells == ["1.0000", "-"]


def test_published_figures_stand_with_protocol_and_source() -> None:
    text = Outline(made_page(figures=models.find("sparnet").figures)).text
    figure = models.find("sparnet").figures[0]
    assert all(part in text for part in (figure.model, "26.97", figure.protocol, figure.source))


@pytest.mark.parametrize("name", models.names())
def test_published_figures_state_numbers_protocol_and_source(name: str) -> None:
    assert all(figure.numbers and figure.protocol and figure.source
               for figure in models.find(name).figures)


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
               None)


@pytest.mark.deep
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [420, 1400])
def test_a_browser_shows_the_page_without_errors_requests_and_overflow(width: int,
                                                                       tmp_path: Path) -> None:
    extremes = Extremes(4)
    for index in range(4):
        face = {key: render_face(index, size=64).image for key in ("lq", "restored", "gt")}
        extremes.add(float(index), f"{'a_folder_with_a_long_name/' * 3}{index}.png", face)
    (tmp_path / "p.html").write_text(made_page(
        title=f"results_{'of_a_long_name_' * 6}", rows=[Row("a.png", NUMBERS)], extremes=extremes,
        facts={"SHA-256": "0123456789abcdef" * 4, "--dataroot": None},
        figures=models.find("psfrgan").figures))
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--hide-scrollbars", "--proxy-server=127.0.0.1:9", "--enable-logging=stderr",
         f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={tmp_path / 'net.json'}",
         f"--window-size={width},2400", f"--screenshot={tmp_path / 'p.png'}",
         (tmp_path / "p.html").as_uri()], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "CONSOLE" not in done.stderr, done.stderr
    # The browser asks its maker for updates; whatever else it asks for, the page did.
    asked = set(re.findall(r'"url":"https?://([^/"]+)', (tmp_path / "net.json").read_text()))
    assert [host for host in asked if not re.search(r"(google|googleapis|gvt1)\.com$", host)] == []
    shot = read_image(tmp_path / "p.png")
    assert shot.shape == (2400, width, 3)
    assert shot[:, -10:].min() == 255 and shot.min() < 60       # nothing runs out of the page
    # Colors of the images: it shows them.
    assert len(np.unique(shot.reshape(-1, 3), axis=0)) > 5000


# ---- evaluate.py --------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Targets, inputs and results; a recognition network's file."""
    root = tmp_path_factory.mktemp("evaluated")
    generator = np.random.default_rng(0)
    for index in range(4):
        gt = render_face(index, size=48).image.astype(int)
        for name, amount in (("gt", 0), ("made", 4 + index), ("lq", 40)):
            noise = generator.integers(-amount, amount + 1, gt.shape)
            write_image(root / name / f"{index}.png", np.clip(gt + noise, 0, 255).astype(np.uint8))
    torch.manual_seed(0)
    torch.save(ArcFace().state_dict(), root / "arcface.pth")
    return root


@pytest.fixture
def run(run_script: Callable, folder: Path, tmp_path: Path) -> Callable:
    def evaluate(*arguments: object) -> subprocess.CompletedProcess:
        return run_script("evaluate.py", "--restored", folder / "made", "--gt", folder / "gt",
                          "--lq", folder / "lq", "--results_dir", tmp_path, "--device", "cpu",
                          *arguments)
    return evaluate


def test_metrics_stand_in_every_report(run: Callable, folder: Path, tmp_path: Path) -> None:
    weights = folder / "arcface.pth"
    done = run("--metrics", "fid", "id", "psnr_pooled", "lpips", "--fid_weights", weights,
               "--arcface_weights", weights)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "made"
    report = json.loads((out / "report.json").read_text())
    rows = list(csv.DictReader((out / "per_image.csv").open()))
    measured = report["measured"]
    assert set(measured["restored"]) == {"id_cosine", "id_degrees", "psnr_pooled", "fd_arcface"}
    assert measured["restored"]["id_degrees"] < measured["bicubic"]["id_degrees"]
    mean = sum(float(row["restored_id_cosine"]) for row in rows) / len(rows)
    assert measured["restored"]["id_cosine"] == pytest.approx(mean, abs=1e-5)
    assert report["metrics"]["id"]["files"] == {str(weights): sha256(weights)}
    page_text = Outline((out / "report.html").read_text()).text
    for text in (done.stdout, page_text):
        assert f"{measured['bicubic']['fd_arcface']:.4f}" in text
        assert "the metric was left out; it needs --lpips_weights FILE" in text
    assert "lpips" not in measured["restored"] and sha256(weights) in page_text


def test_the_page_shows_the_worst_case_first(run: Callable, tmp_path: Path) -> None:
    """Later images got more noise."""
    assert run("--cases", 2).returncode == 0
    text = Outline((tmp_path / "made" / "report.html").read_text()).text
    assert re.findall(r"(\d)\.png: ", text) == ["3", "2", "0", "1"]


def test_without_new_flags_the_table_is_what_it_was(run: Callable, tmp_path: Path) -> None:
    assert run().returncode == 0
    lines = (tmp_path / "made" / "table.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["4", "bicubic", "restored", "gain"]


@pytest.mark.parametrize("arguments, said", [
    (["--fid_stats", "s.npz"], "--fid_stats has no effect without --metrics fid"),
    (["--parsing_weights", "p.pth"], "--parsing_weights has no effect without --metrics iou"),
    (["--metrics", "lpip"], "lpips")])
def test_a_wrong_choice_is_one_line(arguments: list[str], said: str,
                                    capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        EvaluateOptions(models, data, "evaluate.py").parse(["--name", "one", *arguments])
    error = capsys.readouterr().err
    assert (ended.value.code, error.count("\n")) == (2, 1)
    assert said in error


def test_the_flags_of_the_metrics_are_those_that_are_asked_for() -> None:
    """options/ imports nothing of metrics/, so the names stand in both."""
    flags = {name: f"--{flag}" for name, flag in METRIC_WEIGHTS.items()}
    assert flags == {name: flag for name, (flag, _) in METRICS.items() if flag}

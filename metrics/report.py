"""The HTML page of an evaluation: one file that shows everything by itself, offline."""
from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from metrics.evaluation import Numbers, Row, by_method
from metrics.published import Figure
from utils.text import counted

THUMBNAIL = 192
NUM_BINS = 24
_TITLES = {"lq": "input", "restored": "restored", "gt": "target"}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem;
       color: #1c2330; background: #fff; }
h1, figcaption, td.text { overflow-wrap: anywhere; } h1 { font-size: 1.5rem; }
h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; } td, th { padding: .25rem .8rem; text-align: right;
       border-bottom: 1px solid #dde2ea; vertical-align: top; }
td:first-child, th:first-child, td.text, .left th { text-align: left; }
td.text { min-width: 7rem; } .wide { overflow-x: auto; } .plots svg { max-width: 100%; }
.cases { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(19rem, 100%), 1fr));
         gap: 1rem; }
figure { margin: 0; min-width: 0; } figure div { display: flex; gap: 2px; } figure span { flex: 1; }
figure img { width: 100%; display: block; } figcaption, small { font-size: .8rem; color: #56607a; }
.plots { display: flex; flex-wrap: wrap; gap: 1.2rem; }
"""
_COLORS = {"bicubic": "#b8862b", "restored": "#2b62b8"}
_OTHER = "#1c2330"


# ---- which images are shown --------------------------------------------------------------------

@dataclass
class Case:
    """An image with its thumbnails, ready for the page."""
    value: float
    path: str
    thumbnails: dict[str, str]


class Extremes:
    """The worst and the best of images that arrive one after the other; memory does not grow.

    Args:
        count: cases kept at either end.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.worst: list[Case] = []
        self.best: list[Case] = []

    def add(self, value: float, path: str, images: dict[str, np.ndarray]) -> None:
        """Take an image with its uint8 RGB arrays "lq", "restored", "gt"; larger is better."""
        new = Case(value, path, {})
        if self._keep([new]):
            new.thumbnails = {key: data_uri(images[key]) for key in _TITLES if key in images}

    def merge(self, other: Extremes) -> None:
        """Take what another one has kept."""
        known = {id(case): case for case in (*other.worst, *other.best)}
        self._keep(list(known.values()))

    def _keep(self, new: list[Case]) -> bool:
        """Whether one of the new cases is among the kept ones."""
        # Equal values are ordered by path: the page must not depend on who measured what.
        self.worst = sorted([*self.worst, *new], key=lambda case: (case.value, case.path))
        self.best = sorted([*self.best, *new], key=lambda case: (-case.value, case.path))
        self.worst, self.best = self.worst[:self.count], self.best[:self.count]
        kept = {id(case) for case in (*self.worst, *self.best)}
        return any(id(case) in kept for case in new)


    def ends(self) -> tuple[list[Case], list[Case]]:
        """The worst, from the worst on, and the best, from the best on; none is both.

        Of fewer than twice `count` images each end has half.
        """
        known = sorted({id(case): case for case in (*self.worst, *self.best)}.values(),
                       key=lambda case: (case.value, case.path))
        if len(known) == 2 * self.count:
            return self.worst, self.best
        half = (len(known) + 1) // 2
        return known[:half], known[half:][::-1]


def data_uri(image: np.ndarray, side: int = THUMBNAIL) -> str:
    """A uint8 RGB image as a JPEG inside a URI, shrunk to at most side x side."""
    thumbnail = Image.fromarray(image)
    thumbnail.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    thumbnail.save(file, "JPEG", quality=88, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


# ---- plots ---------------------------------------------------------------------------------------

def histogram(title: str, series: dict[str, Sequence[float]]) -> str:
    """How numbers are distributed, as an SVG with one stepped line per series.

    Infinite numbers and NaN are left out and counted in the title; "" if no number is left.
    """
    finite = {name: [v for v in values if math.isfinite(v)] for name, values in series.items()}
    everything = [v for values in finite.values() for v in values]
    if not everything:
        return ""
    left_out = sum(map(len, series.values())) - len(everything)
    low, high = min(everything), max(everything)
    low, high = (low - 0.5, high + 0.5) if low == high else (low, high)
    counts = {name: np.histogram(values, NUM_BINS, (low, high))[0]
              for name, values in finite.items()}
    top = max(int(found.max()) for found in counts.values())
    width, height, left, base = 300, 150, 30, 128
    scale_x, scale_y = (width - left - 10) / NUM_BINS, (base - 26) / max(top, 1)
    title += f" ({left_out} not finite)" if left_out else ""
    parts = [f'<svg role="img" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
             f'font-size="11" fill="#56607a"><title>{html.escape(title)}</title>'
             f'<text x="{left}" y="12" fill="#1c2330">{html.escape(title)}</text>'
             f'<path d="M{left} {base}H{width - 10}" stroke="#9aa3b5"/>'
             f'<text x="{left}" y="{base + 14}">{low:.4g}</text>'
             f'<text x="{width - 10}" y="{base + 14}" text-anchor="end">{high:.4g}</text>'
             f'<text x="{left - 4}" y="30" text-anchor="end">{top}</text>']
    for name, found in counts.items():
        steps = "".join(f"V{base - n * scale_y:.1f}H{left + (i + 1) * scale_x:.1f}"
                        for i, n in enumerate(found))
        color = _COLORS.get(name, _OTHER)
        parts.append(f'<path d="M{left} {base}{steps}V{base}" fill="{color}" fill-opacity=".18" '
                     f'stroke="{color}" stroke-width="1.5"/>')
    return "".join(parts) + "</svg>"


def plots(rows: list[Row]) -> str:
    """Histograms of every number of the images, and whose color is whose."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        for method, numbers in by_method(row.numbers).items():
            for title, value in numbers.items():
                found.setdefault(title, {}).setdefault(method, []).append(value)
    methods = dict.fromkeys(method for series in found.values() for method in series)
    legend = " ".join(f'<b style="color: {_COLORS.get(method, _OTHER)}">{html.escape(method)}</b>'
                      for method in methods)
    drawn = "".join(histogram(title, series) for title, series in found.items())
    return f'<p>{legend}</p><div class="plots">{drawn}</div>'


# ---- the page ------------------------------------------------------------------------------------

def cell(value: Any) -> str:
    """A number with four digits, a dash for None, text as it is; escaped."""
    if isinstance(value, float):
        return f"<td>{value:.4f}</td>"
    return "<td>-</td>" if value is None else f'<td class="text">{html.escape(str(value))}</td>'


def html_table(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """A table; see `cell` for what its cells may be."""
    titles = "".join(f"<th>{html.escape(title)}</th>" for title in head)
    body = "".join(f"<tr>{''.join(map(cell, line))}</tr>" for line in lines)
    return f'<div class="wide"><table><tr>{titles}</tr>{body}</table></div>'


def results(numbers: Numbers) -> str:
    """Means and numbers of the set, a row for each, a column per method."""
    methods = by_method(numbers)
    titles = dict.fromkeys(title for found in methods.values() for title in found)
    return html_table(["", *methods], ([title, *(found.get(title) for found in methods.values())]
                                       for title in titles))


def figures_table(figures: Sequence[Figure]) -> str:
    """Figures from elsewhere, with as many digits as they were given."""
    names = list(dict.fromkeys(name for figure in figures for name in figure.numbers))
    lines = ([figure.model, *(f"{figure.numbers[name]:g}" if name in figure.numbers else None
                              for name in names), figure.protocol, figure.source]
             for figure in figures)
    return ("<h2>Published figures</h2><p>These are the figures of the sources. Compare them only "
            "on the same images, degraded and measured the same way.</p><div class=\"left\">"
            + html_table(["", *names, "images and protocol", "source"], lines) + "</div>")


def gallery(title: str, cases: list[Case], unit: str) -> str:
    """Images side by side: input, restored, target."""
    shown = []
    for case in cases:
        images = "".join(f'<span><img src="{uri}" alt="{_TITLES[key]}"><small>{_TITLES[key]}'
                         f'</small></span>' for key, uri in case.thumbnails.items())
        shown.append(f"<figure><div>{images}</div><figcaption>{html.escape(case.path)}: "
                     f"{case.value:.2f} {unit}</figcaption></figure>")
    return f'<h2>{title}</h2><div class="cases">{"".join(shown)}</div>' if shown else ""


def page(*, title: str, rows: list[Row], numbers: Numbers, protocols: dict[str, str],
         facts: dict[str, Any], remarks: dict[str, str], figures: Sequence[Figure],
         extremes: Extremes, order: str) -> str:
    """The whole page.

    Args:
        title: what was evaluated.
        numbers: means over the samples, and what was measured of the whole set.
        protocols: how each of them is measured.
        facts: files with their hashes, versions, settings.
        remarks: what to know about a metric, or why it was left out.
        figures: published ones of the same model.
        order: what PSNR decides which case is worst.
    """
    notes = "".join(f"<p>{html.escape(f'{name}: {remark}')}.</p>"
                    for name, remark in remarks.items())
    worst, best = extremes.ends()
    ending = " All images are shown." if len(rows) <= 2 * extremes.count else ""
    return "".join([
        f'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width"><title>{html.escape(title)}</title><style>{_STYLE}</style>',
        f"<h1>{html.escape(title)}</h1><p>{counted(len(rows), 'image')}.</p>",
        results(numbers), notes,
        figures_table(figures) if figures else "",
        f"<h2>Distributions</h2>{plots(rows)}",
        gallery("Worst cases", worst, "dB"), gallery("Best cases", best, "dB"),
        f"<p><small>The images are ordered by {html.escape(order)}. The thumbnails are JPEG."
        f"{ending}</small></p>",
        "<h2>How it was measured</h2>", html_table(["", ""], protocols.items()),
        "<h2>Files and settings</h2>",
        html_table(["", ""], ((name, "-" if value is None else value)
                              for name, value in facts.items())), "</html>\n"])

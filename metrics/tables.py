"""Results of an evaluation as text, as CSV and for JSON."""
from __future__ import annotations

import csv
import io
from typing import Any

from metrics.evaluation import CHOSEN, MODEL, Numbers, Row, extra_metrics
from utils.text import counted


def json_layout(numbers: Numbers) -> dict[str, dict[str, Any]]:
    """The numbers as report.json has them.

    Returns:
        `mean`: PSNR and SSIM by method, protocol and metric; `further`: the model's extra metrics;
        `measured`: those of --metrics by method, of which each has an entry.
    """
    mean: dict[str, dict[str, dict[str, float]]] = {}
    measured: dict[str, dict[str, float]] = {column.method: {} for column in numbers}
    for column, value in numbers.items():
        if column.source == CHOSEN:
            measured[column.method][column.metric] = value
        elif column.source != MODEL:
            protocols = mean.setdefault(column.method, {})
            protocols.setdefault(column.source, {})[column.metric] = value
    return {"mean": mean, "further": extra_metrics(numbers), "measured": measured}


def per_image_entry(row: Row) -> dict[str, Any]:
    """A sample's entry in report.json."""
    layout = json_layout(row.numbers)
    return {"path": row.path, **row.digests, **layout.pop("mean"), **layout}


def table(numbers: Numbers, count: int) -> str:
    """The means as aligned text: a line per method, then one per extra metric of the model, then
    what --metrics asked for with a column per method."""
    layout = json_layout(numbers)
    mean, extra, chosen = (layout[key] for key in ("mean", "further", "measured"))
    names = [(protocol, metric) for protocol, pair in mean["restored"].items() for metric in pair]
    head = f"{counted(count, 'image'):<16}" + "".join(
        f"{f'{metric.upper()} {protocol}':>18}" for protocol, metric in names)
    lines = [f"{method:<16}" + "".join(
        f"{values[protocol][metric]:>18.4f}" for protocol, metric in names)
        for method, values in mean.items()]
    if len(mean) == 2:
        gain = [mean["restored"][protocol][metric] - mean["bicubic"][protocol][metric]
                for protocol, metric in names]
        lines.append(f"{'gain':<16}" + "".join(f"{value:>+18.4f}" for value in gain))
    lines += [f"{metric:<16}{value:>18.4f}" for metric, value in extra.items()]
    metrics = dict.fromkeys(metric for found in chosen.values() for metric in found)
    if metrics:
        lines += ["", f"{'':<16}" + "".join(f"{method:>18}" for method in chosen)]
    lines += [f"{metric:<16}" + "".join(
        f"{found[metric]:>18.4f}" if metric in found else f"{'-':>18}"
        for found in chosen.values()) for metric in metrics]
    return "\n".join([head, *lines])


def per_image_csv(rows: list[Row]) -> str:
    """One line per sample: path, its numbers, digests of what was compared."""
    columns, text = list(rows[0].numbers), io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", *(column.label for column in columns), *rows[0].digests])
    for row in rows:
        writer.writerow([row.path, *(f"{row.numbers[column]:.6f}" for column in columns),
                         *row.digests.values()])
    return text.getvalue()

"""Results of an evaluation as text and as CSV."""
from __future__ import annotations

import csv
import io

from metrics.evaluation import Row
from metrics.measures import Numbers
from metrics.psnr_ssim import Protocol


def columns(protocols: list[Protocol]) -> list[tuple[str, str]]:
    """Names of the numbers of every method: protocol, then psnr or ssim."""
    return [(p.name, key) for p in protocols for key in ("psnr", "ssim")]


def table(mean: dict[str, dict[str, dict[str, float]]], further: dict[str, float],
          measured: Numbers, protocols: list[Protocol], count: int) -> str:
    """The means as aligned text: a line per method, then one per further number, then what
    --metrics asked for with a column per method."""
    head = f"{f'{count} pictures':<16}" + "".join(
        f"{f'{key.upper()} {name}':>18}" for name, key in columns(protocols))
    lines = [f"{method:<16}" + "".join(
        f"{values[name][key]:>18.4f}" for name, key in columns(protocols))
        for method, values in mean.items()]
    if len(mean) == 2:
        gain = [mean["restored"][name][key] - mean["bicubic"][name][key]
                for name, key in columns(protocols)]
        lines.append(f"{'gain':<16}" + "".join(f"{value:>+18.4f}" for value in gain))
    lines += [f"{name:<16}{value:>18.4f}" for name, value in further.items()]
    names = dict.fromkeys(name for numbers in measured.values() for name in numbers)
    if names:
        lines += ["", f"{'':<16}" + "".join(f"{method:>18}" for method in measured)]
    lines += [f"{name:<16}" + "".join(
        f"{numbers[name]:>18.4f}" if name in numbers else f"{'-':>18}"
        for numbers in measured.values()) for name in names]
    return "\n".join([head, *lines])


def per_image_csv(rows: list[Row], protocols: list[Protocol]) -> str:
    """One line per picture: path, every method's numbers, digests of what was compared."""
    methods, measured = list(rows[0].values), rows[0].measured
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", *(f"{method}_{name}_{key}" for method in methods
                               for name, key in columns(protocols)), *rows[0].further,
                     *(f"{method}_{name}" for method in measured for name in measured[method]),
                     *rows[0].digests])
    for row in rows:
        writer.writerow([row.path, *(f"{row.values[method][name][key]:.6f}" for method in methods
                                     for name, key in columns(protocols)),
                         *(f"{value:.6f}" for value in row.further.values()),
                         *(f"{row.measured[method][name]:.6f}" for method in measured
                           for name in measured[method]), *row.digests.values()])
    return text.getvalue()

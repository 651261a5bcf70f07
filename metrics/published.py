"""Figures that others report of a model, with the protocol they hold under.

A model lists its own (`figures`); what could not be traced to a document is left out. They are
shown next to measured ones, never mixed with them: only the same images, degraded the same way and
measured under the same protocol, can be compared.
"""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One row of a published table.

    Attributes:
        numbers: by name; PSNR in dB.
        protocol: the images, and how they were degraded and measured, as far as it is known.
    """
    model: str
    numbers: dict[str, float]
    protocol: str
    source: str

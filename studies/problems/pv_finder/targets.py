"""The targets of networks for an event."""

from __future__ import annotations

from math import erf, sqrt
from typing import Final

import numpy as np

from .event import BIN_WIDTH, BINS, Z_MIN, Event

A, B, C = 0.926, 0.84, 0.0107
"""Constants of the resolution of a vertex with n tracks, A·n^(−B) + C, mm (LHCb-PUB-2017-005)."""
FEW: Final = 4
WIDE: Final = 0.1
"""A vertex with fewer than four tracks has a width of 0.1 mm."""
UNIT: Final = 0.15
"""A narrower peak than this (mm) has a larger area: UNIT/σ instead of 1."""
REACH: Final = 5
"""The number of bins of a peak on each side of the bin of the vertex."""
OTHER: Final = 1e-2


def resolution(tracks: np.ndarray) -> np.ndarray:
    """Return the width of the peak of a vertex, mm, which decreases with the number of tracks.

    σ(n) = A·n^(−B) + C, and 0.1 mm for fewer than four tracks

    >>> resolution(np.array([3.0, 5.0, 50.0])).round(3).tolist()
    [0.1, 0.25, 0.045]
    """
    return np.where(tracks < FEW, WIDE, A * np.maximum(tracks, 1.0) ** -B + C)


def target(event: Event) -> np.ndarray:
    """Return the histogram of vertices, shape (4000,), float32, as in PV-finder.

    A vertex at z is a Gaussian of width σ(n), integrated over each of eleven bins, and multiplied
    by 0.15 mm/σ if that is more than 1. A bin with vertices that are all not reconstructible is
    NaN, and predictions for the bin do not count.
    """
    wanted = event.reconstructible
    histogram = _peaks(event.vertices[wanted], event.counts[wanted])
    other = _peaks(event.vertices[~wanted], event.counts[~wanted])
    histogram[(other > OTHER) & (histogram < OTHER)] = np.nan
    return histogram.astype(np.float32)


def _peaks(vertices: np.ndarray, counts: np.ndarray) -> np.ndarray:
    histogram = np.zeros(BINS)
    middle = np.floor((vertices - Z_MIN) / BIN_WIDTH)
    inside = (middle >= 0) & (middle < BINS)
    widths = resolution(counts)
    for z, width, of in zip(vertices[inside], widths[inside], middle[inside], strict=True):
        first, last = max(0, int(of) - REACH), min(BINS, int(of) + REACH + 1)
        edges = Z_MIN + BIN_WIDTH * np.arange(first, last + 1)
        normal = [0.5 * erf((edge - z) / (sqrt(2) * width)) for edge in edges]
        histogram[first:last] += np.diff(normal) * max(1.0, UNIT / width)
    return histogram

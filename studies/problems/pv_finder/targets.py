"""What a network should say of an event."""

from __future__ import annotations

from math import erf, sqrt
from typing import Final

import numpy as np

from .event import BIN_WIDTH, BINS, Z_MIN, Event

A, B, C = 0.926, 0.84, 0.05
"""Of the resolution of a vertex of n tracks, A·n^(−B) + C, mm: the form of LHCb's resolution.

C is half a bin: a peak narrower than its bins could not be told from noise by its width."""
_REACH: Final = 3.0


def resolution(tracks: np.ndarray) -> np.ndarray:
    """Return the width of the peak of a vertex, mm, which falls with its number of tracks.

    σ(n) = A·n^(−B) + C

    >>> resolution(np.array([5.0, 50.0])).round(3).tolist()
    [0.29, 0.085]
    """
    return np.asarray(A * np.maximum(tracks, 1.0) ** -B + C)


def target(event: Event) -> np.ndarray:
    """Return the histogram of vertices, shape (4000,), float32.

    A reconstructible vertex at z is a Gaussian of width σ(n), integrated over each bin, so that its
    bins sum to 1. Where only vertices of too few tracks are (within 3σ), a bin is NaN: whatever a
    network says there, it is neither right nor wrong.
    """
    edges = Z_MIN + BIN_WIDTH * np.arange(BINS + 1)
    histogram = np.zeros(BINS)
    unknown = np.zeros(BINS, bool)
    widths = resolution(event.counts)
    for z, width, wanted in zip(event.vertices, widths, event.reconstructible, strict=True):
        reach = (_REACH + 3 * wanted) * width
        first = max(0, int((z - reach - Z_MIN) / BIN_WIDTH))
        last = min(BINS, int((z + reach - Z_MIN) / BIN_WIDTH) + 1)
        if first >= last:
            continue
        if wanted:
            normal = [0.5 * erf((e - z) / (sqrt(2) * width)) for e in edges[first : last + 1]]
            histogram[first:last] += np.diff(normal)
        else:
            unknown[first:last] = True
    histogram[unknown & (histogram < 1e-2)] = np.nan
    return histogram.astype(np.float32)

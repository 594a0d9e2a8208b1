"""How many vertices are found: efficiency and false positives, as physicists count them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from .event import BIN_WIDTH, Z_MIN, Event

THRESHOLD: Final = 1e-2
INTEGRAL: Final = 0.2
WIDTH: Final = 3
"""A peak is a run of at least three bins above 0.01 that sum to at least 0.2 (PV-finder's)."""
WINDOW: Final = 0.5
"""A peak within this distance of a true vertex (mm) has found it."""


class Counts(NamedTuple):
    """What became of the vertices of some events.

    Attributes:
        found: reconstructible vertices that a peak has found.
        missed: those that none has.
        false: peaks where no vertex is.
        events: how many events there were.
    """

    found: int
    missed: int
    false: int
    events: int

    @property
    def efficiency(self) -> float:
        """The share of reconstructible vertices that were found; NaN if there is none."""
        true = self.found + self.missed
        return self.found / true if true else float("nan")

    @property
    def false_positives(self) -> float:
        """False peaks an event."""
        return self.false / self.events if self.events else float("nan")


def peaks(histogram: np.ndarray) -> np.ndarray:
    """Return z of the peaks of a histogram, mm.

    A peak's place is the mean of its bins, weighted with their heights. Bins that are not finite
    are below every threshold. Two maxima in one run of bins are two peaks if the valley between
    them is below half of the lower one.

    Args:
        histogram: shape (4000,).

    >>> histogram = np.zeros(4000); histogram[1000:1003] = 0.2, 0.4, 0.2
    >>> peaks(histogram).round(6).tolist()
    [0.15]
    """
    values = np.where(np.isfinite(histogram), histogram, 0.0).astype(np.float64)
    above = np.concatenate([[False], values >= THRESHOLD, [False]])
    edges = np.flatnonzero(above[1:] != above[:-1])
    places = []
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        for begin, end in _parted(values, int(first), int(last)):
            part = values[begin:end]
            if end - begin >= WIDTH and part.sum() >= INTEGRAL:
                centre = np.average(np.arange(begin, end), weights=part)
                places.append(Z_MIN + BIN_WIDTH * (centre + 0.5))
    return np.array(places)


def _parted(values: np.ndarray, first: int, last: int) -> list[tuple[int, int]]:
    """Return the parts of a run of bins, cut in its deep valleys."""
    parts = []
    begin, top, valley, where = first, 0.0, np.inf, first
    for i in range(first, last):
        if values[i] > valley and min(values[i], top) > 2 * valley:
            parts.append((begin, where))
            begin, top, valley = where, values[i], np.inf
        if values[i] >= top:
            top, valley = values[i], np.inf
        elif values[i] < valley:
            valley, where = values[i], i
    return [*parts, (begin, last)]


def count(histograms: np.ndarray, events: Sequence[Event]) -> Counts:
    """Count what the histograms say of some events.

    Peaks and vertices are paired, the closest pair first, each once, while they are at most 0.5 mm
    apart. A peak left over near a vertex of too few tracks counts for nothing, any other is false.

    Args:
        histograms: shape (n, 4000).
        events: n of them.
    """
    found = missed = false = 0
    for histogram, event in zip(histograms, events, strict=True):
        places = peaks(histogram)
        true = event.vertices[event.reconstructible]
        distance = np.abs(places[:, None] - true[None, :])
        paired: set[int] = set()
        got: set[int] = set()
        for index in np.argsort(distance, axis=None, kind="stable"):
            peak, vertex = divmod(int(index), len(true))
            if distance[peak, vertex] > WINDOW:
                break
            if peak not in paired and vertex not in got:
                paired.add(peak)
                got.add(vertex)
        small = event.vertices[~event.reconstructible & (event.counts > 0)]
        others = [z for i, z in enumerate(places) if i not in paired]
        false += sum(1 for z in others if not (np.abs(small - z) <= WINDOW).any())
        found += len(got)
        missed += len(true) - len(got)
    return Counts(found, missed, false, len(events))

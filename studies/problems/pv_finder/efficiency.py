"""Efficiency and false positives of found vertices, with the definition of PV-finder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from .event import BIN_WIDTH, Z_MIN

THRESHOLD: Final = 1e-2
INTEGRAL: Final = 0.2
WIDTH: Final = 3
"""A peak has at least three adjacent bins of at least 0.01, with a sum of at least 0.2."""
WINDOW: Final = 0.5
"""A true peak is found if a predicted peak is within this distance (mm)."""


class Counts(NamedTuple):
    """The counts for the vertices of some events.

    Attributes:
        found: the number of true peaks that a predicted peak has found.
        missed: the number of true peaks that no predicted peak has found.
        false: the number of predicted peaks without a vertex.
        events: the number of events.
    """

    found: int
    missed: int
    false: int
    events: int

    @property
    def efficiency(self) -> float:
        """The share of true peaks that were found; NaN if there are no true peaks."""
        true = self.found + self.missed
        return self.found / true if true else float("nan")

    @property
    def false_positives(self) -> float:
        """The false peaks per event."""
        return self.false / self.events if self.events else float("nan")


def peaks(histogram: np.ndarray, integral: float = INTEGRAL) -> np.ndarray:
    """Return z of the peaks of a histogram, mm.

    The place of a peak is the mean of its bins, weighted by their heights. Bins that are not finite
    count as below every threshold.

    Args:
        histogram: an array of shape (4000,).
        integral: the smallest sum of the bins of a peak.

    >>> histogram = np.zeros(4000); histogram[1000:1003] = 0.2, 0.4, 0.2
    >>> peaks(histogram).round(6).tolist()
    [0.15]
    """
    values = np.where(np.isfinite(histogram), histogram, 0.0).astype(np.float64)
    above = np.concatenate([[False], values >= THRESHOLD, [False]])
    edges = np.flatnonzero(above[1:] != above[:-1])
    places = []
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        part = values[first:last]
        if last - first >= WIDTH and part.sum() >= integral:
            centre = np.average(np.arange(first, last), weights=part)
            places.append(Z_MIN + BIN_WIDTH * (centre + 0.5))
    return np.array(places)


def count(places: Sequence[np.ndarray], targets: np.ndarray) -> Counts:
    """Count the found vertices of some events, as ``efficiency.py`` of PV-finder does.

    The true peaks are those of the target, in which overlapping reconstructible vertices are one
    peak. A predicted peak without a true peak nearby is false, except in a bin with target NaN,
    which has a vertex that is not reconstructible.

    Args:
        places: z of the peaks of each event, mm.
        targets: the targets of the events, shape (n, 4000).
    """
    found = missed = false = 0
    for here, target in zip(places, targets, strict=True):
        true = peaks(target)
        near = np.abs(true[:, None] - here[None, :]) <= WINDOW
        bins = ((here - Z_MIN) / BIN_WIDTH).astype(int).clip(0, len(target) - 1)
        found += int(near.any(axis=1).sum())
        missed += int((~near.any(axis=1)).sum())
        false += int((~near.any(axis=0) & ~np.isnan(target[bins])).sum())
    return Counts(found, missed, false, len(targets))

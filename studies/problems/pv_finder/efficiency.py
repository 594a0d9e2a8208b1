"""How many vertices are found: efficiency and false positives, as PV-finder counts them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from .event import BIN_WIDTH, Z_MIN

THRESHOLD: Final = 1e-2
INTEGRAL: Final = 0.2
WIDTH: Final = 3
"""A peak is a run of at least three bins of at least 0.01 that sum to at least 0.2."""
WINDOW: Final = 0.5
"""A peak within this distance of a true one (mm) has found it."""


class Counts(NamedTuple):
    """What became of the vertices of some events.

    Attributes:
        found: true peaks that a predicted one has found.
        missed: those that none has.
        false: predicted peaks where no vertex is.
        events: how many events there were.
    """

    found: int
    missed: int
    false: int
    events: int

    @property
    def efficiency(self) -> float:
        """The share of true peaks that were found; NaN if there is none."""
        true = self.found + self.missed
        return self.found / true if true else float("nan")

    @property
    def false_positives(self) -> float:
        """False peaks an event."""
        return self.false / self.events if self.events else float("nan")


def peaks(histogram: np.ndarray, integral: float = INTEGRAL) -> np.ndarray:
    """Return z of the peaks of a histogram, mm.

    A peak's place is the mean of its bins, weighted with their heights. Bins that are not finite
    are below every threshold.

    Args:
        histogram: shape (4000,).
        integral: what the bins of a peak sum to at least.

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
    """Count what was found in some events, as PV-finder counts (its ``efficiency.py``).

    Truth are the peaks of the target: reconstructible vertices that overlap are one. A peak that no
    true one is near is false, except in a bin of the target that is NaN, where a vertex is that is
    not reconstructible.

    Args:
        places: z of the peaks of each event, mm.
        targets: of the events, shape (n, 4000).
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

"""What is known of an event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

BINS: Final = 4000
Z_MIN: Final = -100.0
BIN_WIDTH: Final = 0.1
"""Bins along the beam: their number, where the first begins and how wide each is (mm)."""
MIN_TRACKS: Final = 5
"""A vertex of fewer tracks cannot be reconstructed: finding it or not changes no score."""
FEATURES: Final = 9
"""Of a track: x, y, z of its point of closest approach, and six numbers of its ellipsoid."""


@dataclass(frozen=True, eq=False)
class Event:
    """An event as the networks take it.

    Attributes:
        vertices: z of the true vertices, mm, shape (v,).
        counts: how many reconstructed tracks each of them has, shape (v,).
        kernel: the density of tracks along the beam, shape (4000,), float32; ``None`` if unknown.
        tracks: shape (t, 9), float32; ``None`` if unknown. Point of closest approach to the beam
            (x, y, z in mm), then A, B, C, D, E, F of the ellipsoid
            A·x² + B·y² + C·z² + 2(D·xy + E·xz + F·yz) = 1 around it (mm⁻²).
    """

    vertices: np.ndarray
    counts: np.ndarray
    kernel: np.ndarray | None = None
    tracks: np.ndarray | None = None

    @property
    def reconstructible(self) -> np.ndarray:
        """Whether each vertex has tracks enough and lies within the bins."""
        inside = (self.vertices >= Z_MIN) & (self.vertices < Z_MIN + BINS * BIN_WIDTH)
        return inside & (self.counts >= MIN_TRACKS)


def bin_centres() -> np.ndarray:
    """Return z of the middle of each bin, mm, shape (4000,), float64.

    >>> bin_centres()[[0, 3999]].round(6).tolist()
    [-99.95, 299.95]
    """
    return Z_MIN + BIN_WIDTH * (np.arange(BINS) + 0.5)

"""What is known of an event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

BINS: Final = 4000
Z_MIN: Final = -100.0
BIN_WIDTH: Final = 0.1
"""Bins along the beam: their number, where the first begins and how wide each is (mm)."""
MIN_TRACKS: Final = 5
"""A vertex of fewer tracks is not reconstructible: finding it or not changes no score."""
DISPLACED: Final = 1e-3
MIN_ETA: Final = 2.0
MAX_ETA: Final = 5.0
MIN_MOMENTUM: Final = 3.0
MIN_HITS: Final = 3
"""The tracks that count: at least three hits, pseudorapidity 2 to 5, more than 3 GeV, made within
1 µm of the vertex along z (those of later decays do not count)."""
FEATURES: Final = 9
"""Of a track: x, y, z of its point of closest approach, and six numbers of its ellipsoid."""


@dataclass(frozen=True, eq=False)
class Event:
    """An event as the networks take it.

    Attributes:
        vertices: z of the true vertices, mm, shape (v,).
        counts: how many tracks that count each of them has, shape (v,); see :func:`count`.
        kernel: the density of tracks along the beam, shape (4000,), float32; ``None`` if unknown.
        beam: x and y of the maximum whose density the kernel is, mm, shape (2, 4000), float32;
            ``None`` if unknown.
        tracks: shape (t, 9), float32; ``None`` if unknown. Point of closest approach to the beam
            (x, y, z in mm), then A, B, C, D, E, F of the ellipsoid
            A·x² + B·y² + C·z² + 2(D·xy + E·xz + F·yz) = 1 around it (mm⁻²).
    """

    vertices: np.ndarray
    counts: np.ndarray
    kernel: np.ndarray | None = None
    beam: np.ndarray | None = None
    tracks: np.ndarray | None = None

    @property
    def reconstructible(self) -> np.ndarray:
        """Whether each vertex has tracks enough and lies within the bins."""
        inside = (self.vertices >= Z_MIN) & (self.vertices < Z_MIN + BINS * BIN_WIDTH)
        return inside & (self.counts >= MIN_TRACKS)


class Particles(NamedTuple):
    """Charged particles: where each is made (mm) and how it flies, arrays of shape (p,).

    Attributes:
        x: of the origin.
        y: of the origin.
        z: of the origin.
        px: momentum, GeV.
        py: momentum, GeV.
        pz: momentum, GeV.
        vertex: the number of the collision that it comes from, −1 for none.
    """

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    px: np.ndarray
    py: np.ndarray
    pz: np.ndarray
    vertex: np.ndarray


class Hits(NamedTuple):
    """Hits, arrays of shape (h,): place in mm, and which particle made each."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    particle: np.ndarray


def count(vertices: np.ndarray, particles: Particles, hits: np.ndarray) -> np.ndarray:
    """Return how many tracks that count each vertex has, as PV-finder counts them (``pv_ntrks``).

    Args:
        vertices: z, mm, shape (v,).
        particles: p of them.
        hits: how many hits each particle made, shape (p,).

    >>> one = np.ones(3)
    >>> flying = Particles(0 * one, 0 * one, np.array([5.0, 5.0, 5.2]), one, 0 * one, 9 * one,
    ...                    np.zeros(3, int))
    >>> count(np.array([5.0]), flying, np.array([3, 2, 3])).tolist()
    [1]
    """
    of_beam = np.hypot(particles.px, particles.py)
    with np.errstate(divide="ignore"):
        eta = np.arcsinh(particles.pz / of_beam)
    good = (hits >= MIN_HITS) & (eta >= MIN_ETA) & (eta <= MAX_ETA)
    good &= (np.hypot(of_beam, particles.pz) > MIN_MOMENTUM) & (particles.vertex >= 0)
    if len(vertices):
        good &= np.abs(particles.z - vertices[particles.vertex]) <= DISPLACED
    return np.bincount(particles.vertex[good], minlength=len(vertices))


def bin_centres() -> np.ndarray:
    """Return z of the middle of each bin, mm, shape (4000,), float64.

    >>> bin_centres()[[0, 3999]].round(6).tolist()
    [-99.95, 299.95]
    """
    return Z_MIN + BIN_WIDTH * (np.arange(BINS) + 0.5)

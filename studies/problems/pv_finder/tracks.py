"""Straight lines through the hits of particles, and where they pass the beam."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from .event import FEATURES

HIT_RESOLUTION: Final = 0.015
"""Standard deviation of a hit in x and in y, mm: what the residuals of such fits to PV-finder's toy
Monte Carlo come to (median 14 µm), scattering in the detector included."""
MIN_HITS: Final = 3
MIN_SLOPE: Final = 1e-3
"""A line along the beam has no point of closest approach to it."""


@dataclass(frozen=True, eq=False)
class Tracks:
    """Lines x(z) = x + tx·(z − z₀), y(z) = y + ty·(z − z₀), each array of shape (t,), float64, mm.

    Attributes:
        x: at z₀.
        y: at z₀.
        z: z₀, the mean of the hits, where position and slope are not correlated.
        tx: slope dx/dz.
        ty: slope dy/dz.
        var: the variance of x and of y at z₀, mm².
        slope_var: the variance of each slope.
        particle: which particle each belongs to.
    """

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    tx: np.ndarray
    ty: np.ndarray
    var: np.ndarray
    slope_var: np.ndarray
    particle: np.ndarray

    def __len__(self) -> int:
        return len(self.x)

    @property
    def closest(self) -> np.ndarray:
        """The z of the point of closest approach to the beam, mm."""
        return self.z - (self.x * self.tx + self.y * self.ty) / (self.tx**2 + self.ty**2)

    def features(self) -> np.ndarray:
        """Return the point of closest approach and the ellipsoid around it, shape (t, 9), float32.

        The position of the line there is known to σ² = var + slope_var·(z − z₀)² in both directions
        across it: these are the two minor axes. A shift by σ towards the beam moves the point along
        the line by σ·√(1 + tx² + ty²)/√(tx² + ty²): the major axis.
        """
        s = self.closest - self.z
        point = np.stack([self.x + s * self.tx, self.y + s * self.ty, self.closest], axis=1)
        sigma = np.sqrt(self.var + self.slope_var * s**2)
        slope = np.hypot(self.tx, self.ty)
        length = np.sqrt(1 + slope**2)
        along = np.stack([self.tx, self.ty, np.ones_like(slope)], axis=1) / length[:, None]
        across = np.stack([-self.ty, self.tx, np.zeros_like(slope)], axis=1) / slope[:, None]
        third = np.cross(along, across)
        axes = (along * (sigma * length / slope)[:, None], across * sigma[:, None],
                third * sigma[:, None])  # fmt: skip
        return np.concatenate([point, ellipsoid(*axes)], axis=1).astype(np.float32)


def ellipsoid(major: np.ndarray, minor1: np.ndarray, minor2: np.ndarray) -> np.ndarray:
    """Return A, B, C, D, E, F of the ellipsoids with these semi-axes.

        A·x² + B·y² + C·z² + 2(D·xy + E·xz + F·yz) = 1

    Args:
        major: semi-axes as vectors, mm, shape (t, 3).
        minor1: the second.
        minor2: the third; the three are orthogonal.

    Returns:
        shape (t, 6), mm⁻².

    >>> x, y, z = 2 * np.eye(3)[:, None]
    >>> ellipsoid(z, x, y).tolist()
    [[0.25, 0.25, 0.25, 0.0, 0.0, 0.0]]
    """
    form = np.zeros((len(major), 3, 3))
    for axis in (major, minor1, minor2):
        axis = np.asarray(axis, np.float64)
        form += axis[:, :, None] * axis[:, None, :] / (axis**2).sum(axis=1)[:, None, None] ** 2
    rows, columns = (0, 1, 2, 0, 0, 1), (0, 1, 2, 1, 2, 2)
    return form[:, rows, columns]


def fit(
    x: np.ndarray,
    y: np.ndarray,
    z: np.ndarray,
    particle: np.ndarray,
    *,
    resolution: float = HIT_RESOLUTION,
) -> Tracks:
    """Fit a line to the hits of each particle that has at least three.

    Args:
        x: of the hits, mm, shape (h,).
        y: of the hits, mm.
        z: of the hits, mm.
        particle: the number of the particle that made each hit, from 0.
        resolution: standard deviation of x and y of a hit, mm.

    >>> z = np.array([0.0, 10.0, 20.0])
    >>> line = fit(1 + 0.1 * z, -0.2 * z, z, np.zeros(3, int))
    >>> line.tx.round(9).tolist(), line.closest.round(9).tolist()
    ([0.1], [-2.0])
    """
    found = lines(x, y, z, particle)
    with np.errstate(invalid="ignore", divide="ignore"):
        var, slope_var = resolution**2 / found.hits, resolution**2 / found.square
        good = (found.hits >= MIN_HITS) & (found.square > 0)
        good &= np.hypot(found.tx, found.ty) > MIN_SLOPE
    kept = np.flatnonzero(good)
    columns = (found.x, found.y, found.z, found.tx, found.ty, var, slope_var)
    return Tracks(*[*(column[kept] for column in columns), kept])


class Lines(NamedTuple):
    """Lines of least squares, one for each particle, arrays of shape (p,), mm.

    Attributes:
        x: at z; NaN, as all others, for a particle without hits.
        y: at z.
        z: the mean of the hits.
        tx: slope dx/dz; NaN for hits in one plane.
        ty: slope dy/dz.
        hits: how many the particle made.
        square: Σ(z − mean)² over them.
        residual: the sum of the squared distances of the hits from the line in x and y, mm².
        dz: of each hit, z − mean, shape (h,).
    """

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    tx: np.ndarray
    ty: np.ndarray
    hits: np.ndarray
    square: np.ndarray
    residual: np.ndarray
    dz: np.ndarray


def lines(x: np.ndarray, y: np.ndarray, z: np.ndarray, particle: np.ndarray) -> Lines:
    """Return the line of least squares through the hits of each particle.

    Args:
        x: of the hits, mm, shape (h,).
        y: of the hits, mm.
        z: of the hits, mm.
        particle: the number of the particle that made each hit, from 0.
    """
    particle = particle.astype(np.int64)
    number = int(particle.max(initial=-1)) + 1

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(particle, values, number)

    hits = np.bincount(particle, minlength=number)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_x, mean_y, mean_z = (total(v) / hits for v in (x, y, z))
        dz = z - mean_z[particle]
        square = total(dz * dz)
        dx, dy = x - mean_x[particle], y - mean_y[particle]
        tx, ty = total(dx * dz) / square, total(dy * dz) / square
        residual = total((dx - tx[particle] * dz) ** 2 + (dy - ty[particle] * dz) ** 2)
    return Lines(mean_x, mean_y, mean_z, tx, ty, hits, square, residual, dz)


def no_tracks() -> np.ndarray:
    """Return the features of no track, shape (0, 9)."""
    return np.empty((0, FEATURES), np.float32)

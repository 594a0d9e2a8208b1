"""The density of tracks along the beam: what AllCNN sees of an event."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from .event import BIN_WIDTH, BINS, Z_MIN, bin_centres
from .tracks import lines

HITS: Final = 3
HIT_RESOLUTION: Final = 0.012
"""Standard deviation of a hit in x and in y, mm."""
MAX_SLOPE: Final = 0.4
MAX_CHI2: Final = 10.0
"""Of a line, for each of its three degrees of freedom."""
MAX_IMPACT: Final = 0.5
"""A line farther from the beam than this (mm) is not of a collision."""
WIDTH: Final = 0.05
"""Standard deviation of a line's density in x and in y, mm."""
CUT: Final = 0.5
"""A line has no density farther away than this in x or in y, mm."""
_REACH: Final = 0.75
_GRID: Final = 0.1 * np.arange(-2, 3)
_STEPS: Final = 6
_FAINT: Final = 0.5
_TINY: Final = 1e-9


class Kernel(NamedTuple):
    """The kernel of an event.

    Attributes:
        density: K(z), mm⁻², shape (4000,), float32.
        beam: the x and y of its maximum, mm, shape (2, 4000), float32; 0 where K is 0.
    """

    density: np.ndarray
    beam: np.ndarray


class Lines(NamedTuple):
    """Lines of three hits, each array of shape (t,), mm; see :class:`.tracks.Tracks`.

    Attributes:
        x: at z.
        y: at z.
        z: the mean of the hits.
        tx: slope dx/dz.
        ty: slope dy/dz.
        width: standard deviation of the density.
    """

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    tx: np.ndarray
    ty: np.ndarray
    width: np.ndarray


def proto_tracks(x: np.ndarray, y: np.ndarray, z: np.ndarray, particle: np.ndarray) -> Lines:
    """Return a line through the three innermost hits of each particle.

    As PV-finder's own, they fly forward, have slopes of at most 0.4, χ² of at most 10 a degree of
    freedom, and pass the beam within 0.5 mm. A line that fits badly (χ² > 6) has a wider density.

    Args:
        x: of the hits, mm, shape (h,).
        y: of the hits, mm.
        z: of the hits, mm.
        particle: the number of the particle that made each hit, from 0.
    """
    radius = np.hypot(x, y)
    order = np.lexsort((radius, particle))
    first = np.searchsorted(particle[order], particle[order])
    inner = order[np.arange(len(order)) - first < HITS]
    fitted = lines(x[inner], y[inner], z[inner], particle[inner])
    outwards = np.bincount(particle[inner], radius[inner] * fitted.dz, len(fitted.x)) > 0
    chi2 = fitted.residual / HIT_RESOLUTION**2
    slope = np.hypot(fitted.tx, fitted.ty)
    with np.errstate(invalid="ignore", divide="ignore"):
        impact = np.abs(fitted.x * fitted.ty - fitted.y * fitted.tx) / slope
        good = (fitted.hits == HITS) & outwards & (chi2 <= 3 * MAX_CHI2) & (impact <= MAX_IMPACT)
        good &= (np.abs(fitted.tx) <= MAX_SLOPE) & (np.abs(fitted.ty) <= MAX_SLOPE)
    kept = np.flatnonzero(good)
    width = np.where(chi2 > 6, WIDTH * (1 + (chi2 - 2) / 4), WIDTH)
    columns = (fitted.x, fitted.y, fitted.z, fitted.tx, fitted.ty, width)
    return Lines(*(column[kept] for column in columns))


def kernel(of: Lines) -> Kernel:
    """Return the kernel of an event, PV-finder's first (Fang et al. 2019).

        K(z) = max over (x, y) of Σp − Σp²/Σp

    summed over the lines, where p = exp(−d²/2σ²)/(2πσ²), d is the distance of (x, y) to the line in
    the plane at z, and σ its width. A single line makes no kernel: vertices have several. The
    maximum is sought on a grid of 0.1 mm, and from there by mean shift (Fukunaga and Hostetler
    1975); z is the middle of each bin.
    """
    density, beam = np.zeros(BINS, np.float32), np.zeros((2, BINS), np.float32)
    bins, x, y, precision = _crossings(of)
    if not len(bins):
        return Kernel(density, beam)
    here = _Bins(bins, x, y, precision)
    best, at = here.on_grid()
    # The search goes on where lines overlap.
    rows = np.flatnonzero(best > _FAINT)
    if len(rows):
        best[rows], at[:, rows] = here.only(rows).climb(at[:, rows])
    found = best > _FAINT
    density[here.bins[found]] = best[found]
    beam[:, here.bins[found]] = at[:, found]
    return Kernel(density, beam)


class _Bins:
    """Lines where they cross the bins, bin after bin.

    Args:
        bins: of each crossing, ascending.
        x: of the crossings, mm, float32.
        y: of the crossings, mm, float32.
        precision: 1/σ², float32.
    """

    def __init__(self, bins: np.ndarray, x: np.ndarray, y: np.ndarray, precision: np.ndarray):
        self.x, self.y, self.precision = x, y, precision
        self.begin = np.flatnonzero(np.concatenate([[True], bins[1:] != bins[:-1]]))
        self.bins = bins[self.begin]
        self.row = np.repeat(np.arange(len(self.begin)), np.diff([*self.begin, len(bins)]))

    def only(self, rows: np.ndarray) -> _Bins:
        """Return some of the bins."""
        kept = np.isin(self.row, rows)
        return _Bins(self.bins[self.row[kept]], self.x[kept], self.y[kept], self.precision[kept])

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Return the sums over the crossings of each bin."""
        return np.add.reduceat(values, self.begin)

    def kernel(self, p: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return Σp − Σp²/Σp, Σp and Σp² of each bin."""
        total, square = np.maximum(self.sum(p), np.float32(_TINY)), self.sum(p * p)
        return total - square / total, total, square

    def on_grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the highest kernel on the grid in each bin, and where it is, shape (2, bins)."""
        of_x, of_y = (
            [
                np.where(np.abs(v - g) < CUT, np.exp(-0.5 * self.precision * (v - g) ** 2), 0.0)
                for g in _GRID.astype(np.float32)
            ]
            for v in (self.x, self.y)
        )
        height = self.precision / np.float32(2 * np.pi)
        values = []
        for in_x in of_x:
            parts = (in_x * height * in_y for in_y in of_y)
            values += [self.kernel(p.astype(np.float32))[0] for p in parts]
        where = np.argmax(values, axis=0)
        places = np.stack(np.meshgrid(_GRID, _GRID, indexing="ij")).reshape(2, -1)
        return np.max(values, axis=0), places[:, where].astype(np.float32)

    def climb(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the highest kernel that a mean shift meets in each bin, and where it is."""
        best, place = np.zeros(len(self.begin), np.float32), at.copy()
        for _ in range(_STEPS):
            dx, dy = self.x - at[0, self.row], self.y - at[1, self.row]
            near = (np.abs(dx) < CUT) & (np.abs(dy) < CUT)
            p = np.exp(-0.5 * self.precision * (dx * dx + dy * dy)) * near
            p *= self.precision / np.float32(2 * np.pi)
            value, total, square = self.kernel(p)
            higher = value > best
            best[higher], place[:, higher] = value[higher], at[:, higher]
            # Where the kernel is stationary, (x, y) is the mean of the lines with these weights:
            # the derivative of the kernel by p, times that of p. What is negative pushes away.
            of_p = 1 + (square / total**2)[self.row] - 2 * p / total[self.row]
            weight = np.maximum(of_p, 0.0) * p * self.precision
            at = np.stack([self.sum(weight * self.x), self.sum(weight * self.y)])
            at /= np.maximum(self.sum(weight), np.float32(_TINY))
        return best, place


def _crossings(of: Lines) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return bin, x, y and 1/σ² wherever at least two lines are near the beam, bin after bin."""
    square = of.tx**2 + of.ty**2
    closest = of.z - (of.x * of.tx + of.y * of.ty) / square
    impact = np.abs(of.x * of.ty - of.y * of.tx) / np.sqrt(square)
    half = np.sqrt(np.maximum(_REACH**2 - impact**2, 0.0) / square)
    low = np.ceil((closest - half - Z_MIN) / BIN_WIDTH - 0.5).clip(0, BINS).astype(int)
    high = np.floor((closest + half - Z_MIN) / BIN_WIDTH + 0.5).clip(0, BINS).astype(int)
    lengths = np.maximum(high - low, 0)
    line = np.repeat(np.arange(len(of.x)), lengths)
    begin = np.cumsum(lengths) - lengths
    bins = np.arange(len(line)) - begin[line] + low[line]
    order = np.argsort(bins, kind="stable")
    order = order[np.bincount(bins, minlength=BINS)[bins[order]] > 1]
    bins, line = bins[order], line[order]
    s = bin_centres()[bins] - of.z[line]
    x, y = of.x[line] + s * of.tx[line], of.y[line] + s * of.ty[line]
    return bins, x.astype(np.float32), y.astype(np.float32), (1 / of.width[line] ** 2).astype("f4")

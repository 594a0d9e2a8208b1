"""The density of tracks along the beam: what AllCNN sees of an event."""

from __future__ import annotations

from typing import Final

import numpy as np

from .event import BIN_WIDTH, BINS, Z_MIN, bin_centres
from .tracks import Tracks

REACH: Final = 0.6
"""Tracks farther from the beam than this (mm) are not of a collision."""
BEAM: Final = 0.055
"""Width of the beam in x and y, mm."""
_SHIFTS: Final = 8


def kernel(tracks: Tracks) -> np.ndarray:
    """Return the kernel of an event, shape (4000,), float32, mm⁻².

        K(z) = max over (x, y) of Σ_tracks exp(−d²/2σ²)/(2πσ²)

    where d is the distance of (x, y) to the track in the plane at z and σ the uncertainty of the
    track there. The maximum is sought by mean shift (Fukunaga and Hostetler 1975) from the centre
    of the tracks near the beam; z is the middle of each bin.
    """
    bins, x, y, var = _crossings(tracks)
    precision = np.exp(-(x * x + y * y) / (2 * (BEAM**2 + var))) / var
    for _ in range(_SHIFTS):
        total = np.maximum(np.bincount(bins, precision, BINS), np.finfo(np.float64).tiny)
        at_x = np.bincount(bins, precision * x, BINS) / total
        at_y = np.bincount(bins, precision * y, BINS) / total
        square = (x - at_x[bins]) ** 2 + (y - at_y[bins]) ** 2
        density = np.exp(-square / (2 * var)) / (2 * np.pi * var)
        precision = density / var
    return np.bincount(bins, density, BINS).astype(np.float32)


def _crossings(tracks: Tracks) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return bin, x, y and variance wherever a track is near the beam."""
    slope = np.hypot(tracks.tx, tracks.ty)
    impact = np.abs(tracks.x * tracks.ty - tracks.y * tracks.tx) / slope
    half = np.sqrt(np.maximum(REACH**2 - impact**2, 0.0)) / slope
    low = np.ceil((tracks.closest - half - Z_MIN) / BIN_WIDTH - 0.5).clip(0, BINS).astype(int)
    high = np.floor((tracks.closest + half - Z_MIN) / BIN_WIDTH + 0.5).clip(0, BINS).astype(int)
    lengths = np.where(impact < REACH, np.maximum(high - low, 0), 0)
    track = np.repeat(np.arange(len(tracks)), lengths)
    begin = np.cumsum(lengths) - lengths
    bins = np.arange(len(track)) - begin[track] + low[track]
    s = bin_centres()[bins] - tracks.z[track]
    x = tracks.x[track] + s * tracks.tx[track]
    y = tracks.y[track] + s * tracks.ty[track]
    return bins, x, y, tracks.var[track] + tracks.slope_var[track] * s * s

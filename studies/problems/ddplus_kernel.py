"""The first part of DDplus: from the tracks of an event to the kernel.

DDplus divides the beam into 40 intervals of 10 mm, with the same weights in each. An interval has
the tracks that pass the beam in the interval or within 5 mm of it. The nine features of each track
go through one network 9 → 25×5 → 50 → 25 → 25 → 50 → 25 → 25 → 8 channels × 100 bins (LeakyReLU
0.01 after each layer). The outputs are summed over the tracks of the interval. Then follow
convolutions 8→25 of width 25 and 25→1 of width 5, each with LeakyReLU, a layer 100 → 100, softplus,
and × 0.01: 45,351 parameters. The loss is the mean over the bins of ((ŷ − y)/0.01)², with the
kernel y in 2500 mm⁻².

Sources: Akar et al. 2021, *Progress in developing a hybrid deep learning algorithm for identifying
and locating primary vertices* (arXiv:2103.04962). The network of the paper has all 4000 bins at
once and 16.9 million parameters, and takes ten times as long for an event. Later networks of the
project use intervals (Akar et al. 2023, arXiv:2309.12417).
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Final

import numpy as np

from studies.study import Study

from .allcnn import kernels
from .pv_finder import common
from .pv_finder.event import BIN_WIDTH, FEATURES, Z_MIN, Event
from .pv_finder.networks import (
    INTERVAL_BINS,
    INTERVALS,
    OF_TRACKS,
    PADDING,
    TRACKS_TO_KERNEL,
)

WIDTH: Final = INTERVAL_BINS * BIN_WIDTH
NEAR: Final = 1.0
"""Tracks farther from the beam than this in x or y (mm) are left out."""


def study(seed: int, data: pathlib.Path | None = None, events: int = 1000) -> Study:
    """Return the study.

    Args:
        seed: the seed of the initial parameters, the order of mini-batches, and the split of
            ``data``.
        data: a ROOT file with hits, an HDF5 file with kernels and tracks, or a folder; ``None``:
            toy events.
        events: the number of toy events for training.
    """
    made = common.study(
        name="ddplus_kernel",
        title="DDplus of PV-finder, tracks to kernel",
        seed=seed,
        data=data,
        events=events,
        need="tracks",
        inputs=tracks,
        wanted=lambda some: kernels(some)[:, 0],
        shapes=TRACKS_TO_KERNEL,
        gain=6**0.5,
        batch_size=4,
        model=lambda models: models.TracksToKernel(),
        loss="square_loss",
        loss_label="((ŷ − y)/0.01)², mean over bins",
        epochs=8,
        learning_rates={"sgd": 1e-4, "adam": 2e-3},
        schedule=common.cycle,
        grid=5,
    )
    return common.with_landscape(quiet(made), 4)


def quiet(made: Study) -> Study:
    """Return the study with small initial weights before the sum over many tracks."""
    name = f"{list(OF_TRACKS)[-1]}.weight"
    return common.with_initial(made, {name: np.float32(0.1) * made.initial[name]})


def tracks(events: Sequence[Event]) -> np.ndarray:
    """Return the tracks in each interval, shape (n, most rows of an event, 11), float32.

    The columns are: x and y in 0.1 mm; z in 5 mm from the middle of the interval; asinh of the six
    numbers of the ellipsoid in mm⁻², divided by 5; the number of the interval; and 1. Other rows
    are 0.
    """
    found = [_rows(event.tracks) for event in events]  # type: ignore[arg-type]
    rows = np.zeros((len(events), max(1, *map(len, found)), FEATURES + 2), np.float32)
    for row, some in zip(rows, found, strict=True):
        row[: len(some)] = some
    return rows


def _rows(of: np.ndarray) -> np.ndarray:
    near = of[(np.abs(of[:, :2]) < NEAR).all(axis=1)]
    from_start = near[:, 2, None] - (Z_MIN + WIDTH * np.arange(INTERVALS))
    track, interval = np.nonzero((from_start > -PADDING) & (from_start < WIDTH + PADDING))
    order = np.argsort(interval, kind="stable")
    track, interval = track[order], interval[order]
    rows = np.empty((len(track), FEATURES + 2), np.float32)
    rows[:, :2] = near[track, :2] / 0.1
    rows[:, 2] = (from_start[track, interval] - WIDTH / 2) / (WIDTH / 2)
    rows[:, 3:FEATURES] = np.arcsinh(near[track, 3:]) / 5
    rows[:, FEATURES], rows[:, FEATURES + 1] = interval, 1.0
    return rows

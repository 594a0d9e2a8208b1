"""DDplus of PV-finder: from the tracks of an event, without a kernel, to its vertices.

Each track's nine features go through one network 9 → 25×5 → 50 → 25 → 25 → 50 → 25 → 25 → 8
channels × 4000 bins (LeakyReLU 0.01 after each layer), which is summed over the tracks; then
convolutions 8→25 of width 25 and 25→1 of width 5, each with LeakyReLU and dropout 0.15, a layer
4000 → 4000, softplus, × 0.001. The loss is the mean over the bins of ((ŷ − y)/0.01)². 16.9 million
parameters. Without ``data``, 40 toy events train it and 20 are held out.

Source: the PV-finder project of LHCb (Fang et al. 2019, arXiv:1906.08306, and its later networks).
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

from studies.study import Study

from .pv_finder import common
from .pv_finder.event import FEATURES, Event
from .pv_finder.networks import DDPLUS_CONVOLUTIONS, DDPLUS_DENSE, DDPLUS_DROPOUT, DDPLUS_TRACKS


def study(seed: int, data: pathlib.Path | None = None, events: int = 40) -> Study:
    """Return the study.

    Args:
        seed: of the events, the split, the initial parameters, mini-batches and dropout.
        data: a ROOT file with hits, an HDF5 file with tracks, or a folder; ``None``: toy events.
        events: how many toy events are for training.
    """
    made = common.study(
        name="ddplus",
        title="DDplus of PV-finder",
        seed=seed,
        data=data,
        events=events,
        need="tracks",
        inputs=tracks,
        shapes=DDPLUS_TRACKS | DDPLUS_DENSE | DDPLUS_CONVOLUTIONS,
        dropout=DDPLUS_DROPOUT,
        batch_size=4,
        torch_model=lambda: _models("torch").DDplus(),
        nnx_model=lambda: _models("nnx").DDplus(),
        torch_loss=lambda *a: _models("torch").square_loss(*a),
        jax_loss=lambda *a: _models("nnx").square_loss(*a),
        loss_label="((ŷ − y)/0.01)², mean over bins",
        epochs=3,
        learning_rates={"sgd": 1e-4, "adam": 1e-3},
        grid=5,
    )
    return common.with_landscape(made, 1)


def tracks(events: Sequence[Event]) -> np.ndarray:
    """Return the tracks, shape (n, most tracks, 10), float32.

    x and y in 0.1 mm; z in 100 mm from z = 100 mm; asinh of the ellipsoid's six numbers in mm⁻²,
    over 5; and 1 for a track, 0 (as everything else of the row) where there is none.
    """
    most = max(1, *(len(event.tracks) for event in events))  # type: ignore[arg-type]
    rows = np.zeros((len(events), most, FEATURES + 1), np.float32)
    for row, event in zip(rows, events, strict=True):
        assert event.tracks is not None
        part = row[: len(event.tracks)]
        part[:, :2] = event.tracks[:, :2] / 0.1
        part[:, 2] = (event.tracks[:, 2] - 100.0) / 100.0
        part[:, 3:-1] = np.arcsinh(event.tracks[:, 3:]) / 5
        part[:, -1] = 1.0
    return rows


def _models(framework: str) -> Any:
    return import_module(f"{__package__}.pv_finder.{framework}_models")

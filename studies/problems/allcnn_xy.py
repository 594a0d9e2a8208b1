"""AllCNN of PV-finder with two more features: x and y of the kernel in each bin.

The kernel is the highest density in the plane at z. Vertices are in the beam, so a maximum beside
the beam is less likely a vertex. The rest is as in :mod:`.allcnn`. The published networks use x and
y too (Akar et al. 2020, arXiv:2007.01023).
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Final

import numpy as np

from studies.study import Study

from .allcnn import kernels, of_features
from .pv_finder.event import Event

BEAM_UNIT: Final = 0.5
"""The unit of input x and y, mm, as in PV-finder: the values are between −1 and 1."""


def study(seed: int, data: pathlib.Path | None = None, events: int = 2000) -> Study:
    """Return the study.

    Args:
        seed: the seed of the initial parameters, the order of mini-batches, and the split of
            ``data``.
        data: a ROOT file with kernels and xmax, ymax, or with hits, or a folder; ``None``: toys.
        events: the number of toy events for training.
    """
    return of_features(
        seed,
        data,
        events,
        name="allcnn_xy",
        title="AllCNN of PV-finder, with x and y",
        need="beam",
        features=3,
        inputs=features,
    )


def features(events: Sequence[Event]) -> np.ndarray:
    """Return kernel, x and y, shape (n, 3, 4000), float32."""
    places = np.stack([event.beam for event in events])  # type: ignore[misc]
    return np.concatenate([kernels(events), (places / BEAM_UNIT).astype(np.float32)], axis=1)

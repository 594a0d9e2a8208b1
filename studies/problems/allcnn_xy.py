"""AllCNN of PV-finder with two more features: where in x and y the kernel of each bin is.

The kernel is the highest density in the plane at z. Vertices are in the beam, so a density whose
maximum lies beside it is less likely one. As :mod:`.allcnn` in all else; the published networks see
x and y too (Akar et al. 2020, arXiv:2007.01023).
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
"""x and y enter in this unit, mm, as PV-finder's: they are between −1 and 1."""


def study(seed: int, data: pathlib.Path | None = None, events: int = 2000) -> Study:
    """Return the study.

    Args:
        seed: of the initial parameters, the order of mini-batches, and the split of ``data``.
        data: a ROOT file with kernels and their places or with hits, or a folder; ``None``: toys.
        events: how many toy events are for training.
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

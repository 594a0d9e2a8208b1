"""AllCNN of PV-finder: convolutions from the kernel of an event to the histogram of its vertices.

4000 bins in, 4000 bins out. Convolutions with channels × width 20×25, 10×15, 10×15, 10×15, 1×5,
each with LeakyReLU (0.01) and dropout (0.15 four times, 0.35), a filter 1×91, softplus. The loss is
the asymmetric ratio loss. Without ``data``, 200 toy events train it and 100 are held out.

Where it starts decides whether it learns from so few. From PyTorch's own start every bin is
pushed down, past the ε of the loss, to where a vertex has no gradient left, and all bins stay empty
for good. So weights start as He et al. 2015 have them, and the last bias where one number for all
bins is about the best (the idea of Lin et al. 2017, *Focal loss for dense object detection*,
section 3.3).

Source: Fang et al. 2019, *A hybrid deep learning approach to vertexing* (arXiv:1906.08306).
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any, Final

import numpy as np

from studies.study import Study

from .pv_finder import common
from .pv_finder.event import Event
from .pv_finder.networks import ALLCNN, ALLCNN_DROPOUT

KERNEL_UNIT: Final = 1000.0
"""Kernels enter in this unit, mm⁻²: at vertices they are some units, between them hundredths."""
LAST_BIAS: Final = -13.0
"""softplus of it is 2e-6. With 1 bin of 100 in a vertex the best constant is some hundredths of the
loss's ε = 1e-5: there the many bins that are too large weigh as much as the few too small."""


def study(seed: int, data: pathlib.Path | None = None, events: int = 200) -> Study:
    """Return the study.

    Args:
        seed: of the events, the split, the initial parameters, mini-batches and dropout.
        data: a ROOT or HDF5 file with kernels or hits, or a folder of them; ``None``: toy events.
        events: how many toy events are for training.
    """
    made = common.study(
        name="allcnn",
        title="AllCNN of PV-finder",
        seed=seed,
        data=data,
        events=events,
        need="kernel",
        inputs=kernels,
        shapes=ALLCNN,
        dropout=ALLCNN_DROPOUT,
        batch_size=4,
        gain=6**0.5,
        torch_model=lambda: _models("torch").AllCNN(),
        nnx_model=lambda: _models("nnx").AllCNN(),
        torch_loss=lambda *a: _models("torch").ratio_loss(*a),
        jax_loss=lambda *a: _models("nnx").ratio_loss(*a),
        loss_label="asymmetric ratio loss, mean over bins",
        epochs=20,
        learning_rates={"sgd": 1e-1, "adam": 1e-3},
        grid=13,
    )
    initial = dict(made.initial) | {"filter.bias": np.array([LAST_BIAS], np.float32)}
    return common.with_landscape(replace(made, initial=initial), 8)


def kernels(events: Sequence[Event]) -> np.ndarray:
    """Return the kernels, shape (n, 1, 4000), float32."""
    values = np.stack([event.kernel for event in events])[:, None]  # type: ignore[misc]
    return (values / np.float32(KERNEL_UNIT)).astype(np.float32)


def _models(framework: str) -> Any:
    return import_module(f"{__package__}.pv_finder.{framework}_models")

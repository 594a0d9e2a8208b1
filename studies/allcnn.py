"""AllCNN of PV-finder: convolutions from the kernel of an event to the histogram of its vertices.

4000 bins in, 4000 bins out. Convolutions with channels × width 20×25, 10×15, 10×15, 10×15, 1×5,
each with LeakyReLU (0.01) and dropout (0.15 four times, 0.35), a filter 1×91, softplus. The loss is
the asymmetric ratio loss. Without ``data``, 200 toy events train it and 100 are held out: so few
that in the default 20 epochs it learns that almost every bin is empty, and no vertex yet.

Source: Fang et al. 2019, *A hybrid deep learning approach to vertexing* (arXiv:1906.08306).
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

import numpy as np

from .pv_finder import common
from .pv_finder.event import Event
from .pv_finder.networks import ALLCNN, ALLCNN_DROPOUT
from .study import Study

KERNEL_UNIT: Final = 1000.0
"""Kernels enter in this unit, mm⁻²: at vertices they are some units, between them hundredths."""


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
        batch_size=8,
        torch_model=lambda: _models("torch").AllCNN(),
        nnx_model=lambda: _models("nnx").AllCNN(),
        torch_loss=lambda *a: _models("torch").ratio_loss(*a),
        jax_loss=lambda *a: _models("nnx").ratio_loss(*a),
        loss_label="asymmetric ratio loss, mean over bins",
        epochs=20,
        learning_rates={"sgd": 1e-3, "adam": 1e-4},
        grid=13,
    )
    return common.with_landscape(made, 8)


def kernels(events: Sequence[Event]) -> np.ndarray:
    """Return the kernels, shape (n, 1, 4000), float32."""
    values = np.stack([event.kernel for event in events])[:, None]  # type: ignore[misc]
    return (values / np.float32(KERNEL_UNIT)).astype(np.float32)


def _models(framework: str) -> Any:
    return import_module(f"{__package__}.pv_finder.{framework}_models")

"""AllCNN of PV-finder: convolutions from the kernel of an event to the histogram of its vertices.

The network has 4000 input bins, 4000 output bins and 6,693 parameters: convolutions with channels ×
width 20×25, 10×15, 10×15, 10×15, 1×5, each with LeakyReLU (0.01), a filter 1×91, and softplus. The
loss is the asymmetric ratio loss. Without ``data``, the study has 2000 toy events for training and
1000 held-out toy events.

Training only succeeds from suitable initial parameters. From the default of PyTorch, every output
falls below ε of the loss, where a vertex has no gradient, and all bins stay empty. So the initial
weights follow He et al. 2015, and the last bias is close to the best constant output (the idea of
Lin et al. 2017, *Focal loss for dense object detection*, section 3.3). The rate rises for 0.3 of
the steps and falls to 0 along a cosine. With a rise of 0.1, at a rate of 0.01, the bins of one of
five seeds stayed empty. The published network has dropout. A network with so few parameters does
not overfit thousands of events, and finds more vertices without dropout.

Sources: Fang et al. 2019, *A hybrid deep learning approach to vertexing* (arXiv:1906.08306); Akar
et al. 2020, *An updated hybrid deep learning algorithm for identifying and locating primary
vertices* (arXiv:2007.01023); the code of the project for kernel, target and counting.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import numpy as np

from studies.study import Study

from .pv_finder import common
from .pv_finder.event import Event
from .pv_finder.networks import allcnn

KERNEL_UNIT: Final = 2500.0
"""The unit of input kernels, mm⁻², as in PV-finder: the largest values are about 1."""
LAST_BIAS: Final = -13.0
"""Its softplus is 2e-6. With 1 bin of 100 in a vertex, the best constant output is some hundredths
of ε = 1e-5: there the many bins that are too large balance the few that are too small."""


WEIGHTS: Final = pathlib.Path(__file__).with_name("allcnn.safetensors")
"""Trained parameters; the gallery describes the training."""


def study(
    seed: int, data: pathlib.Path | None = None, events: int = 2000, *, pretrained: bool = False
) -> Study:
    """Return the study.

    Args:
        seed: the seed of the initial parameters, the order of mini-batches, and the split of
            ``data``.
        data: a ROOT or HDF5 file with kernels or hits, or a folder of files; ``None``: toy events.
        events: the number of toy events for training.
        pretrained: start from the trained parameters in the package.
    """
    return of_features(
        seed,
        data,
        events,
        name="allcnn",
        title="AllCNN of PV-finder",
        need="kernel",
        features=1,
        inputs=kernels,
        pretrained=WEIGHTS if pretrained else None,
    )


def of_features(
    seed: int, data: pathlib.Path | None, events: int, *, features: int, **rest: Any
) -> Study:
    """Return the study of a network with a number of features for each bin.

    Args:
        seed: as for :func:`study`.
        data: as for :func:`study`.
        events: as for :func:`study`.
        features: the number of features.
        rest: other arguments of :func:`.pv_finder.common.study`.
    """
    made = common.study(
        seed=seed,
        data=data,
        events=events,
        shapes=allcnn(features),
        batch_size=8,
        gain=6**0.5,
        start=start(),
        model=lambda models: models.AllCNN(features),
        loss="ratio_loss",
        loss_label="asymmetric ratio loss, mean over bins",
        epochs=5,
        learning_rates={"sgd": 1e-1, "adam": 1e-2},
        schedule=partial(common.cycle, warmup=0.3),
        grid=13,
        **rest,
    )
    return common.with_landscape(made, 8)


def start() -> dict[str, np.ndarray]:
    """Return the initial parameters that are not drawn."""
    return {"filter.bias": np.array([LAST_BIAS], np.float32)}


def kernels(events: Sequence[Event]) -> np.ndarray:
    """Return the kernels, shape (n, 1, 4000), float32."""
    values = np.stack([event.kernel for event in events])[:, None]  # type: ignore[misc]
    return (values / np.float32(KERNEL_UNIT)).astype(np.float32)

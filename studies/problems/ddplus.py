"""DDplus of PV-finder: from the tracks of an event, without a kernel, to the vertices.

The network of :mod:`.ddplus_kernel` predicts a kernel from the tracks, and the network of
:mod:`.allcnn` predicts vertices from the kernel: 52,044 parameters. As the authors did, train the
two parts separately, and then the whole network from the trained parts::

    python -m studies run ddplus_kernel
    python -m studies run allcnn
    python -m studies run ddplus --start runs/ddplus_kernel/adam/torch runs/allcnn/adam/torch

The loss is that of AllCNN. Source: Akar et al. 2021 (arXiv:2103.04962).
"""

from __future__ import annotations

import pathlib
from typing import Final

from studies.study import Study

from .allcnn import start
from .ddplus_kernel import quiet, tracks
from .pv_finder import common
from .pv_finder.networks import TRACKS_TO_KERNEL, allcnn

WEIGHTS: Final = pathlib.Path(__file__).with_name("ddplus.safetensors")
"""Trained parameters; the page on PV-finder describes the training."""


def study(
    seed: int, data: pathlib.Path | None = None, events: int = 1000, *, pretrained: bool = False
) -> Study:
    """Return the study.

    Args:
        seed: the seed of the initial parameters, the order of mini-batches, and the split of
            ``data``.
        data: a ROOT file with hits, an HDF5 file with tracks, or a folder; ``None``: toy events.
        events: the number of toy events for training.
        pretrained: start from the trained parameters in the package.
    """
    made = common.study(
        name="ddplus",
        title="DDplus of PV-finder",
        seed=seed,
        data=data,
        events=events,
        need="tracks",
        inputs=tracks,
        shapes=TRACKS_TO_KERNEL | allcnn(),
        gain=6**0.5,
        start=start(),
        pretrained=WEIGHTS if pretrained else None,
        batch_size=8,
        model=lambda models: models.DDplus(),
        loss="ratio_loss",
        loss_label="asymmetric ratio loss, mean over bins",
        epochs=5,
        learning_rates={"sgd": 1e-2, "adam": 1e-3},
        schedule=common.cycle,
        grid=5,
    )
    return common.with_landscape(made if pretrained else quiet(made), 4)

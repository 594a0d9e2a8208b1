"""What AllCNN and DDplus share as studies: events to examples, and what is measured."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from studies.study import Batch, Dropout, Study, layers, split, stream

from . import efficiency, files, toy
from .drawing import vertex_histograms
from .event import Event
from .targets import target


def study(
    *,
    name: str,
    title: str,
    seed: int,
    data: pathlib.Path | None,
    events: int,
    need: files.Need,
    inputs: Callable[[Sequence[Event]], np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    dropout: tuple[Dropout, ...],
    batch_size: int,
    gain: float = 1.0,
    **rest: Any,
) -> Study:
    """Return a study of events.

    Args:
        name: of the study.
        title: of the study.
        seed: of all draws.
        data: a file or folder; ``None``: toy events.
        events: how many toy events are for training; half as many more are held out.
        need: what the network sees of an event.
        inputs: makes the network's inputs of events, shape (n, …), float32.
        shapes: of the layers' weights.
        dropout: its places.
        batch_size: at most; files of few events have smaller ones.
        gain: of the initial weights; see :func:`studies.study.layers`.
        rest: what :class:`~studies.study.Study` has besides.
    """
    if data is None:
        number = events + max(1, events // 2)
        everything = toy.events(number, stream(seed, "events"))
        held_out = number - events
    else:
        everything = files.read(data, need)
        held_out = max(1, len(everything) // 5)
    examples = Batch(inputs(everything), np.stack([target(event) for event in everything]))
    batch_size = max(1, min(batch_size, len(everything) - held_out))
    order = stream(seed, "split").permutation(len(everything))
    train_rows, test_rows = split(examples, batch_size, order, held_out)
    train, test = examples.take(train_rows), examples.take(test_rows)
    tested = [everything[i] for i in test_rows]
    initial, leaves = layers(seed, shapes, gain)
    return Study(
        name=name,
        title=title,
        seed=seed,
        train=train,
        test=test,
        initial=initial,
        nnx_leaves=leaves,
        batch_size=batch_size,
        path_every="epoch",
        metrics=lambda outputs, targets: rates(outputs, tested),
        draw_predictions=vertex_histograms,
        showcase=test.take(slice(0, 3)),
        dropout=dropout,
        threads=None,
        **rest,
    )


def rates(outputs: np.ndarray, events: Sequence[Event]) -> dict[str, float]:
    """Return efficiency and false positives an event of the predicted histograms."""
    counts = efficiency.count(outputs, events)
    return {"efficiency": counts.efficiency, "false_positives": counts.false_positives}


def with_landscape(made: Study, examples: int) -> Study:
    """Return the study with the loss of its first training examples for drawings."""
    return replace(made, landscape=made.train.take(slice(0, examples)))

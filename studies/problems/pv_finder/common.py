"""What AllCNN and DDplus share as studies: events to examples, and what is measured."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from optstudy_core.schedules import Cosine, Linear, Schedule, joined
from studies.study import Batch, Dropout, Study, layers, split, stream

from . import efficiency, files, store
from .drawing import kernels, vertex_histograms
from .event import Event
from .performance import assess
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
    wanted: Callable[[Sequence[Event]], np.ndarray] | None = None,
    shapes: Mapping[str, tuple[int, ...]],
    model: Callable[[Any], Any],
    loss: str,
    batch_size: int,
    dropout: tuple[Dropout, ...] = (),
    gain: float = 1.0,
    start: Mapping[str, np.ndarray] | None = None,
    pretrained: pathlib.Path | None = None,
    **rest: Any,
) -> Study:
    """Return a study of events.

    Args:
        name: of the study.
        title: of the study.
        seed: of all draws.
        data: a file or folder; ``None``: toy events.
        events: how many toy events are for training; half as many others, at most 1000, are held
            out. Every seed has the same.
        need: what the network sees of an event.
        inputs: makes the network's inputs of events, shape (n, …), float32.
        wanted: makes what the network should say of them, shape (n, 4000), float32; ``None``: the
            histograms of vertices, by which it is measured, too.
        shapes: of the layers' weights.
        model: makes the network, given :mod:`.torch_models` or :mod:`.nnx_models`.
        loss: the name of a function of both of these.
        batch_size: at most; files of few events have smaller ones.
        dropout: its places.
        gain: of the initial weights; see :func:`studies.study.layers`.
        start: initial parameters that are not drawn, by name.
        pretrained: a file with the parameters to begin with; ``None``: those drawn.
        rest: what :class:`~studies.study.Study` has besides.
    """
    if data is None:
        held_out = max(1, min(1000, events // 2))
        everything = store.events("training", events) + store.events("held out", held_out)
        order = np.arange(len(everything))
    else:
        everything = files.read(data, need)
        held_out = max(1, len(everything) // 5)
        order = stream(seed, "split").permutation(len(everything))
    finds = wanted is None
    examples = Batch(inputs(everything), (wanted or histograms)(everything))
    batch_size = max(1, min(batch_size, len(everything) - held_out))
    train_rows, test_rows = split(examples, batch_size, order, held_out)
    train, test = examples.take(train_rows), examples.take(test_rows)
    # Of a file all events are shown, as a network that was trained before has seen none of them.
    shown = test if data is None else examples
    of_shown = [everything[i] for i in (test_rows if data is None else range(len(everything)))]
    initial, leaves = layers(seed, shapes, gain)
    if pretrained is not None:
        initial = weights(pretrained, initial)
    else:
        initial |= dict(start or {})
    return Study(
        name=name,
        title=title,
        seed=seed,
        train=train,
        test=test,
        initial=initial,
        nnx_leaves=leaves,
        torch_model=lambda: model(_models("torch")),
        nnx_model=lambda: model(_models("nnx")),
        torch_loss=lambda *a: getattr(_models("torch"), loss)(*a),
        jax_loss=lambda *a: getattr(_models("nnx"), loss)(*a),
        batch_size=batch_size,
        path_every="epoch",
        metrics=rates if finds else lambda outputs, targets: {},
        assess=partial(assess, inputs=shown.inputs, targets=shown.targets, events=of_shown)
        if finds
        else None,
        draw_predictions=vertex_histograms if finds else kernels,
        showcase=test.take(slice(0, 3)),
        dropout=dropout,
        threads=1,
        at_once=max(size for size in range(1, 101) if len(train_rows) % size == 0),
        **rest,
    )


def _models(framework: str) -> Any:
    """Return the module with the networks of a framework, which is imported when it is needed."""
    return import_module(f"{__package__}.{framework}_models")


def cycle(lr: float, steps: int, warmup: float = 0.1) -> Schedule:
    """Return a rate that rises from lr/25 for a share of the steps, and falls to 0 as a cosine."""
    rising = max(1, int(warmup * steps))
    falling = Cosine(lr, 0.0, max(1, steps - rising))
    return joined(Linear(lr / 25, lr, rising), falling, at=[rising])


def histograms(events: Sequence[Event]) -> np.ndarray:
    """Return the histograms of the events' vertices, shape (n, 4000), float32."""
    return np.stack([target(event) for event in events])


def rates(outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Return efficiency and false positives an event of the predicted histograms."""
    counts = efficiency.count([efficiency.peaks(histogram) for histogram in outputs], targets)
    return {"efficiency": counts.efficiency, "false_positives": counts.false_positives}


def weights(file: pathlib.Path, like: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the parameters in a file of safetensors.

    Args:
        file: the file.
        like: parameters of the names and shapes that are expected.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds others.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file}: there are no trained parameters yet")
    try:
        found = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{file}: expected a file of safetensors, found: {error}") from error
    shapes = {name: value.shape for name, value in found.items()}
    wanted = {name: value.shape for name, value in like.items()}
    if shapes != wanted:
        raise ValueError(f"{file}: expected parameters of the shapes {wanted}, found {shapes}")
    return {name: found[name].astype(np.float32) for name in like}


def with_initial(made: Study, some: Mapping[str, np.ndarray]) -> Study:
    """Return the study with other initial parameters of some names."""
    return replace(made, initial=dict(made.initial) | dict(some))


def with_landscape(made: Study, examples: int) -> Study:
    """Return the study with the loss of its first training examples for drawings."""
    return replace(made, landscape=made.train.take(slice(0, examples)))

"""Code shared by the studies AllCNN and DDplus: examples from events, and measurements."""

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
        name: the name of the study.
        title: the title of the study.
        seed: the seed of all draws.
        data: a file or folder; ``None``: toy events.
        events: the number of toy events for training; half as many others, at most 1000, are held
            out. Every seed has the same events.
        need: the part of an event that the network gets.
        inputs: a function from events to inputs of the network, shape (n, …), float32.
        wanted: a function from events to targets of the network, shape (n, 4000), float32;
            ``None``: the histograms of vertices, which also measure the network.
        shapes: the shapes of the weights of the layers.
        model: a function of :mod:`.torch_models` or :mod:`.nnx_models` that makes the network.
        loss: the name of a function in both of these modules.
        batch_size: the largest batch size; files with few events have smaller batches.
        dropout: the dropout layers.
        gain: the gain of the initial weights; see :func:`studies.study.layers`.
        start: initial parameters that are not drawn, by name.
        pretrained: a file with initial parameters; ``None``: drawn parameters.
        rest: other arguments of :class:`~studies.study.Study`.
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
    # Show all events of a file, because a trained network has seen none of them.
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
    """Import and return the module with the networks of a framework."""
    return import_module(f"{__package__}.{framework}_models")


def cycle(lr: float, steps: int, warmup: float = 0.1) -> Schedule:
    """Return a rate that rises from lr/25 for a part of the steps, and falls to 0 as a cosine."""
    rising = max(1, int(warmup * steps))
    falling = Cosine(lr, 0.0, max(1, steps - rising))
    return joined(Linear(lr / 25, lr, rising), falling, at=[rising])


def histograms(events: Sequence[Event]) -> np.ndarray:
    """Return the histograms of the vertices of events, shape (n, 4000), float32."""
    return np.stack([target(event) for event in events])


def rates(outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Return the efficiency and the false positives per event of predicted histograms."""
    counts = efficiency.count([efficiency.peaks(histogram) for histogram in outputs], targets)
    return {"efficiency": counts.efficiency, "false_positives": counts.false_positives}


def weights(file: pathlib.Path, like: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the parameters in a safetensors file.

    Args:
        file: the file.
        like: parameters with the expected names and shapes.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file has other parameters.
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
    """Return the study with other values of some initial parameters."""
    return replace(made, initial=dict(made.initial) | dict(some))


def with_landscape(made: Study, examples: int) -> Study:
    """Return the study with only the first training examples in drawings of the loss."""
    return replace(made, landscape=made.train.take(slice(0, examples)))

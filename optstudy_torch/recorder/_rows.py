"""Rows from measurements on the host."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from optstudy_core import instruments as core

from ._layers import Layers
from ._pending import Pending, number


class Measured(NamedTuple):
    """A step on the host: its description, its values, and the sums of each layer."""

    made: Pending
    values: dict[str, Any]
    sums: dict[core.Reduction, np.ndarray]


def step_rows(layers: Layers, steps: Sequence[Measured]) -> Iterator[dict[str, Any]]:
    """Yield the rows of steps; steps with the same quantities are computed together."""
    for _, group in groupby(steps, _alike):
        alike = list(group)
        for row, (made, values, _) in zip(_rows(layers, alike), alike, strict=True):
            with_more = core.with_activations(row, made.due, values["activations"])
            metrics = {name: number(value) for name, value in values["metrics"].items()}
            yield core.with_metrics(with_more, metrics)


def _alike(step: Measured) -> tuple[Any, ...]:
    made, values, _ = step
    # Noise is computed for each step, because numbers of micro-batches may differ.
    return id(made.due), id(made.layout), made.number if values["micro"] else 0


def _rows(layers: Layers, steps: Sequence[Measured]) -> list[dict[str, Any]]:
    first = steps[0]
    due, layout = first.made.due, first.made.layout
    names, groups = layers.names[: layout.layers], layers.groups[: layout.layers]
    sums = {r: np.stack([s.sums[r] for s in steps], axis=1) for r in first.sums}
    rates = [[number(rate) for rate in s.values["rates"]] for s in steps]
    given: dict[str, Any] = {
        name: np.array([number(s.values["numbers"].get(name, math.nan)) for s in steps])
        for name in due.given - {"micro"}
    }
    lr = np.array([[rate_of(own, group) for own in rates] for group in groups])
    given["lr"] = np.array([rate_of(own, 0) for own in rates])
    micro = core.MicroBatches.of(first.values["micro"])
    if isinstance(micro, core.MicroBatches):
        given["micro"] = micro.whole()
    return core.plain_rows(
        [{"epoch": s.made.epoch, "step": s.made.number} for s in steps],
        due,
        core.Sums(sums, in_columns(layout.sizes), {"lr": lr, "micro": micro}),
        layout.present,
        given,
        names,
        [
            core.by_layer(dict(zip(s.made.targets, s.values["profiles"], strict=True)), names)
            for s in steps
        ],
    )


def in_columns(sizes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return sizes of layers for ``plain_rows``."""
    return {u: size[:, None] for u, size in sizes.items()}


def rate_of(rates: Sequence[float], group: int) -> float:
    """Return the rate of a group; NaN without a group."""
    return rates[group] if 0 <= group < len(rates) else math.nan

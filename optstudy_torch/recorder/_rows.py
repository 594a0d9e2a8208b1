"""Rows from measurements on the host."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from optstudy_core import instruments as core

from ._layers import Layers
from ._pending import Measured, number


def alike(step: Measured) -> tuple[Any, ...]:
    """Return a key that is equal for steps whose rows are computed together."""
    made, values = step
    # Noise is computed for each step, because numbers of micro-batches may differ.
    one = made.number if values["micro"] else 0
    return id(made.due), id(made.layout), made.reductions, one


def step_rows(
    layers: Layers, steps: Sequence[Measured], sums: Mapping[core.Reduction, np.ndarray]
) -> Iterator[dict[str, Any]]:
    """Yield the rows of steps that are alike.

    Args:
        layers: the parameters.
        steps: the steps.
        sums: their sums, arrays (layers, steps).
    """
    for row, (made, values) in zip(_rows(layers, steps, sums), steps, strict=True):
        with_more = core.with_activations(row, made.due, values["activations"])
        if values["metrics"]:
            metrics = {name: number(value) for name, value in values["metrics"].items()}
            with_more = core.with_metrics(with_more, metrics)
        yield with_more


def _rows(
    layers: Layers, steps: Sequence[Measured], sums: Mapping[core.Reduction, np.ndarray]
) -> list[dict[str, Any]]:
    first = steps[0]
    due, layout = first.made.due, first.made.layout
    names, groups = layers.names[: layout.layers], layers.groups[: layout.layers]
    rates = np.array([[number(rate) for rate in s.values["rates"]] for s in steps]).T
    given: dict[str, Any] = {
        name: np.array([number(s.values["numbers"].get(name, math.nan)) for s in steps])
        for name in due.given - {"micro"}
    }
    absent = np.full(len(steps), math.nan)
    of_groups = [rates[i] if 0 <= i < len(rates) else absent for i in (0, *groups)]
    given["lr"], lr = of_groups[0], np.array(of_groups[1:])
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

"""Rows from what came to the host."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from optstudy_core import instruments as core

from ._layers import Layers
from ._pending import Pending, number
from ._sums import Layout


def step_row(
    layers: Layers, made: Pending, values: dict[str, Any], sums: dict[core.Reduction, np.ndarray]
) -> dict[str, Any]:
    """Return the row of a step.

    Args:
        layers: the parameters.
        made: the step.
        values: what was measured of it, on the host.
        sums: of each layer.
    """
    head = {"epoch": made.epoch, "step": made.number}
    given = {name: number(value) for name, value in values["numbers"].items()}
    micro = core.MicroBatches.of(values["micro"])
    rates = [number(rate) for rate in values["rates"]]
    profiles = dict(zip(made.targets, values["profiles"], strict=True))
    row = plain_row(layers, made.due, head, made.layout, sums, given, rates, micro, profiles)
    row = core.with_activations(row, made.due, values["activations"])
    metrics = {name: number(value) for name, value in values["metrics"].items()}
    return core.with_metrics(row, metrics)


def plain_row(
    layers: Layers,
    chosen: core.Chosen,
    head: dict[str, int],
    layout: Layout,
    values: Mapping[core.Reduction, np.ndarray],
    given: dict[str, float],
    rates: list[float],
    micro: core.MicroBatches | float,
    profiles: Mapping[core.Target, Sequence[float]],
) -> dict[str, Any]:
    """Return a row from plain sums, of the layers that were there when they were measured."""
    names = layers.names[: layout.layers]
    lr = np.array([rate_of(rates, group) for group in layers.groups[: layout.layers]])
    sums = core.Sums(values, layout.sizes, {"lr": lr, "micro": micro})
    known: dict[str, Any] = {"lr": rate_of(rates, 0), **given}
    if isinstance(micro, core.MicroBatches):
        known["micro"] = micro.whole()
    by_layer = core.by_layer(profiles, names)
    return core.plain_row(head, chosen, sums, layout.present, known, names, by_layer)


def rate_of(rates: Sequence[float], group: int) -> float:
    """Return the rate of a group; NaN where there is none."""
    return rates[group] if 0 <= group < len(rates) else math.nan

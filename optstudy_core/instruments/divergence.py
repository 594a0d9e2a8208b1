"""The first difference between the recorded rows of two trainings, and what it tells."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from optstudy_core.arrays.numbers import is_number


class Divergence(NamedTuple):
    """The first row in which two recordings differ.

    Attributes:
        at: the number of the step or epoch.
        quantities: the names of the quantities of the whole network that differ.
        layers: for each layer with a difference, the names of the quantities that differ.
        cause: a sentence about the probable cause.
    """

    at: int
    quantities: list[str]
    layers: dict[str, list[str]]
    cause: str


def first_difference(
    rows: Sequence[Mapping[str, Any]],
    others: Sequence[Mapping[str, Any]],
    *,
    tolerance: float = 0.0,
    layers: Mapping[str, str] | None = None,
) -> Divergence | None:
    """Return the first row in which two recordings differ; ``None`` if no row differs.

    Only numbers that both rows have are compared. NaN equals NaN. The quantity that differs first
    tells the cause, so record ``loss``, ``lr``, ``grad_norm``, ``step_size`` and ``param_norm``.

    Args:
        rows: the rows of one training: ``recorder.steps``, ``recorder.epochs``, or
            ``Run.read(folder).step_rows``.
        others: the rows of the other training, a list like ``rows``.
        tolerance: the largest relative difference of two numbers that count as equal. Trainings in
            two frameworks differ in the last digits from the first step on.
        layers: for each layer in ``rows``, its name in ``others``; ``None``: the same names.

    Raises:
        ValueError: if the rows of a pair have other numbers of steps or epochs, or ``tolerance``
            is negative.

    >>> one = [{"step": 1, "lr": 0.1, "loss": 2.0}, {"step": 2, "lr": 0.1, "loss": 1.0}]
    >>> other = [{"step": 1, "lr": 0.1, "loss": 2.0}, {"step": 2, "lr": 0.2, "loss": 1.5}]
    >>> found = first_difference(one, other)
    >>> found.at, found.quantities, found.cause
    (2, ['lr', 'loss'], 'the schedule: the learning rates differ')
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance = {tolerance!r}: allowed are numbers ≥ 0")
    for row, other in zip(rows, others, strict=False):
        unit = "step" if "step" in row else "epoch"
        if row.get(unit) != other.get(unit):
            raise ValueError(
                f"{unit} {row.get(unit)} of the first training is beside {unit} "
                f"{other.get(unit)} of the second: record both at the same steps and epochs"
            )
        quantities = _differing(row, other, tolerance)
        both = [
            (name, own, other.get("layers", {}).get(name if layers is None else layers.get(name)))
            for name, own in row.get("layers", {}).items()
        ]
        within = {
            name: found
            for name, own, its in both
            if its is not None and (found := _differing(own, its, tolerance))
        }
        if quantities or within:
            names = [*quantities, *(name for found in within.values() for name in found)]
            return Divergence(int(row[unit]), quantities, within, _cause(names))
    return None


def _differing(row: Mapping[str, Any], other: Mapping[str, Any], tolerance: float) -> list[str]:
    return [
        name
        for name, x in row.items()
        if is_number(x) and is_number(other.get(name)) and not _equal(x, other[name], tolerance)
    ]


def _equal(x: float, y: float, tolerance: float) -> bool:
    if math.isnan(x) or math.isnan(y):
        return math.isnan(x) and math.isnan(y)
    return x == y or abs(x - y) <= tolerance * max(abs(x), abs(y))


def _cause(names: Sequence[str]) -> str:
    if "lr" in names:
        return "the schedule: the learning rates differ"
    if "loss" in names:
        return "the data, dropout or the model: the losses differ"
    if any(name.startswith("grad_") for name in names):
        return "the backward pass, or clipping: the losses agree, and the gradients differ"
    return "the optimizer: the losses and gradients agree, and the steps differ"

"""Hyperparameters that are schedules: functions of the number of steps of an optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from optstudy_core import Algorithm

from ._arguments import names_of, selected, split_tuples, tuples_of
from ._states import Layout

Schedules = dict[str, Callable[[int], Any]]
"""Schedules by the names of hyperparameters in the core."""

COUNT = "scheduled_steps"
"""The entry of a group that counts the steps of its schedules."""


def apart(algorithm: Algorithm, values: dict[str, Any]) -> tuple[dict[str, Any], Schedules]:
    """Return values with the numbers at count 0 instead of schedules, and the schedules.

    Args:
        algorithm: the algorithm of the group.
        values: schedules and other values, by names of torch.
    """
    found = {name: f for name, f in own_values(algorithm, values).items() if callable(f)}
    start = {k: x for k, x in values.items() if k in names_of(algorithm)}
    return values | at(algorithm, start, found, 0), found


def own_values(algorithm: Algorithm, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyperparameters among values, by the names of the core."""
    tuples = tuples_of(algorithm.defaults())
    named = {k: v for k, v in values.items() if k in names_of(algorithm)}
    whole = {k: v for k, v in named.items() if k not in tuples or isinstance(v, tuple | list)}
    return split_tuples(algorithm, whole)


def at(
    algorithm: Algorithm, values: Mapping[str, Any], schedules: Schedules, count: int
) -> dict[str, Any]:
    """Return the values of schedules at a count, by names of torch."""
    now = {name: _number(name, float(f(count))) for name, f in schedules.items()}
    for whole, inside in tuples_of(algorithm.defaults()).items():
        new = [now.pop(name, None) for name in inside]
        if any(x is not None for x in new):
            pairs = zip(new, values[whole], strict=True)
            now[whole] = tuple(old if x is None else x for x, old in pairs)
    return now


def _number(name: str, value: float) -> Any:
    """Return a value; 0 as a tensor, because the number 0 would leave the term out."""
    return torch.zeros((), dtype=torch.float64) if value == 0 and name != "lr" else value


def steps_of(algorithm: Algorithm, group: dict[str, Any], states: Mapping[Any, Any]) -> int:
    """Return the number of steps of the parameters of a group, from the counts in their states.

    Raises:
        ValueError: if no state counts steps.
    """
    layout = Layout.of(*selected(algorithm, group))
    names = [n for n, counts in zip(layout.names, layout.counts, strict=True) if counts]
    own = [states[p] for p in group["params"] if states[p]]
    if own and not names:
        raise ValueError(
            f"state_dict without {COUNT!r} in a group whose hyperparameters are schedules: allowed "
            f"is the number of steps, because states of {algorithm.name} count none"
        )
    return max((int(state[name]) for state in own for name in names), default=0)

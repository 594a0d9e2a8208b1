"""Standard runs that only some algorithms need (:mod:`parity.standard`).

Such a run meets a bound exactly, or has shapes, inputs or gradients that matter to few formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from optstudy_core import Algorithm
from optstudy_core.catalogue.table import find

from .drawn import StandardRun
from .ordinary import ordinary, terms_of
from .structures import STRUCTURES

STEPS: Final = 24
_STEPS_OF_LONG_ONES: Final = 3
_TINY: Final = 2.0**-40  # a factor of parameters and gradients
_LEAST: Final = 2.0**-80  # the magnitude of gradients whose square is 0 in float32
_GRADIENTS: Final = (
    (4, np.nan),
    (9, np.inf),
    (STEPS - 1, np.nan),
)  # steps, and elements that are not finite
_LOSSES: Final = ((14, np.inf), (17, np.nan))

JUMPS: Final = {
    "jump_threshold": 0.3,
    "level_decay": 0.1,
    "jump_warmup": 1.0,
    "most_jumps": 2.5,
}
"""With which many steps jump."""

SETTINGS: Final[tuple[dict[str, Any], ...]] = (
    {"accumulation_steps": 1.5},
    {"sync_period": 1.5},
    {"ascent_period": 1.5},
    {"ascent_period": 1.0},
    {"update_interval": 1.5},
    {"precondition_frequency": 1.5},
    {"consistent_rms": 0.0},
    {"consistent_rms": 0.0, "eps": 9.0, "ns_coefficients": (1.0, 0.0, 0.0)},
    {"consistent_rms": 0.37, "eps": 9.0, "ns_coefficients": (1.0, 0.0, 0.0)},
    {"output_axis": ()},
    {"clip_factor": 1.3, "unit_eps": 0.0},
    JUMPS,
    {"adapt_lower_bound": True, "weight_decay": 0.13, "lower_bound": -50.3, "lr": 0.053},
    {"adapt_lower_bound": True, "weight_decay": 1.7, "lower_bound": -9.3, "lr": 0.31},
    {"adapt_lower_bound": True, "weight_decay": 0.0031, "lower_bound": -50.3, "lr": 300.0},
)
"""Values of which an algorithm has all or none."""


@dataclass(frozen=True)
class ParticularRun(StandardRun):
    """A run with particular gradients.

    Attributes:
        begin: the step from which gradients are there, from 0.
        infinite: whether some gradients and losses are infinite or NaN.
        alone: whether an algorithm that can do without its inputs gets gradients alone.
        balance: the name of an algorithm in :data:`BALANCES`, or ``None``.
    """

    begin: int = 0
    infinite: bool = False
    alone: bool = False
    balance: str | None = None

    def values(self) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
        """Return the parameters and, for each step, the gradients."""
        params, grads = super().values()
        for i, leaf in enumerate(STRUCTURES[self.structure]):
            for row in (params, *grads) if leaf.path == "tiny/bias" else ():
                row[i] = row[i] * row[i].dtype.type(_TINY)
            for row in grads if leaf.path == "least/bias" else ():
                row[i] = np.sign(row[i]) * row[i].dtype.type(_LEAST)
        for row in grads[: self.begin]:
            row[:] = [np.zeros_like(g) for g in row]
        if self.balance is not None:
            given = find(self.balance).resolve(self.dialect, self.groups[0])
            columns = zip(*grads, strict=True)
            balanced = [BALANCES[self.balance](given, [*column]) for column in columns]
            grads = [list(row) for row in zip(*balanced, strict=True)]
        for t, x in _GRADIENTS if self.infinite else ():
            grads[t][0].flat[0] = x
        return params, grads

    def inputs(self, algorithm: Algorithm) -> list[dict[str, Any]]:
        """Return, for each step, the inputs of the algorithm besides the gradients."""
        if self.alone:
            return [{} for _ in range(self.steps)]
        rows = super().inputs(algorithm)
        for t, x in _LOSSES if self.infinite else ():
            rows[t].update({name: rows[t][name].dtype.type(x) for name in rows[t]})
        return rows


def particular_runs(algorithm: Algorithm, dialect: str | None) -> Iterator[ParticularRun]:
    """Yield the particular runs of an algorithm in a dialect."""
    defaults, on = algorithm.defaults(dialect), ordinary(algorithm, dialect)
    opposite = {name: not x for name, x in defaults.items() if isinstance(x, bool)}

    def run(given: dict[str, Any], structure: str = "odd", **more: Any) -> Iterator[ParticularRun]:
        more = {"dtype": "float32", "steps": STEPS} | more
        found = ParticularRun.with_setting(algorithm, dialect, given, structure, **more)
        if found is not None:
            yield found

    without = dict.fromkeys(terms_of(algorithm, dialect), 0.0)
    yield from run(on)
    yield from run(on | without, dtype="float64")
    for name in opposite if len(opposite) > 2 else ():  # all but one
        yield from run(on | {k: x for k, x in opposite.items() if k != name})
    for given in SETTINGS:
        if given.keys() <= defaults.keys():
            yield from run(on | given)
    if "estim_lr0" in defaults:  # no distance can be estimated at first
        yield from run(on, begin=2)
    if algorithm.inputs and not any(algorithm.inputs.values()):
        yield from run(on, alone=True)
    if algorithm.name == "rprop" or {"jump_threshold", "estim_lr0"} & defaults.keys():
        yield from run(on, infinite=True)
    if "jump_threshold" in defaults:
        yield from run(on | JUMPS, infinite=True)
    if algorithm.name in BALANCES:
        yield from run(on, "many", dtype="float64", balance=algorithm.name)
        yield from run(on, "many", balance=algorithm.name)
        if "nesterov" in defaults:
            yield from run(on | {"nesterov": True}, "many", balance=algorithm.name)
    if {"ridge", "precondition_frequency"} & defaults.keys():  # some axes have no matrix
        yield from run(on, "long", steps=_STEPS_OF_LONG_ONES)
    if "large_only" in defaults:
        yield from run(on | {"large_only": True}, "beyond", steps=_STEPS_OF_LONG_ONES)


Balance = Callable[[dict[str, Any], list[np.ndarray]], list[np.ndarray]]


def _balance(
    grads: list[np.ndarray],
    start: float,
    averaged: Callable[[np.ndarray, np.ndarray], np.ndarray],
    root: Callable[[np.ndarray], np.ndarray],
) -> list[np.ndarray]:
    """Return gradients of which each element once cancels the average of those before it.

    So a sum under a sign is 0 there, but for its roundings.

    Args:
        grads: the gradients of a leaf at every step.
        start: the average at first.
        averaged: returns the next average, from the average and a gradient.
        root: returns the gradient that cancels an average.
    """
    average, found = np.full(grads[0].shape, start), []
    places = np.arange(average.size).reshape(average.shape) % (len(grads) - 1)
    for t, g in enumerate(grads):
        g = np.where(places == t - 1, root(average), g).astype(g.dtype)
        average = averaged(average, g.astype(np.float64))
        found.append(g)
    return found


def _of_lion(given: dict[str, Any], grads: list[np.ndarray]) -> list[np.ndarray]:
    b1, b2 = given["b1"], given["b2"]
    return _balance(grads, 0.0, lambda m, g: b2 * m + (1 - b2) * g, lambda m: -b1 / (1 - b1) * m)


def _of_adamuon(given: dict[str, Any], grads: list[np.ndarray]) -> list[np.ndarray]:
    mu = given["momentum"]
    share = mu * mu / (1 - mu * mu) if given["nesterov"] else mu / (1 - mu)
    return _balance(grads, 0.0, lambda b, g: mu * b + (1 - mu) * g, lambda b: -share * b)


def _of_yogi(given: dict[str, Any], grads: list[np.ndarray]) -> list[np.ndarray]:
    b2 = given["b2"]
    return _balance(
        grads,
        given["initial_accumulator_value"],
        lambda v, g: v - (1 - b2) * np.sign(v - g * g) * (g * g),
        np.sqrt,
    )


BALANCES: Final[dict[str, Balance]] = {"adamuon": _of_adamuon, "lion": _of_lion, "yogi": _of_yogi}
"""Functions that balance gradients for the algorithms with a sign of a sum."""

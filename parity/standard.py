"""The standard runs of a digest (:mod:`parity.digest`).

A long run has parameters of eight shapes in four groups, 200 steps (20 for rules that multiply
matrices), once in each dtype. The first group has the defaults of the dialect. The second group
maximizes, with every term of the formula switched on. The third group also has the opposite of
every boolean default. The fourth group has every other term, and a large learning rate, so that
small terms count. The hyperparameters of the second and the third group change before every step.

Short runs of 12 steps have one setting each: other values for all numbers, terms left out, and one
boolean or other choice changed at a time. Their parameters have corners: tall and wide matrices,
three axes, no elements, gradients that are zero, tiny or come late. One more run of rules that
depend on shapes has matrices as large as their bounds.

Some algorithms have particular runs besides (:mod:`parity.particular`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from optstudy_core import Algorithm
from optstudy_core.arrays.numbers import ANY, is_number
from optstudy_core.catalogue.hyperparameters import RANGES

from .case import MOVING
from .drawn import StandardRun, words
from .ordinary import OTHERS, ordinary, terms_of
from .particular import particular_runs
from .structures import DTYPES, STRUCTURES

STEPS: Final = 200
STEPS_OF_MATRICES: Final = 20
_MEMBERSHIP: Final = (0, 0, 1, 1, 2, 2, 3, 3)  # a matrix and a vector or a scalar each
_MAXIMIZE: Final = "maximize"
_SWITCHED_ON: Final = 0.0137  # for a term that is absent by default, or too small to count
_LARGE_RATE: Final = 0.7  # with which a term of the second order in the rate changes its sum

STEPS_OF_SHORT_RUNS: Final = 12
_LATE: Final = 4  # the step from which late gradients are there
_DECAYS: Final = (1.0, 0.95, 0.98, 0.94, 0.06, 0.87, 0.91, 0.03)  # factors, where they change
_NO_GRADIENTS: Final = {"still/kernel": STEPS_OF_SHORT_RUNS, "late/bias": _LATE}  # at first
_FROM_ZERO: Final = ("late/bias", "zero/scale")  # parameters that start at 0
_TINY: Final = {"tiny/kernel": 2.0**-26}  # factors of gradients, below 1e-6 and most ε
_ALL_LATE: Final = 2  # the step from which there are gradients where hyperparameters change
_STEPS_OF_LARGE_ONES: Final = 3


@dataclass(frozen=True)
class LongRun(StandardRun):
    """The long run of a digest.

    Attributes:
        still: the hyperparameters of the groups without changes.
    """

    still: tuple[dict[str, Any], ...] = ()

    def moved(self, values: dict[str, Any], step: int) -> dict[str, Any]:
        """Return the changing hyperparameters, between half of their value and the full value.

        For a decay rate β, 1 − β changes. The values are rounded to float32. Those of two groups do
        not change, so every bit of a number in double counts.
        """
        moved: dict[str, Any] = {}
        if values in self.still:
            return moved
        for name in MOVING:
            value: Any = values.get(name)
            if not is_number(value) or value == 0:
                continue
            share = 0.5 + 0.5 * float(_fractions(name, self.steps)[step])
            changed = 1 - (1 - value) * share if RANGES[name].below == 1.0 else value * share
            moved[name] = float(np.float32(changed))
        return moved


class ShortRun(StandardRun):
    """A short run of a digest, with one setting."""

    def values(self) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
        """Return the parameters and, for each step, the gradients; some of them are zero."""
        params, grads = super().values()
        begin = _ALL_LATE if self.moving else 0
        for i, leaf in enumerate(STRUCTURES[self.structure]):
            if leaf.path in _FROM_ZERO:
                params[i] = np.zeros_like(params[i])
            for t, row in enumerate(grads):
                there = t >= max(begin, _NO_GRADIENTS.get(leaf.path, 0))
                factor = row[i].dtype.type(_TINY.get(leaf.path, 1.0) * there)
                row[i] = np.asarray(row[i] * factor)
        return params, grads

    def moved(self, values: dict[str, Any], step: int) -> dict[str, Any]:
        """Return the learning rate, which falls, and decay rates."""
        moved: dict[str, Any] = {}
        for name, value in values.items() if self.moving else ():
            if isinstance(value, bool) or not is_number(value):
                continue
            if name == "lr":
                changed = value * (1 - step / 32)
            elif RANGES.get(name, ANY).below == 1.0:
                changed = value * _DECAYS[step % len(_DECAYS)]
            else:
                continue
            moved[name] = float(self.array_dtype().type(changed))
        return moved


@functools.cache
def _fractions(name: str, number: int) -> np.ndarray:
    """Return multiples of 2⁻¹⁰ in [0, 1)."""
    drawn = words(f"hyperparameter {name}", number)
    return np.asarray((drawn & np.uint64(1023)).astype(np.float64) / 1024)


def runs(algorithm: Algorithm, dialect: str | None) -> Iterator[StandardRun]:
    """Yield the runs of a digest: long runs in each dtype, short runs and particular ones."""
    for dtype in DTYPES:
        yield long_run(algorithm, dialect, dtype)
    yield from short_runs(algorithm, dialect)
    yield from particular_runs(algorithm, dialect)


def long_run(algorithm: Algorithm, dialect: str | None, dtype: str) -> LongRun:
    """Return the long run of an algorithm in a dialect, with parameters of one dtype."""
    few = thinned(algorithm, dialect)
    return LongRun(
        structure="standard",
        dtype=dtype,
        steps=STEPS_OF_MATRICES if "output_axis" in algorithm.defaults() else STEPS,
        seed=0,
        patterns=(),
        groups=({}, climbing(algorithm, dialect), turned(algorithm, dialect), few),
        membership=_MEMBERSHIP,
        dialect=dialect,
        moving=True,
        still=(algorithm.resolve(dialect, {}), algorithm.resolve(dialect, few)),
    )


def short_runs(algorithm: Algorithm, dialect: str | None) -> Iterator[ShortRun]:
    """Yield the short runs of an algorithm in a dialect, each with one setting."""
    defaults, on = algorithm.defaults(dialect), ordinary(algorithm, dialect)
    terms = terms_of(algorithm, dialect)
    booleans = [{name: not x} for name, x in defaults.items() if isinstance(x, bool)]
    others = [{k: x for k, x in other.items() if k in defaults} for other in OTHERS]

    def run(
        given: dict[str, Any],
        dtype: str = "float32",
        *,
        moving: bool = False,
        structure: str = "corners",
        steps: int = STEPS_OF_SHORT_RUNS,
    ) -> Iterator[ShortRun]:
        more = {"dtype": dtype, "moving": moving, "steps": steps}
        for own in (given, *(given | {name: 0.0} for name in terms)):
            found = ShortRun.with_setting(algorithm, dialect, own, structure, **more)
            if found is not None:
                yield found
                return

    yield from run(on)
    yield from run(on, "float64")
    yield from run(on | dict.fromkeys(terms, 0.0), moving=True)
    for change in (*booleans, *filter(None, others)):
        yield from run(on | change)
    if algorithm.leafwise:  # what it computes depends on the shape
        yield from run(on, structure="large", steps=_STEPS_OF_LARGE_ONES)


def switched_on(algorithm: Algorithm, dialect: str | None) -> dict[str, Any]:
    """Return hyperparameters that switch on as many compatible terms of the formula as possible.

    An ε of 1e-8 is too small to change a sum, so ε is larger here.
    """
    return _fitting(algorithm, dialect, {}, _terms(algorithm, dialect))


def _terms(algorithm: Algorithm, dialect: str | None) -> dict[str, float]:
    defaults = algorithm.defaults(dialect).items()
    numbers = [name for name, x in defaults if is_number(x) and abs(x) < _SWITCHED_ON]
    absent = [name for name in numbers if name != "lr"]
    return {name: _SWITCHED_ON * (1 + k / 4) for k, name in enumerate(absent)}  # no two the same


def climbing(algorithm: Algorithm, dialect: str | None) -> dict[str, Any]:
    """Return hyperparameters of :func:`switched_on` that also maximize the objective."""
    up = {_MAXIMIZE: True} if _MAXIMIZE in algorithm.defaults(dialect) else {}
    return _fitting(algorithm, dialect, switched_on(algorithm, dialect), up)


def turned(algorithm: Algorithm, dialect: str | None) -> dict[str, Any]:
    """Return hyperparameters of :func:`climbing` with the opposite of compatible booleans."""
    defaults = algorithm.defaults(dialect).items()
    choices = {k: not x for k, x in defaults if isinstance(x, bool)}
    return _fitting(algorithm, dialect, climbing(algorithm, dialect), choices)


def thinned(algorithm: Algorithm, dialect: str | None) -> dict[str, Any]:
    """Return hyperparameters that switch on the first, third, … term, with a large rate."""
    terms = dict(list(_terms(algorithm, dialect).items())[::2])
    rate = {"lr": _LARGE_RATE} if "lr" in algorithm.defaults(dialect) else {}
    return _fitting(algorithm, dialect, {}, terms | rate)


def _fitting(
    algorithm: Algorithm, dialect: str | None, chosen: dict[str, Any], more: dict[str, Any]
) -> dict[str, Any]:
    """Return chosen hyperparameters with those of ``more`` that the algorithm accepts."""
    for name, value in more.items():
        try:
            algorithm.resolve(dialect, chosen | {name: value})
        except ValueError:
            continue
        chosen = chosen | {name: value}
    return chosen

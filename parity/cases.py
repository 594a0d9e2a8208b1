"""Hypothesis strategies for training cases."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import numpy as np
from hypothesis import strategies as st

from optstudy_core import Algorithm
from optstudy_core.arrays.numbers import is_number
from optstudy_core.catalogue.hyperparameters import RANGES
from optstudy_core.catalogue.table import find

from .case import PATTERNS, Case, Special
from .curves import CURVES
from .structures import DRAWN, STRUCTURES

_SCALES = {
    "lr": (1e-6, 10.0),
    "eps": (1e-30, 1.0),
    "eps_root": (1e-30, 1.0),
    "weight_decay": (1e-6, 1.0),
}
_DECAYS = (0.0, 0.5, 0.9, 0.95, 0.99, 0.999, 0.9999, 0.999999)


def _number(name: str, default: float) -> st.SearchStrategy[float]:
    """Return a strategy for a legal value of a hyperparameter."""
    allowed = RANGES.get(name)
    if name in _SCALES:
        low, high = _SCALES[name]
        exponent = st.floats(math.log10(low), math.log10(high))
        drawn: st.SearchStrategy[float] = exponent.map(lambda e: 10.0**e)
        return drawn if name == "lr" else st.just(0.0) | drawn
    if allowed is None:
        return st.floats(-4, 4).map(lambda e: default * 2.0**e)
    if allowed.below == 1.0:
        drawn = st.sampled_from(_DECAYS) | st.floats(0.0, 0.9999999)
    elif allowed.holds(0.5):
        drawn = st.sampled_from((0.0, 0.1, 0.5, 0.9, 1.0)) | st.floats(0.0, 1.0)
    else:
        drawn = st.floats(-4, 4).map(lambda e: default * 2.0**e)
    return drawn.filter(lambda x: allowed.holds(x) and allowed.holds(_as_array(x)))


def _as_array(x: float) -> float:
    """Return a hyperparameter as an array has it: in float32, and 0 where it would be subnormal."""
    rounded = np.float32(x)
    return float(rounded) if abs(rounded) >= np.finfo(np.float32).smallest_normal else 0.0


def _accepted(algorithm: Algorithm, dialect: str | None, values: dict[str, Any]) -> dict[str, Any]:
    """Return the values that the algorithm accepts: all, all except booleans, or none."""
    numbers = {k: v for k, v in values.items() if not isinstance(v, bool)}
    for candidate in (values, numbers):
        try:
            algorithm.resolve(dialect, candidate)
        except ValueError:  # a combination that the algorithm refuses
            continue
        return candidate
    return {}


@st.composite
def hyperparameters(
    draw: st.DrawFn, algorithm: Algorithm, dialect: str | None, arrays: bool
) -> dict[str, Any]:
    """Return random hyperparameters in their allowed ranges; booleans only without ``arrays``.

    Args:
        draw: passed by Hypothesis.
        algorithm: the algorithm.
        dialect: the dialect, for the defaults of other hyperparameters.
        arrays: whether the hyperparameters will be passed as arrays.
    """
    drawn: dict[str, Any] = {}
    for name, default in algorithm.defaults(dialect).items():
        if is_number(default):
            drawn[name] = draw(_number(name, float(default)))
        elif isinstance(default, bool) and not arrays:
            drawn[name] = draw(st.booleans())
    return _accepted(algorithm, dialect, drawn)


_CHOICES: dict[str, tuple[Any, ...]] = {
    "adam_lr": (None, 0.003),
    "adjust_lr_fn": (None, "match_rms_adamw"),
    "ns_coefficients": ("quintic", "polar_express", (1.5, -0.5, 0.0)),
    "ns_steps": (None, 3),
    "output_axis": (None, -1, 0, 1),
}
"""Values of hyperparameters that are neither numbers nor booleans."""


def pool(algorithm: Algorithm, seed: int, size: int = 3) -> list[tuple[str | None, dict[str, Any]]]:
    """Return sets of hyperparameters that are numbers: few, because each is compiled.

    These are the defaults of each dialect, and ``size`` sets in the allowed ranges.
    """
    dialects: list[str | None] = [*algorithm.dialects] or [None]
    sets: list[tuple[str | None, dict[str, Any]]] = [(d, {}) for d in dialects]
    random = Random(seed)
    for i in range(size):
        dialect = dialects[i % len(dialects)]
        values: dict[str, Any] = {}
        for name, default in algorithm.defaults(dialect).items():
            if name in _CHOICES:
                values[name] = random.choice(_CHOICES[name])
            elif isinstance(default, bool):
                values[name] = random.random() < 0.5
            elif is_number(default) and name in _SCALES:
                low, high = map(math.log10, _SCALES[name])
                values[name] = 10.0 ** random.uniform(low, high)
            elif is_number(default) and name in RANGES:
                fitting = [x for x in (0.3, 0.5, 0.9, 0.95, 0.999) if RANGES[name].holds(x)]
                values[name] = random.choice(fitting or [float(default)])
            elif is_number(default):
                values[name] = float(default) * 2.0 ** random.uniform(-3, 3)
        sets.append((dialect, _accepted(algorithm, dialect, values)))
    return sets


def one_curve(algorithm: Algorithm, seed: int) -> str:
    """Return the curve to test an algorithm with: only one, because each is compiled.

    Args:
        algorithm: any algorithm.
        seed: the seed of the choice.
    """
    return Random(f"{algorithm.name} {seed}").choice(sorted(CURVES))


def _other(algorithm: Algorithm) -> str:
    """Return the algorithm of a second group: only one, because each is compiled."""
    return "adamw" if algorithm.name != "adamw" else "sgd"


@st.composite
def cases(
    draw: st.DrawFn,
    algorithm: str | Algorithm,
    dtype: str = "float32",
    *,
    steps: int = 200,
    seed: int = 0,
) -> Case:
    """Return a random case for an algorithm.

    Args:
        draw: passed by Hypothesis.
        algorithm: a name in ``ALGORITHMS``, or an ``Algorithm``.
        dtype: the dtype of the parameters, a name in ``DTYPES``.
        steps: the largest number of steps; most cases have far fewer.
        seed: the seed of the few sets of hyperparameters that are passed as numbers.
    """
    algorithm = find(algorithm)
    structure = draw(st.sampled_from(DRAWN))
    leaves = STRUCTURES[structure]
    lengths = sorted({min(n, steps) for n in (1, 2, 3, 4, 5, 7, 10, 13, 17, 25, 40, steps)})
    length = draw(st.sampled_from(lengths))
    arrays = draw(st.booleans())
    sets = pool(algorithm, seed)
    if arrays:
        dialect = draw(st.sampled_from([d for d, _ in sets]))
        groups = [draw(hyperparameters(algorithm, dialect, arrays=True))]
    else:
        dialect, values = draw(st.sampled_from(sets))
        groups = [values]
    membership = [0] * len(leaves)
    if len(leaves) > 1 and draw(st.integers(0, 3)) == 0:  # a second group
        name = draw(st.sampled_from([algorithm.name, _other(algorithm)]))
        own = find(name) if name != algorithm.name else algorithm
        own_dialect = dialect if own is algorithm else own.default_dialect
        groups.append(draw(hyperparameters(own, own_dialect, arrays=True)) if arrays else {})
        groups[-1] |= {} if own is algorithm else {"algorithm": name}
        membership[-1] = 1
    numbers = st.floats(width=32, allow_nan=True, allow_infinity=True, allow_subnormal=False)
    if dtype == "float64":
        numbers |= st.floats(allow_subnormal=False)
    special = st.builds(
        Special,
        step=st.integers(-1, min(length - 1, 5)),
        leaf=st.integers(0, len(leaves) - 1),
        index=st.integers(0, 20),
        value=st.sampled_from([0.0, -0.0, 1.0, math.nan, math.inf, -math.inf]) | numbers,
    )
    moving = not arrays and draw(st.booleans())
    curve = None if arrays or moving else draw(st.sampled_from([None, one_curve(algorithm, seed)]))
    return Case(
        structure=structure,
        dtype=dtype,
        steps=length,
        seed=draw(st.integers(0, 2**16)),
        patterns=tuple(draw(st.sampled_from(PATTERNS)) for _ in leaves),
        specials=tuple(draw(st.lists(special, max_size=4))),
        groups=tuple(groups),
        membership=tuple(membership),
        arrays=arrays,
        dialect=dialect,
        moving=moving,
        curve=curve,
    )

"""Every algorithm in every dialect, in NumPy: nothing moves it but gradients, and it trains."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from optstudy_core import ALGORITHMS
from optstudy_core.arrays.leaves import Leaves
from optstudy_core.arrays.numbers import is_number
from optstudy_core.arrays.numpy_backend import NumPy

CASES = [(name, dialect) for name, a in ALGORITHMS.items() for dialect in a.dialects]


def cases(slow: Callable[[str, str], bool]) -> Any:
    """All algorithms in all their dialects, of which some are slow tests."""
    marks = {case: [pytest.mark.slow] * slow(*case) for case in CASES}
    return pytest.mark.parametrize(
        ("name", "dialect"),
        [pytest.param(n, d, marks=marks[n, d], id=f"{n}-{d}") for n, d in CASES],
    )


each_case = cases(slow=lambda name, dialect: False)

# Where nothing keeps the divisor of an element without a gradient from being 0.
NEEDS_GRADIENTS = {
    (name, dialect) for name, dialect in CASES if ALGORITHMS[name].defaults(dialect).get("eps") == 0
}
# Where an element moves that never had a gradient: the first moment does not start from 0, or the
# parameters shrink.
MOVES_BY_ITSELF = {("yogi", "optax"), ("fromage", "optax"), ("fromage", "paper")}


def without_decay(name: str, dialect: str) -> dict[str, Any]:
    return {k: 0.0 for k in ("weight_decay", "lambd") if k in ALGORITHMS[name].defaults(dialect)}


def descend(
    name: str,
    dialect: str,
    gradient: Callable[[np.ndarray], np.ndarray],
    theta: np.ndarray,
    steps: int,
    inputs: Mapping[str, Callable[[np.ndarray], Any]] = MappingProxyType({}),
    **given: Any,
) -> np.ndarray:
    """Train one leaf in NumPy, in float64; ``inputs`` are the loss and the Hessian's diagonal."""
    algorithm = ALGORITHMS[name]
    values = algorithm.resolve(dialect, given)
    leaf = Leaves([theta], NumPy())
    state = algorithm.start(leaf, values)
    for _ in range(steps):
        x = leaf.values[0]
        more = {
            "value": np.asarray(inputs.get("value", np.sum)(x)),
            "hessian": np.asarray(inputs.get("hessian", np.ones_like)(x)),
        }
        more = {name: Leaves([more[name]], NumPy()) for name in algorithm.inputs}
        state, step = algorithm.update(
            state, Leaves([gradient(x)], NumPy()), leaf, **more, **values
        )
        leaf = leaf + step
    return np.asarray(leaf.values[0])


@each_case
def test_zero_gradients_move_nothing(name: str, dialect: str) -> None:
    if (name, dialect) in NEEDS_GRADIENTS:
        pytest.skip("0/0 without an eps")
    theta = np.array([0.3, -2.0, 0.0])
    end = descend(name, dialect, np.zeros_like, theta, 3, **without_decay(name, dialect))
    assert np.array_equal(end, theta) == ((name, dialect) not in MOVES_BY_ITSELF)


CURVATURE = np.geomspace(0.1, 10.0, 8)


def quadratic(x: np.ndarray) -> float:
    return float(np.sum(CURVATURE * x * x) / 2)


@functools.cache
def sample() -> tuple[np.ndarray, np.ndarray]:
    """Two overlapping classes in four dimensions and a constant."""
    rng = np.random.default_rng(5)
    x = np.column_stack([rng.normal(size=(200, 4)), np.ones(200)])
    return x, np.sign(x @ np.array([2.0, -1.0, 0.5, 0.0, 0.3]) + 0.3 * rng.normal(size=200))


def logistic(w: np.ndarray) -> float:
    x, y = sample()
    return float(np.mean(np.logaddexp(0.0, -y * (x @ w))))


def logistic_gradient(w: np.ndarray) -> np.ndarray:
    x, y = sample()
    return -(x.T @ (y / (1 + np.exp(y * (x @ w))))) / len(y)


def logistic_curvature(w: np.ndarray) -> np.ndarray:
    x, y = sample()
    p = 1 / (1 + np.exp(y * (x @ w)))
    return np.asarray((x * x).T @ (p * (1 - p)) / len(y))


# Learning rates with which 300 steps do it, where 0.03 is not one.
RATES: dict[str, float] = {
    "schedule_free_sgd": 0.15,
    "cocob": 1.0,
    "fromage": 0.1,  # of the parameters
    "lars": 10.0,  # times its trust coefficient of 0.001
    "adadelta": 10.0,
    "adagrad": 0.5,
    "sgd": 0.1,
    "optimistic_gradient_descent": 0.05,
    "acprop": 0.01,
    "dog": 1.0,
    "sm3": 0.5,
    "adafactor": 0.1,
    "dowg": 1.0,
    "polyak_sgd": 1.0,
    "shampoo": 0.5,
    "momo": 1.0,
    "prodigy": 1.0,
    "dadapt_adamw": 1.0,
}


# Roots of matrices at each of 300 steps take ten seconds; dialects train alike.
@cases(slow=lambda name, dialect: name == "shampoo" or dialect != ALGORITHMS[name].default_dialect)
def test_it_trains(name: str, dialect: str) -> None:
    """In 300 steps the quadratic falls to 5 %."""
    given = without_decay(name, dialect) | {"lr": RATES.get(name, 0.03)}
    begin = np.array([1.0, -1.5, 0.8, -0.7, 1.2, -0.9, 1.1, -1.3])
    of_bowl = {"value": quadratic, "hessian": lambda x: CURVATURE}
    end = descend(name, dialect, lambda x: CURVATURE * x, begin, 300, of_bowl, **given)
    assert quadratic(end) <= 0.05 * quadratic(begin)


# Takes as long as the quadratic, and a rule that climbs down there does so here.
@pytest.mark.slow
@each_case
def test_it_learns(name: str, dialect: str) -> None:
    """In 300 steps the logistic loss falls from 0.693 to below 0.35."""
    given = without_decay(name, dialect) | {"lr": RATES.get(name, 0.03)}
    of_classes = {"value": logistic, "hessian": logistic_curvature}
    w = descend(name, dialect, logistic_gradient, np.zeros(5), 300, of_classes, **given)
    assert logistic(w) <= 0.35


def test_the_defaults_are_numbers_and_truth_values() -> None:
    """Or tuples of them, which are never arrays, or ``None``: a choice that is left open."""

    def allowed(value: Any) -> bool:
        if isinstance(value, tuple):
            return all(map(allowed, value))
        return value is None or isinstance(value, bool) or is_number(value)

    for name, dialect in CASES:
        for key, value in ALGORITHMS[name].defaults(dialect).items():
            assert allowed(value), (name, dialect, key)

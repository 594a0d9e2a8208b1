"""The portable roots and powers: accurate, and the same bits on every backend."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from harness import slow

import parity
from optstudy_core import Algorithm, doubles
from optstudy_core.arrays.namespace import no_steps
from optstudy_core.arrays.numpy_backend import NumPy
from optstudy_core.parts.power import cbrt, power1p
from parity import backends

DTYPES = [np.float32, np.float64]


def relative(found: np.ndarray, exact: np.ndarray) -> float:
    """Return the largest relative error in units of the dtype's epsilon."""
    error = np.abs(found.astype(np.longdouble) / exact - 1)
    return float(np.max(error)) / float(np.finfo(found.dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_cube_roots_are_accurate(dtype: Any) -> None:
    info = np.finfo(dtype)
    rng = np.random.default_rng(0)
    x = (2.0 ** rng.uniform(info.minexp, info.maxexp - 1, 20_000)).astype(dtype)
    assert relative(cbrt(x), np.cbrt(x.astype(np.longdouble))) < 1  # measured: 0.66
    assert cbrt(np.array([0.0, -0.0, 8.0, 27.0], dtype)).tolist() == [0.0, 0.0, 2.0, 3.0]
    assert np.isnan(cbrt(np.array([np.nan], dtype))).all()


EXPONENTS = (0.0, 1e-3, 0.1, 0.5, 0.6, 2 / 3, 0.75, 0.8, 0.85, 0.999, 1.0, 1.5, 1.9999999)


@pytest.mark.parametrize("a", EXPONENTS)
def test_powers_are_accurate(a: float) -> None:
    rng = np.random.default_rng(0)
    e = np.concatenate([10 ** rng.uniform(-20, 18.9, 20_000), [0.0]])
    exact = (1 + e.astype(np.longdouble)) ** np.longdouble(a)
    found = power1p(e, a)
    # Measured: 2.9 for 0.75, 7.0 for any.
    assert relative(found, exact) < (4 if a == 0.75 else 9)
    assert found[-1] == 1
    # Of a number that comes from an array all digits are computed, with the same result.
    number = doubles.Doubles(np.float64(a), NumPy())
    some = doubles.Doubles(e[::100], NumPy())
    assert np.array_equal(power1p(some, number).value, found[::100])
    assert [power1p(x, a) for x in e[::1000].tolist()] == found[::1000].tolist()


def test_functions_of_numbers() -> None:
    number = doubles.Doubles(np.float64(0.999), NumPy())
    assert doubles.sqrt(0.999) == doubles.sqrt(number).value == np.sqrt(np.float64(0.999))
    assert doubles.maximum(number, 2.0).value == doubles.maximum(0.999, 2.0) == 2.0
    assert doubles.minimum(number, 2.0).value == doubles.minimum(0.999, 2.0) == 0.999
    assert doubles.remainder(number + 6, 3).value == doubles.remainder(0.999 + 6, 3)
    assert doubles.where(number > 0, 3.0, number).value == doubles.where(0.999 > 0, 3.0, 4.0) == 3


class Root(NamedTuple):
    t: Any


def init(params: Any) -> Root:
    return Root(no_steps(params))


def update(state: Any, grad: Any, params: Any = None, *, lr: Any = 0.1):
    t = doubles.of(state.t)
    late = doubles.where(doubles.remainder(t, 3) < 1, doubles.maximum(t, 7.0), power1p(t, 0.7))
    share = power1p(late, lr / (1 + lr)) * doubles.sqrt(lr)
    return Root(doubles.count(t + 1, state.t)), -share * cbrt(abs(grad))


@pytest.mark.parametrize("backend", [slow(n) if n.startswith("jax") else n for n in backends.NAMES])
def test_every_backend_has_the_same_bits(backend: str) -> None:
    if backends.missing(backend, "cpu"):
        pytest.skip(str(backends.missing(backend, "cpu")))
    report = parity.check(
        Algorithm("root", init, update),
        backends=[backend],
        dtypes=["float32", "float64"],
        examples=2,
        steps=30,
    )
    assert report.complete, report.first_difference

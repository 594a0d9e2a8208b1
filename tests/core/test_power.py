"""The portable roots and powers: accurate, and the same bits on every backend."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from harness import slow

import parity
from optstudy_core import Algorithm, namespace
from optstudy_core.parts.power import cbrt, power1p, sqrt
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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("a", EXPONENTS)
def test_powers_are_accurate(a: float, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    e = np.concatenate([10 ** rng.uniform(-20, 18.9, 20_000), [0.0]]).astype(dtype)
    exact = (1 + e.astype(np.longdouble)) ** np.longdouble(a)
    found = power1p(e, a)
    # Measured: 2.9 for 0.75, 7.0 for any.
    assert relative(found, exact) < (4 if a == 0.75 else 9)
    assert found[-1] == 1
    # The digits of an array are those of its dtype.
    assert np.array_equal(power1p(e, np.array(a, dtype)), power1p(e, float(dtype(a))))


def test_roots_of_numbers_are_in_double() -> None:
    assert sqrt(0.999) == np.sqrt(np.float64(0.999))
    root = sqrt(np.array(0.999, np.float32))
    assert root.dtype == np.float32
    assert root == np.sqrt(np.float32(0.999))


class Root(NamedTuple):
    root: Any


def init(params: Any) -> Root:
    return Root(namespace(params).zeros_like(params))


def update(state: Any, grad: Any, params: Any = None, *, lr: Any = 0.1):
    root = cbrt(abs(grad))
    return Root(power1p(root, 0.7)), -lr * root * (1 + sqrt(lr))


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

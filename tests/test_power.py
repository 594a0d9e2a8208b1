"""The portable cube root: accurate, and the same bits on every backend."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

import parity
from optstudy_core import Algorithm, namespace
from optstudy_core.power import cbrt
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


class Root(NamedTuple):
    root: Any


def init(params: Any) -> Root:
    return Root(namespace(params).zeros_like(params))


def update(state: Any, grad: Any, params: Any = None, *, lr: Any = 0.1):
    root = cbrt(abs(grad))
    return Root(root), -lr * root


@pytest.mark.parametrize("backend", backends.NAMES)
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

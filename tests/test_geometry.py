"""Norms and angles: exact, the same in every order and library."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import optstudy_jax
from optstudy_core import geometry

FAST = settings(max_examples=60, deadline=None, database=None)

vectors = hnp.arrays(
    np.float32,
    st.integers(1, 40),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)


def wide(seed: int, size: int, low: float = -11, high: float = 11) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = 10.0 ** rng.uniform(low, high, size) * rng.choice([-1.0, 1.0], size)
    return np.asarray(x).astype(np.float32)


@given(vectors)
@FAST
def test_norm_is_the_rounded_exact_norm(x: np.ndarray) -> None:
    exact = math.sqrt(sum(Fraction(float(v)) ** 2 for v in x))
    # The sum is exact to 2⁻⁵³ and rounded, then the root is rounded: two units in the last place.
    assert geometry.norm(x) == pytest.approx(exact, rel=4.5e-16, abs=0)


@given(vectors, st.randoms())
@FAST
def test_order_and_splits_do_not_matter(x: np.ndarray, random: Any) -> None:
    y = np.roll(x, 3)
    order = list(range(len(x)))
    random.shuffle(order)
    cut = random.randint(0, len(x))
    expected = geometry.dot(x, y), geometry.norm(x), geometry.cosine(x, y)
    u, v = x[order], y[order]
    split = {"a": u[:cut], "b": [u[cut:], None]}, {"b": [v[cut:], None], "a": v[:cut]}
    found = geometry.dot(*split), geometry.norm(split[0]), geometry.cosine(*split)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(geometry.angle(*split), geometry.angle(x, y))


@pytest.mark.parametrize("size", [1, 2, 1000, 300_001])
def test_every_library_gives_the_same_bits(size: int) -> None:
    x, y = wide(0, size), wide(1, size)
    products = x.astype(np.float64) * y.astype(np.float64)
    expected = (geometry.norm(x), geometry.dot(x, y), geometry.cosine(x, y), geometry.angle(x, y))
    assert expected[1] == math.fsum(products)
    tx, ty = torch.tensor(x), torch.tensor(y)
    jx, jy = jnp.asarray(x), jnp.asarray(y)
    ours = optstudy_jax.geometry
    for norm, dot, cosine, angle in (
        [f(*a) for f, a in _calls(geometry, tx, ty)],
        [f(*a) for f, a in _calls(geometry, jx, jy)],
        [f(*a) for f, a in _calls(ours, jx, jy)],
    ):
        assert (float(norm), float(dot), float(cosine), float(angle)) == expected


def _calls(module: Any, u: Any, v: Any) -> list[Any]:
    return [
        (module.norm, (u,)),
        (module.dot, (u, v)),
        (module.cosine, (u, v)),
        (module.angle, (u, v)),
    ]


def test_inside_jit_and_vmap() -> None:
    x, y = wide(0, 1000), wide(1, 1000)

    @jax.jit
    def both(u: Any, v: Any) -> Any:
        return optstudy_jax.geometry.norm({"u": u}), optstudy_jax.geometry.cosine([u], [v])

    norm, cosine = both(x, y)
    assert norm.dtype == np.float64
    assert (float(norm), float(cosine)) == (geometry.norm(x), geometry.cosine(x, y))


def test_more_terms_take_more_folds() -> None:
    # 2²⁷ equal terms: each fold keeps 52 − 27 bits, so three would lose the value's last bits.
    one = np.float32(1) / np.float32(3)
    x = np.broadcast_to(one, (2**20,))
    exact = math.sqrt(float(Fraction(float(one)) ** 2 * 2**20))
    assert geometry.norm(x) == pytest.approx(exact, rel=2.3e-16)  # one rounding of a root


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64, np.int32])
def test_other_dtypes(dtype: Any) -> None:
    x = (wide(0, 500, -1, 2)).astype(dtype)
    exact = math.sqrt(math.fsum(x.astype(np.float64) ** 2))
    # float64 products are rounded once each: 2⁻⁵³ of each term, so of their sum.
    assert geometry.norm(x) == pytest.approx(exact, rel=4.5e-16)
    if dtype is not np.float64:
        assert float(optstudy_jax.geometry.norm(jnp.asarray(x))) == geometry.norm(x)


@pytest.mark.parametrize("exponent", [-1074, -1073, -1023, -1022, -600, -1, 0, 1, 600, 1023])
def test_no_overflow_and_no_underflow_in_float64(exponent: int) -> None:
    power = math.ldexp(1.0, exponent)
    assert geometry.norm(np.array([power])) == power
    if -1000 < exponent < 1000:
        assert geometry.norm(np.array([3 * power, 4 * power])) == 5 * power
    assert geometry.cosine(np.array([power, 0.0]), np.array([power, 0.0])) == 1.0


@given(vectors, vectors)
@FAST
def test_cosines_and_angles_stay_in_range(x: np.ndarray, y: np.ndarray) -> None:
    size = min(len(x), len(y))
    x, y = x[:size], y[:size]
    cosine, angle = geometry.cosine(x, y), geometry.angle(x, y)
    if not (x.any() and y.any()):
        assert math.isnan(cosine)
        assert math.isnan(angle)
    else:
        assert -1 <= cosine <= 1
        assert 0 <= angle <= math.pi
        assert geometry.angle(y, x) == angle
        # The inverse cosine is good to √(2⁻⁵²) near 0 and π, where it loses half the digits.
        assert math.acos(cosine) == pytest.approx(angle, abs=3e-8)


def test_angles_near_zero_and_pi_are_accurate() -> None:
    for tiny in (1e-4, 1e-9, 1e-15, 1e-30):
        u, v = np.array([1.0, 0.0]), np.array([1.0, tiny])
        # Four roundings of float64 on the way to the chords.
        assert geometry.angle(u, v) == pytest.approx(tiny, rel=1e-15)
    assert geometry.angle(u, -u) == math.pi
    assert geometry.angle(u, -u, degrees=True) == 180.0
    assert geometry.angle(u, u) == 0.0


def test_zero_empty_nan_and_infinity() -> None:
    empty: list[Any] = []
    inf, nan = math.inf, math.nan
    one = np.array([1.0, 1.0])
    assert geometry.norm(empty) == geometry.norm(None) == geometry.norm(np.zeros((0, 3))) == 0.0
    assert geometry.dot(empty, empty) == 0.0
    assert math.isnan(geometry.cosine(empty, empty))
    assert math.isnan(geometry.angle(empty, empty))
    assert geometry.norm(np.zeros(3)) == 0.0
    for exact in (True, False):
        assert geometry.norm(np.array([inf, 1.0]), exact=exact) == inf
        assert math.isnan(geometry.norm(np.array([nan, inf]), exact=exact))
        assert geometry.dot(np.array([inf, 1.0]), one, exact=exact) == inf
        assert math.isnan(geometry.dot(np.array([inf, 1.0]), np.array([1.0, -inf]), exact=exact))
        assert math.isnan(geometry.dot(np.array([inf, 1.0]), np.array([0.0, 1.0]), exact=exact))
        assert math.isnan(geometry.cosine(np.array([inf, 1.0]), one, exact=exact))
        assert math.isnan(geometry.angle(np.array([nan, 1.0]), one, exact=exact))
    for x in ([inf, 1.0], [nan, inf], [0.0, 0.0]):
        found = float(optstudy_jax.geometry.norm(jnp.asarray(x)))
        np.testing.assert_array_equal(found, geometry.norm(np.float32(x)))
    assert float(optstudy_jax.geometry.norm({})) == 0.0


def test_plain_sums_are_close() -> None:
    x, y = wide(0, 3000, -2, 2), wide(1, 3000, -2, 2)
    for function in (geometry.dot, geometry.cosine, geometry.angle):
        # A plain sum of 3000 terms in float64: 3000·2⁻⁵³ of Σ|xy|.
        scale = 1.0 if function is not geometry.dot else float(np.abs(x * y).sum())
        assert function(x, y, exact=False) == pytest.approx(function(x, y), abs=4e-13 * scale)


def test_per_leaf() -> None:
    tree = {"w": np.float32([3, 4]), "b": (np.float32(2), None)}
    assert geometry.per_leaf(geometry.norm, tree) == {"w": 5.0, "b": (2.0, None)}
    angles = geometry.per_leaf(geometry.angle, tree, tree, degrees=True)
    assert angles == {"w": 0.0, "b": (0.0, None)}
    found = optstudy_jax.geometry.per_leaf(optstudy_jax.geometry.norm, {"w": jnp.array([3.0, 4.0])})
    assert float(found["w"]) == 5.0


@pytest.mark.parametrize(
    ("u", "v", "error", "message"),
    [
        (np.ones(2), np.ones(3), ValueError, "shapes differ"),
        ({"a": np.ones(2)}, {"b": np.ones(2)}, ValueError, "keys"),
        ([np.ones(2)], (np.ones(2), np.ones(2)), ValueError, "entries"),
        ({"a": np.ones(2)}, [np.ones(2)], ValueError, "trees differ"),
        (np.ones(2), None, ValueError, "shapes differ"),
        (np.ones(2) * 1j, np.ones(2), TypeError, "complex128: allowed are real"),
    ],
)
def test_what_does_not_fit_is_refused(u: Any, v: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        geometry.dot(u, v)


def test_a_parameter_that_needs_gradients_is_measured() -> None:
    assert geometry.norm([torch.nn.Parameter(torch.tensor([3.0, 4.0]))]) == 5.0


def test_one_device_or_eight_give_the_same_bits() -> None:
    import subprocess
    import sys

    code = """
import jax, numpy as np, optstudy_jax
from jax.sharding import NamedSharding, PartitionSpec as P
from optstudy_core import geometry
rng = np.random.default_rng(0)
x = (10.0 ** rng.uniform(-11, 11, 80000) * rng.choice([-1.0, 1.0], 80000)).astype(np.float32)
mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
sharded = jax.device_put(x, NamedSharding(mesh, P("d")))
assert len(sharded.sharding.device_set) == 8
assert float(optstudy_jax.geometry.norm(sharded)) == geometry.norm(x)
assert optstudy_jax.geometry.angle(sharded, sharded[::-1]) == geometry.angle(x, x[::-1])
"""
    import os

    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)

"""Norms and angles: exact, the same in every order and library."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from harness import slow, to_torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import optstudy_jax
import optstudy_torch.geometry
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


@pytest.mark.parametrize("size", [1, 300_001, slow(2), slow(1000)])  # JAX compiles each
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
        [f(*a) for f, a in _calls(optstudy_torch.geometry, tx, ty)],
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
    # Equal terms, in no memory: two folds up to 2²⁴, three beyond, multiples of 38 and 36 bits.
    third = np.float32(1) / np.float32(3)
    for count in (2**20, 2**24, 2**24 + 1, 2**26):
        x = np.broadcast_to(third, (count,))
        assert geometry.dot(x, x) == float(Fraction(float(third)) ** 2 * count)


def test_sums_that_cancel_keep_what_is_left() -> None:
    # Almost everything cancels; of 2²⁰ and 2²⁵ terms (two folds, three) 2⁻⁵²·M is promised.
    for count in (2**20, 2**25):
        x = np.zeros(count)
        x[:4] = 3.0, -3.0, 1.0 / 3.0 * 2.0**-40, 2.0**-50
        exact = float(Fraction(float(x[2])) + Fraction(1, 2**50))
        for order in (x, x[::-1]):
            assert geometry.total(order) == pytest.approx(exact, rel=0, abs=3 * 2.0**-52)
        assert geometry.total(x) == geometry.total(x[::-1]) == geometry.total([x[2:], x[:2]])


@pytest.mark.parametrize("count", [3, 2**12 + 1, 2**24 + 5])
def test_multiples_do_not_run_over(count: int) -> None:
    # The largest float32 below a power of two in every term: sums of multiples near 2⁶².
    x = np.broadcast_to(np.float32(2.0 - 2.0**-23), (count,))
    for sign in (1, -1):
        exact = Fraction(float(x[0])) ** 2 * count * sign
        assert geometry.dot(x, sign * x) == float(exact)

    # Here each rest is half a unit, exactly, as large as it gets.
    for x in (1.0 + 2.0**-38, -1.0 - 2.0**-38):
        assert geometry.total(np.broadcast_to(np.float64(x), (2**24,))) == x * 2**24


def test_tiny_products_of_large_vectors() -> None:
    u, v = np.float64([1.0, 2.0**-1000]), np.float64([3.0 * 2.0**-1000, 1.0])
    for w, expected in ((v, 4.0), (v * np.float64([1.0, -3.0]), 0.0)):
        assert geometry.dot(u, w) == expected * 2.0**-1000
        assert optstudy_torch.geometry.dot(torch.tensor(u), torch.tensor(w)) == geometry.dot(u, w)
        with jax.enable_x64(True):
            assert float(optstudy_jax.geometry.dot(u, w)) == geometry.dot(u, w)


def test_cosines_do_not_leave_their_range() -> None:
    x = np.ones(3, np.float32)  # 3 / (√3·√3) would be above 1
    for module, array in ((geometry, x), (optstudy_torch.geometry, torch.tensor(x))):
        assert (module.cosine(array, array), module.cosine(array, -array)) == (1.0, -1.0)
    assert float(optstudy_jax.geometry.cosine(x, -x)) == -1.0


@given(vectors, st.data())
@FAST
def test_totals_are_rounded_exact_sums(x: np.ndarray, data: Any) -> None:
    for scale in (1.0, 2.0**-900, 2.0**890):
        y = x.astype(np.float64) * scale
        exact = sum(map(Fraction, y.tolist()))
        bound = Fraction(2) ** -53 * abs(exact) + Fraction(2) ** -52 * Fraction(np.abs(y).max())
        assert abs(Fraction(geometry.total(y)) - exact) <= bound
        order = data.draw(st.permutations(range(len(y))))
        assert geometry.total(y[order]) == geometry.total(y)
        assert optstudy_torch.geometry.total(torch.tensor(y)).item() == geometry.total(y)


def test_any_layout_of_memory() -> None:
    x, y = wide(0, 120 * 250).reshape(120, 250), wide(1, 120 * 250).reshape(120, 250)
    expected = geometry.dot(x, y), geometry.angle(x, y)
    for u, v in (
        (x.T, np.ascontiguousarray(y.T)),
        (x.T, y.T),
        (x[::-1, ::-1], np.ascontiguousarray(y[::-1, ::-1])),
        (np.repeat(x, 2, axis=0)[::2], y),
        (torch.tensor(x).T, torch.tensor(y).T.contiguous()),
        (x, torch.tensor(y)),
        (jnp.asarray(x), y),
    ):
        assert (geometry.dot(u, v), geometry.angle(u, v)) == expected
    u, v = torch.tensor(x).T, torch.tensor(y).T.contiguous()
    assert optstudy_torch.geometry.dot(u, v).item() == expected[0]


@pytest.mark.parametrize("array", [np.asarray, torch.tensor, jnp.asarray])
def test_memory_of_a_few_blocks(array: Any) -> None:
    import tracemalloc

    size = 1_000_000
    u, v = array(wide(0, size, -2, 2)), array(wide(1, size, -2, 2))
    for exact in (True, False):
        for function in (geometry.cosine, geometry.angle):
            tracemalloc.start()
            function(u, v, exact=exact)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            # A float64 copy of a vector would have 8 MB; a block has 131 kB, and some are alive.
            assert peak < 2_000_000


def test_bfloat16_of_torch_is_read_in_chunks() -> None:
    x = torch.tensor(wide(0, 600_001, -2, 2)).to(torch.bfloat16)
    assert geometry.norm(x) == geometry.norm(x.float()) == optstudy_torch.geometry.norm(x).item()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64, np.int32])
def test_other_dtypes(dtype: Any) -> None:
    x = (wide(0, 500, -1, 2)).astype(dtype)
    exact = math.sqrt(math.fsum(x.astype(np.float64) ** 2))
    # float64 products are rounded once each: 2⁻⁵³ of each term, so of their sum.
    assert geometry.norm(x) == pytest.approx(exact, rel=4.5e-16)
    with jax.enable_x64(True):
        assert float(optstudy_jax.geometry.norm(jnp.asarray(x))) == geometry.norm(x)
    assert optstudy_torch.geometry.norm(to_torch(x)).item() == geometry.norm(x)


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
    for x in ([inf, 1.0], [nan, inf], [-inf, inf], [-inf, 2.0], [0.0, 0.0], [-0.0, -1.0]):
        u, v = np.float32(x), np.float32([3.0, -1.0])
        for name, count in (("total", 1), ("norm", 1), ("dot", 2), ("cosine", 2), ("angle", 2)):
            expected = getattr(geometry, name)(*(u, v)[:count])
            if name in ("total", "dot"):
                with np.errstate(invalid="ignore"):
                    plain = np.sum(u if name == "total" else u * v)
                np.testing.assert_array_equal(expected, plain)
            for module, array in ((optstudy_jax, jnp.asarray), (optstudy_torch, torch.tensor)):
                function = getattr(module.geometry, name)
                found = function(*map(array, (u, v)[:count]))
                np.testing.assert_array_equal(float(found), expected)
    for ours in (optstudy_jax.geometry, optstudy_torch.geometry):
        assert float(ours.norm({})) == float(ours.total([])) == float(ours.dot([], [])) == 0.0
        assert math.isnan(float(ours.cosine([], [])))
        assert math.isnan(ours.angle(None, None))


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


OF_EACH = ("total", "norm", "dot", "cosine", "angle")


@pytest.mark.parametrize("name", OF_EACH)
def test_many_vectors_together_are_each_alone(name: str) -> None:
    rng = np.random.default_rng(3)
    dtypes = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int32]
    sizes = [0, 1, 1, 2, 7, 64, 64, 320, 2048, 4096, 4097, 5000, 40_000]
    trees: list[list[Any]] = [[], []]
    for dtype, length in itertools.product(dtypes, sizes):
        for tree in trees:
            x = wide(int(rng.integers(1 << 30)), length, -4, 4)
            tree.append([x.astype(dtype), {"b": (x[: length // 2] * 3).astype(dtype)}])
    for value in (0.0, math.nan, math.inf, -math.inf, 5e-324, 1e300):
        trees[0].append(np.array([value, 1.0, -2.0]))
        trees[1].append(np.array([1.0, 1.0, value]))
    trees[0].append([np.float32([0.5]), np.float64([1 / 3])])
    trees[1].append([np.float64([1 / 3]), np.float32([0.5])])
    columns = trees[: 1 + (name in OF_EACH[2:])]
    function, own = getattr(geometry, name), getattr(optstudy_torch.geometry, name)
    alone = [function(*row) for row in zip(*columns, strict=True)]
    np.testing.assert_array_equal(geometry.of_each(function, *columns), alone)
    few = [column[-9:] for column in columns]
    there = [geometry.map_tree(torch.tensor, column) for column in few]
    found = optstudy_torch.geometry.of_each(own, *there)
    np.testing.assert_array_equal([float(x) for x in found], alone[-9:])
    plain = geometry.of_each(function, *few, exact=False)
    np.testing.assert_array_equal(
        plain, [function(*row, exact=False) for row in zip(*few, strict=True)]
    )


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

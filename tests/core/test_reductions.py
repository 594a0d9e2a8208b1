"""Exact sums in formulas: what they are, and the same bits on every backend."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
import torch
from harness import draw, same, slow, start, to_numpy, to_torch

import optstudy_jax
import optstudy_torch
from optstudy_core import Algorithm, namespace
from optstudy_core.arrays import axes, exact_sum, halves, passes, reductions
from optstudy_core.arrays.leaves import Leaves
from optstudy_core.arrays.numpy_backend import NumPy
from parity.backends import compiler

SHAPES = [(3, 4), (), (0,), (1000,), (5,)]


class State(NamedTuple):
    m: Any
    size: Any


def init(params: Any) -> State:
    return State(namespace(params).zeros_like(params), reductions.leaf_norm(params))


def update(state: Any, grad: Any, params: Any, *, lr: Any = 0.1, b1: Any = 0.9):
    """A sum of what is read, of what is made, of a scalar, and one after another."""
    xp = namespace(grad)
    m = b1 * state.m + (1 - b1) * grad
    size = reductions.leaf_norm(m)
    share = size / (reductions.global_norm(grad) + reductions.global_sum(size))
    u = m / (reductions.leaf_rms(m) + share) + grad * share
    mean = reductions.leaf_mean(u)
    turned = xp.where(reductions.global_dot(u, m) < 0, -u, u)
    return State(m, size), -lr * (turned - mean * state.size) + 0.01 * params


RULE = Algorithm("sums", init, update)


def bits(leaves: Leaves) -> list[np.ndarray]:
    return [np.asarray(x) for x in leaves.values]


def ends(dtype: Any) -> tuple[list[np.ndarray], list[np.ndarray], list[Any]]:
    """Run the rule in NumPy: the parameters, the last sizes, and what went in."""
    begin, grads = start(SHAPES, dtype=dtype), draw(SHAPES, 4, dtype=dtype)
    work = np.float64 if dtype == np.float64 else np.float32
    params, state = begin, None
    for g in grads:
        theta = Leaves([p.astype(work) for p in params], NumPy())
        if state is None:
            state = RULE.start(theta, {})
        state, step = RULE.update(state, Leaves([x.astype(work) for x in g], NumPy()), theta)
        params = [
            np.asarray(p + np.asarray(s).astype(dtype)).astype(dtype)
            for p, s in zip(params, step.values, strict=True)
        ]
    assert state is not None
    return params, bits(state.size), [begin, grads]


DTYPES = pytest.mark.parametrize(
    "dtype", [np.float32, np.float64, ml_dtypes.bfloat16], ids=lambda d: np.dtype(d).name
)


@DTYPES
@pytest.mark.parametrize(
    "how",
    [
        "blocks",
        "operations",
        pytest.param(
            "compiled",
            marks=[
                pytest.mark.skipif(compiler() is None, reason="not run: no compiler"),
                pytest.mark.filterwarnings("ignore::DeprecationWarning"),
            ],
        ),
    ],
)
def test_torch_gives_the_definitions_bits(
    how: str, dtype: Any, request: pytest.FixtureRequest
) -> None:
    if how == "operations":
        request.getfixturevalue("torch_operations")
    expected, sizes, (begin, grads) = ends(dtype)
    params = [torch.nn.Parameter(to_torch(p)) for p in begin]
    optimizer = optstudy_torch.from_core(RULE)(params, compile=how == "compiled")
    for g in grads:
        for p, x in zip(params, g, strict=True):
            p.grad = to_torch(x)
        optimizer.step()
    for p, end, size in zip(params, expected, sizes, strict=True):
        assert same(to_numpy(p), end)
        assert same(optimizer.state[p]["size"].numpy(), size)


@pytest.mark.parametrize(
    ("dtype", "jit"),
    [
        pytest.param(np.float64, jax.jit, id="float64-jit"),  # each is compiled for seconds
        slow(np.float32, jax.jit, id="float32-jit"),
        slow(ml_dtypes.bfloat16, jax.jit, id="bfloat16-jit"),
        slow(np.float64, lambda f: f, id="float64-eager"),
        slow(np.float32, lambda f: f, id="float32-eager"),
        slow(ml_dtypes.bfloat16, lambda f: f, id="bfloat16-eager"),
    ],
)
def test_jax_gives_the_definitions_bits(dtype: Any, jit: Callable[[Any], Any]) -> None:
    expected, sizes, (begin, grads) = ends(dtype)
    with jax.enable_x64(dtype == np.float64):
        tx = optstudy_jax.from_core(RULE)()

        def step(g: Any, state: Any, params: Any) -> Any:
            updates, state = tx.update(g, state, params)
            return optax.apply_updates(params, updates), state

        params = [jnp.asarray(p) for p in begin]
        state, step = tx.init(params), jit(step)
        for g in grads:
            params, state = step([jnp.asarray(x) for x in g], state, params)
        for p, end in zip(params, expected, strict=True):
            assert same(p, end)
        for found, size in zip(
            jax.tree.leaves(optstudy_jax.by_leaf(state.inner, params).size), sizes, strict=True
        ):
            assert same(found, size)


def test_sums_are_rounded_once() -> None:
    rng = np.random.default_rng(0)
    xs = [rng.normal(size=1001).astype(np.float32), np.zeros((0, 3), np.float32)]
    ys = [rng.normal(size=1001).astype(np.float32), np.zeros((0, 3), np.float32)]
    x, y = Leaves(xs, NumPy()), Leaves(ys, NumPy())
    a, b = (v[0].astype(np.float64) for v in (xs, ys))
    exact = {
        "leaf_sum": math.fsum(a),
        "leaf_mean": math.fsum(a) / 1001,
        "leaf_norm": math.sqrt(math.fsum(a * a)),
        "leaf_rms": math.sqrt(math.fsum(a * a) / 1001),
        "leaf_dot": math.fsum(a * b),
        "global_sum": math.fsum(a),
        "global_norm": math.sqrt(math.fsum(a * a)),
        "global_dot": math.fsum(a * b),
    }
    for name, value in exact.items():
        function = getattr(reductions, name)
        found = bits(function(x, y) if name.endswith("dot") else function(x))
        assert found[0] == np.float32(value), name
        whole = name.startswith("global")
        # There is no mean of nothing; a norm, a dot and a sum of nothing are zero.
        assert same(found[1], found[0] if whole else np.float32(0)), name


ENDS = (0.0, -0.0, 1e-45, -1e-38, 1e-30, 0.3333, -7.7, 1e30, np.inf, -np.inf, np.nan)


def varied(count: int, rng: np.random.Generator) -> np.ndarray:
    """Numbers of all sizes; some leaves hold only zeros, or one that is not finite."""
    x = rng.normal(size=count) * 10 ** rng.uniform(-30, 15, count)
    if count and rng.random() < 0.5:
        x[rng.integers(count)] = rng.choice(ENDS)
    return np.zeros(count) if rng.random() < 0.1 else x


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "function", [reductions.leaf_norm, reductions.leaf_sum, reductions.leaf_mean]
)
def test_small_leaves_together_are_each_alone(function: Any, dtype: Any) -> None:
    rng = np.random.default_rng(3)
    sizes = [0, 1, 1, 2, 3, 3, 63, 64, 65, 300, 511, 4095, 4096, 4096, 4097, 0, 5000]
    arrays = [varied(n, rng).astype(dtype) for n in sizes * 4]
    arrays = [x.reshape(3, -1) if x.size % 3 == 0 else x for x in arrays]
    arrays += [np.asarray(dtype(x)) for x in ENDS]
    together = function(Leaves(arrays, NumPy()))
    for x, found in zip(arrays, bits(together), strict=True):
        (alone,) = bits(function(Leaves([x], NumPy())))
        assert found.dtype == x.dtype
        assert same(found, alone), (x.shape, found, alone)


def test_small_leaves_of_two_trees_and_of_two_dtypes() -> None:
    rng = np.random.default_rng(4)
    x = [varied(n, rng).astype(d) for n in (7, 7, 30, 1, 0) for d in (np.float32, np.float64)]
    y = [varied(a.size, rng).astype(a.dtype) for a in x]
    found = bits(reductions.leaf_dot(Leaves(x, NumPy()), Leaves(y, NumPy())))
    for a, b, dot in zip(x, y, found, strict=True):
        (alone,) = bits(reductions.leaf_dot(Leaves([a], NumPy()), Leaves([b], NumPy())))
        assert same(dot, alone)


@pytest.mark.parametrize("function", [axes.axis_mean, axes.axis_sum])
def test_leaves_of_one_shape_together_are_each_alone(function: Any) -> None:
    rng = np.random.default_rng(5)
    shapes = [(3, 5), (3, 5), (5, 3), (1, 1), (1, 1), (2, 0), (2, 0), (64, 64), (64, 64), (80, 80)]
    arrays = [varied(math.prod(s), rng).reshape(s).astype(np.float32) for s in shapes * 2]
    for axis in (0, 1, -1):
        found = bits(function(Leaves(arrays, NumPy()), axis))
        for x, result in zip(arrays, found, strict=True):
            (alone,) = bits(function(Leaves([x], NumPy()), axis))
            assert same(result, alone)
            assert result.flags.c_contiguous


def test_padding_changes_no_sum() -> None:
    """It adds terms that are 0, and as many folds hold up to the longest of columns."""
    lengths = range(1, passes.Columns.most + 1)
    plans = [exact_sum._folds(np.float64(3.0), n) for n in lengths]
    assert len({tuple(float(unit) for _, _, unit in plan) for plan in plans}) == 1


class NoEmptyPart(np.ndarray):
    """As an array of JAX on a mesh of explicit axes, outside of ``jit``."""

    def __getitem__(self, index: Any) -> Any:
        part = super().__getitem__(index)
        assert part.size
        return part


def test_a_part_behind_the_end_of_an_array_is_not_taken_from_it() -> None:
    x = np.arange(1.0, 6.0).view(NoEmptyPart)
    parts = [halves.part(x, axis=0, begin=b, end=b + 2).tolist() for b in (0, 2, 4, 6)]
    assert parts == [[1.0, 2.0], [3.0, 4.0], [5.0, 0.0], [0.0, 0.0]]

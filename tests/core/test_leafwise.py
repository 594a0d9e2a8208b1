"""Rules that depend on the shape of a leaf, and what they are made of."""

from __future__ import annotations

import copy
from typing import Any

import jax
import numpy as np
import pytest
import torch
from harness import slow

import optstudy_jax
import optstudy_torch
from optstudy_core import ALGORITHMS
from optstudy_core.arrays.axes import axis_mean, concatenated, rest_max, slices
from optstudy_core.arrays.leafwise import leafwise
from optstudy_core.arrays.leaves import Leaves
from optstudy_core.arrays.numpy_backend import NumPy
from optstudy_jax._backend import BACKEND as OURS_IN_JAX
from optstudy_jax._rounding import OUTSIDE, Node, leaving
from optstudy_torch.engine.eager import EAGER

LEAFWISE = [name for name, algorithm in ALGORITHMS.items() if algorithm.leafwise]
SHAPES = [(5, 3), (1, 4), (130, 7), (2, 3, 4), (3, 0), (0, 3), (6,)]


def draw(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    rng = np.random.default_rng(sum(shape))
    return np.asarray(10 ** rng.uniform(-6, 6, shape) * rng.choice([-1, 1], shape), dtype)


def everywhere(function: Any, x: np.ndarray) -> list[list[np.ndarray]]:
    """Return the results of NumPy, torch and compiled JAX, of a leaf."""

    def in_jax(value: Any) -> list[Any]:
        return [leaving(y.values[0]) for y in function(Leaves([Node(value, OUTSIDE)], OURS_IN_JAX))]

    with jax.enable_x64(True):
        found = [jax.jit(in_jax)(x)]
    trees = [Leaves([x], NumPy()), Leaves([torch.from_numpy(x)], EAGER)]
    found = [*([y.values[0] for y in function(tree)] for tree in trees), *found]
    return [[*map(np.asarray, results)] for results in found]


# JAX compiles each for seconds: in `make test` each shape has one of the two dtypes.
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        (shape, dtype) if i % 2 == (dtype is np.float64) else slow(shape, dtype)
        for i, shape in enumerate(SHAPES)
        for dtype in (np.float32, np.float64)
    ],
)
def test_means_and_maxima_are_the_same_bits(shape: tuple[int, ...], dtype: Any) -> None:
    x = draw(shape, dtype)
    every_axis = range(len(shape))
    # Squares, so that a product is summed: a compiler may not contract the two.
    first, *others = everywhere(
        lambda t: [axis_mean(t * t, a) for a in every_axis] + [rest_max(t, a) for a in every_axis],
        x,
    )
    for results in others:
        for y, wanted in zip(results, first, strict=True):
            assert np.array_equal(y, wanted)
            assert y.dtype == dtype
    for axis in every_axis:
        if x.size:
            exact = np.mean(np.longdouble(x * x), axis, keepdims=True)
            np.testing.assert_allclose(first[axis], exact, rtol=2 * np.finfo(dtype).eps)
        rest = tuple(i for i in every_axis if i != axis)
        largest = x.max(rest) if x.size else np.zeros(shape[axis])
        assert np.array_equal(first[len(shape) + axis], largest)


def test_nan_is_not_lost() -> None:
    x = np.float32([[1.0, np.nan], [2.0, 3.0]])
    for mean, largest in everywhere(lambda t: (axis_mean(t, 1), rest_max(t, 1)), x):
        assert np.isnan(mean).ravel().tolist() == [True, False]
        assert np.isnan(largest).tolist() == [False, True]


def test_a_mean_of_many_does_not_overflow_or_lose() -> None:
    x = np.full((1 << 12, 1), 3e38, np.float32)  # the sum is no float32
    assert axis_mean(x, 0).item() == np.float32(3e38)
    ones = np.ones((1, (1 << 20) + 1), np.float32)
    assert axis_mean(ones, 1).item() == 1.0


def test_parts_of_a_vector_fit_their_axes() -> None:
    x = draw((2, 3, 4), np.float32)
    parts = slices(concatenated([rest_max(x, i) for i in range(3)]), x.shape)
    for i, part in enumerate(parts):
        rest = tuple(j for j in range(3) if j != i)
        assert np.array_equal(part, x.max(rest, keepdims=True))


def test_a_tree_without_leaves_stays_one() -> None:
    @leafwise
    def pair(x: Any, *, rate: Any = 1.0) -> Any:
        return (x, rate * x) if len(x.shape) else (x, x)

    both = pair(Leaves([], NumPy()))
    assert [list(tree.values) for tree in both] == [[], []]
    one, two = pair(Leaves([np.ones(2), np.ones(())], NumPy()), rate=3.0)
    assert [x.tolist() for x in (*one.values, *two.values)] == [[1.0, 1.0], 1.0, [3.0, 3.0], 1.0]


@pytest.mark.parametrize("name", LEAFWISE)
def test_compilation_is_refused_off_the_cpu(name: str) -> None:
    p = torch.nn.Parameter(torch.ones(3, 2, device="meta"))
    p.grad = torch.ones(3, 2, device="meta")
    with pytest.raises(RuntimeError, match="compile = True on meta"):
        optstudy_torch.from_core(name)([p], compile=True).step()


@pytest.mark.parametrize("name", LEAFWISE)
def test_a_saved_state_of_other_shapes_is_refused(name: str) -> None:
    def made(shape: tuple[int, ...]) -> Any:
        p = torch.nn.Parameter(torch.ones(shape))
        p.grad = torch.ones(shape)
        optimizer = optstudy_torch.from_core(name)([p])
        optimizer.step()
        return optimizer

    saved = copy.deepcopy(made((3, 2)).state_dict())
    made((3, 2)).load_state_dict(saved)
    with pytest.raises(ValueError, match="of shape"):
        made((3, 4)).load_state_dict(saved)


@pytest.mark.parametrize("name", LEAFWISE)
def test_an_empty_tree_is_trained(name: str) -> None:
    tx = optstudy_jax.from_core(name)(learning_rate=0.1)
    assert tx.update({}, tx.init({}), {})[0] == {}


def test_matrices_of_three_axes_are_torchs() -> None:
    """Against torch.optim.Adafactor, for shapes that the table of peers does not have."""
    rng = np.random.default_rng(0)
    shapes = [(4, 3, 2), (2, 3, 3, 3), (5, 1), ()]
    begin = [torch.tensor(rng.normal(size=s)) for s in shapes]
    ends = []
    for cls in (optstudy_torch.Adafactor, torch.optim.Adafactor):
        params = [torch.nn.Parameter(x.clone()) for x in begin]
        optimizer = cls(params, lr=0.1)
        grads = np.random.default_rng(1)
        for _ in range(30):
            for p in params:
                p.grad = torch.tensor(grads.normal(size=tuple(p.shape)))
            optimizer.step()
        ends.append(params)
    for x, y in zip(*ends, strict=True):
        # Measured: 4.5e-15. torch adds in another order.
        torch.testing.assert_close(x, y, rtol=1e-13, atol=1e-15)


def test_the_average_of_asgd_is_torchs() -> None:
    rng = np.random.default_rng(0)
    found = []
    for cls in (optstudy_torch.ASGD, torch.optim.ASGD):
        p = torch.nn.Parameter(torch.ones(50))
        optimizer = cls([p], lr=0.1, lambd=0.05, t0=5)
        rng = np.random.default_rng(0)
        for _ in range(30):
            p.grad = torch.tensor(rng.normal(size=50), dtype=torch.float32)
            optimizer.step()
        found.append(optimizer.state[p]["ax"])
    # Some units in the last place of 1 (measured: 4.8e-7): torch multiplies by a rounded 1 − λ·η.
    torch.testing.assert_close(*found, rtol=0, atol=2e-6)

"""Rules that run as they are written: NumPy in threads has the bits of NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from harness import draw, same, slow

from optstudy_core import ALGORITHMS, namespace
from optstudy_core.arrays import axes, numpy_backend, reductions
from optstudy_core.arrays.leaves import Leaves
from optstudy_core.arrays.numpy_backend import NumPy
from optstudy_torch.engine import threaded_numpy
from optstudy_torch.engine.threaded_numpy import ThreadedNumPy
from optstudy_torch.engine.threads import in_threads

SHAPES = [(37, 53), (53, 37), (3, 5), (3, 5), (7,), (3001,), (), (0,), (2, 30, 70), (1, 4000)]

BACKENDS = (ThreadedNumPy(),)


@pytest.fixture(autouse=True)
def _small_blocks(two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads, and leaves that are cut into many parts."""
    monkeypatch.setattr(threaded_numpy, "BLOCK", 500)
    monkeypatch.setattr(numpy_backend, "_TOGETHER", 4000)


def trees(dtype: Any, order: Any, seed: int, shapes: Any = SHAPES) -> list[Leaves]:
    arrays = [np.asarray(x, order=order) for x in draw(shapes, 1, seed=seed, dtype=dtype)[0]]
    return [Leaves(arrays, NumPy()), *(Leaves(arrays, b) for b in BACKENDS)]


def assert_same(expected: Leaves, *others: Leaves) -> None:
    for found in others:
        for i, (x, y) in enumerate(zip(expected.values, found.values, strict=True)):
            assert same(np.asarray(x), np.asarray(y)), f"leaf {i}"


@pytest.mark.parametrize(
    ("dtype", "order"),
    [(np.float32, "F"), (np.float64, "C"), slow(np.float32, "C"), slow(np.float64, "F")],
)
@pytest.mark.parametrize("name", ["adafactor", "lamb", "sm3", "adamw"])
def test_updates(name: str, dtype: Any, order: Any) -> None:
    rule = ALGORITHMS[name]
    values = rule.defaults()
    ends = []
    for params, *grads in zip(*(trees(dtype, order, seed) for seed in (0, 100, 200)), strict=True):
        theta, state = params, rule.start(params, values)
        for g in grads:
            state, step = rule.update(state, g, theta, **values)
            theta = theta + step
        ends.append(theta)
    assert_same(*ends)


@pytest.mark.parametrize("order", ["C", "F"])
def test_operations(order: Any) -> None:
    each = trees(np.float32, order, 7)
    results = [
        lambda x: x * 3.0 - x,
        lambda x: namespace(x).where(x < 0.5, -x, 2.0 * x),
        lambda x: namespace(x).where(namespace(x).isfinite(1.0 / x), x, -1.0),
        lambda x: namespace(x).sqrt(abs(x)) + namespace(x).ones_like(x),
        lambda x: reductions.leaf_norm(x) * x,
        lambda x: reductions.global_sum(x) + x,
    ]
    for compute in results:
        assert_same(*map(compute, each))


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("order", ["C", "F"])
def test_sums_along_an_axis(axis: int, order: Any) -> None:
    shapes = [(37, 53), (1, 4000), (4000, 1), (2, 30, 70), (600, 0)]
    each = trees(np.float32, order, 0, shapes)
    assert_same(*(axes.axis_mean(x, axis) for x in each))
    assert_same(*(axes.axis_sum(x, axis) for x in each))
    # A row against a column: the operands are smaller than the result.
    rows, columns = ([axes.axis_sum(x, a) for x in each] for a in (0, 1))
    assert_same(*(r * c for r, c in zip(rows, columns, strict=True)))


def test_what_is_not_finite_and_no_warning() -> None:
    x = np.full((40, 50), 1e38, np.float32)
    x[3, 4], x[5, 6] = np.nan, np.inf
    each = [Leaves([x], NumPy()), *(Leaves([x], b) for b in BACKENDS)]
    assert_same(*(y * y - y / (y - y) for y in each))
    assert_same(*(reductions.leaf_norm(y) for y in each))
    assert_same(*(axes.axis_mean(y * 3.0, 0) for y in each))


def test_threads_within_threads_do_not_wait_for_each_other() -> None:
    found: list[tuple[int, int]] = []

    def outer(rows: Any) -> None:
        for row in rows:
            in_threads(lambda own, row=row: found.extend((row, x) for x in own), range(4), 2)

    in_threads(outer, range(4), 2)
    assert sorted(found) == [(i, j) for i in range(4) for j in range(4)]

"""Runs a function of trees as a program of a shape, in C, beside NumPy, which defines its bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from optstudy_core.arrays import axes, reductions
from optstudy_core.arrays.leaves import Leaves, namespace_of
from optstudy_core.arrays.matrix import gram, matmul, transposed, when
from optstudy_core.arrays.numpy_backend import NumPy
from optstudy_torch.engine.alike import TORCH, Alike
from optstudy_torch.engine.program import Program
from optstudy_torch.engine.shaped import Execution
from optstudy_torch.engine.shapes_in_c import Kernels

Columns = Sequence[Sequence[np.ndarray]]
"""Of each argument, the arrays of all leaves: of one shape."""


class _Rule(NamedTuple):
    """What a program is made of: a rule whose state is the arguments and what is made of them."""

    function: Callable[..., Any]
    arguments: int

    def update(self, state: Any, grad: Leaves, params: Leaves) -> Any:
        """Return the new state and the step."""
        made = _results(self.function(*state[: self.arguments]))
        return (*state[: self.arguments], *made), params


def _results(made: Any) -> tuple[Leaves, ...]:
    return made if isinstance(made, tuple) else (made,)


def by_numpy(function: Callable[..., Any], columns: Columns) -> list[Leaves]:
    """Return what NumPy computes, leaf by leaf, as a branch wants it."""
    rows = zip(*columns, strict=True)
    made = [_results(function(*(Leaves([x], NumPy()) for x in row))) for row in rows]
    return [Leaves([x.values[0] for x in own], NumPy()) for own in zip(*made, strict=True)]


def program_of(function: Callable[..., Any], columns: Columns) -> tuple[Program, list[Leaves]]:
    """Return the program of a function, and what NumPy computes."""
    expected = by_numpy(function, columns)
    dtype = columns[0][0].dtype
    shapes = [x[0].shape for x in columns] + [np.shape(x.values[0]) for x in expected]
    rule: Any = _Rule(function, len(columns))
    program = Program(
        *(rule, {}, [], {}, dict(enumerate(shapes)), [False] * len(shapes)),
        *(tuple, list, columns[0][0].shape, TORCH[dtype]),
    )
    return program, expected


def by_loops(
    function: Callable[..., Any],
    columns: Columns,
    kernels: Callable[[Program], Any] = Kernels,
    like: Callable[[np.ndarray], Any] = np.asarray,
) -> list[Leaves]:
    """Return what a program in C computes, or with other kernels.

    Args:
        function: of trees.
        columns: its arguments.
        kernels: makes kernels of a program.
        like: makes what they compute on.
    """
    program, expected = program_of(function, columns)
    count, dtype = len(columns[0]), columns[0][0].dtype
    values: dict[str, Any] = {}
    scalars: dict[str, Any] = {}
    results = [np.stack([np.asarray(x) for x in tree.values]) for tree in expected]
    for i, x in enumerate([*columns, *map(np.zeros_like, results)]):
        shape = np.shape(x[0])
        own = [np.array(y, dtype) for y in x]
        if shape == ():
            scalars[f"s{i}"] = like(np.array(own))
        else:
            values[f"s{i}"] = Alike(shape, like(own[0]).dtype, [*map(like, own)])
    zeros = [like(np.zeros(columns[0][0].shape, dtype)) for _ in range(count)]
    values |= {name: Alike(columns[0][0].shape, zeros[0].dtype, zeros) for name in ("p", "g")}
    made = Execution(program, kernels(program), {}, count, values, scalars, False)
    for asked in made.run():
        assert not asked
    found = []
    for i in range(len(columns), len(columns) + len(results)):
        symbol = program.new_scalars.get(i)
        found.append(Leaves(list(made.vector(symbol) if symbol else made.values[f"s{i}"]), NumPy()))
    return found


def random_rule_of_shapes(seed: int) -> Callable[..., tuple[Leaves, ...]]:
    """Return a random formula with sums, sums along axes, rearrangements, products and branches."""
    steps: list[Callable[..., Leaves]] = [
        lambda x, y: x * y,
        lambda x, y: x - 0.3 * y,
        lambda x, y: x / (1 + abs(y)),
        lambda x, y: namespace_of(x).sqrt(abs(x)) + y,
        lambda x, y: namespace_of(x).where(x < y, x, -y),
        lambda x, y: axes.axis_mean(x * y, 0) + x,
        lambda x, y: axes.axis_sum(x - y, 1) * y,
        lambda x, y: axes.axis_mean(axes.axis_sum(x, 0), 1) * y,
        lambda x, y: x / namespace_of(x).maximum(reductions.leaf_norm(y), 1e-3),
        lambda x, y: reductions.leaf_dot(x, y) * 1e-3 + x,
        lambda x, y: transposed(transposed(x) + axes.axis_mean(transposed(y), 0)),
        lambda x, y: x.backend.rearrange(
            lambda v: v[1::2] * 1, axes.reshaped(axes.flattened([x, y]), (18, 11))
        ),
        lambda x, y: matmul(gram(x / 100, rough=True), y, rough=True),
        lambda x, y: matmul(matmul(x, transposed(y)), x) * 1e-4,
        lambda x, y: when(reductions.leaf_norm(x) > 9.0, lambda v: (v * 0.1,), (x,), (y,))[0],
    ]

    def function(x: Leaves, y: Leaves) -> tuple[Leaves, ...]:
        rng = np.random.default_rng(seed)
        known = [x, y]
        for _ in range(9):
            step = steps[rng.integers(len(steps))]
            known.append(step(*(known[-1 - rng.integers(min(4, len(known)))] for _ in range(2))))
        return known[-1], known[-2], reductions.leaf_norm(known[-3])

    return function

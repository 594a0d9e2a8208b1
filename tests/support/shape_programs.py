"""Runs a function of trees as a program of a shape, in C, beside NumPy, which defines its bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from optstudy_core.arrays.leaves import Leaves
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


def by_loops(function: Callable[..., Any], columns: Columns) -> list[Leaves]:
    """Return what a program in C computes."""
    program, expected = program_of(function, columns)
    count, dtype = len(columns[0]), columns[0][0].dtype
    values: dict[str, Any] = {}
    scalars: dict[str, Any] = {}
    results = [np.stack([np.asarray(x) for x in tree.values]) for tree in expected]
    for i, x in enumerate([*columns, *map(np.zeros_like, results)]):
        shape = np.shape(x[0])
        own = [np.array(y, dtype) for y in x]
        if shape == ():
            scalars[f"s{i}"] = np.array(own)
        else:
            values[f"s{i}"] = Alike(shape, dtype, own)
    like = [np.zeros(columns[0][0].shape, dtype) for _ in range(count)]
    values |= {name: Alike(like[0].shape, dtype, like) for name in ("p", "g")}
    made = Execution(program, Kernels(program), {}, count, values, scalars, False)
    for asked in made.run():
        assert not asked
    found = []
    for i in range(len(columns), len(columns) + len(results)):
        symbol = program.new_scalars.get(i)
        found.append(Leaves(list(made.vector(symbol) if symbol else values[f"s{i}"]), NumPy()))
    return found

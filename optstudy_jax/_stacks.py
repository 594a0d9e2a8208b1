"""Small equal leaves, computed as one.

Tracing takes some tenths of a millisecond for each operation, and XLA compiles each loop of each
leaf, even for small leaves. So small leaves of one shape and dtype are stacked along a new axis,
computed with ``jax.vmap``, and unstacked. No sum goes across leaves, so the bits do not change.

XLA on the CPU would fuse all operations into the unstacking, and compute them again for every leaf.
It does not fuse across the bounds of a loop. So the two halves of a stack are a loop of two
iterations (with one iteration XLA would remove the loop).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from optstudy_core import Algorithm
from optstudy_core.arrays.leaves import Leaves, Scalars, fields_of, map_leaves

from ._backend import BACKEND
from ._rounding import OUTSIDE, PLAIN, Node, apart, leaving

MOST: Final = 4096
"""Elements of the largest small leaf, for which a loop costs as much as copies of the leaf."""

FEWEST: Final = 4
"""The smallest number of leaves for a stack."""


Arrays = Mapping[str, Sequence[Any]]
Advance = Callable[[list[int], Any, Arrays], tuple[Any, Sequence[Any]]]


def in_stacks(
    advance: Advance,
    numbers: Sequence[int],
    state: Any,
    columns: Arrays,
    algorithm: Algorithm,
) -> Iterator[tuple[list[int], Any, Sequence[Any]]]:
    """Advance leaves, with small equal leaves as one.

    Args:
        advance: a function of the numbers of leaves, their state and their arrays, which returns
            the new state and the steps.
        numbers: the numbers of the leaves.
        state: the state of these leaves.
        columns: the arrays of all leaves: gradients and other arrays of the same shapes.
        algorithm: the rule.

    Yields:
        numbers, the new state and the steps of some leaves.
    """
    stacks: list[list[int]] = []
    if not algorithm.has_global_sums and not algorithm.one_by_one:
        fields = [tree for tree in fields_of(state) if not isinstance(tree, Scalars)]
        stacks = _alike(
            [
                (*(x[i] for x in columns.values()), *(_array(tree.values[k]) for tree in fields))
                for k, i in enumerate(numbers)
            ]
        )
    rest = sorted({*range(len(numbers))}.difference(*stacks))
    for places in [rest] * bool(rest or not stacks) + stacks:
        part = [numbers[k] for k in places]
        own = map_leaves(functools.partial(_picked, places), state)
        arrays = {name: [x[i] for i in part] for name, x in columns.items()}
        compute = advance if places is rest else functools.partial(_as_one, advance)
        yield part, *compute(part, own, arrays)


def _alike(rows: Sequence[Sequence[Any]]) -> list[list[int]]:
    """Return the numbers of the rows for each stack."""
    found: dict[Any, list[int]] = {}
    for k, row in enumerate(rows):
        if math.prod(np.shape(row[0])) <= MOST and all(map(_is_placed, row)):
            found.setdefault(tuple(map(_kind, row)), []).append(k)
    return [places for places in found.values() if len(places) >= FEWEST]


def _is_placed(x: Any) -> bool:
    """Return whether the devices of an array are known.

    In a ``jit`` with several devices they are known only on an explicit mesh. Otherwise the
    partitioner would choose one sharding for all leaves of a stack.
    """
    if not isinstance(x, jax.core.Tracer) or jax.device_count() == 1:
        return True
    kinds = jax.typeof(x).sharding.mesh.axis_types
    return bool(kinds) and jax.sharding.AxisType.Auto not in kinds


def _kind(x: Any) -> Any:
    """Return shape, dtype and sharding of an array; arrays that differ are not stacked."""
    if x is None:
        return None
    return jax.typeof(x), None if isinstance(x, jax.core.Tracer) else getattr(x, "sharding", None)


def _array(node: Node | None) -> Any:
    return None if node is None else node.value


def _picked(places: Sequence[int], tree: Leaves) -> Leaves:
    """Return some leaves of a tree."""
    if len(places) == tree.count:
        return tree
    if isinstance(tree, Scalars):
        vector = tree.vector.value[np.array(places, int)]
        return Scalars(tree.vector._replace(value=vector), len(places), BACKEND)
    return Leaves([tree.values[k] for k in places], BACKEND)


def _as_one(
    advance: Advance, numbers: list[int], state: Any, columns: Arrays
) -> tuple[Any, Sequence[Any]]:
    """Return the result of ``advance`` for equal leaves."""

    def of_one(fields: Sequence[Any], arrays: dict[str, Any]) -> Any:
        own = iter([Leaves([None if x is None else Node(x, OUTSIDE)], BACKEND) for x in fields])
        whole = map_leaves(lambda _: next(own), state)
        new, (step,) = advance(numbers[:1], whole, {name: [x] for name, x in arrays.items()})
        left = (tree.values[0] for tree in fields_of(new))
        return [None if x is None else leaving(x) for x in left], step

    odd = len(numbers) % 2

    def even(arrays: Sequence[Any]) -> list[Any]:
        return [*arrays, *[arrays[-1]] * odd]

    def stacked(tree: Leaves) -> Any:
        if isinstance(tree, Scalars):
            vector = tree.vector.value
            return jnp.concatenate([vector, vector[-1:]]) if odd else vector
        return None if tree.values[0] is None else _stack(even([x.value for x in tree.values]))

    before = fields_of(state)
    arrays = {name: _stack(even(column)) for name, column in columns.items()}
    fields, steps = _in_two_halves(jax.vmap(of_one), [*map(stacked, before)], arrays)

    def separated(old: Leaves, new: Any) -> Leaves:
        if new is None:
            return old
        if isinstance(old, Scalars):
            return Scalars(Node(new[: old.count], PLAIN, scalars=True), old.count, BACKEND)
        return Leaves([Node(x, PLAIN) for x in apart(new)[: old.count]], BACKEND)

    after = map(separated, before, fields)
    return map_leaves(lambda _: next(after), state), apart(steps)[: len(numbers)]


def _in_two_halves(function: Callable[..., Any], *trees: Any) -> Any:
    """Return the result of a function of stacks of even length, in a loop when compiled."""
    if not isinstance(jax.tree.leaves(trees)[0], jax.core.Tracer):
        return function(*trees)
    halves = jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), trees)
    _, found = jax.lax.scan(lambda _, half: (None, function(*half)), None, halves)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)


@jax.jit  # traced once, however many trees there are
def _stack(arrays: Sequence[Any]) -> Any:
    """Return arrays stacked along a new axis: first to rows of some arrays, then the rows.

    XLA compiles a concatenation of few arrays once for all rows, but a concatenation of many arrays
    separately, at some milliseconds for each array. Concatenations along one axis would be merged.
    """
    whole = len(arrays) - len(arrays) % _ROW
    wide = [x[None, None] for x in arrays[:whole]]
    rows = [jnp.concatenate(wide[i : i + _ROW], axis=1) for i in range(0, whole, _ROW)]
    rest = [x[None] for x in arrays[whole:]]
    shape = (whole, *jnp.shape(arrays[0]))
    return jnp.concatenate([*([jnp.concatenate(rows).reshape(shape)] if rows else []), *rest])


_ROW = 8

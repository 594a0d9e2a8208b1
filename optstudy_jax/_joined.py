"""Exact sums over arrays on a mesh of devices, all sums of a pass at once.

A sum is a few passes over its vectors: the largest magnitude, then integers. Each device passes
over its part. One all-reduce along all axes of the mesh joins the results of all sums of a pass:
maxima, or integers modulo 2⁶⁴, exact in any order. XLA alone would gather each number of each leaf
along each axis.

A function of the core that needs such a pass stops there, and is called again after the pass is
joined. XLA removes the repeated operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optstudy_core.arrays.bits import from_bits, to_bits
from optstudy_core.arrays.exact_sum import Parts, Terms, Vector

from ._parts import Cuts, on_parts
from ._passes import Traced

OfShares = Callable[[Any, Traced], Any]
"""A function of the columns of a row and a library: the sum of the row."""

_JOIN = {"max": jax.lax.pmax, "sum": jax.lax.psum}
_NOT_NEGATIVE = np.iinfo(np.int64).max


def joined(of_shares: OfShares, of_row: Callable[[Any], Any], rows: Sequence[Any]) -> Any:
    """Return the sums of rows of arrays on a mesh.

    Args:
        of_shares: a function for the sum of a row from shares.
        of_row: a function for the sum of a row of whole arrays.
        rows: the rows; each has columns of arrays.
    """
    arrays, structure = jax.tree.flatten(rows)
    results = jax.tree.structure(jax.eval_shape(lambda rows: list(map(of_row, rows)), rows))
    shapes = [x.shape for x in arrays]

    def of_parts(sizes: dict[str, int], cuts: Cuts, *parts: Any) -> Any:
        along = tuple(name for name in sizes if any(name in c for cut in cuts for c in cut))
        numbers = jax.tree.unflatten(structure, range(len(shapes)))
        shares = []
        for columns in numbers:
            full = [i for i in columns[0] if math.prod(shapes[i])]
            count = sum(math.prod(shapes[i]) for i in full)
            shares.append(_Share(count, [_is_first(along, cuts[i]) for i in full]))
        rows = jax.tree.unflatten(structure, parts)
        with jax.enable_x64(True):
            return jax.tree.leaves(_together(of_shares, shares, rows, along))

    def of_whole(*arrays: Any) -> Any:
        return jax.tree.leaves(list(map(of_row, jax.tree.unflatten(structure, arrays))))

    return jax.tree.unflatten(results, on_parts(of_parts, of_whole, arrays))


class _Waiting(Exception):  # noqa: N818
    """A function needs a pass that is not joined yet."""


class _Share(Traced):
    """Passes over the part of one device.

    Args:
        count: the number of terms of a sum on all devices.
        counted: for each leaf, whether the part of this device counts; of several copies one
            counts.
    """

    def __init__(self, count: int, counted: Sequence[Any]) -> None:
        self._count, self.counted = count, counted
        self._known: list[list[Any]] = []
        self._next = 0
        self.asked: tuple[str, list[Any]] = "", []

    def call(self, of_shares: OfShares, columns: Any) -> Any:
        """Return the sum of columns.

        Raises:
            _Waiting: if the sum needs the joined ``asked``, see :meth:`tell`.
        """
        self._next = 0
        return of_shares(columns, self)

    def tell(self, values: Sequence[Any]) -> None:
        """Store the joined ``asked`` of all devices."""
        self._known.append(list(values))

    def _joined(self, operation: str, values: Callable[[], list[Any]]) -> list[Any]:
        if self._next == len(self._known):
            self.asked = operation, values()
            raise _Waiting
        self._next += 1
        return self._known[self._next - 1]

    def count(self, vector: Vector) -> int:
        return self._count if vector else 0

    def largest(self, terms: Terms, vectors: Sequence[Vector]) -> list[Any]:
        def own() -> list[Any]:
            found = super(_Share, self).largest(terms, vectors)
            # As integers, with NaN as the largest, because a maximum of floats may lose NaN.
            return [to_bits(self.unwrap(x)) & _NOT_NEGATIVE for pair in found for x in pair]

        values = [self.wrap(from_bits(x)) for x in self._joined("max", own)]
        return list(zip(values[::2], values[1::2], strict=True))

    def totals(self, parts: Parts, vectors: Sequence[Vector], after: Sequence[Any]) -> list[Any]:
        def own() -> list[Any]:
            return super(_Share, self).totals(parts, vectors, after)

        return self._joined("sum", own)


def _together(
    of_shares: OfShares, shares: Sequence[_Share], rows: Sequence[Any], along: Sequence[str]
) -> list[Any]:
    """Return the sum of each row, pass by pass."""
    results: list[Any] = [None] * len(rows)
    waiting = list(range(len(rows)))
    while waiting:
        asking = []
        for i in waiting:
            try:
                results[i] = shares[i].call(of_shares, rows[i])
            except _Waiting:
                asking.append(i)
        waiting = asking
        for operation in _JOIN:
            _join(operation, [s for i in asking if (s := shares[i]).asked[0] == operation], along)
    return results


def _join(operation: str, shares: Sequence[_Share], along: Sequence[str]) -> None:
    """Join the requests of shares over all devices."""
    values = [x for share in shares for x in share.asked[1]]
    if along and values:
        values = list(_JOIN[operation](jnp.stack(values), along))
    rest: Iterator[Any] = iter(values)
    for share in shares:
        share.tell([next(rest) for _ in share.asked[1]])


def _is_first(along: Sequence[str], cut: Sequence[tuple[str, ...]]) -> Any:
    """Return whether this device is the first with a copy."""
    found = jnp.asarray(True)
    for name in along:
        if not any(name in own for own in cut):
            found = found & (jax.lax.axis_index(name) == 0)
    return found

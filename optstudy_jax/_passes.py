"""Traced passes over vectors, on which ``optstudy_core.exact_sum`` runs in JAX."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from optstudy_core.arrays.bits import to_bits
from optstudy_core.arrays.exact_sum import Library, Parts, Terms, Vector, product
from optstudy_core.arrays.leaves import Leaves, namespace_of

from ._rounding import PLAIN, Node, Operations, isolate, outside

_OPERATIONS = Operations()


class Traced(Library):
    """Each pass is one reduction for each leaf, into which XLA fuses the terms.

    All sums of a pass are one reduction with several operands. Several reductions would compute the
    terms again, or XLA would store them in memory.
    """

    xp = namespace_of(Leaves((), _OPERATIONS))
    counted: Sequence[Any] | None = None
    """For each leaf, whether the part of this device counts in a sum; ``None``: all count."""

    def wrap(self, scalar: Any) -> Leaves:
        return Leaves([Node(scalar, PLAIN)], _OPERATIONS)

    def unwrap(self, scalar: Any) -> jax.Array:
        node: Node = scalar.values[0]
        return isolate(node.value)

    def largest(self, terms: Terms, vectors: Sequence[Vector]) -> list[Any]:
        def extremes(*block: Any) -> Iterator[Any]:
            for term in _products(terms, block):
                yield term
                yield -term

        found = _reduce(extremes, vectors, lax.max, jnp.asarray(0.0, jnp.float64))
        values = [self.wrap(value) for value in found]
        return list(zip(values[::2], values[1::2], strict=True))

    def totals(self, parts: Parts, vectors: Sequence[Vector], after: Sequence[Any]) -> list[Any]:
        def integers(*block: Any) -> Iterator[Any]:
            for part in parts(*block):
                yield to_bits(part.values[0].value)

        # Keeps XLA from storing the terms of the last pass in memory for this pass.
        arrays, _ = lax.optimization_barrier((vectors, [self.unwrap(x) for x in after]))
        return _reduce(integers, arrays, lax.add, jnp.asarray(0, jnp.int64), counted=self.counted)

    def plain(self, terms: Terms, vectors: Sequence[Vector]) -> list[Any]:
        def products(*block: Any) -> Iterator[Any]:
            return _products(terms, block)

        def converted(x: Any) -> Any:  # not isolated, because plain sums may have any bits
            return self.wrap(jnp.asarray(x, jnp.float64))

        found = _reduce(products, vectors, lax.add, jnp.asarray(0.0, jnp.float64), converted)
        return [self.wrap(value) for value in found]


def _products(terms: Terms, block: Iterable[Any]) -> Iterator[Any]:
    for factors in terms(*block):
        yield product(factors).values[0].value


def _reduce(
    function: Callable[..., Iterator[Any]],
    vectors: Sequence[Vector],
    operation: Callable[[Any, Any], Any],
    start: Any,
    converted: Callable[[Any], Any] | None = None,
    counted: Sequence[Any] | None = None,
) -> list[Any]:
    """Return the reductions over all leaves of each of the arrays of a leaf."""

    def combine(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(map(operation, a, b))

    found: tuple[Any, ...] | None = None
    for number, leaves in enumerate(zip(*vectors, strict=True)):
        arrays = tuple(function(*map(converted or _float64, leaves)))
        starts = (start,) * len(arrays)
        here = lax.reduce(arrays, starts, combine, tuple(range(arrays[0].ndim)))
        if counted is not None:
            here = tuple(jnp.where(counted[number], x, start) for x in here)
        found = here if found is None else combine(found, here)
    assert found is not None
    return list(found)


def _float64(x: Any) -> Leaves:
    return Leaves([outside(x, jnp.float64)], _OPERATIONS)


class Plain(Traced):
    """Plain sums that have derivatives."""

    def plain(self, terms: Terms, vectors: Sequence[Vector]) -> list[Any]:
        sums: list[Any] = []
        for leaves in zip(*vectors, strict=True):
            block = [Leaves([Node(x.astype(jnp.float64), PLAIN)], _OPERATIONS) for x in leaves]
            own = list(map(jnp.sum, _products(terms, block)))
            sums = [a + b for a, b in zip(sums, own, strict=True)] if sums else own
        return list(map(self.wrap, sums))

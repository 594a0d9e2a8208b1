"""Norms and angles of JAX trees, on the device, sharded, and inside ``jit`` and ``vmap``.

The lines of ``optstudy_core.geometry`` run here on float64 arrays (``jax.enable_x64`` inside), so
the results have the bits that NumPy and torch give. Trees are JAX's: anything ``jax.tree`` knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from optstudy_core import geometry as core
from optstudy_core.arrays.bits import to_bits
from optstudy_core.arrays.exact_sum import Library, Parts, Terms, Vector, product
from optstudy_core.arrays.leaves import Leaves, namespace_of

from ._array import JAX, PLAIN, Node, isolate, leaving, outside

_BACKEND = JAX()


class _Traced(Library):
    """Each pass is one reduction a leaf, into which XLA fuses the terms.

    All sums of a pass are one reduction of several operands: of several reductions each would
    compute the terms anew, or XLA would keep them in memory in full.
    """

    xp = namespace_of(Leaves((), _BACKEND))

    def wrap(self, scalar: Any) -> Leaves:
        return Leaves([Node(scalar, PLAIN)], _BACKEND)

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

        # So that XLA does not keep the terms of the last pass for this one: in memory, in full.
        arrays, _ = lax.optimization_barrier((vectors, [self.unwrap(x) for x in after]))
        return _reduce(integers, arrays, lax.add, jnp.asarray(0, jnp.int64))

    def plain(self, terms: Terms, vectors: Sequence[Vector]) -> list[Any]:
        def products(*block: Any) -> Iterator[Any]:
            return _products(terms, block)

        def converted(x: Any) -> Any:  # not isolated: nobody promises a plain sum's bits
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
) -> list[Any]:
    """Return the reductions over all leaves of each of the arrays of a leaf."""

    def combine(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(map(operation, a, b))

    found: tuple[Any, ...] | None = None
    for leaves in zip(*vectors, strict=True):
        arrays = tuple(function(*map(converted or _float64, leaves)))
        starts = (start,) * len(arrays)
        here = lax.reduce(arrays, starts, combine, tuple(range(arrays[0].ndim)))
        found = here if found is None else combine(found, here)
    assert found is not None
    return list(found)


def _float64(x: Any) -> Leaves:
    return Leaves([outside(x, jnp.float64)], _BACKEND)


_TRACED = _Traced()


def total(u: Any, *, exact: bool = True) -> jax.Array:
    """Return the sum of all entries of a tree, a float64 scalar.

    Args:
        u: tree of real arrays of any shape.
        exact: independent of order, split, sharding and library; else a plain sum.

    Raises:
        TypeError: for complex arrays.

    >>> float(total([jnp.array([1e12, 0.5]), jnp.array(-1e12)]))
    0.5
    """
    return _run(core.vector_total, exact, u)


def norm(u: Any, *, exact: bool = True) -> jax.Array:
    """Return the Euclidean norm of a tree as one vector, a float64 scalar.

    Args and errors as for :func:`total`.

    >>> float(norm({"w": jnp.array([3.0]), "b": jnp.array(4.0)}))
    5.0
    """
    return _run(core.vector_norm, exact, u)


def dot(u: Any, v: Any, *, exact: bool = True) -> jax.Array:
    """Return the dot product of two trees of one structure, a float64 scalar.

    Args:
        u: tree of real arrays of any shape.
        v: tree of the same structure and shapes.
        exact: as for :func:`total`.

    Raises:
        TypeError: for complex arrays.
        ValueError: if structures or shapes differ.
    """
    return _run(core.vector_dot, exact, u, v)


def cosine(u: Any, v: Any, *, exact: bool = True) -> jax.Array:
    """Return the cosine of the angle between two trees, a float64 scalar; NaN if one is zero.

    Args and errors as for :func:`dot`.
    """
    return _run(core.vector_cosine, exact, u, v)


def chords(u: Any, v: Any, *, exact: bool = True) -> tuple[jax.Array, jax.Array]:
    """Return ‖û − v̂‖ and ‖û + v̂‖, from which the host makes the angle.

    Args and errors as for :func:`dot`.
    """
    between, across = _run(core.vector_chords, exact, u, v)
    return between, across


def angle(u: Any, v: Any, *, degrees: bool = False, exact: bool = True) -> float:
    """Return the angle between two trees, a number of the host; not for use inside ``jit``.

    The last steps (the inverse tangent) run on the host, the same everywhere; inside ``jit`` use
    :func:`cosine`, or return :func:`chords`. Args and errors as for :func:`dot`; with ``degrees``
    the angle is in degrees.

    >>> angle(jnp.array([1.0, 0.0]), jnp.array([0.0, 2.0]), degrees=True)
    90.0
    """
    between, across = chords(u, v, exact=exact)
    return core.angle_from_chords(float(between), float(across), degrees=degrees)


def per_leaf(function: Callable[..., Any], *trees: Any, **options: Any) -> Any:
    """Apply :func:`norm`, :func:`dot`, :func:`cosine` or :func:`angle` leaf by leaf.

    Args:
        function: which of these functions.
        *trees: one or two, of the same structure and shapes.
        **options: its keywords, such as ``exact``.

    Returns:
        a tree like the first with a number or a scalar array for each leaf.
    """
    return jax.tree.map(partial(function, **options), *trees)


def _run(function: Callable[..., Any], exact: bool, *trees: Any) -> Any:
    first, structure = jax.tree.flatten(trees[0])
    treedef: Any = structure
    columns = [first] + [treedef.flatten_up_to(t) for t in trees[1:]]
    for leaves in zip(*columns, strict=True):
        shapes = {jnp.shape(x) for x in leaves}
        if len(shapes) > 1:
            raise ValueError(f"shapes differ: {' and '.join(map(str, sorted(shapes)))}")
        for x in leaves:
            if jnp.issubdtype(jnp.result_type(x), jnp.complexfloating):
                raise TypeError(f"dtype {jnp.result_type(x)}: allowed are real dtypes")
    return on_device(function, exact, columns)


@partial(jax.jit, static_argnums=(0, 1))
def on_device(function: Callable[..., Any], exact: bool, columns: Any) -> Any:
    """Return what a function of a library finds, exactly or not, of vectors: float64 scalars."""
    with jax.enable_x64(True):
        vectors = [[jnp.asarray(x) for x in column if jnp.size(x) > 0] for column in columns]
        result = function(_TRACED, *vectors, exact=exact)
        if isinstance(result, tuple):
            return tuple(map(_value, result))
        return _value(result)


def _value(result: Any) -> Any:
    if isinstance(result, Leaves):
        return leaving(result.values[0])
    return jnp.asarray(result, jnp.float64)

"""Norms and angles of JAX trees, on the device, sharded, and inside ``jit`` and ``vmap``.

The code of ``optstudy_core.geometry`` runs here on float64 arrays (``jax.enable_x64`` inside), so
the results have the same bits as in NumPy and torch. A tree is anything that ``jax.tree`` accepts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from optstudy_core import geometry as core
from optstudy_core.arrays import vectors

from ._sums import on_device


def total(u: Any, *, exact: bool = True) -> jax.Array:
    """Return the sum of all elements of a tree, a float64 scalar.

    Args:
        u: tree of real arrays of any shape.
        exact: use an exact sum, which does not depend on order, split, sharding and library;
            otherwise a plain sum.

    Raises:
        TypeError: for complex arrays.

    >>> float(total([jnp.array([1e12, 0.5]), jnp.array(-1e12)]))
    0.5
    """
    return _run(vectors.vector_total, exact, u)


def norm(u: Any, *, exact: bool = True) -> jax.Array:
    """Return the Euclidean norm of a tree as one vector, a float64 scalar.

    Args and errors as for :func:`total`.

    >>> float(norm({"w": jnp.array([3.0]), "b": jnp.array(4.0)}))
    5.0
    """
    return _run(vectors.vector_norm, exact, u)


def dot(u: Any, v: Any, *, exact: bool = True) -> jax.Array:
    """Return the dot product of two trees of the same structure, a float64 scalar.

    Args:
        u: tree of real arrays of any shape.
        v: tree with the same structure and shapes.
        exact: as for :func:`total`.

    Raises:
        TypeError: for complex arrays.
        ValueError: if the structures or the shapes differ.
    """
    return _run(vectors.vector_dot, exact, u, v)


def cosine(u: Any, v: Any, *, exact: bool = True) -> jax.Array:
    """Return the cosine of the angle between two trees, a float64 scalar; NaN if one is zero.

    Args and errors as for :func:`dot`.
    """
    return _run(vectors.vector_cosine, exact, u, v)


def chords(u: Any, v: Any, *, exact: bool = True) -> tuple[jax.Array, jax.Array]:
    """Return ‖û − v̂‖ and ‖û + v̂‖; the host computes the angle from them.

    Args and errors as for :func:`dot`.
    """
    between, across = _run(vectors.vector_chords, exact, u, v)
    return between, across


def angle(u: Any, v: Any, *, degrees: bool = False, exact: bool = True) -> float:
    """Return the angle between two trees as a Python number; not for use inside ``jit``.

    The last step (the inverse tangent) runs on the host, with the same bits everywhere. Inside
    ``jit`` use :func:`cosine`, or return :func:`chords`. Args and errors as for :func:`dot`; with
    ``degrees`` the angle is in degrees.

    >>> angle(jnp.array([1.0, 0.0]), jnp.array([0.0, 2.0]), degrees=True)
    90.0
    """
    between, across = chords(u, v, exact=exact)
    return core.angle_from_chords(float(between), float(across), degrees=degrees)


def per_leaf(function: Callable[..., Any], *trees: Any, **options: Any) -> Any:
    """Apply :func:`norm`, :func:`dot`, :func:`cosine` or :func:`angle` leaf by leaf.

    Args:
        function: one of these functions.
        *trees: one or two trees with the same structure and shapes.
        **options: keyword arguments of the function, such as ``exact``.

    Returns:
        a tree like the first, with a number or a scalar array for each leaf.
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

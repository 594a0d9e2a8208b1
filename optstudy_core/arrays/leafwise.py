"""Rules that depend on the shape of a leaf: run shape by shape, or leaf by leaf.

A formula with ``@shapewise`` gets the leaves of one shape at a time. So it may read ``grad.shape``,
and treat matrices and vectors differently. A formula with ``@leafwise`` gets one leaf at a time, so
it may also use conditions (:func:`optstudy_core.matrix.when`). Every leaf must have the same
fields; a field that a leaf does not need is :func:`nothing`, ``None``. Sums over all leaves are not
possible.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .doubles import Doubles
from .leaves import Backend, Leaves, map_leaves
from .namespace import Array
from .numpy_backend import NumPy


def leafwise(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate ``init`` or ``update`` to be called leaf by leaf; the results are joined.

    >>> @leafwise
    ... def double_matrices(x):
    ...     return 2 * x if len(x.shape) == 2 else x
    >>> tree = Leaves([np.ones((1, 2)), np.ones(3)], NumPy())
    >>> [x.tolist() for x in double_matrices(tree).values]
    [[[2.0, 2.0]], [1.0, 1.0, 1.0]]
    """
    run = _in_parts(function, lambda tree: [[i] for i in range(tree.count)])
    run.one_by_one = True  # type: ignore[attr-defined]
    return run


def shapewise(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate ``init`` or ``update`` to be called shape by shape; the results are joined.

    >>> @shapewise
    ... def how_many(x):
    ...     return x + x.count
    >>> tree = Leaves([np.zeros(2), np.zeros(1), np.zeros(2)], NumPy())
    >>> [x.tolist() for x in how_many(tree).values]
    [[2.0, 2.0], [1.0], [2.0, 2.0]]
    """
    return _in_parts(function, _alike)


def _alike(tree: Leaves) -> list[list[int]]:
    """Return the numbers of the leaves of each shape and dtype."""
    found: dict[Any, list[int]] = {}
    for i, x in enumerate(tree.values):
        found.setdefault((tuple(x.shape), x.dtype), []).append(i)
    return list(found.values())


def _in_parts(
    function: Callable[..., Any], split: Callable[[Leaves], list[list[int]]]
) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        # The gradients or the parameters; the fields of a state have other shapes.
        tree = next((a for a in args if isinstance(a, Leaves)), None)
        if tree is None:
            return function(*args, **kwargs)
        parts = split(tree)
        if len(parts) == 1:
            return function(*args, **kwargs)

        def one(part: list[int]) -> Any:
            def pick(x: Leaves) -> Leaves:
                return Leaves([x.values[i] for i in part], x.backend) if part else _EXAMPLE

            picked = [_mapped(pick, a) for a in args]
            own = {k: _mapped(pick, v) for k, v in kwargs.items()}
            if not part:  # the example is of NumPy, a number in double of another library
                own = {k: 1.0 if isinstance(v, Doubles) else v for k, v in own.items()}
            return function(*picked, **own)

        return _joined([one(part) for part in parts or [[]]], parts, tree.backend)

    run.leafwise = True  # type: ignore[attr-defined]
    return run


def nothing(like: Array) -> Array:
    """Return a field that a leaf does not need: ``None``, or for a tree ``None`` for each leaf."""
    return Leaves([None] * like.count, like.backend) if isinstance(like, Leaves) else None


def is_nothing(field: Array) -> bool:
    """Return whether the leaves do not need a field."""
    return field is None or (isinstance(field, Leaves) and field.values[0] is None)


_EXAMPLE = Leaves([np.zeros(())], NumPy())  # for a tree without leaves


def _mapped(pick: Callable[[Leaves], Leaves], value: Any) -> Any:
    is_state = isinstance(value, Leaves) or hasattr(
        value, "_fields"
    )  # otherwise a number, or a tuple of numbers
    return map_leaves(pick, value) if is_state else value


def _joined(results: Sequence[Any], parts: Sequence[Sequence[int]], backend: Backend) -> Any:
    first = results[0]
    if isinstance(first, Leaves):
        return backend.joined(results[: len(parts)], parts)
    if isinstance(first, tuple):
        fields = [_joined(column, parts, backend) for column in zip(*results, strict=True)]
        return type(first)(*fields) if hasattr(first, "_fields") else tuple(fields)
    return first

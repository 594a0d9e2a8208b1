"""Rules that depend on the shape of a leaf: run leaf by leaf.

A formula with ``@leafwise`` sees one leaf at a time, so it may ask for ``grad.shape`` and do one
thing with matrices and another with vectors. Every leaf must have the same fields: one that a leaf
does not need is :func:`nothing`, an array of shape (0,). Sums over all leaves are not possible.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ._namespace import Array, namespace
from .leaves import Leaves, NumPy, map_leaves


def leafwise(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let ``init`` or ``update`` be called leaf by leaf, and join what it returns.

    >>> @leafwise
    ... def double_matrices(x):
    ...     return 2 * x if len(x.shape) == 2 else x
    >>> tree = Leaves([np.ones((1, 2)), np.ones(3)], NumPy())
    >>> [x.tolist() for x in double_matrices(tree).values]
    [[[2.0, 2.0]], [1.0, 1.0, 1.0]]
    """

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        tree = next(_trees((args, kwargs)), None)
        if tree is None:
            return function(*args, **kwargs)
        count = len(tree.values)

        def one(i: int) -> Any:
            def pick(x: Leaves) -> Leaves:
                return Leaves([x.values[i]], x.backend) if count else _EXAMPLE

            picked = [_mapped(pick, a) for a in args]
            return function(*picked, **{k: _mapped(pick, v) for k, v in kwargs.items()})

        return _joined([one(i) for i in range(max(count, 1))], count, tree)

    run.leafwise = True  # type: ignore[attr-defined]
    return run


def nothing(like: Array) -> Array:
    """Return an array of shape (0,) in the dtype of ``like``: a field that a leaf does not need."""
    if isinstance(like, Leaves):
        return like.backend.rearrange(_nothing, like)
    return _nothing(like)


def _nothing(x: Any) -> Any:
    return namespace(x).zeros_like(x).reshape(-1)[:0]


_EXAMPLE = Leaves([np.zeros(())], NumPy())  # for a tree without leaves


def _trees(value: Any) -> Iterator[Leaves]:
    if isinstance(value, Leaves):
        yield value
    elif isinstance(value, tuple | dict):
        for x in value.values() if isinstance(value, dict) else value:
            yield from _trees(x)


def _mapped(pick: Callable[[Leaves], Leaves], value: Any) -> Any:
    is_state = isinstance(value, Leaves) or hasattr(
        value, "_fields"
    )  # else a number, a tuple of them
    return map_leaves(pick, value) if is_state else value


def _joined(results: Sequence[Any], count: int, tree: Leaves) -> Any:
    first = results[0]
    if isinstance(first, Leaves):
        return Leaves((r.values[0] for r in results[:count]), tree.backend)
    if isinstance(first, tuple):
        fields = [_joined(column, count, tree) for column in zip(*results, strict=True)]
        return type(first)(*fields) if hasattr(first, "_fields") else tuple(fields)
    return first

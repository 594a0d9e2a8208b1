"""Norms and angles of trees of torch tensors, on their device.

The code of ``optstudy_core.geometry`` runs here on operations of torch, so the results have the
same bits as in NumPy and JAX. The results are 0-d float64 tensors on the device of the tensors. The
functions do not wait for the device (except :func:`angle`), so a value may be recorded in every
step.

Sharded parameters (``DTensor``, for example from ``torch.distributed.fsdp.fully_shard``) count as
one whole vector. Each process passes over its part, and reductions of integers join the parts;
integer sums are exact in any order. Replicated parameters count once. All processes must call these
functions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch

from optstudy_core.arrays import geometry as core
from optstudy_core.arrays import vectors

from .engine.exact_sums import sums_of


def total(u: Any, *, exact: bool = True) -> torch.Tensor:
    """Return the sum of all elements of a tree, a float64 scalar.

    Args:
        u: a tensor, or dicts, lists and tuples of trees; real tensors of any shape.
        exact: use an exact sum, which does not depend on order, split, sharding and library;
            otherwise a plain sum.

    Raises:
        TypeError: for complex tensors.

    >>> total([torch.tensor([1e12, 0.5]), torch.tensor(-1e12)]).item()
    0.5
    """
    return _only(total, exact, u)


def norm(u: Any, *, exact: bool = True) -> torch.Tensor:
    """Return the Euclidean norm of a tree as one vector, a float64 scalar.

    Args and errors as for :func:`total`.

    >>> norm({"w": torch.tensor([3.0]), "b": torch.tensor(4.0)})
    tensor(5., dtype=torch.float64)
    """
    return _only(norm, exact, u)


def dot(u: Any, v: Any, *, exact: bool = True) -> torch.Tensor:
    """Return the dot product of two trees of the same structure, a float64 scalar.

    Args:
        u: as for :func:`total`.
        v: tree with the same structure, shapes and sharding as ``u``.
        exact: as for :func:`total`.

    Raises:
        TypeError: for complex tensors.
        ValueError: if the structures or the shapes differ.
    """
    return _only(dot, exact, u, v)


def cosine(u: Any, v: Any, *, exact: bool = True) -> torch.Tensor:
    """Return the cosine of the angle between two trees, a float64 scalar; NaN if one is zero.

    Args and errors as for :func:`dot`.
    """
    return _only(cosine, exact, u, v)


def chords(u: Any, v: Any, *, exact: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ‖û − v̂‖ and ‖û + v̂‖; the host computes the angle from them.

    Args and errors as for :func:`dot`.
    """
    found: tuple[torch.Tensor, torch.Tensor] = _only(chords, exact, u, v)
    return found


def angle(u: Any, v: Any, *, degrees: bool = False, exact: bool = True) -> float:
    """Return the angle between two trees as a Python number; this waits for the device.

    Args and errors as for :func:`dot`; with ``degrees`` the angle is in degrees.

    >>> angle(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0]), degrees=True)
    90.0
    """
    found: float = _only(angle, exact, u, v, degrees=degrees)
    return found


def per_leaf(function: Callable[..., Any], *trees: Any, **options: Any) -> Any:
    """Apply :func:`norm`, :func:`dot`, :func:`cosine` or :func:`angle` leaf by leaf.

    Args:
        function: one of these functions.
        *trees: one or two trees with the same structure and shapes.
        **options: keyword arguments of the function, such as ``exact``.

    Returns:
        a tree like the first, with a number or a scalar tensor for each leaf.
    """
    return core.leaf_by_leaf(functools.partial(of_each, function, **options), *trees)


def of_each(
    function: Callable[..., Any], *columns: Sequence[Any], exact: bool = True, **options: Any
) -> list[Any]:
    """Apply :func:`norm`, :func:`dot`, :func:`cosine` or :func:`angle` to each of several trees.

    The results are those of separate calls, bit for bit. Processes communicate once for all trees.

    Args:
        function: one of these functions.
        *columns: one or two lists of trees.
        exact: as for :func:`total`.
        **options: other keyword arguments of the function.

    >>> of_each(norm, [torch.tensor([3.0, 4.0]), [torch.tensor(2.0)]])
    [tensor(5., dtype=torch.float64), tensor(2., dtype=torch.float64)]
    """
    if function not in _OF_VECTORS:
        return core.of_each(function, *columns, exact=exact, **options)
    of_vectors, end = _OF_VECTORS[function]
    vectors = [core.leaves(*row) for row in zip(*columns, strict=True)]
    with torch.no_grad():
        found = sums_of([(of_vectors, own) for own in vectors], exact)
        return [end(x, **options) for x in found]


def _only(function: Callable[..., Any], exact: bool, *trees: Any, **options: Any) -> Any:
    return of_each(function, *([tree] for tree in trees), exact=exact, **options)[0]


def _scalar(x: Any) -> torch.Tensor:
    return x if isinstance(x, torch.Tensor) else torch.tensor(float(x), dtype=torch.float64)


def _angle(pair: tuple[Any, Any], *, degrees: bool = False) -> float:
    return core.angle_from_chords(*map(float, pair), degrees=degrees)


_OF_VECTORS: Final[Mapping[Callable[..., Any], tuple[Callable[..., Any], Callable[..., Any]]]] = {
    total: (vectors.vector_total, _scalar),
    norm: (vectors.vector_norm, _scalar),
    dot: (vectors.vector_dot, _scalar),
    cosine: (vectors.vector_cosine, _scalar),
    chords: (vectors.vector_chords, lambda pair: tuple(map(_scalar, pair))),
    angle: (vectors.vector_chords, _angle),
}
"""The functions of trees: of vectors, and of what they return."""

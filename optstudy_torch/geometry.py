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

from collections.abc import Callable
from typing import Any

import torch

from optstudy_core.arrays import geometry as core

from .engine.exact_sums import sum_of


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
    return _run(core.vector_total, exact, u)


def norm(u: Any, *, exact: bool = True) -> torch.Tensor:
    """Return the Euclidean norm of a tree as one vector, a float64 scalar.

    Args and errors as for :func:`total`.

    >>> norm({"w": torch.tensor([3.0]), "b": torch.tensor(4.0)})
    tensor(5., dtype=torch.float64)
    """
    return _run(core.vector_norm, exact, u)


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
    return _run(core.vector_dot, exact, u, v)


def cosine(u: Any, v: Any, *, exact: bool = True) -> torch.Tensor:
    """Return the cosine of the angle between two trees, a float64 scalar; NaN if one is zero.

    Args and errors as for :func:`dot`.
    """
    return _run(core.vector_cosine, exact, u, v)


def chords(u: Any, v: Any, *, exact: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ‖û − v̂‖ and ‖û + v̂‖; the host computes the angle from them.

    Args and errors as for :func:`dot`.
    """
    between, across = _run(core.vector_chords, exact, u, v)
    return between, across


def angle(u: Any, v: Any, *, degrees: bool = False, exact: bool = True) -> float:
    """Return the angle between two trees as a Python number; this waits for the device.

    Args and errors as for :func:`dot`; with ``degrees`` the angle is in degrees.

    >>> angle(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0]), degrees=True)
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
        a tree like the first, with a number or a scalar tensor for each leaf.
    """
    return core.per_leaf(function, *trees, **options)


@torch.no_grad()
def _run(function: Callable[..., Any], exact: bool, *trees: Any) -> Any:
    result = sum_of(function, core.leaves(*trees), exact)
    return tuple(map(_scalar, result)) if isinstance(result, tuple) else _scalar(result)


def _scalar(x: Any) -> torch.Tensor:
    return x if isinstance(x, torch.Tensor) else torch.tensor(float(x), dtype=torch.float64)

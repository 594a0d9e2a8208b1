"""Size and direction of steps: norms and angles of trees as one vector.

A sum over all parameters depends on its order, and the order differs between libraries, splits and
devices. With ``exact=True`` the sum does not depend on the order (see
:mod:`optstudy_core.exact_sum` for the method and its accuracy). With ``exact=False`` it is a plain
float64 sum.

Products of two float32, bfloat16 or float16 numbers are exact in float64. Vectors with float64
elements are first scaled by powers of two, so that nothing overflows. Their products are rounded
once each, and the sum of the rounded products is exact, so the error of a dot product is at most
about 2⁻⁵²·Σ|u·v|. Plain sums are not scaled.

A tree is an array, or dicts, lists and tuples of trees, or ``None`` (empty). The norm of an empty
tree is 0. A vector of norm 0 has no direction: its cosines and angles are NaN. They are also NaN if
an element is NaN or infinite; norms and dot products follow IEEE 754 then. No value raises an
exception. These functions compute arrays of any library on the host, block by block. (Sharded torch
tensors are gathered, so all processes must call.) ``optstudy_torch.geometry`` and
``optstudy_jax.geometry`` run the same code on the device, also sharded and inside ``jit``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

import numpy as np

from .bits import size
from .exact_sum import Vector
from .namespace import Array
from .passes import HOST, Columns, to_numpy
from .vectors import (
    is_wide,
    vector_chords,
    vector_cosine,
    vector_dot,
    vector_norm,
    vector_total,
)

Result = TypeVar("Result")


@np.errstate(all="ignore")
def total(u: Any, *, exact: bool = True) -> float:
    """Return the sum of all elements of a tree; the error is at most 2⁻⁵²·Σ|u|.

    Args:
        u: tree of real arrays.
        exact: use an exact sum, which does not depend on order, split and library; otherwise a
            plain sum.

    Raises:
        TypeError: for complex arrays.

    >>> total([np.array([1e100, 1.0]), np.array(-1e100)])
    0.0
    >>> total([np.array([1e12, 0.1]), np.array(-1e12)])
    0.1
    """
    return float(vector_total(HOST, *leaves(u), exact=exact))


@np.errstate(all="ignore")
def norm(u: Any, *, exact: bool = True) -> float:
    """Return the Euclidean norm ‖u‖₂ of a tree as one vector.

    Args:
        u: tree of real arrays of any shape; float32, float64, bfloat16, float16 or integers.
        exact: as for :func:`total`.

    Raises:
        TypeError: for complex arrays.

    >>> norm({"weight": np.float32([[3.0]]), "bias": np.float32(4.0)})
    5.0
    """
    return float(vector_norm(HOST, *leaves(u), exact=exact))


@np.errstate(all="ignore")
def dot(u: Any, v: Any, *, exact: bool = True) -> float:
    """Return the dot product of two trees as vectors; the error is at most about 2⁻⁵²·Σ|u·v|.

    Args:
        u: tree of real arrays.
        v: tree with the same structure and shapes.
        exact: as for :func:`total`.

    Raises:
        TypeError: for complex arrays.
        ValueError: if the structures or the shapes differ.

    >>> dot([np.array([1.0, 2.0])], [np.array([3.0, -1.0])])
    1.0
    """
    return float(vector_dot(HOST, *leaves(u, v), exact=exact))


@np.errstate(all="ignore")
def cosine(u: Any, v: Any, *, exact: bool = True) -> float:
    """Return the cosine of the angle between two trees; NaN if one of them is zero.

    Args and errors as for :func:`dot`.

    >>> cosine(np.array([2.0, 0.0]), np.array([3.0, 4.0]))
    0.6
    """
    return float(vector_cosine(HOST, *leaves(u, v), exact=exact))


@np.errstate(all="ignore")
def angle(u: Any, v: Any, *, degrees: bool = False, exact: bool = True) -> float:
    """Return the angle between two trees, in radians from 0 to π; NaN if one of them is zero.

        φ = 2·atan2(‖u/‖u‖ − v/‖v‖‖, ‖u/‖u‖ + v/‖v‖‖)

    This formula is accurate near 0 and π, where the inverse cosine loses half of the digits. It is
    evaluated in the form without divisions. Source: Kahan 2006 (`kahan2006futile`).

    Args:
        u: tree of real arrays.
        v: tree with the same structure and shapes.
        degrees: return degrees from 0 to 180 instead.
        exact: as for :func:`total`.

    Raises:
        TypeError: for complex arrays.
        ValueError: if the structures or the shapes differ.

    >>> angle(np.array([1.0, 0.0]), np.array([0.0, -2.0]), degrees=True)
    90.0
    """
    between, across = vector_chords(HOST, *leaves(u, v), exact=exact)
    return angle_from_chords(float(between), float(across), degrees=degrees)


def per_leaf(function: Callable[..., float], *trees: Any, **options: Any) -> Any:
    """Apply :func:`norm`, :func:`dot`, :func:`cosine` or :func:`angle` leaf by leaf.

    Args:
        function: one of these functions.
        *trees: one or two trees with the same structure and shapes.
        **options: keyword arguments of the function, such as ``exact``.

    Returns:
        a tree like the first, with a number for each array.

    Raises:
        ValueError: if the structures or the shapes differ.

    >>> per_leaf(norm, {"weight": np.array([3.0, 4.0]), "bias": np.array(-2.0)})
    {'weight': 5.0, 'bias': 2.0}
    """
    return leaf_by_leaf(functools.partial(of_each, function, **options), *trees)


def leaf_by_leaf(each: Callable[..., Sequence[Result]], *trees: Any) -> Any:
    """Return a tree like the first of the results of ``each``, a function of lists of leaves."""
    columns: tuple[list[Any], ...] = tuple([] for _ in trees)

    def add(*arrays: Any) -> None:
        for column, x in zip(columns, arrays, strict=True):
            column.append(x)

    map_tree(add, *trees)
    found = iter(each(*columns))
    return map_tree(lambda *_: next(found), *trees)


def of_each(function: Callable[..., float], *columns: Sequence[Any], **options: Any) -> list[float]:
    """Apply :func:`norm`, :func:`dot`, :func:`cosine` or :func:`angle` to each of several trees.

    The results are those of separate calls, bit for bit. Small trees are computed together, which
    takes less time.

    Args:
        function: one of these functions.
        *columns: one or two lists of trees.
        **options: keyword arguments of the function, such as ``exact``.

    Raises:
        TypeError: for complex arrays.
        ValueError: if the structures or the shapes of a pair differ.

    >>> of_each(norm, [np.array([3.0, 4.0]), {"bias": np.array(-2.0)}])
    [5.0, 2.0]
    """
    rows = list(zip(*columns, strict=True))
    found: dict[int, float] = {}
    if function in _TOGETHER and options.get("exact", True):
        for numbers, vectors in _small([leaves(*row) for row in rows]):
            found |= zip(numbers, _together(function, vectors, **options), strict=True)
    return [found[i] if i in found else function(*row, **options) for i, row in enumerate(rows)]


def _small(rows: Sequence[Sequence[Vector]]) -> Iterator[tuple[list[int], list[Any]]]:
    """Yield the numbers and the vectors of rows of small vectors, which fit the cache together."""
    kinds: dict[Any, list[tuple[int, int]]] = {}
    for i, row in enumerate(rows):
        count = sum(map(size, row[0]))
        floats = all("float" in str(x.dtype) for vector in row for x in vector)
        if floats and 0 < count <= Columns.most:
            wide = tuple(any(is_wide(x.dtype) for x in vector) for vector in row)
            kinds.setdefault(wide, []).append((count, i))
    for found in kinds.values():
        found.sort(reverse=True)
        while found:
            most = max(1, _CACHE // found[0][0])
            numbers, found = [i for _, i in found[:most]], found[most:]
            yield numbers, [rows[i] for i in numbers]


_CACHE: Final = 1 << 15  # float64 elements: a few arrays of this size fit the second cache


@np.errstate(all="ignore")
def _together(
    function: Callable[..., Any],
    rows: Sequence[Sequence[Vector]],
    *,
    exact: bool = True,
    **ends: Any,
) -> list[float]:
    core, end = _TOGETHER[function]
    flat = [[_flat(vector) for vector in row] for row in rows]
    library = Columns([row[0].size for row in flat])
    found = core(
        library, *([library.side_by_side(x)] for x in zip(*flat, strict=True)), exact=exact
    )
    parts = found if isinstance(found, tuple) else (found,)
    return [end(*numbers, **ends) for numbers in zip(*(x.tolist() for x in parts), strict=True)]


def _flat(vector: Vector) -> np.ndarray:
    dtype = np.float64 if any(is_wide(x.dtype) for x in vector) else np.float32
    return np.concatenate([to_numpy(x).reshape(-1) for x in vector], dtype=dtype)


def angle_from_chords(between: float, across: float, *, degrees: bool = False) -> float:
    """Return 2·atan2(‖û − v̂‖, ‖û + v̂‖), on the host in double precision."""
    radians = 2 * math.atan2(between, across)
    return math.degrees(radians) if degrees else radians


_TOGETHER: Final[Mapping[Callable[..., float], tuple[Callable[..., Any], Callable[..., float]]]] = {
    total: (vector_total, float),
    norm: (vector_norm, float),
    dot: (vector_dot, float),
    cosine: (vector_cosine, float),
    angle: (vector_chords, angle_from_chords),
}
"""The functions of trees: of vectors, and of what they return."""


# Trees.


def map_tree(function: Callable[..., Result], *trees: Any) -> Any:
    """Apply ``function`` to the arrays of trees of the same structure."""
    first = trees[0]
    if first is None:
        return None
    if isinstance(first, Mapping | list | tuple):
        for other in trees[1:]:
            same = isinstance(other, Mapping) == isinstance(first, Mapping)
            if not (isinstance(other, Mapping | list | tuple) and same):
                raise ValueError(f"trees differ: {type(first).__name__} and {type(other).__name__}")
            if isinstance(first, Mapping) and set(first) != set(other):
                raise ValueError(f"trees differ: keys {sorted(first)} and {sorted(other)}")
            if len(first) != len(other):
                raise ValueError(f"trees differ: {len(first)} and {len(other)} entries")
        if isinstance(first, Mapping):
            return {key: map_tree(function, *(t[key] for t in trees)) for key in first}
        values = [map_tree(function, *entries) for entries in zip(*trees, strict=True)]
        if isinstance(first, list):
            return values
        return type(first)(*values) if hasattr(first, "_fields") else tuple(values)
    for other in trees[1:]:
        if not hasattr(other, "shape") or tuple(other.shape) != tuple(first.shape):
            raise ValueError(
                f"shapes differ: {tuple(first.shape)} and "
                f"{tuple(getattr(other, 'shape', ())) if other is not None else None}"
            )
    return function(*trees)


def leaves(*trees: Any) -> tuple[list[Array], ...]:
    """Return the non-empty arrays of trees of the same structure, in one order.

    Raises:
        TypeError: for what is no real array.
        ValueError: if structures or shapes differ.
    """
    columns: tuple[list[Array], ...] = tuple([] for _ in trees)

    def add(*arrays: Any) -> None:
        for x in arrays:
            if "complex" in str(x.dtype):  # isdtype does not know bfloat16
                raise TypeError(f"dtype {x.dtype}: allowed are real dtypes")
        if size(arrays[0]) > 0:
            for column, x in zip(columns, arrays, strict=True):
                column.append(x)

    map_tree(add, *trees)
    return columns

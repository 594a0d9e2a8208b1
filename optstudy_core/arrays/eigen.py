"""Eigenvectors of symmetric matrices, with the same bits in every library, for formulas.

These functions use elementwise operations in float64, sums in a fixed order, and moves of elements.
They use no decomposition of a library. Cost: a decomposition of n rows takes about ten sweeps of n
steps, with some ten passes over n² elements in each step. An orthonormal basis takes n such steps.
In JAX these are loops on the device; in other libraries each step is a few calls of the library.

Source: Jacobi's method with n/2 rotations at a time (Brent and Luk 1985, `brent1985solution`),
Householder's reflections (Householder 1958, `householder1958unitary`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from .axes import axis_sum
from .devices import device_of
from .leaves import Leaves
from .matrix import identity, largest, transposed
from .namespace import Array, namespace
from .numpy_backend import NumPy
from .passes import constant, to_numpy

_SWEEPS = 30
_NEAR = 1e-15  # bound of elements beside the diagonal, relative to the largest eigenvalue


def eigenvectors(x: Array) -> Array:
    """Return the eigenvectors of a symmetric matrix as columns, the largest eigenvalue first.

    The signs are those after the Jacobi rotations. The result of a matrix with NaN is NaN.

    Args:
        x: a symmetric matrix of shape (n, n).

    >>> import numpy as np
    >>> v = eigenvectors(np.array([[1.0, 0.0], [0.0, 3.0]]))
    >>> abs(v).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    return _in_double(jacobi, x)


def orthonormal(x: Array) -> Array:
    """Return Q of the decomposition Q·R of a square matrix, from reflections.

    Args:
        x: a matrix of shape (n, n).

    >>> import numpy as np
    >>> q = orthonormal(np.array([[3.0, 1.0], [4.0, 1.0]]))
    >>> abs(q).round(12).tolist()
    [[0.6, 0.8], [0.8, 0.6]]
    """
    return _in_double(householder, x)


def by_size(x: Array, sizes: Array, axis: int) -> Array:
    """Return the rows or columns of a matrix in the order of ``sizes``, the largest first.

    Args:
        x: a matrix.
        sizes: an array with a number for each row (``axis`` 0) or column (``axis`` 1).
        axis: 0 for rows, 1 for columns.
    """
    function = functools.partial(_by_size, axis=axis)
    return x.backend.rearrange(function, x, sizes) if isinstance(x, Leaves) else function(x, sizes)


def _by_size(x: Any, sizes: Any, axis: int) -> Any:
    xp = namespace(x)
    order = xp.argsort(-xp.reshape(sizes, (-1,)), stable=True)
    return xp.take(x, order, axis=axis)


def _in_double(function: Callable[[Leaves], Leaves], x: Array) -> Array:
    if isinstance(x, Leaves):
        return x.backend.in_double(function, x)
    result = _in_double(function, Leaves([to_numpy(constant(x))], NumPy())).values[0]
    return namespace(x).asarray(result, dtype=x.dtype)


def _moved(function: Callable[..., Any], *trees: Leaves) -> Leaves:
    return trees[0].backend.rearrange(function, *trees)


# Jacobi rotations. Row k of the upper half is paired with row k of the lower half. After each step
# all rows but the first move by one place (round robin), so a sweep of n − 1 steps pairs every row
# with every other row.


def jacobi(a: Leaves) -> Leaves:
    """Return the eigenvectors of a float64 matrix."""
    size = a.shape[0]
    if size < 2:
        one_number: Leaves = identity(a) + 0 * a
        return one_number
    odd = size % 2
    half = (size + odd) // 2
    places = _round_robin(half)

    def one(a: Leaves, v: Leaves) -> tuple[Leaves, Leaves]:
        xp = namespace(a)
        p, q, both = (_moved(functools.partial(_diagonal, part=k), a) for k in range(3))
        gap = q - p
        length = xp.sqrt(gap * gap + 4 * (both * both))
        # tan of the smaller angle; 0 where no rotation is needed.
        tan = 2 * both / xp.where(both == 0, 1.0, abs(gap) + length)
        tan = xp.where(gap < 0, -tan, tan)
        cos = 1 / xp.sqrt(1 + tan * tan)
        sin = tan * cos
        a = _turned(_turned(a, cos, sin, 0, half), cos, sin, 1, half)
        a = _moved(functools.partial(_without, half=half), a)
        v = _turned(v, cos, sin, 1, half)
        a = _moved(lambda x: _taken(_taken(x, places, 0), places, 1), a)
        return a, _moved(lambda x: _taken(x, places, 1), v)

    def sweep(a: Leaves, v: Leaves) -> tuple[Leaves, Leaves]:
        forever: Callable[..., Leaves] = lambda a, v: _moved(_true, a)  # noqa: E731
        return a.backend.repeat(one, forever, (a, v), 2 * half - 1)  # type: ignore[return-value]

    def go_on(a: Leaves, v: Leaves) -> Leaves:
        beside, top = (_moved(functools.partial(_size, beside=b), a) for b in (True, False))
        far: Leaves = beside > _NEAR * top  # false for NaN
        return far

    start = _moved(functools.partial(_padded, by=odd), a)
    end, v = a.backend.repeat(sweep, go_on, (start, identity(start)), _SWEEPS)
    values = _moved(functools.partial(_eigenvalues, size=size), end, v)
    ordered = by_size(v, values, 1)
    # If one is NaN, all are NaN; padding is last.
    found = _moved(lambda x: x[:size, :size], ordered)
    vectors: Leaves = found + 0 * _moved(largest, a)
    return vectors


def _round_robin(half: int) -> list[int]:
    """Return, for each place, the place of its next row."""
    if half == 1:
        return [0, 1]
    return [0, half, *range(1, half - 1), *range(half + 1, 2 * half), half - 1]


def _taken(x: Any, places: list[int], axis: int) -> Any:
    xp = namespace(x)
    return xp.take(x, xp.asarray(places, device=device_of(x)), axis=axis)


def _padded(x: Any, by: int) -> Any:
    if not by:
        return x
    xp = namespace(x)
    x = xp.concat([x, xp.zeros_like(x[:, :1])], axis=1)
    return xp.concat([x, xp.zeros_like(x[:1])], axis=0)


def _diagonal(x: Any, part: int) -> Any:
    """Return the upper or lower half of the diagonal, or that of the upper right quarter."""
    half = x.shape[0] // 2
    rows, columns = ((0, 0), (half, half), (0, half))[part]
    xp = namespace(x)
    return xp.linalg.diagonal(x[rows : rows + half, columns : columns + half])


def _turned(x: Leaves, cos: Leaves, sin: Leaves, axis: int, half: int) -> Leaves:
    """Return the halves of rows or columns after rotating each pair by an angle."""
    upper, lower = (
        _moved(lambda y, b=begin: y[b : b + half] if axis == 0 else y[:, b : b + half], x)
        for begin in (0, half)
    )
    if axis == 0:
        cos, sin = (_moved(lambda y: y.reshape((-1, 1)), y) for y in (cos, sin))
    first, second = cos * upper - sin * lower, sin * upper + cos * lower
    return _moved(lambda y, z: namespace(y).concat([y, z], axis=axis), first, second)


def _without(x: Any, half: int) -> Any:
    """Return a matrix with exact zeros at the elements that the rotations make zero."""
    xp = namespace(x)
    ones = xp.ones_like(x[:half, :half]) - _eye(x, half)
    keep = xp.concat([xp.ones_like(ones), ones], axis=1)
    keep = xp.concat([keep, xp.concat([ones, xp.ones_like(ones)], axis=1)], axis=0)
    return xp.where(keep == 0, xp.zeros_like(x), x)


def _eye(x: Any, size: int) -> Any:
    xp = namespace(x)
    return xp.eye(size, dtype=x.dtype, device=device_of(x))


def _size(x: Any, beside: bool) -> Any:
    xp = namespace(x)
    unit = _eye(x, x.shape[0])
    return xp.max(abs(xp.where(unit == (0 if beside else 1), x, xp.zeros_like(x))))


def _eigenvalues(x: Any, v: Any, size: int) -> Any:
    """Return the diagonal, with a value below all others for padding."""
    xp = namespace(x)
    values = xp.linalg.diagonal(x)
    if x.shape[0] == size:
        return values
    return xp.where(v[size] != 0, xp.full_like(values, -math.inf), values)


def _true(x: Any) -> Any:
    xp = namespace(x)
    return xp.ones((), dtype=xp.bool, device=device_of(x))


# Householder reflections. At each step the remaining columns move left by one, so the next column
# is always the first. The finished row leaves the mask.


def householder(x: Leaves) -> Leaves:
    """Return Q of a float64 matrix."""
    size = x.shape[0]

    def one(rest: Leaves, q: Leaves, row: Leaves, mask: Leaves) -> tuple[Leaves, ...]:
        xp = namespace(rest)
        column = mask * _moved(lambda y: y[:, :1], rest)
        length = xp.sqrt(axis_sum(column * column, 0))
        first = axis_sum(row * column, 0)
        v = column + xp.where(first < 0, -length, length) * row
        square = axis_sum(v * v, 0)
        factor = 2 / xp.where(square == 0, 1.0, square)
        rest = rest - v * (factor * axis_sum(v * rest, 0))
        q = q - (factor * axis_sum(q * transposed(v), 1)) * transposed(v)
        mask = mask - row
        rest, row = (
            _moved(lambda y, s=shift, a=axis: namespace(y).roll(y, s, axis=a), tree)
            for tree, shift, axis in ((rest, -1, 1), (row, 1, 0))
        )
        return rest, q, row, mask

    unit = identity(x)
    row = _moved(lambda y: y[:, :1], unit)
    start = x, unit, row, _moved(lambda y: namespace(y).ones_like(y), row)
    return x.backend.repeat(one, lambda *trees: _moved(_true, trees[0]), start, size)[1]

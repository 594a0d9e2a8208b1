"""Sums, means and maxima along the axes of a leaf, with the same bits in every library.

A sum is computed in float64 in a fixed order: the rows are padded with zeros to a power of two, and
then halves are added until one row is left. The sum, or the quotient for a mean, is rounded once to
the working dtype. The error is that of log₂ n additions in float64. A maximum is exact in any
order.

Bare arrays are computed on the host; arrays of JAX inside ``jit`` need the adapter.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from .devices import device_of
from .leaves import Leaves
from .namespace import Array, namespace
from .numpy_backend import NumPy
from .passes import constant, to_numpy


def axis_mean(x: Array, axis: int) -> Array:
    """Return the mean along an axis, which is kept with length 1; 0 along an empty axis.

    Args:
        x: an array of any shape except ().
        axis: an axis of ``x``; it may count from the end.

    >>> import numpy as np
    >>> axis_mean(np.array([[1.0, 2.0, 6.0], [0.0, 0.0, 0.5]]), -1).round(3).tolist()
    [[3.0], [0.167]]
    """
    return _in_double(_mean, x, axis)


def axis_sum(x: Array, axis: int) -> Array:
    """Return the sum along an axis, which is kept with length 1; 0 along an empty axis.

    Args:
        x: an array of any shape except ().
        axis: an axis of ``x``; it may count from the end.

    >>> import numpy as np
    >>> axis_sum(np.array([[1.0, 2.0, 6.0], [0.0, 0.0, 0.5]]), -1).tolist()
    [[9.0], [0.5]]
    """
    return _in_double(_sum, x, axis)


def rest_max(x: Array, axis: int) -> Array:
    """Return the maximum over all axes except one, a vector along that axis; 0 if there is none.

    Args:
        x: an array of any shape except ().
        axis: the axis of ``x`` that stays.

    >>> import numpy as np
    >>> rest_max(np.array([[1.0, 2.0, 6.0], [0.0, 0.0, 0.5]]), 0).tolist()
    [6.0, 0.5]
    """
    return rearranged(functools.partial(max_of_rest, axis=axis), x)


def concatenated(vectors: Sequence[Array]) -> Array:
    """Return vectors concatenated to one vector."""
    return rearranged(lambda *parts: namespace(parts[0]).concat(parts), *vectors)


def flattened(arrays: Sequence[Array]) -> Array:
    """Return arrays concatenated to one vector; :func:`parts` is the inverse."""
    return concatenated([reshaped(x, (math.prod(x.shape),)) for x in arrays])


def slices(vector: Array, shape: Sequence[int]) -> list[Array]:
    """Return, for each axis of a shape, its part of a vector, with the number of axes of the shape.

    >>> import numpy as np
    >>> [x.shape for x in slices(np.arange(5.0), (2, 3))]
    [(2, 1), (1, 3)]
    """
    wide = [(1,) * i + (n,) + (1,) * (len(shape) - i - 1) for i, n in enumerate(shape)]
    return parts(vector, wide)


def parts(vector: Array, shapes: Sequence[Sequence[int]]) -> list[Array]:
    """Return successive parts of a vector as arrays of these shapes.

    >>> import numpy as np
    >>> [x.tolist() for x in parts(np.arange(5.0), [(2, 2), (1,)])]
    [[[0.0, 1.0], [2.0, 3.0]], [4.0]]
    """
    found, begin = [], 0
    for shape in shapes:
        end = begin + math.prod(shape)
        found.append(
            rearranged(lambda v, b=begin, e=end, s=shape: v[b:e].reshape(tuple(s)), vector)
        )
        begin = end
    return found


def reshaped(x: Array, shape: Sequence[int]) -> Array:
    """Return the elements in another shape."""
    return rearranged(lambda v: v.reshape(tuple(shape)), x)


def max_of_rest(x: Any, axis: int) -> Any:
    """Return the result of :func:`rest_max` for an array of a library."""
    xp = namespace(x)
    if not math.prod(x.shape):
        return xp.zeros((x.shape[axis],), dtype=x.dtype, device=device_of(x))
    return xp.max(x, axis=tuple(i for i in range(x.ndim) if i != axis))


def _mean(x: Leaves, axis: int) -> Leaves:
    """Return the mean of float64 numbers."""
    mean: Leaves = _sum(x, axis) / max(x.shape[axis], 1)
    return mean


def _sum(x: Leaves, axis: int) -> Leaves:
    """Return the sum of float64 numbers."""
    return x.backend.sum_along(x, axis)


def rearranged(function: Callable[..., Any], *arrays: Array) -> Array:
    """Return the result of a function of arrays of a library, without rounding."""
    if isinstance(arrays[0], Leaves):
        return arrays[0].backend.rearrange(function, *arrays)
    return function(*arrays)


def _in_double(function: Callable[[Leaves, int], Leaves], x: Array, axis: int) -> Array:
    def compute(tree: Leaves) -> Leaves:
        return tree.backend.in_double(function, tree, axis=axis)

    return _on_leaves(compute, x)


def _on_leaves(function: Callable[[Leaves], Leaves], x: Array) -> Array:
    if isinstance(x, Leaves):
        return function(x)
    result = function(Leaves([to_numpy(constant(x))], NumPy())).values[0]
    return namespace(x).asarray(result, dtype=x.dtype, device=device_of(x))

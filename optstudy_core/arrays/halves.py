"""Sums along an axis in a fixed order: halves are added until one row is left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .devices import device_of
from .namespace import namespace

_TERMS = 4
"""The number of parts that a sum along an axis adds at once, a power of two.

The additions and their order do not depend on it. XLA makes one loop for four parts; for two or
eight parts it keeps copies of the whole leaf. NumPy writes less than with two.
"""


def added_in_halves(x: Any, axis: int, part_of: Callable[..., Any]) -> Any:
    """Return the sum along an axis in the fixed order.

    Args:
        x: float64; an array, or a tree.
        axis: the axis.
        part_of: :func:`part`, for an array or for a tree.
    """
    total, rows = x, 1 << max(x.shape[axis] - 1, 0).bit_length()
    if not x.shape[axis]:
        return part_of(x, axis=axis, begin=0, end=1)
    while rows > 1:
        count = min(rows, _TERMS)
        rows //= count
        terms = [
            part_of(total, axis=axis, begin=begin, end=begin + rows)
            for begin in range(0, rows * count, rows)
        ]
        while count > 1:  # the order of one half after the other
            count //= 2
            terms = [low + high for low, high in zip(terms[:count], terms[count:], strict=True)]
        (total,) = terms
    return total


def part(x: Any, axis: int, begin: int, end: int) -> Any:
    """Return a part along an axis, with zeros beyond the end of the array."""
    index = [slice(None)] * x.ndim
    index[axis] = slice(begin, end)
    missing = end - max(begin, x.shape[axis])
    if missing <= 0:
        return x[tuple(index)]
    xp, shape = namespace(x), [*x.shape]
    shape[axis] = missing
    zeros = xp.zeros(tuple(shape), dtype=x.dtype, device=device_of(x))
    if missing == end - begin:  # JAX refuses an empty part on a mesh with explicit axes
        return zeros
    return xp.concat([x[tuple(index)], zeros], axis=axis)

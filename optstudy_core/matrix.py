"""Products of matrices with the same bits in every library, for formulas.

A library adds the terms of a product in an order of its own, and contracts them. Here no order
shows, because nothing is rounded while terms are added: rows of x and columns of y are scaled by
powers of two to magnitudes from 1 to below 2 and cut into slices of β bits,

    x = Σᵢ xᵢ + rest,    xᵢ a multiple of 2¹⁻ⁱᵝ,  |xᵢ| ≤ 2²⁻⁽ⁱ⁻¹⁾ᵝ,    2·β + log₂(n·s) ≤ 52

so that each product xᵢ·yⱼ of n terms, and each sum of s of them, is exact in float64, whatever the
order. The s·(s + 1)/2 largest are computed, by the library's own matrix product, and added in one
order, the smallest first. With the largest magnitudes X of a row and Y of a column

    |result − Σ x·y| ≤ (s + 1)·n·2⁶⁻ˢᵝ·X·Y + rounding to the working dtype

with s = 2 slices for float32 (β = 20 for n = 1024), 3 for float64. Where a row or a column has NaN
or infinities, the result is NaN. A float64 product costs about six of the library, a float32 one
three of float64: rules with products are for matrices, not for every leaf.

The slices are those of Ozaki, Ogita, Oishi and Rump 2012 (`ozaki2012error`).
"""

from __future__ import annotations

import math
from typing import Any

from ._namespace import Array, namespace
from .exact_sum import biased_exponent, power_of_two, to_numpy
from .leaves import Leaves, NumPy

_DIGITS = 53
_SLICES = {4: 2, 8: 3}  # by the bytes of a number


def matmul(x: Array, y: Array) -> Array:
    """Return the product of two matrices, of shapes (m, n) and (n, k).

    >>> import numpy as np
    >>> matmul(np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]])).tolist()
    [[11.0]]
    """
    if isinstance(x, Leaves):
        slices = _SLICES[x.values[0].dtype.itemsize]
        return x.backend.in_double(lambda a, b: _product(a, b, slices), x, y)
    trees = (Leaves([to_numpy(a)], NumPy()) for a in (x, y))
    like = namespace(x)
    product = matmul(*trees).values[0]
    return like.asarray(product, dtype=x.dtype)


def transposed(x: Array) -> Array:
    """Return a matrix with rows and columns exchanged."""
    return x.backend.rearrange(_transposed, x) if isinstance(x, Leaves) else _transposed(x)


def identity(x: Array) -> Array:
    """Return the unit matrix with the rows of ``x``, in its dtype."""
    return x.backend.rearrange(_identity, x) if isinstance(x, Leaves) else _identity(x)


def _transposed(x: Any) -> Any:
    return namespace(x).permute_dims(x, (1, 0))


def _identity(x: Any) -> Any:
    xp = namespace(x)
    ones = xp.ones_like(x[:, :1]) if x.shape[1] else xp.ones((x.shape[0], 1), dtype=x.dtype)
    return ones * xp.eye(x.shape[0], dtype=x.dtype)


def _product(x: Leaves, y: Leaves, slices: int) -> Leaves:
    """Return the product of float64 matrices."""
    xp = namespace(x)
    length = x.shape[1]
    if not length:
        return x.backend.rearrange(_zeros, x, y)
    bits = (_DIGITS - 1 - (length * slices - 1).bit_length()) // 2
    left, x_scale, x_finite = _sliced(x, 1, bits, slices)
    right, y_scale, y_finite = _sliced(y, 0, bits, slices)
    total = None
    for order in reversed(range(slices)):
        part = None
        for i in range(order + 1):
            term = x.backend.rearrange(x.backend.matmul, left[i], right[order - i])
            part = term if part is None else part + term
        total = part if total is None else part + total
    scaled = (total * x_scale) * y_scale
    return xp.where(x_finite & y_finite, scaled, math.nan)


def _sliced(x: Leaves, axis: int, bits: int, slices: int) -> tuple[list[Leaves], Leaves, Leaves]:
    """Return the slices of rows or columns, the powers of two they were divided by, and finite."""
    xp = namespace(x)
    largest = x.backend.rearrange(lambda y: namespace(y).max(y, axis=axis, keepdims=True), abs(x))
    up, down = (x.backend.rearrange(lambda m, s=sign: _power(m, s), largest) for sign in (-1, 1))
    rest = x * up
    parts = []
    for i in range(slices):
        splitter = 1.5 * 2.0 ** (_DIGITS - (i + 1) * bits)
        part = (rest + splitter) - splitter
        rest = rest - part
        parts.append(part)
    return parts, down, xp.isfinite(largest)


def _power(largest: Any, sign: int) -> Any:
    """Return 2 to the power of ``sign`` times the exponent of positive float64 numbers."""
    xp = namespace(largest)
    exponent = xp.clip(biased_exponent(largest), 1, 2045)
    return power_of_two(exponent if sign > 0 else 2046 - exponent)


def _zeros(x: Any, y: Any) -> Any:
    return namespace(x).zeros((x.shape[0], y.shape[1]), dtype=x.dtype)

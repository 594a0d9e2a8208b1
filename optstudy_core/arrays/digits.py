"""Products of matrices that keep 20 bits, from int8 products on integer tensor cores.

The elements of a row of the first matrix, and of a column of the second, are integers times a power
of two. The integers are at most 2²⁰, which are three signed digits:

    k = d₀ + 2⁷·d₁ + 2¹⁴·d₂,    |dᵢ| ≤ 64

The products of digits i and j with i + j = s are one int8 product with sums in int32, as rows and
columns with their digits side by side. So there are five int8 products, of nine times the size of
the float64 product in all. Nothing is rounded: the result has the bits of the float64 product.

Source: Ootomo, Ozaki and Yokota 2024 (`ootomo2024dgemm`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from .bits import BIAS, biased_exponent, clipped, power_of_two
from .devices import device_of
from .namespace import Array, namespace

_BITS = 20
_DIGITS = 3
_BASE = 7
_FEWEST = 1 << 31
"""Terms of a product from which int8 products are used.

An estimate, not measured: an H200 computes so many float64 products in about 0.1 ms, the time of
the kernels that find the digits. A GPU with few float64 units gains earlier.
"""

_MOST = 1 << 16
"""Columns of the first matrix: sums of more might not fit 32 bits."""

_EVEN = 32
"""Libraries need shapes that are multiples of 8, with more than 16 rows."""


def are_faster(x: Array, y: Array) -> bool:
    """Return whether a GPU computes :func:`product` faster than the float64 product."""
    rows, length = x.shape
    return length <= _MOST and bool(rows * length * y.shape[1] >= _FEWEST)


def product(x: Array, y: Array, multiply: Callable[[Array, Array], Array]) -> Array:
    """Return the product of float64 matrices that keep 20 bits.

    Args:
        x: a matrix of shape (m, n); in each row multiples of 2⁻²⁰ times the power of two at or
            above the largest magnitude. A row with NaN or infinities is NaN.
        y: a matrix of shape (n, k), with such columns.
        multiply: a function that returns a·bᵀ of int8 matrices in int32.

    >>> import numpy as np
    >>> x = np.array([[0.5, -1.0], [3.0, 2.0**-18]])
    >>> product(x, x.T, lambda a, b: a.astype(np.int32) @ b.astype(np.int32).T).tolist()
    [[1.25, 1.4999961853027344], [1.4999961853027344, 9.000000000014552]]
    """
    xp = namespace(x)
    left, x_scale = _digits(x, range(_DIGITS))
    right, y_scale = _digits(xp.permute_dims(y, (1, 0)), range(_DIGITS)[::-1])
    width = left.shape[1] // _DIGITS
    total: Any = None
    for power in reversed(range(2 * _DIGITS - 1)):
        begin, end = max(0, power - _DIGITS + 1), min(power, _DIGITS - 1) + 1
        # Digit i of x is at the place i, digit j of y at the place 2 − j.
        shift = _DIGITS - 1 - power
        first = left[:, begin * width : end * width]
        second = right[:, (begin + shift) * width : (end + shift) * width]
        part = xp.astype(multiply(first, second), xp.float64)
        total = part if total is None else total * 2.0**_BASE + part
    whole: Array = total[: x.shape[0], : y.shape[1]]
    return whole * x_scale * xp.permute_dims(y_scale, (1, 0))


def _digits(x: Array, order: Sequence[int]) -> tuple[Array, Array]:
    """Return digits of the rows side by side, int8, and the scale of each row."""
    xp = namespace(x)
    tops = xp.max(abs(x), axis=1, keepdims=True)
    finite = xp.isfinite(tops)
    exponent = biased_exponent(tops)
    is_power = tops == power_of_two(clipped(exponent, 1, 2 * BIAS))
    exponent = exponent + xp.where(is_power, 0, 1) - _BITS
    exponent = clipped(exponent, BIAS - 500, BIAS + 500)  # of float32 numbers; or all are 0
    scale = xp.where(finite, power_of_two(exponent), math.nan)
    whole = xp.where(finite, x * power_of_two(2 * BIAS - exponent), 0.0)
    number = xp.astype(whole, xp.int32)
    digits = []
    for _ in range(_DIGITS - 1):
        rest = (number + (1 << (_BASE - 1))) >> _BASE
        digits.append(number - (rest << _BASE))
        number = rest
    digits.append(number)
    padded = (_padded(xp.astype(digits[i], xp.int8)) for i in order)
    return xp.concat(list(padded), axis=1), scale


def _padded(x: Array) -> Array:
    """Return a matrix with zeros after its rows and columns."""
    xp = namespace(x)
    for axis in (0, 1):
        shape = list(x.shape)
        shape[axis] = -shape[axis] % _EVEN
        if shape[axis]:
            zeros = xp.zeros(tuple(shape), dtype=x.dtype, device=device_of(x))
            x = xp.concat([x, zeros], axis=axis)
    return x

"""Products of matrices with the same bits in every library, for formulas.

Libraries add the terms of a product in different orders, and contract them. The results here do not
depend on the order, because no addition of terms is rounded. Rows of x and columns of y are scaled
by powers of two to magnitudes from 1 to below 2, and cut into slices of β bits,

    x = Σᵢ xᵢ + rest,    xᵢ a multiple of 2¹⁻ⁱᵝ,  |xᵢ| ≤ 2²⁻⁽ⁱ⁻¹⁾ᵝ,    2·β + log₂(n·s) ≤ 52

so that each product xᵢ·yⱼ of n terms, and each sum of s of them, is exact in float64 in any order.
The matrix product of the library computes the s·(s + 1)/2 largest products. They are added in a
fixed order, the smallest first. With the largest magnitudes X of a row and Y of a column

    |result − Σ x·y| ≤ (s + 1)·n·2⁶⁻ˢᵝ·X·Y + rounding to the working dtype

with s = 2 slices for float32 (β = 20 for n = 1024), and s = 3 for float64. An element that is tiny
compared with another element of its row or column is lost. If a row or column has NaN or
infinities, the result is NaN. A float64 product costs about six products of the library, and a
float32 product costs three float64 products. So rules with products are for matrices, not for every
leaf.

An iteration that corrects itself, such as that of Newton and Schulz for Muon, needs less precision.
With ``rough`` the product of float32 matrices has s = 1 slice of

    β = min(20, (53 − log₂ n)/2)

bits, rounded down, and costs one float64 product, with

    |result − Σ x·y| ≤ n·2¹⁻ᵝ·(1 + 2⁻ᵝ)·X·Y + rounding to float32

The 20 bits with their sign are three signed digits of 7 bits, so nine products of int8 matrices
with sums in int32 have the same result on integer tensor cores. For n > 8192 fewer bits are kept,
instead of rounding between blocks of columns. So the result does not depend on the order of the
columns, or on their placement on a mesh.

The slices are those of Ozaki, Ogita, Oishi and Rump 2012 (`ozaki2012error`), and on int8 those of
Ootomo, Ozaki and Yokota 2024 (`ootomo2024dgemm`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from .bits import BIAS, biased_exponent, power_of_two
from .devices import device_of
from .leaves import Leaves
from .namespace import Array, namespace
from .numpy_backend import NumPy
from .operators import Operators
from .passes import constant, to_numpy
from .reductions import leaf_norm

_DIGITS = 53
_SLICES = {False: {4: 2, 8: 3}, True: {4: 1, 8: 3}}  # rough or not, by the bytes of an element
_MOST_BITS = 20  # of one slice: three digits of 7 bits
_MOST = 100  # iterations
_NEAR = 1e-7  # the next one squares it


def matmul(x: Array, y: Array, *, rough: bool = False) -> Array:
    """Return the product of two matrices.

    Args:
        x: a matrix of shape (m, n), float32 or float64.
        y: a matrix of shape (n, k), of the same dtype.
        rough: keep 20 bits of float32 elements, relative to the largest element of the row or
            column.

    >>> import numpy as np
    >>> matmul(np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]])).tolist()
    [[11.0]]
    """
    if isinstance(x, Leaves):
        slices = _slices(x, rough)
        return x.backend.in_double(functools.partial(sliced_product, slices=slices), x, y)
    product: Leaves = matmul(
        *(Leaves([to_numpy(constant(a))], NumPy()) for a in (x, y)), rough=rough
    )
    return namespace(x).asarray(product.values[0], dtype=x.dtype)


def gram(x: Array, *, rough: bool = False) -> Array:
    """Return X·Xᵀ with the bits of :func:`matmul`; a library may compute half of it.

    Args:
        x: X, of shape (m, n); float32 or float64.
        rough: as for :func:`matmul`.

    >>> import numpy as np
    >>> gram(np.array([[1.0, 2.0]])).tolist()
    [[5.0]]
    """
    if isinstance(x, Leaves):
        slices = _slices(x, rough)
        return x.backend.in_double(functools.partial(sliced_product, slices=slices), x)
    product: Leaves = gram(Leaves([to_numpy(constant(x))], NumPy()), rough=rough)
    return namespace(x).asarray(product.values[0], dtype=x.dtype)


def inverse_root(x: Array, order: int) -> Array:
    """Return A to the power −1/p of a symmetric matrix with positive eigenvalues.

        X = 2⁻ʲ·I,  M = 2⁻ᵖʲ·A    with 2ᵖʲ above the norm of A
        T = (1 + 1/p)·I − M/p,  X ← X·T,  M ← Tᵖ·M    until M is I

    There are at most 100 iterations in float64; each multiplies small eigenvalues by about e. The
    coupled iteration is stable (Guo and Higham 2006, `guo2006schur`; used for Shampoo by Anil et
    al. 2020, `anil2020scalable`).

    Args:
        x: A, a matrix of shape (n, n).
        order: p, a power of two.

    >>> import numpy as np
    >>> inverse_root(np.diag([4.0, 16.0]), 2).round(12).tolist()
    [[0.5, 0.0], [0.0, 0.25]]
    """
    if isinstance(x, Leaves):
        return x.backend.in_double(functools.partial(coupled_root, order=order), x)
    root = inverse_root(Leaves([to_numpy(constant(x))], NumPy()), order).values[0]
    return namespace(x).asarray(root, dtype=x.dtype)


def when(
    condition: Array,
    function: Callable[..., tuple[Array, ...]],
    arguments: tuple[Array, ...],
    otherwise: tuple[Array, ...],
) -> tuple[Array, ...]:
    """Return ``function(*arguments)`` if ``condition`` holds, and ``otherwise`` if not.

    The result is that of ``where``, but the function is called only if it is needed.

    Args:
        condition: a boolean of shape ().
        function: a function of leaves that returns arrays like ``otherwise``.
        arguments: the arguments of the function, arrays of any shapes.
        otherwise: the other results, arrays of any shapes.
    """
    if isinstance(condition, Operators) and not isinstance(condition, Leaves):
        condition = arguments[0].backend.spread(condition, arguments[0])
    if isinstance(condition, Leaves):
        return condition.backend.when(condition, function, arguments, otherwise)
    return function(*arguments) if bool(condition) else otherwise


def transposed(x: Array) -> Array:
    """Return the transpose of a matrix.

    Args:
        x: a matrix of shape (m, n).
    """
    return x.backend.rearrange(_transposed, x) if isinstance(x, Leaves) else _transposed(x)


def identity(x: Array) -> Array:
    """Return the unit matrix of shape (m, m), in the dtype of ``x``.

    Args:
        x: a matrix of shape (m, n).
    """
    return x.backend.rearrange(_identity, x) if isinstance(x, Leaves) else _identity(x)


def _transposed(x: Any) -> Any:
    return namespace(x).permute_dims(x, (1, 0))


def _identity(x: Any) -> Any:
    return namespace(x).eye(x.shape[0], dtype=x.dtype, device=device_of(x))


def coupled_root(a: Leaves, order: int) -> Leaves:
    """Return the result of :func:`inverse_root` for a float64 matrix."""
    xp = namespace(a)
    norm = leaf_norm(a)
    scale, root = (
        a.backend.rearrange(lambda n, k=k: _root_scale(n, order, k), norm) for k in (order, 1)
    )
    unit = identity(a)

    def step(x: Leaves, m: Leaves, distance: Leaves) -> tuple[Leaves, ...]:
        t = (1 + 1 / order) * unit - m / order
        power = t
        for _ in range(order.bit_length() - 1):
            power = matmul(power, power)
        distance = a.backend.rearrange(largest, abs(m - unit))
        return matmul(x, t), matmul(power, m), distance

    def go_on(x: Leaves, m: Leaves, distance: Leaves) -> Leaves:
        far: Leaves = distance > _NEAR  # false for NaN
        return far

    begin = unit * root, a * scale, xp.ones_like(norm)
    return a.backend.repeat(step, go_on, begin, _MOST)[0]


def _root_scale(norm: Any, order: int, power: int) -> Any:
    """Return 2 to the power of −power·j, with 2 to the power of order·j above the norm."""
    xp = namespace(norm)
    j = (biased_exponent(norm) - BIAS) // order + 1
    return power_of_two(xp.clip(BIAS - power * j, 1, 2 * BIAS))


def largest(x: Any) -> Any:
    """Return the largest element of an array of a library, 0 if there is none."""
    xp = namespace(x)
    return xp.max(x) if math.prod(x.shape) else xp.zeros((), dtype=x.dtype, device=device_of(x))


def _slices(x: Leaves, rough: bool) -> int:
    return _SLICES[rough][x.values[0].dtype.itemsize]


def sliced_product(x: Leaves, y: Leaves | None = None, *, slices: int) -> Leaves:
    """Return the product of float64 matrices; without ``y`` that of x and its transpose."""
    length = x.shape[1]
    if not length:
        return x.backend.rearrange(_zeros, x, transposed(x) if y is None else y)
    spare = (length * slices - 1).bit_length()
    several = (_DIGITS - 1 - spare) // 2
    bits = several if slices > 1 else min(_MOST_BITS, (_DIGITS - spare) // 2)
    left, x_scale = _sliced(x, 1, bits, slices)
    if y is None:
        right = [*map(transposed, left)]
        y_scale = None if x_scale is None else transposed(x_scale)
    else:
        right, y_scale = _sliced(y, 0, bits, slices)
    multiply = x.backend.matmul if slices > 1 else x.backend.rough_matmul
    total: Any = None
    for order in reversed(range(slices)):
        part: Any = None
        for i in range(order + 1):
            term = x.backend.rearrange(multiply, left[i], right[order - i])
            part = term if part is None else part + term
        total = part if total is None else part + total
    product: Leaves = total if x_scale is None else (total * x_scale) * y_scale
    return product


def _sliced(x: Leaves, axis: int, bits: int, slices: int) -> tuple[list[Leaves], Leaves | None]:
    """Return the slices of rows or columns, and the powers of two of their scaling.

    A float32 matrix is not scaled, because its products stay in the range of float64. A row with
    NaN or infinities is NaN in every slice.
    """
    xp = namespace(x)
    tops = x.backend.rearrange(functools.partial(_tops, axis=axis), x)
    rest, scale, first = x, None, 1.5 * 2.0 ** (_DIGITS - bits)
    if slices < _SLICES[False][8]:
        first = x.backend.rearrange(_power, tops) * first
        first = xp.where(xp.isfinite(tops), first, math.nan)
    else:
        scale = x.backend.rearrange(_power, tops)
        rest = x * xp.where(xp.isfinite(tops), x.backend.rearrange(_inverse, scale), math.nan)
    parts: list[Leaves] = []
    for i in range(slices):
        if parts:
            rest = rest - parts[-1]
        splitter = first * 2.0 ** (-i * bits)
        parts.append((rest + splitter) - splitter)
    return parts, scale


def _tops(x: Any, axis: int) -> Any:
    """Return the largest magnitudes along an axis."""
    xp = namespace(x)
    high, low = (f(x, axis=axis, keepdims=True) for f in (xp.max, xp.min))
    return xp.maximum(high, -low)


def _power(tops: Any) -> Any:
    """Return 2ᵉ for the exponents e of float64 numbers ≥ 0; for 0 the smallest power."""
    return power_of_two(namespace(tops).clip(biased_exponent(tops), 1, 2 * BIAS - 1))


def _inverse(powers: Any) -> Any:
    """Return the reciprocals of powers of two."""
    return power_of_two(2 * BIAS - biased_exponent(powers))


def _zeros(x: Any, y: Any) -> Any:
    return namespace(x).zeros((x.shape[0], y.shape[1]), dtype=x.dtype, device=device_of(x))

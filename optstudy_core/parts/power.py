"""Roots and powers from + − × ÷ and √, with the same bits in every library.

``pow`` and ``cbrt`` differ between libraries in the last bits. The cube root is accurate to one
unit in the last place, in float32 and in float64:

    y ← √(√x·√y), whose fixed point is y³ = x, and then Newton's y ← y − (y − x/y²)/3

A power is a product of some of x, √x, √√x, …, selected by the first binary digits of the exponent,
and of the binomial series for the rest of the exponent. The product and the roots are stored minus
1 and computed from sums of positive terms, so they are accurate near 1:

    x^0.75 = √x·√√x,    √(1 + e) − 1 = e / (1 + √(1 + e)),    (1 + f)·(1 + e) − 1 = f + e·(1 + f)
    (1 + e)ʳ − 1 = r·e·(1 + (r − 1)/2·e·(1 + (r − 2)/3·e·(…)))
"""

from __future__ import annotations

from typing import Any

from optstudy_core.arrays import doubles
from optstudy_core.arrays.namespace import Array, absent, namespace, scalar


def machine_epsilon(like: Array) -> Array:
    """Return the distance from 1 to the next number of a dtype, as a 0-d array: |3·(4/3 − 1) − 1|.

    >>> import numpy as np
    >>> float(machine_epsilon(np.float32(7.0))) == 2.0**-23
    True
    """
    third = scalar(like, 4.0) / 3 - 1  # off by the rounding of 4/3, a third of epsilon
    return abs(3 * third - 1)


def power1p(e: Any, a: Any) -> Any:
    """Return (1 + e)ᵃ for finite numbers e ≥ 0 and 0 ≤ a < 2, in double precision.

    Within 4 units in the last place for a = 0.75, within 9 for any a, and e up to 1e38.

    Args:
        e: a number or a 0-d array.
        a: a number, with operations only for its digits 1, or a 0-d array.

    >>> power1p(15.0, 0.75), power1p(80.0, 0.75)
    (8.0, 27.0)
    """
    series = 1.0
    f, rest = 0 * e, a  # f is the power minus 1, e the root minus 1
    for _ in range(_DIGITS):
        if absent(rest):
            return 1 + f
        taken = rest >= 1
        f = doubles.where(taken, f + e * (1 + f), f)
        rest = doubles.where(taken, rest - 1, rest)
        e, rest = e / (1 + doubles.sqrt(1 + e)), 2 * rest
    for k in range(_TERMS, 0, -1):
        series = 1 + ((rest - k) / (k + 1) * e) * series
    return 1 + (f + (rest * e * series) * (1 + f))


_DIGITS = 12
_TERMS = 6
"""The number of terms of the series after the first; its e is below 0.03."""


def cbrt(x: Array) -> Array:
    """Return ∛x, element by element, for finite x ≥ 0.

    >>> import numpy as np
    >>> cbrt(np.array([27.0, 0.0, 1e-300])).tolist()
    [3.0, 0.0, 1e-100]
    """
    xp = namespace(x)
    one = xp.ones_like(x)
    positive = x > 0
    radicand = xp.where(positive, x, one)
    root = xp.sqrt(radicand)
    y = one
    for _ in range(12):  # the error of log y falls to a quarter each time: to 2e-5
        y = xp.sqrt(root * xp.sqrt(y))
    for _ in range(2):  # then the number of correct digits doubles
        y = y - (y - (radicand / y) / y) / 3
    return xp.where(positive, y, x)

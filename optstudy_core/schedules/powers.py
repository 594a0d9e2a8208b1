"""Powers of numbers ≥ 0 from the operations + − × ÷ and √, with the same bits in every library."""

from __future__ import annotations

from typing import Any

from optstudy_core.arrays import doubles
from optstudy_core.arrays.doubles import DIGITS
from optstudy_core.parts.power import power1p


def floor(x: Any) -> Any:
    """Return the largest integer ≤ x.

    Args:
        x: a number ≥ 0, of shape ().

    >>> floor(2.75)
    2.0
    """
    return x - doubles.remainder(x, 1.0)


def quotient(t: Any, n: float) -> tuple[Any, Any]:
    """Return ⌊t / n⌋ and the remaining fraction of n, in [0, 1).

    Args:
        t: a number ≥ 0, of shape ().
        n: a number > 0.

    >>> quotient(7.0, 2.0)
    (3.0, 0.5)
    """
    rest = doubles.remainder(t, n)
    return floor((t - rest) / n + 0.5), rest / n


def whole_power(x: Any, n: Any) -> Any:
    """Return xⁿ for an integer n, from the binary digits of n.

    At most one of x and n may be an array; the other is a Python number.

    Args:
        x: a number ≥ 0, of shape ().
        n: an integer from 0 to 2³¹ − 1, of shape ().

    >>> whole_power(0.5, 3.0)
    0.125
    """
    y = 1.0
    for _ in range(DIGITS):
        if isinstance(n, float) and n == 0:
            break
        if isinstance(x, float) and x in {0.0, 1.0}:
            return y * doubles.where(n > 0, x, 1.0)
        odd = doubles.remainder(n, 2.0)
        y = doubles.where(odd > 0, y * x, y)
        n, x = (n - odd) / 2, x * x
    return y


def part_power(x: Any, a: Any) -> Any:
    """Return xᵃ for x in [0, 1] and a in [0, 1).

    Args:
        x: a number, of shape ().
        a: a number, of shape ().

    >>> part_power(0.0625, 0.25), part_power(0.0, 0.5)
    (0.5, 0.0)
    """
    there = x > 0
    e = doubles.where(there, (1 - x) / doubles.where(there, x, 1.0), 0.0)
    return doubles.where(there, 1 / power1p(e, a), 0.0)

"""The cosine from + − × and ÷, with the same bits in every library.

Libraries differ in the last bits of ``cos``. Here the angle is πx. It is reduced to πa with a ≤ ¼,
for which both series need few terms:

    cos πx = −cos π(1 − x) for x > ½,    cos πx = sin π(½ − x) for x > ¼
    z = (πa)²,  cos πa = 1 − z/(1·2)·(1 − z/(3·4)·(…)),  sin πa = πa·(1 − z/(2·3)·(1 − z/(4·5)·(…)))

0, ½ and 1 give 1, 0 and −1 exactly.
"""

from __future__ import annotations

import math
from typing import Any

from optstudy_core.arrays import doubles

_TERMS = 9
"""The number of terms of each series; the next term is below 2⁻⁵⁷."""


def cos_pi(x: Any) -> Any:
    """Return cos πx for x in [0, 1], within 2⁻⁵².

    Args:
        x: a number in double precision, of shape ().

    >>> cos_pi(0.0), cos_pi(0.5), cos_pi(1.0), round(cos_pi(1 / 3), 15)
    (1.0, 0.0, -1.0, 0.5)
    """
    second = x > 0.5
    x = doubles.where(second, 1 - x, x)
    steep = x > 0.25
    a = math.pi * doubles.where(steep, 0.5 - x, x)
    z = a * a
    sine = cosine = 1.0
    for n in range(2 * _TERMS, 0, -2):
        cosine = 1 - z / ((n - 1) * n) * cosine
        sine = 1 - z / (n * (n + 1)) * sine
    y = doubles.where(steep, a * sine, cosine)
    return doubles.where(second, -y, y)

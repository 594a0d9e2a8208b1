"""Roots, made of + − × ÷ and √: the same bits in every library.

``pow`` and ``cbrt`` differ between libraries in the last bits. This cube root is within one unit in
the last place, of float32 and of float64:

    y ← √(√x·√y), whose fixed point is y³ = x, and then Newton's y ← y − (y − x/y²)/3
"""

from __future__ import annotations

import math
from typing import Any

from ._namespace import Array, namespace


def sqrt(x: Any) -> Any:
    """Return √x of a hyperparameter: of a number in double, of an array in its dtype.

    >>> sqrt(0.25)
    0.5
    """
    return namespace(x).sqrt(x) if hasattr(x, "dtype") else math.sqrt(x)


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
    for _ in range(2):  # and then the number of right digits doubles
        y = y - (y - (radicand / y) / y) / 3
    return xp.where(positive, y, x)

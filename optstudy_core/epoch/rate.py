"""The factor of a learning rate: the product of the multipliers of all epochs.

    f ← f·m, from f = 1;    rate = lr·f, within [min_lr, max_lr]

``lr`` is the current rate of the optimizer, or of another scheduler. So the factor works with a
schedule that overwrites the rate at every step (LambdaLR), and with one that multiplies the rate
(StepLR). f is float32. The product with ``lr`` is computed in float64 and rounded to the working
dtype, like every result from Python numbers.

The bounds of the rate also stop f: it does not fall below min_lr/lr or grow above max_lr/lr, since
it would take many epochs to return. But a bound never changes f by itself, because ``lr`` may be
small for some time only (a warm-up).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from optstudy_core.arrays.namespace import Array, namespace

from ._numbers import LARGEST, SMALLEST, check_limits, float32

__all__ = ["LARGEST", "SMALLEST", "advance", "check_limits", "limits", "scaled"]


@np.errstate(all="ignore")
def advance(factor: Array, multiplier: Array, *, low: Any = SMALLEST, high: Any = LARGEST) -> Array:
    """Return the factor times a multiplier; the factor itself if the product is NaN.

    Args:
        factor: f, float32; a vector if each parameter group has its own factor.
        multiplier: m ≥ 0, float32.
        low: f does not fall below this number.
        high: f does not grow above this number.

    >>> float(advance(np.float32(1), np.float32(1.25)))
    1.25
    >>> float(advance(np.float32(1), np.float32(1.25), high=1.125))
    1.125
    """
    xp = namespace(factor)
    product = factor * multiplier
    product = xp.where(product == product, product, factor)
    least = xp.minimum(factor, low)
    most = xp.maximum(factor, high)
    return xp.minimum(xp.maximum(product, least), most)


@np.errstate(all="ignore")
def limits(lr: Any, *, min_lr: Any = 0.0, max_lr: Any = LARGEST) -> tuple[Array, Array]:
    """Return ``low`` and ``high`` of :func:`advance` for bounds of the rate.

    Args:
        lr: learning rate ≥ 0 without the factor; a vector for several groups.
        min_lr: lower bound of the rate, ≥ 0.
        max_lr: upper bound of the rate.

    >>> [float(bound) for bound in limits(0.5, min_lr=0.25, max_lr=2.0)]
    [0.5, 4.0]
    """
    lr = float32(lr)
    xp = namespace(lr)
    one = xp.ones_like(lr)
    positive = lr > 0
    divisor = xp.where(positive, lr, one)
    low = xp.maximum((min_lr * one) / divisor, SMALLEST)
    high = xp.minimum((max_lr * one) / divisor, LARGEST)
    return xp.where(positive, low, SMALLEST * one), xp.where(positive, high, LARGEST * one)


@np.errstate(all="ignore")
def scaled(lr: Any, factor: Array, *, min_lr: Any = 0.0, max_lr: Any = LARGEST) -> Array:
    """Return the rate lr·f in [min_lr, max_lr]: finite and not negative for any f.

    Args:
        lr: learning rate, a Python number or float64.
        factor: f, in float64.
        min_lr: lower bound, ≥ 0.
        max_lr: upper bound.

    >>> float(scaled(0.1, np.float64(0.5))), float(scaled(0.1, np.float64(0.5), min_lr=0.08))
    (0.05, 0.08)
    """
    xp = namespace(factor)
    return xp.minimum(xp.maximum(factor * lr, min_lr), max_lr)

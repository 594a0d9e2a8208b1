"""The factor on a learning rate: what the decisions of all epochs multiply up to.

    f ← f·m, from f = 1;    rate = lr·f, within [min_lr, max_lr]

``lr`` is what the optimizer, or another scheduler, has at the time. So a schedule that overwrites
the rate at every step (LambdaLR) and one that multiplies it (StepLR) compose alike. f is float32
and the product with ``lr`` is formed in float64 and rounded to the working dtype, as all that is
formed from Python numbers.

Bounds of the rate are bounds of f, too: at min_lr/lr it falls no further and at max_lr/lr it grows
no further, lest it take many epochs to come back. They never move it, as ``lr`` may be small for
a while only (a warm-up).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from optstudy_core.arrays.namespace import Array, namespace

from ._numbers import LARGEST, SMALLEST, check_limits, float32

__all__ = ["LARGEST", "SMALLEST", "advance", "check_limits", "limits", "scaled"]


@np.errstate(all="ignore")
def advance(factor: Array, multiplier: Array, *, low: Any = SMALLEST, high: Any = LARGEST) -> Array:
    """Return the factor times a multiplier; unchanged if that is NaN.

    Args:
        factor: f, float32; a vector if several groups of parameters have their own.
        multiplier: m ≥ 0, float32.
        low: where f falls no further.
        high: where f grows no further.

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
        lr: learning rate ≥ 0 without the factor; a vector if there are several groups.
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
    """Return the rate lr·f in [min_lr, max_lr]: finite and not negative, whatever f is.

    Args:
        lr: learning rate, a Python number or float64.
        factor: f, converted to float64 already.
        min_lr: lower bound, ≥ 0.
        max_lr: upper bound.

    >>> float(scaled(0.1, np.float64(0.5))), float(scaled(0.1, np.float64(0.5), min_lr=0.08))
    (0.05, 0.08)
    """
    xp = namespace(factor)
    return xp.minimum(xp.maximum(factor * lr, min_lr), max_lr)

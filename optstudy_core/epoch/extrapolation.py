"""Extrapolated epoch: move further along the step of an epoch, if the last epoch agrees.

    θ ← θ + lr·cos φₖ·Δₖ,    lr = 0.1

Without an angle φₖ (in the first epoch, or if a step is zero) nothing moves.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from optstudy_core.arrays.namespace import Array, namespace, scalar

from ._numbers import check as check_number
from ._numbers import float32


def check(*, lr: Any = 0.1) -> None:
    """Refuse a value of ``lr`` that is not allowed."""
    check_number("lr", lr)


@np.errstate(all="ignore")
def coefficient(cosine: Any, *, lr: Any = 0.1) -> Array:
    """Return lr·cos φₖ, float32; 0 if the cosine is NaN.

    >>> round(float(coefficient(0.5)), 6), float(coefficient(float("nan")))
    (0.05, 0.0)
    """
    c = float32(cosine)
    xp = namespace(c)
    return xp.where(c == c, lr * c, xp.zeros_like(c))


@np.errstate(all="ignore")
def update(theta: Array, step: Array, cosine: Any, *, lr: Any = 0.1) -> Array:
    """Return the parameters at the end of the epoch.

    Args:
        theta: θ after the last step of the epoch, one array (or ``Leaves``) in the working dtype.
        step: Δₖ, like θ.
        cosine: cos φₖ, a number.
        lr: the factor of the move, ≥ 0.

    >>> update(np.array([1.0]), np.array([2.0]), 0.5, lr=0.5).tolist()
    [1.5]
    """
    return moved(theta, step, coefficient(cosine, lr=lr))


def moved(theta: Array, step: Array, c: Array) -> Array:
    """Return θ + c·Δ, and θ itself for c = 0 (also where Δ is not finite)."""
    if isinstance(c, np.ndarray | np.generic):
        c = scalar(theta, float(c))  # of the library of θ
    return namespace(theta).where(c == 0, theta, theta + c * step)

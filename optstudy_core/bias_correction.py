"""The bias correction 1 − βᵗ of an exponential average, without a power.

``pow`` differs between libraries, and 1 − βᵗ cancels in float32 (relative error 1.3e-5 at t = 1
for β = 0.999). The correction is the same exponential average, taken of the constant one:

    c₀ = 0,    cₜ = cₜ₋₁ + (1 − β)·(1 − cₜ₋₁) = 1 − βᵗ,

with a compensation term (Kahan), without which it stagnates in float32. Within about one unit in
the last place of 1 − βᵗ for β from 0.9 to 0.999999 and t to 100,000. If β changes during a run, c
stays the sum of the weights that the average has, so the correction stays right.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ._namespace import Array, scalar


class BiasCorrection(NamedTuple):
    """c = 1 − βᵗ as ``value + error``, two scalars per leaf in the working dtype.

    Attributes:
        value: c, rounded; shape (); 0 at the start.
        error: what the rounding of ``value`` left over; shape (); 0 at the start.
    """

    value: Array
    error: Array


def init(params: Array) -> BiasCorrection:
    """Return c₀ = 0 for each leaf of ``params``."""
    return BiasCorrection(value=scalar(params, 0.0), error=scalar(params, 0.0))


def advance(c: BiasCorrection, b: Any) -> BiasCorrection:
    """Return c after one more step of an average with decay ``b``.

    >>> import numpy as np
    >>> c = init(np.float32(0))
    >>> for _ in range(3):
    ...     c = advance(c, 0.999)
    >>> abs(float(c.value) / (1 - 0.999**3) - 1) < 1.2e-7
    True
    """
    increment = (1 - b) * ((1 - c.value) - c.error) + c.error
    value = c.value + increment
    return BiasCorrection(value=value, error=increment - (value - c.value))

"""The mean age of the values in an exponential average: how long a memory it has.

After t steps the value of j steps ago has the weight βʲ·(1 − β)/(1 − βᵗ). Its mean age and the
length ρₜ of the simple average with the same mean age are

    aₜ = Σ j·βʲ·(1 − β)/(1 − βᵗ),    ρₜ = 1 + 2·aₜ = ρ∞ − 2·t·βᵗ/(1 − βᵗ),    ρ∞ = (1 + β)/(1 − β)

The last form cancels: in float32 and for β = 0.9999 it is off by more than ρₜ at t = 1. Here

    a₀ = 0,    aₜ = aₜ₋₁ + (1 − (aₜ₋₁ + 1)·(1 − β)/(1 − βᵗ)),

where everything ages by one and the new value comes in with age 0, with a compensation term (Kahan)
as in ``optstudy_core/parts/bias_correction.py``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays.namespace import Array, scalar


class MeanAge(NamedTuple):
    """The mean age a as ``value + error``, two scalars per leaf in the working dtype.

    Attributes:
        value: a, rounded; shape (); 0 at the start.
        error: what the rounding of ``value`` left over; shape (); 0 at the start.
    """

    value: Array
    error: Array


def init(params: Array) -> MeanAge:
    """Return a₀ = 0 for each leaf of ``params``."""
    return MeanAge(value=scalar(params, 0.0), error=scalar(params, 0.0))


def advance(a: MeanAge, b: Any, c: Array) -> MeanAge:
    """Return the mean age after one more step of an average with decay ``b``.

    Args:
        a: before the step.
        b: decay β.
        c: 1 − βᵗ after the step (``bias_correction``).

    >>> import numpy as np
    >>> a = init(np.float32(0))
    >>> for c in (0.5, 0.75, 0.875):
    ...     a = advance(a, 0.5, np.float32(c))
    >>> round(float(a.value), 6)  # (0·1 + 1·0.5 + 2·0.25) / 1.75
    0.571429
    """
    weight = (1 - b) / c
    increment = (1 - weight * (1 + a.value)) + a.error
    value = a.value + increment
    return MeanAge(value=value, error=increment - (value - a.value))

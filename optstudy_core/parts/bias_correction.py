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

from optstudy_core.arrays.namespace import Array, absent, namespace, scalar


class BiasCorrection(NamedTuple):
    """c = 1 − βᵗ as ``value + error``, two scalars per leaf in the working dtype.

    Attributes:
        value: c, rounded; shape (); 0 at the start.
        error: what the rounding of ``value`` left over; shape (); 0 at the start.
    """

    value: Array
    error: Array


def init(params: Array) -> BiasCorrection:
    """Return c₀ = 0 for each leaf of ``params``.

    Args:
        params: an array, whose dtype is the working dtype.
    """
    return BiasCorrection(value=scalar(params, 0.0), error=scalar(params, 0.0))


def advance(c: BiasCorrection, b: Any) -> BiasCorrection:
    """Return c after one more step of an average with decay ``b``.

    Args:
        c: of :func:`init` or of the last step.
        b: decay β in [0, 1), a number or an array of shape ().

    >>> import numpy as np
    >>> c = init(np.float32(0))
    >>> for _ in range(3):
    ...     c = advance(c, 0.999)
    >>> abs(float(c.value) / (1 - 0.999**3) - 1) < 1.2e-7
    True
    """
    return advance_by(c, 1 - b)


def advance_by(c: BiasCorrection, weight: Any) -> BiasCorrection:
    """Return c after one more step of an average in which the new value has ``weight`` 1 − β.

    For a weight that is known better than as 1 minus a number near 1.
    """
    increment = weight * ((1 - c.value) - c.error) + c.error
    value = c.value + increment
    return BiasCorrection(value=value, error=increment - (value - c.value))


def ahead(m: Array, g: Array, c: BiasCorrection, b: Any) -> Array:
    """Return the corrected average with Nesterov's look ahead.

        b·m / (1 − bᵗ⁺¹) + (1 − b)·g / (1 − bᵗ),    c = 1 − bᵗ

    >>> import numpy as np
    >>> c = advance(init(np.float64(0)), 0.5)
    >>> float(ahead(np.float64(0.5), np.float64(1.0), c, 0.5))  # 0.5·0.5/0.75 + 0.5·1/0.5
    1.3333333333333333
    """
    return (b / advance(c, b).value) * m + ((1 - b) / c.value) * g


def root(v: Array, c: BiasCorrection, eps_root: Any = 0.0) -> Array:
    """Return √(v/c + ε): the root of a corrected average of squares.

    Without ε it is √v / √c, which spares a division of arrays.

    >>> import numpy as np
    >>> float(root(np.float64(0.75), BiasCorrection(np.float64(0.5), np.float64(0.0)), 0.75))
    1.5
    """
    xp = namespace(v)
    if absent(eps_root):
        return xp.sqrt(v) / xp.sqrt(c.value)
    return xp.sqrt(v / c.value + eps_root)

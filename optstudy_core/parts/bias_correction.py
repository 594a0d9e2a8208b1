"""The bias correction 1 − βᵗ of an exponential average, and formulas with it.

The correction uses the β of the current step, also if β changes during a run, as in torch and
optax. It is computed in double precision (:mod:`optstudy_core.arrays.doubles`), and rounded once
in an operation with an array.
"""

from __future__ import annotations

from typing import Any

from optstudy_core.arrays import doubles
from optstudy_core.arrays.namespace import Array, absent, namespace


def correction(b: Any, t: Array) -> Any:
    """Return 1 − bᵗ.

    Args:
        b: decay rate β in [0, 1), a number or an array of shape ().
        t: the number of steps, int32; shape () per leaf.

    Returns:
        a number in double precision.

    >>> import numpy as np
    >>> correction(0.5, np.int32(2))
    0.75
    """
    return doubles.one_minus_power(1 - b, t)


def ahead(m: Array, g: Array, b: Any, t: Array) -> Array:
    """Return the corrected average with the look-ahead of Nesterov.

        b·m / (1 − bᵗ⁺¹) + (1 − b)·g / (1 − bᵗ)

    Args:
        m: the average, an array of any shape.
        g: the gradient, of the same shape as ``m``.
        b: decay rate β in [0, 1), a number or an array of shape ().
        t: the number of steps, int32; shape () per leaf.

    >>> import numpy as np
    >>> ahead(0.5, 1.0, 0.5, np.int32(1))  # 0.5·0.5/0.75 + 0.5·1/0.5
    1.3333333333333333
    """
    return (b / correction(b, t + 1)) * m + ((1 - b) / correction(b, t)) * g


def root(v: Array, c: Any, eps_root: Any = 0.0) -> Array:
    """Return √(v/c + ε): the root of a corrected average of squares.

    Without ε the result is √v / √c, which saves a division of arrays.

    Args:
        v: the average, an array of any shape.
        c: the correction, a number; shape () per leaf.
        eps_root: ε ≥ 0, a number or an array of shape ().

    >>> import numpy as np
    >>> float(root(np.float64(0.75), 0.5, 0.75))
    1.5
    """
    xp = namespace(v)
    if absent(eps_root):
        return xp.sqrt(v) / doubles.sqrt(c)
    return xp.sqrt(v / c + eps_root)

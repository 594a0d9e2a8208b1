"""The momentum schedule of NAdam: each step covers the share 1 − 0.96^ψ of the remaining distance.

After t steps 1 − 0.96^(tψ) of the distance is covered
(:func:`optstudy_core.arrays.doubles.one_minus_power`). The share is computed without a power, from
sums of positive terms. So it is accurate for small ψ, where 1 minus a power cancels:

    f(z) = eᶻ − 1 = z·(1 + z/2·(1 + z/3·(…))),    f(2z) = f(z)·(2 + f(z))
    1 − 0.96^ψ = 1 − e⁻ᶻ = f(z) / (1 + f(z)),     z = −ψ·ln 0.96
"""

from __future__ import annotations

from typing import Any

from optstudy_core.arrays.namespace import absent

RATE = 0.04082199452025513  # −ln 0.96
_DOUBLINGS = 4
_SCALE = RATE / 2**_DOUBLINGS
# For z/16 < 0.3 the next term is below 2⁻⁵³ of the sum; for larger z, e⁻ᶻ is small.
_DIVISORS = range(12, 1, -1)


def share(psi: Any) -> Any:
    """Return 1 − 0.96^ψ for ψ ≥ 0, within some units in the last place.

    Args:
        psi: a number in double precision, or a 0-d array.

    >>> round(share(1.0), 15), share(0.0), share(1e9)
    (0.04, 0.0, 1.0)
    """
    if absent(psi):
        return psi
    z = psi * _SCALE
    f = z
    for n in _DIVISORS:
        f = z * (1 + f / n)
    for _ in range(_DOUBLINGS):
        f = f * (2 + f)
    return 1 / (1 + 1 / f)  # 1 for an f that has overflowed

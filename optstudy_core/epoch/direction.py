"""Direction-adaptive learning rate: faster while epochs go the same way, slower when they turn.

    lr ← lr·(1 + r·cos φₖ)
    centred: lr ← lr·(1 + 2r·(cos φₖ − ½)), so the rate grows only if φₖ < 60°

φₖ is the angle between the steps of this epoch and of the last one. r = 0.05 by default; 0.10 is
stronger. Without an angle (in the first epoch, or if a step is zero) the rate does not change.

Source: Bailey-Darland 2021, "Adaptive learning rate" in *Instrumenting and Studying Adam and Other
Optimization Algorithms in PyTorch* (DIANA fellowship).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from optstudy_core.arrays.namespace import Array, namespace

from . import rate
from ._numbers import check as check_number
from ._numbers import check_flag, float32
from .measured import Decision, Measured


class DirectionState(NamedTuple):
    """The state of the method.

    Attributes:
        factor: the factor of the learning rate, float32; 1 at the start.
    """

    factor: Array


def init() -> DirectionState:
    """Return the state before the first epoch."""
    return DirectionState(factor=np.float32(1))


def check(*, r: Any = 0.05, centred: bool = False) -> None:
    """Refuse values that are not allowed (centred, r > ⅓ could make the rate negative).

    Raises:
        TypeError: if a value is of the wrong kind.
        ValueError: if it is out of range.
    """
    check_number("r", r)
    check_flag("centred", centred)
    if centred and not hasattr(r, "dtype") and r > 1 / 3:
        raise ValueError(f"r = {r!r} with centred = True: allowed are numbers from 0 to 1/3")


@np.errstate(all="ignore")
def multiplier(cosine: Any, *, r: Any = 0.05, centred: bool = False) -> Array:
    """Return the multiplier of the learning rate, float32; 1 if the cosine is NaN.

    >>> round(float(multiplier(-1.0)), 6), float(multiplier(0.5, centred=True))
    (0.95, 1.0)
    >>> float(multiplier(float("nan")))
    1.0
    """
    c = float32(cosine)
    xp = namespace(c)
    m = 1 + 2 * r * (c - 0.5) if centred else 1 + r * c
    return xp.where(c == c, m, xp.ones_like(c))


def update(
    state: DirectionState,
    measured: Measured,
    *,
    r: Any = 0.05,
    centred: bool = False,
    low: Any = rate.SMALLEST,
    high: Any = rate.LARGEST,
) -> tuple[DirectionState, Decision]:
    """Return the new state and the decision at the end of an epoch.

    Args:
        state: the state from :func:`init` or from the last epoch.
        measured: the measurements of the epoch; ``cosine`` is used.
        r: the weight of the direction, in [0, 1].
        centred: at 60°, instead of at 90°, the rate stays; requires r in [0, ⅓].
        low: the factor does not fall below it, a scalar (see :func:`.rate.limits`).
        high: the factor does not grow above it, a scalar like ``low``.

    >>> state, decision = update(init(), Measured(cosine=1.0))
    >>> state, decision = update(state, Measured(cosine=1.0))
    >>> round(float(state.factor), 6), round(float(decision.multiplier), 6)
    (1.1025, 1.05)
    """
    m = multiplier(measured.cosine, r=r, centred=centred)
    never = m != m
    factor = rate.advance(state.factor, m, low=low, high=high)
    return DirectionState(factor), Decision(m, never, never)

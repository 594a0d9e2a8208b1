"""The mean of the losses of an epoch, from a compensated sum (Kahan) in float32.

    y = L − e,    t = T + y,    e ← (t − T) − y,    T ← t

The error is about one unit in the last place, for any number of steps. A plain running sum can lose
up to one unit at each step.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from optstudy_core.arrays.namespace import Array

from ._numbers import float32


class MeanState(NamedTuple):
    """A running sum.

    Attributes:
        total: T, the sum so far; 0 at the start.
        error: e, the excess of T over the exact sum; 0 at the start.
        count: the number of losses so far, float32; 0 at the start.
    """

    total: Array
    error: Array
    count: Array


def init() -> MeanState:
    """Return the empty sum."""
    return MeanState(np.float32(0), np.float32(0), np.float32(0))


@np.errstate(all="ignore")
def add(state: MeanState, loss: Any) -> MeanState:
    """Return the sum with one more loss.

    >>> state = init()
    >>> for loss in [1.0, 2.0, 6.0]:
    ...     state = add(state, loss)
    >>> float(value(state))
    3.0
    """
    y = float32(loss) - state.error
    total = state.total + y
    return MeanState(total, (total - state.total) - y, state.count + 1)


@np.errstate(all="ignore")
def value(state: MeanState) -> Array:
    """Return the mean; NaN if there are no losses."""
    return state.total / state.count

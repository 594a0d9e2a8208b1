"""Direction-adaptive learning rate: faster while epochs go the same way, slower when they turn.

    lr ← lr·(1 + r·cos φₖ)
    centred: lr ← lr·(1 + 2r·(cos φₖ − ½)), which grows only below 60°

φₖ is the angle between the steps of this epoch and the last one; r = 0.05 (also 0.10). No angle,
as in the first epoch and for a zero step, changes nothing.

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
    """What the method carries.

    Attributes:
        factor: on the learning rate, float32; 1 at the start.
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
    """Return what the learning rate is multiplied by, float32; 1 if the cosine is NaN.

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
        state: of :func:`init` or of the last epoch.
        measured: its ``cosine`` is read.
        r: how strongly the direction counts, in [0, 1].
        centred: take 60° as neutral instead of 90°; r in [0, ⅓].
        low: where the factor falls no further, a scalar (:func:`.rate.limits`).
        high: where it grows no further, a scalar like ``low``.

    >>> state, decision = update(init(), Measured(cosine=1.0))
    >>> state, decision = update(state, Measured(cosine=1.0))
    >>> round(float(state.factor), 6), round(float(decision.multiplier), 6)
    (1.1025, 1.05)
    """
    m = multiplier(measured.cosine, r=r, centred=centred)
    never = m != m
    factor = rate.advance(state.factor, m, low=low, high=high)
    return DirectionState(factor), Decision(m, never, never)

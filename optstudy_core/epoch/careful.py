"""Careful learning rate: smaller steps after the loss has jumped up.

    jump: Lₖ > L + τ·|L|, or Lₖ is not finite;    L is the reference, a finite loss
    after ``patience`` jumps in a row: the rate is cut, lr ← γ·lr; with rollback, undo the epochs
    no jump: lr ← growth·lr  (1.05 in the bold variant, else 1)

The reference is the last finite loss, or the loss of the last accepted epoch (an epoch without a
jump). The first finite loss is accepted and changes nothing. (τ, γ) = (0.02, 0.8) by default;
(0.05, 0.7) allows larger jumps. With ``rollback``, a cut restores the parameters, and all state
that belongs to them, to their values before the first of the jumps.

Source: Bailey-Darland 2021, "Careful learning rate" in *Instrumenting and Studying Adam and Other
Optimization Algorithms in PyTorch* (DIANA fellowship).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from optstudy_core.arrays.namespace import Array, namespace
from optstudy_core.arrays.numbers import nearest

from . import rate
from ._numbers import check as check_number
from ._numbers import check_count, float32
from .measured import Decision, Measured

REFERENCES = ("last", "accepted")


class CarefulState(NamedTuple):
    """The state of the method, all float32 numbers.

    Attributes:
        factor: the factor of the learning rate; 1 at the start.
        reference: the loss to compare with; NaN at the start.
        jumps: the number of jumps in a row; 0 at the start and after a cut.
    """

    factor: Array
    reference: Array
    jumps: Array


def init() -> CarefulState:
    """Return the state before the first epoch."""
    return CarefulState(np.float32(1), np.float32(np.nan), np.float32(0))


def check(
    *,
    tau: Any = 0.02,
    gamma: Any = 0.8,
    growth: Any = 1.0,
    patience: int = 1,
    reference: str = "last",
) -> None:
    """Refuse values that are not allowed.

    Raises:
        TypeError: if a value is of the wrong kind.
        ValueError: if it is out of range.
    """
    check_number("tau", tau)
    check_number("gamma", gamma)
    check_number("growth", growth)
    check_count("patience", patience)
    if reference not in REFERENCES:
        raise ValueError(f"reference = {reference!r}: {nearest(str(reference), REFERENCES)}")


@np.errstate(all="ignore")
def update(
    state: CarefulState,
    measured: Measured,
    *,
    tau: Any = 0.02,
    gamma: Any = 0.8,
    growth: Any = 1.0,
    patience: int = 1,
    reference: str = "last",
    low: Any = rate.SMALLEST,
    high: Any = rate.LARGEST,
) -> tuple[CarefulState, Decision]:
    """Return the new state and the decision at the end of an epoch.

    Args:
        state: the state from :func:`init` or from the last epoch.
        measured: the measurements of the epoch; ``loss`` is used.
        tau: τ ≥ 0. A loss above ``L + τ·|L|`` is a jump.
        gamma: γ in [0, 1], the factor of the rate at a cut.
        growth: the factor of the rate after an epoch without a jump, ≥ 1.
        patience: the number of jumps in a row that lead to a cut, ≥ 1.
        reference: ``"last"`` or ``"accepted"``: the epoch that gives the reference loss.
        low: the factor does not fall below it, a scalar (see :func:`.rate.limits`).
        high: the factor does not grow above it, a scalar like ``low``.

    >>> state = init()
    >>> for loss in [1.0, 1.01, 1.2, 1.1]:
    ...     state, decision = update(state, Measured(loss=loss))
    ...     print(bool(decision.jump), round(float(state.factor), 6))
    False 1.0
    False 1.0
    True 0.8
    False 0.8
    """
    loss = float32(measured.loss)
    xp = namespace(loss)
    one = xp.ones_like(loss)
    last = state.reference
    finite = xp.isfinite(loss)
    jump = ~finite | (loss > last + tau * abs(last))  # false for a reference of NaN
    jumps = xp.where(jump, state.jumps + one, xp.zeros_like(loss))
    cut = jumps >= patience
    accepted = xp.where(~jump & xp.isfinite(last), growth * one, one)
    multiplier = xp.where(cut, gamma * one, accepted)
    is_reference = ~jump if reference == "accepted" else finite
    new = CarefulState(
        factor=rate.advance(state.factor, multiplier, low=low, high=high),
        reference=xp.where(is_reference, loss, last),
        jumps=xp.where(cut, xp.zeros_like(loss), jumps),
    )
    return new, Decision(multiplier, jump, cut)

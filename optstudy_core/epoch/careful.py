"""Careful learning rate: smaller steps after the loss has jumped up.

    jump: Lₖ > L + τ·|L|, or Lₖ is not finite;    L the reference, the last finite one
    after ``patience`` jumps in a row: the rate is cut, lr ← γ·lr, and the epoch undone if asked for
    no jump: lr ← growth·lr  (1.05 in the bold variant, else 1)

The reference is the loss of the last epoch, or of the last accepted one (that was no jump). Before
there is one, every finite loss is accepted and changes nothing. (τ, γ) = (0.02, 0.8), also
(0.05, 0.7). Where such epochs are undone, the parameters and all that belongs to them return
to what they were before the first of the jumps.

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
    """What the method carries, all float32 numbers.

    Attributes:
        factor: on the learning rate; 1 at the start.
        reference: the loss to compare with; NaN at the start.
        jumps: how many there were in a row; 0 at the start and after a rejection.
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
        state: of :func:`init` or of the last epoch.
        measured: its ``loss`` is read.
        tau: τ ≥ 0, by how much of ``|L|`` the loss may rise.
        gamma: γ in [0, 1], what a jump multiplies the rate by.
        growth: what any other epoch multiplies it by, ≥ 1.
        patience: how many jumps in a row it takes, ≥ 1.
        reference: ``"last"`` or ``"accepted"``.
        low: where the factor falls no further, a scalar (:func:`.rate.limits`).
        high: where it grows no further, a scalar like ``low``.

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

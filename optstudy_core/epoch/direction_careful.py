"""Both learning-rate methods at once: the product of their multipliers.

    lr ← lr·(multiplier of direction)·(multiplier of careful)

With ``rollback``, an epoch with a cut is undone, and its direction does not count.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from optstudy_core.arrays.namespace import namespace

from . import careful, direction, rate
from ._numbers import check_flag
from .careful import CarefulState
from .measured import Decision, Measured

init = careful.init


def check(
    *, r: Any = 0.05, centred: bool = False, rollback: bool = False, **careful_values: Any
) -> None:
    """Refuse values that are not allowed; errors as from ``check`` of the two methods."""
    direction.check(r=r, centred=centred)
    check_flag("rollback", rollback)
    careful.check(**careful_values)


@np.errstate(all="ignore")
def update(
    state: CarefulState,
    measured: Measured,
    *,
    r: Any = 0.05,
    centred: bool = False,
    tau: Any = 0.02,
    gamma: Any = 0.8,
    growth: Any = 1.0,
    patience: int = 1,
    reference: str = "last",
    rollback: bool = False,
    low: Any = rate.SMALLEST,
    high: Any = rate.LARGEST,
) -> tuple[CarefulState, Decision]:
    """Return the new state and the decision at the end of an epoch.

    Args as for :func:`.direction.update` and :func:`.careful.update`. With ``rollback``, an epoch
    with a cut is undone, and its direction does not count.

    >>> state, decision = update(init(), Measured(cosine=float("nan"), loss=1.0))
    >>> state, decision = update(state, Measured(cosine=1.0, loss=2.0))
    >>> round(float(decision.multiplier), 6)  # 1.05 * 0.8
    0.84
    """
    new, decision = careful.update(
        state,
        measured,
        tau=tau,
        gamma=gamma,
        growth=growth,
        patience=patience,
        reference=reference,
    )
    turn = direction.multiplier(measured.cosine, r=r, centred=centred)
    xp = namespace(turn)
    if rollback:
        turn = xp.where(decision.cut, xp.ones_like(turn), turn)
    multiplier = turn * decision.multiplier
    factor = rate.advance(state.factor, multiplier, low=low, high=high)
    return new._replace(factor=factor), decision._replace(multiplier=multiplier)

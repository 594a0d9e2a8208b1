"""Signum: steps along the sign of the momentum.

    mₜ = β·mₜ₋₁ + (1 − β)·gₜ
    θₜ = θₜ₋₁ − lr·sign(mₜ)

The name of β in optax is ``beta``. Neither the paper nor optax gives a default learning rate.

Source: Bernstein, Wang, Azizzadenesheli and Anandkumar 2018, Algorithm 2 (`bernstein2018signsgd`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays.namespace import Array, namespace
from optstudy_core.parts.terms import objective_gradient

BIBTEX = ("bernstein2018signsgd",)

DIALECTS: dict[str, dict[str, Any]] = {"optax": {}, "paper": {}}

ELSEWHERE = {
    "optax.EmaState": {"m": "ema"},
}
"""Names of the state fields in other libraries."""


class SignumState(NamedTuple):
    """The state of Signum.

    Attributes:
        m: momentum mₜ, like the parameters; 0 at the start.
    """

    m: Array


def init(params: Array) -> SignumState:
    """Return the state before the first step: every field is zero."""
    return SignumState(m=namespace(params).zeros_like(params))


def update(
    state: SignumState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 1e-3,
    b1: Any = 0.9,
    maximize: bool = False,
) -> tuple[SignumState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: not read.
        lr: learning rate, ≥ 0: the magnitude of every element of the step.
        b1: decay β of the momentum, in [0, 1).
        maximize: climb instead of descend.

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    >>> import numpy as np
    >>> state, step = update(init(np.zeros(1)), np.array([8.0]), lr=0.5)
    >>> update(state, np.array([-1.0]), lr=0.5)[1].tolist()  # the momentum still points up
    [-0.5]
    """
    xp = namespace(grad)
    g = objective_gradient(grad, None, maximize=maximize)
    m = b1 * state.m + (1 - b1) * g
    return SignumState(m), -lr * xp.sign(m)

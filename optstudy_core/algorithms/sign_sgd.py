"""SignSGD: steps along the sign of the gradient.

    θₜ = θₜ₋₁ − lr·sign(gₜ)

Neither the paper nor optax gives a default learning rate.

Source: Bernstein, Wang, Azizzadenesheli and Anandkumar 2018, Algorithm 1 (`bernstein2018signsgd`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays.namespace import Array, namespace
from optstudy_core.parts.terms import objective_gradient

BIBTEX = ("bernstein2018signsgd",)

DIALECTS: dict[str, dict[str, Any]] = {"optax": {}, "paper": {}}


class SignSGDState(NamedTuple):
    """The state of SignSGD, which is empty."""


def init(params: Array) -> SignSGDState:
    """Return the state, which is empty."""
    return SignSGDState()


def update(
    state: SignSGDState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 1e-3,
    maximize: bool = False,
) -> tuple[SignSGDState, Array]:
    """Return the state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: not read.
        lr: learning rate, ≥ 0: the magnitude of every element of the step.
        maximize: climb instead of descend.

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    >>> import numpy as np
    >>> update(init(np.zeros(2)), np.array([1e-3, -5.0]), lr=0.5)[1].tolist()
    [-0.5, 0.5]
    """
    xp = namespace(grad)
    g = objective_gradient(grad, None, maximize=maximize)
    return state, -lr * xp.sign(g)

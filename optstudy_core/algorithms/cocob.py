"""COCOB: coin betting on stochastic gradients, without a learning rate.

    cₜ = lr·(gₜ + λ·wₜ)
    Lₜ = max(Lₜ₋₁, |cₜ|),    Gₜ = Gₜ₋₁ + |cₜ|,    θₜ = θₜ₋₁ − cₜ
    Rₜ = max(Rₜ₋₁ − cₜ·(wₜ − w₁), 0)
    wₜ₊₁ = w₁ + θₜ·(Lₜ + Rₜ) / (Lₜ·max(Gₜ + Lₜ, α·Lₜ))

element by element. L₀ is ε. In the paper L₀ = 0: an element without a gradient so far becomes NaN.
The paper has no learning rate; a rate only has an effect if it changes.

Source: Orabona and Tommasi 2017, Algorithm 2 (`orabona2017training`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays.namespace import Array, namespace
from optstudy_core.parts.terms import needed, objective_gradient

BIBTEX = ("orabona2017training",)

DIALECTS: dict[str, dict[str, Any]] = {"optax": {}, "paper": {"eps": 0.0}}


ELSEWHERE = {
    "optax.COCOBState": {
        "w1": "init_particles",
        "theta": "cumulative_gradients",
        "scale": "scale",
        "total": "subgradients",
        "reward": "reward",
    },
}
"""Names of the state fields in other libraries."""


class COCOBState(NamedTuple):
    """The state of COCOB.

    Attributes:
        w1: initial parameters w₁.
        theta: sum of the negative gradients θₜ, like the parameters; 0 at the start.
        scale: largest gradient Lₜ, like the parameters; ε at the start.
        total: sum of the magnitudes of the gradients Gₜ, like the parameters; 0 at the start.
        reward: reward Rₜ, like the parameters; 0 at the start.
    """

    w1: Array
    theta: Array
    scale: Array
    total: Array
    reward: Array


def init(params: Array, *, eps: Any = 1e-8) -> COCOBState:
    """Return the state before the first step, for the same ``eps`` as the updates."""
    zeros = namespace(params).zeros_like(params)
    return COCOBState(w1=params, theta=zeros, scale=zeros + eps, total=zeros, reward=zeros)


def update(
    state: COCOBState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 1.0,
    alpha: Any = 100.0,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    maximize: bool = False,
) -> tuple[COCOBState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: parameters wₜ.
        lr: factor of the gradients, ≥ 0; 1 unless scheduled.
        alpha: α ≥ 0 keeps the first steps small: the first step is about 1/α.
        eps: L₀ ≥ 0, which :func:`init` reads.
        weight_decay: coupled decay rate λ ≥ 0.
        maximize: climb instead of descend (the decay keeps its sign).

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    Raises:
        ValueError: if ``params`` is ``None``.

    >>> import numpy as np
    >>> theta = np.array([1.0, -2.0])
    >>> state, step = update(init(theta), np.array([3.0, -0.2]), theta)
    >>> step.round(6).tolist()
    [-0.01, 0.01]
    """
    xp = namespace(grad)
    params = needed(params, "cocob")
    c = lr * objective_gradient(grad, params, weight_decay=weight_decay, maximize=maximize)
    scale = xp.maximum(state.scale, abs(c))
    total = state.total + abs(c)
    theta = state.theta - c
    reward = xp.maximum(state.reward - c * (params - state.w1), 0.0)
    bet = theta / (scale * xp.maximum(total + scale, alpha * scale))
    step = (state.w1 - params) + bet * (scale + reward)
    return COCOBState(state.w1, theta, scale, total, reward), step

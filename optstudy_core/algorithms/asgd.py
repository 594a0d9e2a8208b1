"""ASGD: gradient descent with a decreasing rate, and an average of the parameters.

    θₜ = θₜ₋₁ − ηₜ·(gₜ + λ·θₜ₋₁)
    āₜ = āₜ₋₁ + μₜ·(θₜ − āₜ₋₁),    μₜ = 1 / max(1, t − 1 − t₀)
    ηₜ₊₁ = lr / (1 + λ·lr·t)^α,    η₁ = lr

λ is ``lambd``. The average āₜ is ``ax`` in the state, and no step depends on it. As in torch.optim,
the rate of a step is computed at the end of the previous step, from the learning rate at that time.

Source: Polyak and Juditsky 1992 (`polyak1992acceleration`); this rate with α = 3/4, and t₀, are
from Bottou 2012 (`bottou2012stochastic`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays import doubles
from optstudy_core.arrays.namespace import Array, absent, namespace, no_steps, scalar
from optstudy_core.arrays.numbers import is_number
from optstudy_core.parts.power import power1p
from optstudy_core.parts.terms import needed, objective_gradient

BIBTEX = ("polyak1992acceleration", "bottou2012stochastic")

DIALECTS: dict[str, dict[str, Any]] = {"torch": {}}

ELSEWHERE = {
    "torch.optim.ASGD": {"ax": "ax", "eta": "eta", "t": "step"},
}
"""Names of the state fields in other libraries."""


class ASGDState(NamedTuple):
    """The state of ASGD.

    Attributes:
        ax: average āₜ of the parameters, like the parameters; 0 at the start, which is never read.
        eta: rate ηₜ₊₁ of the next step; shape () per leaf; 0 at the start, which means lr.
        t: number of steps; shape () per leaf, int32; 0 at the start.
    """

    ax: Array
    eta: Array
    t: Array


def init(params: Array) -> ASGDState:
    """Return the state before the first step: every field is zero."""
    return ASGDState(
        ax=namespace(params).zeros_like(params), eta=scalar(params, 0.0), t=no_steps(params)
    )


def check(hyperparameters: dict[str, Any], dialect: str | None = None) -> None:
    """Refuse a power α ≥ 2."""
    alpha = hyperparameters["alpha"]
    if is_number(alpha) and alpha >= 2:
        raise ValueError(f"alpha = {alpha!r}: allowed are numbers from 0 to below 2")


def update(
    state: ASGDState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 1e-2,
    lambd: Any = 1e-4,
    alpha: Any = 0.75,
    t0: Any = 1e6,
    weight_decay: Any = 0.0,
    maximize: bool = False,
) -> tuple[ASGDState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: parameters θₜ₋₁.
        lr: learning rate, ≥ 0.
        lambd: λ ≥ 0, decay of the parameters and of the rate.
        alpha: power α of the decay of the rate, from 0 to below 2.
        t0: t₀ ≥ 0; averaging begins one step after t₀ steps.
        weight_decay: L2 penalty ≥ 0, added to the gradient.
        maximize: climb instead of descend (the decay and the penalty keep their sign).

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    Raises:
        ValueError: if ``params`` is ``None``.

    >>> import numpy as np
    >>> theta = np.array([4.0])
    >>> state, step = update(init(theta), 2 * theta, theta, lr=0.25, lambd=0.0, t0=0)
    >>> state, step = update(state, 2 * (theta + step), theta + step, lr=0.25, lambd=0.0, t0=0)
    >>> step.tolist(), state.ax.tolist()  # from 4 to 2 to 1
    ([-1.0], [1.0])
    """
    xp = namespace(grad)
    params = needed(params, "asgd")
    g = objective_gradient(grad, params, weight_decay=weight_decay, maximize=maximize)
    before = doubles.of(state.t)
    eta = doubles.where(before > 0, state.eta, lr)
    step = -eta * g
    if not absent(lambd):
        step = step - (lambd * eta) * params
    new = params + step
    mu = 1 / doubles.maximum(before - t0, 1.0)
    ax = state.ax + mu * (new - state.ax)
    eta = lr / power1p((lambd * lr) * (before + 1), alpha)
    return ASGDState(ax, xp.ones_like(state.eta) * eta, state.t + 1), step

"""Optimistic gradient descent: the gradient plus the change since the last gradient.

    θₜ = θₜ₋₁ − lr·((α + β)·gₜ − β·gₜ₋₁)

With α = β = 1 it is θₜ₋₁ − 2·lr·gₜ + lr·gₜ₋₁. In optax g₀ = g₁, so the first step is a plain step
(``plain_first_step``); in the papers g₀ = 0. Neither optax nor the papers give a default learning
rate.

Source: Daskalakis, Ilyas, Syrgkanis and Zeng 2018 (`daskalakis2018training`); with α and β
Mokhtari, Ozdaglar and Pattathil 2020 (`mokhtari2020unified`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays import doubles
from optstudy_core.arrays.namespace import Array, namespace, no_steps
from optstudy_core.parts.terms import objective_gradient

BIBTEX = ("daskalakis2018training", "mokhtari2020unified")

DIALECTS: dict[str, dict[str, Any]] = {
    "optax": {},
    "paper": {"plain_first_step": False},
}

ELSEWHERE = {
    "optax.ScaleByOptimisticGradientState": {"previous": "previous_gradient"},
}
"""Names of the state fields in other libraries."""


class OptimisticGradientDescentState(NamedTuple):
    """The state of optimistic gradient descent.

    Attributes:
        previous: gradient of the last step gₜ₋₁, like the parameters; 0 at the start.
        t: number of steps; shape () per leaf, int32; 0 at the start.
    """

    previous: Array
    t: Array


def init(params: Array) -> OptimisticGradientDescentState:
    """Return the state before the first step: every field is zero."""
    return OptimisticGradientDescentState(
        previous=namespace(params).zeros_like(params), t=no_steps(params)
    )


def update(
    state: OptimisticGradientDescentState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 1e-3,
    alpha: Any = 1.0,
    beta: Any = 1.0,
    maximize: bool = False,
    plain_first_step: bool = True,
) -> tuple[OptimisticGradientDescentState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: not read.
        lr: learning rate, ≥ 0.
        alpha: weight α ≥ 0 of the gradient.
        beta: weight β ≥ 0 of the change since the last step.
        maximize: climb instead of descend.
        plain_first_step: take g₀ = g₁ instead of 0.

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    >>> import numpy as np
    >>> state, step = update(init(np.zeros(1)), np.array([3.0]), lr=0.5)
    >>> step.tolist(), update(state, np.array([4.0]), lr=0.5)[1].tolist()
    ([-1.5], [-2.5])
    """
    g = objective_gradient(grad, None, maximize=maximize)
    last = state.previous
    if plain_first_step:
        last = doubles.where(doubles.of(state.t) > 0, state.previous, g)
    step = -lr * ((alpha + beta) * g - beta * last)
    return OptimisticGradientDescentState(g, state.t + 1), step

"""Optimistic Adam: optimistic gradient descent in the direction of Adam.

    mₜ, vₜ as in Adam
    m̂ₜ = mₜ / (1 − β₁ᵗ),    with ``nesterov``  β₁·mₜ / (1 − β₁ᵗ⁺¹) + (1 − β₁)·gₜ / (1 − β₁ᵗ)
    uₜ = m̂ₜ / (√(vₜ / (1 − β₂ᵗ)) + ε)
    θₜ = θₜ₋₁ − lr·((α + β)·uₜ − β·uₜ₋₁)

The paper has no Nesterov momentum, and u₀ = 0. optax has u₀ = u₁ (``plain_first_step``). This is
``optax.optimistic_adam_v2``. The older ``optax.optimistic_adam(η, optimism)`` is the same with
lr = 1, α = η and β = optimism (default η).

Source: Daskalakis, Ilyas, Syrgkanis and Zeng 2018, Algorithm 1 (`daskalakis2018training`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays.namespace import Array, namespace
from optstudy_core.parts import bias_correction
from optstudy_core.parts.bias_correction import correction
from optstudy_core.parts.terms import objective_gradient

from . import optimistic_gradient_descent
from .optimistic_gradient_descent import OptimisticGradientDescentState

BIBTEX = ("daskalakis2018training",)

DIALECTS: dict[str, dict[str, Any]] = {
    "optax": {},
    "paper": {"nesterov": False, "plain_first_step": False},
}

ELSEWHERE = {
    "optax.ScaleByAdamState": {"m": "mu", "v": "nu", "optimism.t": "count"},
    "optax.ScaleByOptimisticGradientState": {"optimism.previous": "previous_gradient"},
}
"""Names of the state fields in other libraries."""


class OptimisticAdamState(NamedTuple):
    """The state of optimistic Adam.

    Attributes:
        m: first moment mₜ, like the parameters; 0 at the start.
        v: second moment vₜ, like the parameters; 0 at the start.
        optimism: state of optimistic gradient descent, with uₜ₋₁ as the last gradient.
    """

    m: Array
    v: Array
    optimism: OptimisticGradientDescentState


def init(params: Array) -> OptimisticAdamState:
    """Return the state before the first step: every field is zero."""
    zeros = namespace(params).zeros_like
    return OptimisticAdamState(
        m=zeros(params),
        v=zeros(params),
        optimism=optimistic_gradient_descent.init(params),
    )


def update(
    state: OptimisticAdamState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 1e-3,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    alpha: Any = 1.0,
    beta: Any = 1.0,
    maximize: bool = False,
    eps_root: Any = 0.0,
    nesterov: bool = True,
    plain_first_step: bool = True,
) -> tuple[OptimisticAdamState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: not read.
        lr: learning rate, ≥ 0.
        b1: decay β₁ of the first moment, in [0, 1).
        b2: decay β₂ of the second moment, in [0, 1).
        eps: ε ≥ 0, added to the root.
        alpha: weight α ≥ 0 of the direction.
        beta: weight β ≥ 0 of the change since the last step.
        maximize: climb instead of descend.
        eps_root: added inside the root, ≥ 0.
        nesterov: use Nesterov momentum (optax).
        plain_first_step: take u₀ = u₁ instead of 0.

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    >>> import numpy as np
    >>> state, step = update(init(np.zeros(1)), np.array([5.0]), lr=0.1, nesterov=False)
    >>> step.round(6).tolist()
    [-0.1]
    """
    g = objective_gradient(grad, None, maximize=maximize)
    m = b1 * state.m + (1 - b1) * g
    v = b2 * state.v + (1 - b2) * (g * g)
    t = state.optimism.t + 1
    corrected = bias_correction.ahead(m, g, b1, t) if nesterov else m / correction(b1, t)
    optimism, step = optimistic_gradient_descent.update(
        state.optimism,
        corrected / (bias_correction.root(v, correction(b2, t), eps_root) + eps),
        lr=lr,
        alpha=alpha,
        beta=beta,
        plain_first_step=plain_first_step,
    )
    return OptimisticAdamState(m, v, optimism), step

"""Adamax: Adam with the infinity norm.

    mₜ = β₁·mₜ₋₁ + (1 − β₁)·gₜ
    uₜ = max(β₂·uₜ₋₁, |gₜ| + ε)
    θₜ = θₜ₋₁ − (lr / (1 − β₁ᵗ))·mₜ / uₜ

The maximum needs no bias correction. torch and optax add ε inside the maximum. Without
``eps_in_maximum`` (Keras) the divisor is uₜ + ε with ``uₜ = max(β₂·uₜ₋₁, |gₜ|)``. The paper has no
ε: a parameter without a gradient so far becomes NaN.

Source: Kingma and Ba 2015, Algorithm 2 (`kingma2015adam`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays.namespace import Array, namespace, no_steps
from optstudy_core.parts.bias_correction import correction
from optstudy_core.parts.terms import objective_gradient

BIBTEX = ("kingma2015adam",)

DIALECTS: dict[str, dict[str, Any]] = {
    "torch": {},
    # optax.adamax; weight_decay and maximize do not exist there.
    "optax": {},
    # keras.optimizers.Adamax; the weight_decay of Keras is decoupled, as in adamaxw.
    "keras": {"lr": 1e-3, "eps": 1e-7, "eps_in_maximum": False},
    "paper": {"eps": 0.0},
}

ELSEWHERE = {
    "torch.optim.Adamax": {"m": "exp_avg", "u": "exp_inf", "t": "step"},
    "optax.ScaleByAdamState": {"m": "mu", "u": "nu", "t": "count"},
    "keras.optimizers.Adamax": {"m": "momentum", "u": "norm", "t": "iteration"},
}
"""Names of the state fields in other libraries."""


class AdamaxState(NamedTuple):
    """The state of Adamax.

    Attributes:
        m: first moment mₜ, like the parameters; 0 at the start.
        u: infinity norm uₜ, like the parameters; 0 at the start.
        t: number of steps; shape () per leaf, int32; 0 at the start.
    """

    m: Array
    u: Array
    t: Array


def init(params: Array) -> AdamaxState:
    """Return the state before the first step: every field is zero."""
    zeros = namespace(params).zeros_like
    return AdamaxState(m=zeros(params), u=zeros(params), t=no_steps(params))


def update(
    state: AdamaxState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 2e-3,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    maximize: bool = False,
    eps_in_maximum: bool = True,
) -> tuple[AdamaxState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: parameters θₜ₋₁; only read if there is weight decay.
        lr: learning rate, ≥ 0.
        b1: decay β₁ of the first moment, in [0, 1).
        b2: decay β₂ of the norm, in [0, 1).
        eps: ε ≥ 0.
        weight_decay: L2 penalty λ ≥ 0, added to the gradient; AdamaxW has decoupled decay.
        maximize: climb instead of descend (the penalty keeps its sign).
        eps_in_maximum: add ε to ``|gₜ|`` inside the maximum instead of to the divisor.

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    >>> import numpy as np
    >>> state, step = update(init(np.zeros(2)), np.array([1e-3, -5.0]), lr=0.1)
    >>> step.round(6).tolist()
    [-0.099999, 0.1]
    """
    xp = namespace(grad)
    g = objective_gradient(grad, params, weight_decay=weight_decay, maximize=maximize)
    m = b1 * state.m + (1 - b1) * g
    if eps_in_maximum:
        u = xp.maximum(b2 * state.u, abs(g) + eps)
        divisor = u
    else:
        u = xp.maximum(b2 * state.u, abs(g))
        divisor = u + eps
    t = state.t + 1
    c1 = correction(b1, t)
    return AdamaxState(m, u, t), -(lr / c1) * m / divisor

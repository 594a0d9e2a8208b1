"""Adam: adaptive moment estimation.

    mₜ = β₁·mₜ₋₁ + (1 − β₁)·gₜ
    vₜ = β₂·vₜ₋₁ + (1 − β₂)·gₜ²
    m̂ₜ = mₜ / (1 − β₁ᵗ)
    v̂ₜ = vₜ / (1 − β₂ᵗ)
    θₜ = θₜ₋₁ − lr·m̂ₜ / (√v̂ₜ + ε)

computed in an order that saves two divisions of arrays (end of section 2 of the paper):

    θₜ = θₜ₋₁ − (lr / (1 − β₁ᵗ))·mₜ / (√vₜ / √(1 − β₂ᵗ) + ε)

With ``eps_hat`` (Keras) ε is ε̂ of that section, added before the bias correction. Its effect is
that of ε̂ / √(1 − β₂ᵗ): thirty times as large at the first step, for β₂ = 0.999.

    θₜ = θₜ₋₁ − (lr·√(1 − β₂ᵗ) / (1 − β₁ᵗ))·mₜ / (√vₜ + ε̂)

Source: Kingma and Ba 2015, Algorithm 1 (`kingma2015adam`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays import doubles
from optstudy_core.arrays.namespace import Array, absent, namespace, no_steps
from optstudy_core.parts import bias_correction
from optstudy_core.parts.bias_correction import correction
from optstudy_core.parts.terms import objective_gradient

BIBTEX = ("kingma2015adam",)

DIALECTS: dict[str, dict[str, Any]] = {
    "torch": {},
    # optax.adam and optax.scale_by_adam; weight_decay and maximize do not exist there.
    "optax": {},
    # keras.optimizers.Adam; the weight_decay of Keras is decoupled, as in adamw.
    "keras": {"eps": 1e-7, "eps_hat": True},
    "paper": {},
}

ELSEWHERE = {
    "torch.optim.Adam": {"m": "exp_avg", "v": "exp_avg_sq", "t": "step"},
    "optax.ScaleByAdamState": {"m": "mu", "v": "nu", "t": "count"},
    "keras.optimizers.Adam": {"m": "momentum", "v": "velocity", "t": "iteration"},
}
"""Names of the state fields in other libraries."""


class AdamState(NamedTuple):
    """The state of Adam.

    Attributes:
        m: first moment mₜ, like the parameters; 0 at the start.
        v: second moment vₜ, like the parameters; 0 at the start.
        t: number of steps; shape () per leaf, int32; 0 at the start.
    """

    m: Array
    v: Array
    t: Array


def init(params: Array) -> AdamState:
    """Return the state before the first step: every field is zero."""
    zeros = namespace(params).zeros_like
    return AdamState(
        m=zeros(params),
        v=zeros(params),
        t=no_steps(params),
    )


def update(
    state: AdamState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 1e-3,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    maximize: bool = False,
    eps_root: Any = 0.0,
    eps_hat: bool = False,
) -> tuple[AdamState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: parameters θₜ₋₁; only read if there is weight decay.
        lr: learning rate, ≥ 0.
        b1: decay β₁ of the first moment, in [0, 1).
        b2: decay β₂ of the second moment, in [0, 1).
        eps: ε ≥ 0, added to the root.
        eps_root: added to v̂ₜ inside the root, ≥ 0 (optax; for derivatives through the update).
        eps_hat: add ε (and ``eps_root``) before the bias correction of the root.
        weight_decay: L2 penalty λ ≥ 0, added to the gradient; AdamW has decoupled decay.
        maximize: climb instead of descend (the penalty keeps its sign).

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    >>> import numpy as np
    >>> state, step = update(init(np.zeros(2)), np.array([1e-3, -5.0]))
    >>> step.round(8).tolist()
    [-0.00099999, 0.001]
    """
    xp = namespace(grad)
    g = objective_gradient(grad, params, weight_decay=weight_decay, maximize=maximize)
    m = b1 * state.m + (1 - b1) * g
    v = b2 * state.v + (1 - b2) * (g * g)
    t = state.t + 1
    c1 = correction(b1, t)
    c2 = correction(b2, t)
    rate = lr / c1
    if eps_hat:
        rate = rate * doubles.sqrt(c2)
        root = xp.sqrt(v if absent(eps_root) else v + eps_root)
    else:
        root = bias_correction.root(v, c2, eps_root)
    return AdamState(m, v, t), -rate * m / (root + eps)

"""AMSGrad: Adam with a second moment that never decreases.

    mₜ, vₜ as in Adam
    v̄ₜ = max(v̄ₜ₋₁, vₜ)                                see ``corrected_maximum``
    θₜ = θₜ₋₁ − lr·(mₜ / (1 − β₁ᵗ)) / (√(v̄ₜ / (1 − β₂ᵗ)) + ε)

With ``corrected_maximum`` (optax) v̄ₜ is the maximum of the corrected moments,
v̄ₜ = max(v̄ₜ₋₁, vₜ / (1 − β₂ᵗ)), and the root is √v̄ₜ. The paper has no bias correction and no ε:
θₜ = θₜ₋₁ − lr·mₜ / √v̄ₜ.

Source: Reddi, Kale and Kumar 2018, Algorithm 2 (`reddi2018convergence`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays.namespace import Array, absent, namespace, no_steps
from optstudy_core.parts.bias_correction import correction
from optstudy_core.parts.terms import decoupled_decay, objective_gradient, split_decay

BIBTEX = ("reddi2018convergence",)

DIALECTS: dict[str, dict[str, Any]] = {
    # torch.optim.Adam(amsgrad=True) and, with decoupled_weight_decay, AdamW(amsgrad=True).
    "torch": {},
    "optax": {"corrected_maximum": True},
    "paper": {"eps": 0.0, "correct_bias": False},
}

ELSEWHERE = {
    "torch.optim.Adam": {"m": "exp_avg", "v": "exp_avg_sq", "t": "step", "v_max": "max_exp_avg_sq"},
    "optax.ScaleByAmsgradState": {"m": "mu", "v": "nu", "t": "count", "v_max": "nu_max"},
    "keras.optimizers.Adam": {
        "m": "momentum",
        "v": "velocity",
        "t": "iteration",
        "v_max": "velocity_hat",
    },
}
"""Names of the state fields in other libraries."""


class AMSGradState(NamedTuple):
    """The state of AMSGrad.

    Attributes:
        m: first moment mₜ, like the parameters; 0 at the start.
        v: second moment vₜ, like the parameters; 0 at the start.
        v_max: largest second moment so far v̄ₜ, like the parameters; 0 at the start.
        t: number of steps; shape () per leaf, int32; 0 at the start.
    """

    m: Array
    v: Array
    v_max: Array
    t: Array


def init(params: Array) -> AMSGradState:
    """Return the state before the first step: every field is zero."""
    zeros = namespace(params).zeros_like
    return AMSGradState(
        m=zeros(params),
        v=zeros(params),
        v_max=zeros(params),
        t=no_steps(params),
    )


def update(
    state: AMSGradState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 1e-3,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    maximize: bool = False,
    decoupled_weight_decay: bool = False,
    eps_root: Any = 0.0,
    correct_bias: bool = True,
    corrected_maximum: bool = False,
    cautious_decay: bool = False,
) -> tuple[AMSGradState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: parameters θₜ₋₁; only read if there is weight decay.
        lr: learning rate, ≥ 0.
        b1: decay β₁ of the first moment, in [0, 1).
        b2: decay β₂ of the second moment, in [0, 1).
        eps: ε ≥ 0, added to the root; if 0, a parameter without a gradient so far becomes NaN.
        eps_root: added inside the root, ≥ 0.
        weight_decay: λ ≥ 0, an L2 penalty or, if decoupled, the decay rate.
        decoupled_weight_decay: subtract lr·λ·θ from the step, as AdamW does.
        maximize: climb instead of descend (the decay keeps its sign).
        correct_bias: divide the moments by 1 − βᵗ.
        corrected_maximum: take the maximum after the bias correction instead of before it.
        cautious_decay: decay only elements with step·θ ≤ 0 (`chen2025cautious`).

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    Raises:
        ValueError: if there is decay and ``params`` is ``None``.

    >>> import numpy as np
    >>> state = init(np.zeros(1))
    >>> for g in (100.0, 1e-3, 1e-3):
    ...     state, step = update(state, np.array([g]))
    >>> bool(state.v_max > state.v)
    True
    """
    xp = namespace(grad)
    penalty, decay = split_decay(weight_decay, decoupled_weight_decay)
    g = objective_gradient(grad, params, weight_decay=penalty, maximize=maximize)
    m = b1 * state.m + (1 - b1) * g
    v = b2 * state.v + (1 - b2) * (g * g)
    t = state.t + 1
    c1 = correction(b1, t)
    c2 = correction(b2, t)
    m_hat = m / c1 if correct_bias else m
    if correct_bias and corrected_maximum:
        v_max = xp.maximum(state.v_max, v / c2)
        v_hat = v_max
    else:
        v_max = xp.maximum(state.v_max, v)
        v_hat = v_max / c2 if correct_bias else v_max
    root = xp.sqrt(v_hat if absent(eps_root) else v_hat + eps_root)
    step = -lr * m_hat / (root + eps)
    step = decoupled_decay(step, params, lr=lr, weight_decay=decay, cautious=cautious_decay)
    return AMSGradState(m, v, v_max, t), step

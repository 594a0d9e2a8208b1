"""D-Adapt AdamW: AdamW with an estimate dₖ of the distance to the solution as learning rate.

    ηₖ = lr·dₖ·√(1 − β₂ᵏ⁺¹) / (1 − β₁ᵏ⁺¹)              (lr·dₖ without ``correct_bias``)
    rₖ₊₁ = β₃·rₖ + (1 − β₃)·ηₖ·⟨gₖ, sₖ / (√vₖ + ε)⟩,    β₃ = √β₂
    sₖ₊₁ = β₃·sₖ + (1 − β₃)·ηₖ·gₖ
    mₖ₊₁ = β₁·mₖ + (1 − β₁)·ηₖ·gₖ
    vₖ₊₁ = β₂·vₖ + (1 − β₂)·gₖ²
    dₖ₊₁ = max(dₖ, rₖ₊₁ / ((1 − β₃)·‖sₖ₊₁‖₁))
    xₖ₊₁ = xₖ − mₖ₊₁ / (√vₖ₊₁ + ε) − ηₖ·λ·xₖ

⟨,⟩ and ‖‖₁ are sums over all leaves together (in torch: of a group). The dialect "paper" is the
authors' code, which does not correct the bias. If every gradient so far was zero, dₖ does not
change; in optax it becomes NaN.

Every leaf keeps its own contribution to rₖ. A leaf whose gradient was ``None`` at first gets the
estimate of the other leaves.

Source: Defazio and Mishchenko 2023, the Adam version of D-Adaptation
(`defazio2023learning`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays import doubles
from optstudy_core.arrays.namespace import Array, namespace, no_steps, scalar
from optstudy_core.arrays.reductions import global_sum, leaf_dot
from optstudy_core.parts.bias_correction import correction
from optstudy_core.parts.terms import decoupled_decay, objective_gradient

BIBTEX = ("defazio2023learning",)

DIALECTS: dict[str, dict[str, Any]] = {"optax": {}, "paper": {"correct_bias": False}}


ELSEWHERE = {
    "optax.DAdaptAdamWState": {
        "m": "exp_avg",
        "v": "exp_avg_sq",
        "s": "grad_sum",
        "d": "estim_lr",
        "r": "+numerator_weighted",
        "t": "count",
    },
}
"""Names of the state fields in other libraries."""


class DAdaptAdamWState(NamedTuple):
    """The state of D-Adapt AdamW.

    Attributes:
        m: first moment mₖ, like the parameters; 0 at the start.
        v: second moment vₖ, like the parameters; 0 at the start.
        s: average of gradients sₖ, like the parameters; 0 at the start.
        d: estimate dₖ; shape () per leaf, the same for all; 0 at the start, which means d₀.
        r: contribution of the leaf to rₖ; shape () per leaf; 0 at the start.
        t: number of steps; shape () per leaf, int32; 0 at the start.
    """

    m: Array
    v: Array
    s: Array
    d: Array
    r: Array
    t: Array


def init(params: Array) -> DAdaptAdamWState:
    """Return the state before the first step: every field is zero."""
    zeros = namespace(params).zeros_like
    return DAdaptAdamWState(
        m=zeros(params),
        v=zeros(params),
        s=zeros(params),
        d=scalar(params, 0.0),
        r=scalar(params, 0.0),
        t=no_steps(params),
    )


def update(
    state: DAdaptAdamWState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 1.0,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    maximize: bool = False,
    estim_lr0: Any = 1e-6,
    correct_bias: bool = True,
    cautious_decay: bool = False,
) -> tuple[DAdaptAdamWState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₖ, like the parameters.
        params: parameters xₖ; only read if there is weight decay.
        lr: factor of the estimate, ≥ 0; 1 unless scheduled.
        b1: decay β₁ of the first moment, in [0, 1).
        b2: decay β₂ of the second moment, in [0, 1).
        eps: ε > 0, added to the root.
        weight_decay: decoupled decay rate λ ≥ 0.
        maximize: climb instead of descend (the decay keeps its sign).
        estim_lr0: first estimate d₀ > 0.
        correct_bias: correct the bias of the moments.
        cautious_decay: decay only elements with step·θ ≤ 0 (`chen2025cautious`).

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    Raises:
        ValueError: if there is decay and ``params`` is ``None``.

    >>> import numpy as np
    >>> theta = np.array([1.0, -2.0])
    >>> state, step = update(init(theta), 2 * theta, estim_lr0=0.1)
    >>> step.round(6).tolist()
    [-0.1, 0.1]
    """
    xp = namespace(grad)
    g = objective_gradient(grad, None, maximize=maximize)
    b3 = doubles.sqrt(b2)
    t = state.t + 1
    c1 = correction(b1, t)
    c2 = correction(b2, t)
    d = xp.maximum(state.d, estim_lr0)
    rate = lr * d
    if correct_bias:
        rate = rate * (doubles.sqrt(c2) / c1)
    weight = (1 - b3) * rate
    r = b3 * state.r + weight * leaf_dot(g, state.s / (xp.sqrt(state.v) + eps))
    s = b3 * state.s + weight * g
    m = b1 * state.m + ((1 - b1) * rate) * g
    v = b2 * state.v + (1 - b2) * (g * g)
    size = global_sum(abs(s))
    estimate = global_sum(r) / ((1 - b3) * size)
    new_d = xp.where(size > 0, xp.maximum(d, estimate), d)
    step = decoupled_decay(
        -m / (xp.sqrt(v) + eps), params, lr=rate, weight_decay=weight_decay, cautious=cautious_decay
    )
    return DAdaptAdamWState(m, v, s, new_d, r, t), step

"""Prodigy: Adam with an estimate dₖ of the distance to the solution as learning rate.

    ηₖ = lr·dₖ·√(1 − β₂ᵏ⁺¹) / (1 − β₁ᵏ⁺¹)              (lr·dₖ without ``correct_bias``)
    mₖ₊₁ = β₁·mₖ + (1 − β₁)·dₖ·gₖ
    vₖ₊₁ = β₂·vₖ + (1 − β₂)·dₖ²·gₖ²
    rₖ₊₁ = β₃·rₖ + (dₖ/d₀)·ηₖ·⟨gₖ, x₀ − xₖ⟩
    sₖ₊₁ = β₃·sₖ + (dₖ/d₀)·ηₖ·gₖ                       (dₖ for ηₖ with ``safeguard_warmup``)
    dₖ₊₁ = max(dₖ, c·rₖ₊₁ / ‖sₖ₊₁‖₁)
    xₖ₊₁ = xₖ − ηₖ·mₖ₊₁ / (√vₖ₊₁ + dₖ₊₁·ε) − ηₖ·λ·xₖ

⟨,⟩ and ‖‖₁ are sums over all leaves together (in torch: of a group); β₃ is √β₂ if not given. The
paper does not correct the bias and has dₖ·ε (``previous_d_in_eps``). The authors' code has dₖ₊₁·ε
as above. If every gradient so far was zero, dₖ does not change; in optax it becomes NaN.

Parameters in bfloat16 or float16 may never change, also in optax. The first steps, of size
d₀ = 1e-6, are below half a unit in the last place, and dₖ does not grow while xₖ = x₀. Use float32
parameters.

Every leaf keeps its own contribution to rₖ. A leaf whose gradient was ``None`` at first gets the
estimate of the other leaves.

Source: Mishchenko and Defazio 2024, the Adam version of Prodigy (`mishchenko2024prodigy`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays import doubles
from optstudy_core.arrays.namespace import Array, absent, namespace, no_steps, scalar
from optstudy_core.arrays.reductions import global_sum, leaf_dot
from optstudy_core.parts.bias_correction import correction
from optstudy_core.parts.terms import decoupled_decay, needed, objective_gradient

BIBTEX = ("mishchenko2024prodigy",)

DIALECTS: dict[str, dict[str, Any]] = {
    "optax": {},
    "paper": {"correct_bias": False, "previous_d_in_eps": True},
}


ELSEWHERE = {
    "optax.ProdigyState": {
        "m": "exp_avg",
        "v": "exp_avg_sq",
        "s": "grad_sum",
        "x0": "params0",
        "d": "estim_lr",
        "r": "+numerator_weighted",
        "t": "count",
    },
}
"""Names of the state fields in other libraries."""


class ProdigyState(NamedTuple):
    """The state of Prodigy.

    Attributes:
        m: first moment mₖ, like the parameters; 0 at the start.
        v: second moment vₖ, like the parameters; 0 at the start.
        s: weighted sum of gradients sₖ, like the parameters; 0 at the start.
        x0: initial parameters x₀.
        d: estimate dₖ; shape () per leaf, the same for all; 0 at the start, which means d₀.
        r: contribution of the leaf to rₖ; shape () per leaf; 0 at the start.
        t: number of steps; shape () per leaf, int32; 0 at the start.
    """

    m: Array
    v: Array
    s: Array
    x0: Array
    d: Array
    r: Array
    t: Array


def init(params: Array) -> ProdigyState:
    """Return the state before the first step: x₀ is ``params``, other fields are zero."""
    zeros = namespace(params).zeros_like
    return ProdigyState(
        m=zeros(params),
        v=zeros(params),
        s=zeros(params),
        x0=params,
        d=scalar(params, 0.0),
        r=scalar(params, 0.0),
        t=no_steps(params),
    )


def update(
    state: ProdigyState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 1.0,
    b1: Any = 0.9,
    b2: Any = 0.999,
    beta3: Any = 0.0,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    maximize: bool = False,
    estim_lr0: Any = 1e-6,
    estim_lr_coef: Any = 1.0,
    correct_bias: bool = True,
    safeguard_warmup: bool = False,
    previous_d_in_eps: bool = False,
    cautious_decay: bool = False,
) -> tuple[ProdigyState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₖ, like the parameters.
        params: parameters xₖ.
        lr: factor of the estimate, ≥ 0; 1 unless scheduled.
        b1: decay β₁ of the first moment, in [0, 1).
        b2: decay β₂ of the second moment, in [0, 1).
        beta3: decay β₃ of the sums, in [0, 1); the number 0 means √β₂.
        eps: ε ≥ 0, added to the root.
        weight_decay: decoupled decay rate λ ≥ 0.
        maximize: climb instead of descend (the decay keeps its sign).
        estim_lr0: first estimate d₀ > 0.
        estim_lr_coef: factor c ≥ 0 of later estimates.
        correct_bias: correct the bias of the moments.
        safeguard_warmup: leave the learning rate out of sₖ, for schedules that start at 0.
        previous_d_in_eps: multiply ε by dₖ instead of dₖ₊₁.
        cautious_decay: decay only elements with step·θ ≤ 0 (`chen2025cautious`).

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    Raises:
        ValueError: if ``params`` is ``None``.

    >>> import numpy as np
    >>> theta = np.array([1.0, -2.0])
    >>> state, step = update(init(theta), 2 * theta, theta, estim_lr0=0.1)
    >>> step.round(6).tolist()
    [-0.1, 0.1]
    """
    xp = namespace(grad)
    g = objective_gradient(grad, None, maximize=maximize)
    b3 = doubles.sqrt(b2) if absent(beta3) else beta3
    t = state.t + 1
    c1 = correction(b1, t)
    c2 = correction(b2, t)
    d = xp.maximum(state.d, estim_lr0)
    rate = lr * d
    if correct_bias:
        rate = rate * (doubles.sqrt(c2) / c1)
    dg = d * g
    m = b1 * state.m + (1 - b1) * dg
    v = b2 * state.v + (1 - b2) * (dg * dg)
    growth = d / estim_lr0
    r = b3 * state.r + (growth * rate) * leaf_dot(g, state.x0 - needed(params, "prodigy"))
    s = b3 * state.s + (growth * (d if safeguard_warmup else rate)) * g
    size = global_sum(abs(s))
    estimate = estim_lr_coef * global_sum(r) / size
    new_d = xp.where(size > 0, xp.maximum(d, estimate), d)
    root = xp.sqrt(v) + (d if previous_d_in_eps else new_d) * eps
    step = decoupled_decay(
        -rate * m / root, params, lr=rate, weight_decay=weight_decay, cautious=cautious_decay
    )
    return ProdigyState(m, v, s, state.x0, new_d, r, t), step

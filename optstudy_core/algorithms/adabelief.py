"""AdaBelief: Adam with the variance about the momentum instead of the second moment.

    mₜ = β₁·mₜ₋₁ + (1 − β₁)·gₜ
    sₜ = β₂·sₜ₋₁ + (1 − β₂)·(gₜ − mₜ)² + ε̄
    m̂ₜ = mₜ / (1 − β₁ᵗ),    with ``nesterov``  β₁·mₜ / (1 − β₁ᵗ⁺¹) + (1 − β₁)·gₜ / (1 − β₁ᵗ)
    ŝₜ = sₜ / (1 − β₂ᵗ)
    θₜ = θₜ₋₁ − lr·m̂ₜ / (√ŝₜ + ε)

ε̄ is ``eps_root``. It is added to sₜ at every step, not only under the root as in Adam. In the
paper ε̄ = ε = 1e-8. optax and the authors' code use 1e-16 for both.

Source: Zhuang et al. 2020, Algorithm 2 (`zhuang2020adabelief`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays.namespace import Array, absent, namespace, no_steps
from optstudy_core.parts import bias_correction
from optstudy_core.parts.bias_correction import correction
from optstudy_core.parts.terms import objective_gradient

BIBTEX = ("zhuang2020adabelief",)

DIALECTS: dict[str, dict[str, Any]] = {
    "optax": {},
    "paper": {"eps": 1e-8, "eps_root": 1e-8},
}

ELSEWHERE = {
    "optax.ScaleByBeliefState": {"m": "mu", "s": "nu", "t": "count"},
}
"""Names of the state fields in other libraries."""


class AdaBeliefState(NamedTuple):
    """The state of AdaBelief.

    Attributes:
        m: first moment mₜ, like the parameters; 0 at the start.
        s: variance sₜ about the momentum, like the parameters; 0 at the start.
        t: number of steps; shape () per leaf, int32; 0 at the start.
    """

    m: Array
    s: Array
    t: Array


def init(params: Array) -> AdaBeliefState:
    """Return the state before the first step: every field is zero."""
    zeros = namespace(params).zeros_like
    return AdaBeliefState(
        m=zeros(params),
        s=zeros(params),
        t=no_steps(params),
    )


def update(
    state: AdaBeliefState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 1e-3,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-16,
    maximize: bool = False,
    eps_root: Any = 1e-16,
    nesterov: bool = False,
) -> tuple[AdaBeliefState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: not read.
        lr: learning rate, ≥ 0.
        b1: decay β₁ of the first moment, in [0, 1).
        b2: decay β₂ of the variance, in [0, 1).
        eps: ε ≥ 0, added to the root.
        maximize: climb instead of descend.
        eps_root: ε̄ ≥ 0, added to sₜ at every step.
        nesterov: use Nesterov momentum.

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    >>> import numpy as np
    >>> state, step = update(init(np.zeros(1)), np.array([5.0]), lr=0.1)
    >>> step.round(8).tolist()  # at the first step m̂ is g and ŝ is (β₁·g)²
    [-0.11111111]
    """
    g = objective_gradient(grad, None, maximize=maximize)
    m = b1 * state.m + (1 - b1) * g
    d = g - m
    s = b2 * state.s + (1 - b2) * (d * d)
    if not absent(eps_root):
        s = s + eps_root
    t = state.t + 1
    c1 = correction(b1, t)
    c2 = correction(b2, t)
    denominator = bias_correction.root(s, c2) + eps
    if nesterov:
        step = -lr * bias_correction.ahead(m, g, b1, t) / denominator
    else:
        step = -(lr / c1) * m / denominator
    return AdaBeliefState(m, s, t), step

"""ACProp: the gradient divided by the root of the variance of the previous step.

    mₜ = β₁·mₜ₋₁ + (1 − β₁)·gₜ
    sₜ = β₂·sₜ₋₁ + (1 − β₂)·(gₜ − mₜ)² + ε̄
    ŝₜ = sₜ / (1 − β₂ᵗ),    ŝ₀ = 1
    θₜ = θₜ₋₁ − lr·gₜ / (√ŝₜ₋₁ + ε) − lr·λ·θₜ₋₁

ε̄ is ``eps_root``, added to sₜ at every step. The code of optax uses gₜ − mₜ₋₁, which is 1/β₁ times
gₜ − mₜ; the documentation of optax has gₜ − mₜ. The dialect "optax" does as the code
(``previous_mean``). The bias correction and the plain first step follow the authors' code, as in
optax.

Source: Zhuang et al. 2021, Algorithm 2 (`zhuang2021momentum`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays import doubles
from optstudy_core.arrays.namespace import Array, absent, namespace, no_steps
from optstudy_core.parts.bias_correction import correction
from optstudy_core.parts.terms import decoupled_decay, objective_gradient

BIBTEX = ("zhuang2021momentum",)

DIALECTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "optax": {"previous_mean": True},
}

ELSEWHERE = {
    "optax.ScaleByBeliefState": {"m": "mu", "s": "nu", "t": "count"},
}
"""Names of the state fields in other libraries."""


class ACPropState(NamedTuple):
    """The state of ACProp.

    Attributes:
        m: first moment mₜ, like the parameters; 0 at the start.
        s: variance sₜ about the momentum, like the parameters; 0 at the start.
        t: number of steps; shape () per leaf, int32; 0 at the start.
    """

    m: Array
    s: Array
    t: Array


def init(params: Array) -> ACPropState:
    """Return the state before the first step: every field is zero."""
    zeros = namespace(params).zeros_like
    return ACPropState(m=zeros(params), s=zeros(params), t=no_steps(params))


def update(
    state: ACPropState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 1e-3,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-16,
    weight_decay: Any = 0.0,
    maximize: bool = False,
    eps_root: Any = 1e-16,
    previous_mean: bool = False,
    cautious_decay: bool = False,
) -> tuple[ACPropState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: parameters θₜ₋₁; only read if there is weight decay.
        lr: learning rate, ≥ 0.
        b1: decay β₁ of the first moment, in [0, 1).
        b2: decay β₂ of the variance, in [0, 1).
        eps: ε ≥ 0, added to the root.
        weight_decay: decoupled decay rate λ ≥ 0.
        maximize: climb instead of descend (the decay keeps its sign).
        eps_root: ε̄ ≥ 0, added to sₜ at every step.
        previous_mean: use the variance about mₜ₋₁ (optax) instead of mₜ.
        cautious_decay: decay only elements with step·θ ≤ 0 (`chen2025cautious`).

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    Raises:
        ValueError: if there is decay and ``params`` is ``None``.

    >>> import numpy as np
    >>> state, step = update(init(np.zeros(1)), np.array([5.0]), lr=0.1)
    >>> step.tolist()  # the first step is plain: there is no variance before it
    [-0.5]
    """
    xp = namespace(grad)
    g = objective_gradient(grad, None, maximize=maximize)
    m = b1 * state.m + (1 - b1) * g
    d = g - (state.m if previous_mean else m)
    s = b2 * state.s + (1 - b2) * (d * d)
    if not absent(eps_root):
        s = s + eps_root
    started = doubles.of(state.t) > 0
    known = doubles.where(started, state.s, 1.0)
    c2 = doubles.where(started, correction(b2, state.t), 1.0)
    root = xp.sqrt(known) / doubles.sqrt(c2)
    step = decoupled_decay(
        -lr * g / (root + eps), params, lr=lr, weight_decay=weight_decay, cautious=cautious_decay
    )
    return ACPropState(m, s, state.t + 1), step

"""ADOPT: the gradient divided by the root of the previous second moment, then averaged.

    uₜ = gₜ / max(√vₜ₋₁, ε)                              with ``use_clipping`` within ±t^¼
    mₜ = β₁·mₜ₋₁ + (1 − β₁)·uₜ
    vₜ = β₂·vₜ₋₁ + (1 − β₂)·gₜ²
    θₜ = θₜ₋₁ − lr·mₜ                                    with ``nesterov`` −lr·(β₁·mₜ + (1 − β₁)·uₜ)

for t = 1, 2, …; the gradient g₀ of the first call only sets v₀ = g₀², and m₀ = 0. The authors added
the bounds ±t^¼ later. optax accepts other functions of t, which have no equivalent here.

Source: Taniguchi et al. 2024, Algorithm 2 (`taniguchi2024adopt`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays import doubles
from optstudy_core.arrays.namespace import Array, namespace, no_steps
from optstudy_core.parts.terms import objective_gradient

BIBTEX = ("taniguchi2024adopt",)

DIALECTS: dict[str, dict[str, Any]] = {
    "optax": {},
    "paper": {"use_clipping": False},
}

ELSEWHERE = {
    "optax.ScaleByAdamState": {"m": "mu", "v": "nu", "t": "count"},
}
"""Names of the state fields in other libraries."""


class ADOPTState(NamedTuple):
    """The state of ADOPT.

    Attributes:
        m: average mₜ of the normalized gradients, like the parameters; 0 at the start.
        v: second moment vₜ, like the parameters; 0 at the start.
        t: number of steps; shape () per leaf, int32; 0 at the start.
    """

    m: Array
    v: Array
    t: Array


def init(params: Array) -> ADOPTState:
    """Return the state before the first step: every field is zero."""
    zeros = namespace(params).zeros_like
    return ADOPTState(m=zeros(params), v=zeros(params), t=no_steps(params))


def update(
    state: ADOPTState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 1e-3,
    b1: Any = 0.9,
    b2: Any = 0.9999,
    eps: Any = 1e-6,
    maximize: bool = False,
    nesterov: bool = False,
    use_clipping: bool = True,
) -> tuple[ADOPTState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: not read.
        lr: learning rate, ≥ 0.
        b1: decay β₁ of the average, in [0, 1).
        b2: decay β₂ of the second moment, in [0, 1).
        eps: ε ≥ 0, the smallest divisor.
        maximize: climb instead of descend.
        nesterov: use Nesterov momentum of the average (optax).
        use_clipping: keep uₜ within ±t^¼.

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    >>> import numpy as np
    >>> state, step = update(init(np.zeros(1)), np.array([2.0]))
    >>> bool(step == 0), update(state, np.array([1.0]), lr=1.0)[1].round(6).tolist()
    (True, [-0.05])
    """
    xp = namespace(grad)
    g = objective_gradient(grad, None, maximize=maximize)
    square = g * g
    started = doubles.of(state.t) > 0
    v = doubles.where(started, b2 * state.v + (1 - b2) * square, square)
    u = g / xp.maximum(xp.sqrt(state.v), eps)
    if use_clipping:
        bound = doubles.sqrt(doubles.sqrt(doubles.of(state.t)))
        u = xp.minimum(xp.maximum(u, -bound), bound)
    m = doubles.where(started, b1 * state.m + (1 - b1) * u, state.m)
    step = -lr * (b1 * m + (1 - b1) * u) if nesterov else -lr * m
    return ADOPTState(m, v, state.t + 1), step

"""AdEMAMix: AdamW with a fast and a slow average of the gradients.

    aₜ = β₁·aₜ₋₁ + (1 − β₁)·gₜ                          (the paper's m₁)
    bₜ = β₃·bₜ₋₁ + (1 − β₃)·gₜ                          (m₂)
    vₜ = β₂·vₜ₋₁ + (1 − β₂)·gₜ²
    θₜ = θₜ₋₁ − lr·(aₜ / (1 − β₁ᵗ) + α·bₜ) / (√(vₜ / (1 − β₂ᵗ)) + ε) − lr·λ·θₜ₋₁

The bias of the slow average is not corrected. For the warm-ups of α and β₃ in the paper, pass new
values at each step. The paper gives no value of λ.

Source: Pagliardini, Ablin and Grangier 2025, Algorithm 1 (`pagliardini2025ademamix`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays.namespace import Array, namespace, no_steps
from optstudy_core.parts import bias_correction
from optstudy_core.parts.bias_correction import correction
from optstudy_core.parts.terms import decoupled_decay, objective_gradient

BIBTEX = ("pagliardini2025ademamix",)

DIALECTS: dict[str, dict[str, Any]] = {"optax": {}, "paper": {}}

ELSEWHERE = {
    "optax.ScaleByAdemamixState": {"m1": "m1", "m2": "m2", "v": "nu", "t": "count"},
}
"""Names of the state fields in other libraries."""


class AdEMAMixState(NamedTuple):
    """The state of AdEMAMix.

    Attributes:
        m1: fast average aₜ, like the parameters; 0 at the start.
        m2: slow average bₜ, like the parameters; 0 at the start.
        v: second moment vₜ, like the parameters; 0 at the start.
        t: number of steps; shape () per leaf, int32; 0 at the start.
    """

    m1: Array
    m2: Array
    v: Array
    t: Array


def init(params: Array) -> AdEMAMixState:
    """Return the state before the first step: every field is zero."""
    zeros = namespace(params).zeros_like
    return AdEMAMixState(
        m1=zeros(params),
        m2=zeros(params),
        v=zeros(params),
        t=no_steps(params),
    )


def update(
    state: AdEMAMixState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 1e-3,
    b1: Any = 0.9,
    b2: Any = 0.999,
    b3: Any = 0.9999,
    alpha: Any = 5.0,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    maximize: bool = False,
    eps_root: Any = 0.0,
    cautious_decay: bool = False,
) -> tuple[AdEMAMixState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: parameters θₜ₋₁; only read if there is weight decay.
        lr: learning rate, ≥ 0.
        b1: decay β₁ of the fast average, in [0, 1).
        b2: decay β₂ of the second moment, in [0, 1).
        b3: decay β₃ of the slow average, in [0, 1).
        alpha: weight α ≥ 0 of the slow average.
        eps: ε ≥ 0, added to the root.
        weight_decay: decoupled decay rate λ ≥ 0.
        maximize: climb instead of descend (the decay keeps its sign).
        eps_root: added inside the root, ≥ 0.
        cautious_decay: decay only elements with step·θ ≤ 0 (`chen2025cautious`).

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    Raises:
        ValueError: if there is decay and ``params`` is ``None``.

    >>> import numpy as np
    >>> state, step = update(init(np.zeros(1)), np.array([5.0]), lr=0.1)
    >>> step.round(6).tolist()  # −lr·(1 + α·(1 − β₃))
    [-0.10005]
    """
    g = objective_gradient(grad, None, maximize=maximize)
    m1 = b1 * state.m1 + (1 - b1) * g
    m2 = b3 * state.m2 + (1 - b3) * g
    v = b2 * state.v + (1 - b2) * (g * g)
    t = state.t + 1
    c1 = correction(b1, t)
    c2 = correction(b2, t)
    direction = (lr / c1) * m1 + (lr * alpha) * m2
    step = -direction / (bias_correction.root(v, c2, eps_root) + eps)
    step = decoupled_decay(step, params, lr=lr, weight_decay=weight_decay, cautious=cautious_decay)
    return AdEMAMixState(m1, m2, v, t), step

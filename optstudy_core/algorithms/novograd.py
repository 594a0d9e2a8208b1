"""NovoGrad: gradients divided by an average of the gradient norm of the layer, then momentum.

    vₜ = β₂·vₜ₋₁ + (1 − β₂)·‖gₜ‖²                       (v₁ = ‖g₁‖²)
    mₜ = β₁·mₜ₋₁ + gₜ / (√(vₜ + ε_root) + ε) + λ·θₜ₋₁
    θₜ = θₜ₋₁ − lr·mₜ

with the norm of each leaf. The paper has no ε in the first step.

Source: Ginsburg et al. 2019, Algorithm 1 (`ginsburg2019stochastic`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays import doubles
from optstudy_core.arrays.namespace import Array, absent, namespace, no_steps, scalar
from optstudy_core.arrays.reductions import leaf_norm
from optstudy_core.parts.terms import needed, objective_gradient

BIBTEX = ("ginsburg2019stochastic",)

DIALECTS: dict[str, dict[str, Any]] = {
    "optax": {},
    "paper": {"b1": 0.95, "b2": 0.98, "eps": 1e-8},
}

ELSEWHERE = {
    "optax.ScaleByNovogradState": {"m": "mu", "v": "nu", "t": "count"},
}
"""Names of the state fields in other libraries."""


class NovoGradState(NamedTuple):
    """The state of NovoGrad.

    Attributes:
        m: first moment mₜ, like the parameters; 0 at the start.
        v: second moment vₜ of the norm; shape () per leaf; 0 at the start.
        t: number of steps; shape () per leaf, int32; 0 at the start.
    """

    m: Array
    v: Array
    t: Array


def init(params: Array) -> NovoGradState:
    """Return the state before the first step: every field is zero."""
    return NovoGradState(
        m=namespace(params).zeros_like(params),
        v=scalar(params, 0.0),
        t=no_steps(params),
    )


def update(
    state: NovoGradState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 1e-3,
    b1: Any = 0.9,
    b2: Any = 0.25,
    eps: Any = 1e-6,
    weight_decay: Any = 0.0,
    maximize: bool = False,
    eps_root: Any = 0.0,
) -> tuple[NovoGradState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: parameters θₜ₋₁; only read if there is weight decay.
        lr: learning rate, ≥ 0.
        b1: decay β₁ of the momentum, in [0, 1).
        b2: decay β₂ of the second moment, in [0, 1).
        eps: ε ≥ 0, added to the root.
        weight_decay: decay rate λ ≥ 0, inside the momentum.
        maximize: climb instead of descend (the decay keeps its sign).
        eps_root: added to vₜ inside the root, ≥ 0.

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    Raises:
        ValueError: if there is decay and ``params`` is ``None``.

    >>> import numpy as np
    >>> state, step = update(init(np.zeros(2)), np.array([3.0, -4.0]), lr=0.1, eps=0.0)
    >>> step.round(6).tolist()  # as long as the rate
    [-0.06, 0.08]
    """
    xp = namespace(grad)
    g = objective_gradient(grad, None, maximize=maximize)
    norm = leaf_norm(grad)
    square = norm * norm
    v = doubles.where(doubles.of(state.t) > 0, b2 * state.v + (1 - b2) * square, square)
    root = xp.sqrt(v if absent(eps_root) else v + eps_root)
    u = g / (root + eps)
    if not absent(weight_decay):
        u = u + weight_decay * needed(params, "weight_decay")
    m = b1 * state.m + u
    return NovoGradState(m, v, state.t + 1), -lr * m

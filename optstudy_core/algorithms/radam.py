"""RAdam: Adam without the second moment until its variance is small enough.

    mₜ, vₜ as in Adam
    ρₜ = ρ∞ − 2·t·β₂ᵗ / (1 − β₂ᵗ),    ρ∞ = (1 + β₂) / (1 − β₂)
    rₜ = √( (ρₜ − 4)(ρₜ − 2)·ρ∞ / ((ρ∞ − 4)(ρ∞ − 2)·ρₜ) )
    θₜ = θₜ₋₁ − (lr / (1 − β₁ᵗ))·mₜ·rₜ·√(1 − β₂ᵗ) / (√vₜ + ε)      if ρₜ > ``threshold``
    θₜ = θₜ₋₁ − (lr / (1 − β₁ᵗ))·mₜ                                else

torch adds ε before the bias correction of the root, optax after it (no ``eps_hat``): rₜ / (√(vₜ /
(1 − β₂ᵗ)) + ε). The paper has no ε, and rectifies if ρₜ > 4. In float32, optax computes ρₜ with
cancellation, and rectifies too early for β₂ ≥ 0.9999. Here ρₜ has double precision.

Source: Liu et al. 2020, Algorithm 2 (`liu2020variance`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays import doubles
from optstudy_core.arrays.namespace import Array, absent, namespace, no_steps
from optstudy_core.parts import bias_correction
from optstudy_core.parts.bias_correction import correction
from optstudy_core.parts.terms import decoupled_decay, objective_gradient, split_decay

BIBTEX = ("liu2020variance",)

DIALECTS: dict[str, dict[str, Any]] = {
    "torch": {},
    # optax rectifies if ρₜ ≥ threshold; no ρₜ equals the threshold.
    "optax": {"eps_hat": False},
    "paper": {"eps": 0.0, "threshold": 4.0},
}

ELSEWHERE = {
    "torch.optim.RAdam": {"m": "exp_avg", "v": "exp_avg_sq", "t": "step"},
    "optax.ScaleByAdamState": {"m": "mu", "v": "nu", "t": "count"},
}
"""Names of the state fields in other libraries."""


class RAdamState(NamedTuple):
    """The state of RAdam.

    Attributes:
        m: first moment mₜ, like the parameters; 0 at the start.
        v: second moment vₜ, like the parameters; 0 at the start.
        t: number of steps; shape () per leaf, int32; 0 at the start.
    """

    m: Array
    v: Array
    t: Array


def init(params: Array) -> RAdamState:
    """Return the state before the first step: every field is zero."""
    zeros = namespace(params).zeros_like
    return RAdamState(
        m=zeros(params),
        v=zeros(params),
        t=no_steps(params),
    )


def update(
    state: RAdamState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 1e-3,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
    eps_root: Any = 0.0,
    threshold: Any = 5.0,
    nesterov: bool = False,
    eps_hat: bool = True,
    cautious_decay: bool = False,
) -> tuple[RAdamState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: parameters θₜ₋₁; only read if there is weight decay.
        lr: learning rate, ≥ 0.
        b1: decay β₁ of the first moment, in [0, 1).
        b2: decay β₂ of the second moment, in [0, 1).
        eps: ε ≥ 0, added to the root.
        weight_decay: λ ≥ 0, an L2 penalty or, if decoupled, the decay rate.
        decoupled_weight_decay: subtract lr·λ·θ from the step, as AdamW does.
        maximize: climb instead of descend (the decay keeps its sign).
        eps_root: added inside the root, ≥ 0 (optax).
        threshold: the step is rectified if ρₜ is above this value; at least 4, where rₜ begins.
        nesterov: use Nesterov momentum, as NAdam in optax.
        eps_hat: add ε (and ``eps_root``) before the bias correction of the root.
        cautious_decay: decay only elements with step·θ ≤ 0 (`chen2025cautious`).

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    Raises:
        ValueError: if there is decay and ``params`` is ``None``.

    >>> import numpy as np
    >>> state = init(np.zeros(1))
    >>> for _ in range(6):
    ...     state, step = update(state, np.ones(1), lr=1.0)
    ...     print(round(float(step[0]), 5))
    -1.0
    -1.0
    -1.0
    -1.0
    -1.0
    -0.02582
    """
    xp = namespace(grad)
    penalty, decay = split_decay(weight_decay, decoupled_weight_decay)
    g = objective_gradient(grad, params, weight_decay=penalty, maximize=maximize)
    m = b1 * state.m + (1 - b1) * g
    v = b2 * state.v + (1 - b2) * (g * g)
    t = state.t + 1
    c1 = correction(b1, t)
    c2 = correction(b2, t)
    if nesterov:
        d = lr * bias_correction.ahead(m, g, b1, t)
    else:
        d = (lr / c1) * m
    limit = (1 + b2) / (1 - b2)
    rho = limit - 2 * doubles.of(t) * (1 - c2) / c2
    squared = ((rho - 4) * (rho - 2) * limit) / ((limit - 4) * (limit - 2) * rho)
    if eps_hat:
        squared = squared * c2
        root = xp.sqrt(v if absent(eps_root) else v + eps_root)
    else:
        root = bias_correction.root(v, c2, eps_root)
    rectified = rho > threshold
    r = doubles.sqrt(doubles.where(rectified, squared, 1.0))
    step = -(r * d) / doubles.where(rectified, root + eps, 1.0)
    step = decoupled_decay(step, params, lr=lr, weight_decay=decay, cautious=cautious_decay)
    return RAdamState(m, v, t), step

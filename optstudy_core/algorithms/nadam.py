"""NAdam: Adam with Nesterov momentum.

    μₜ = β₁·(1 − ½·0.96^(tψ))               (β₁ without ``scheduled_momentum``)
    mₜ = β₁·mₜ₋₁ + (1 − β₁)·gₜ              (μₜ for β₁ with ``scheduled_average``)
    vₜ = β₂·vₜ₋₁ + (1 − β₂)·gₜ²
    m̂ₜ = μₜ₊₁·mₜ / (1 − μ₁⋯μₜ₊₁) + (1 − μₜ)·gₜ / (1 − μ₁⋯μₜ)
    v̂ₜ = vₜ / (1 − β₂ᵗ)                     (β₂·vₜ / (1 − β₂ᵗ) with ``b2_in_root``)
    θₜ = θₜ₋₁ − lr·m̂ₜ / (√v̂ₜ + ε)

Four rules have this name. torch: as above with ψ = 0.004. Keras: another ε, and ψ = 1, so that the
schedule ends after about a hundred steps. optax: no schedule, μₜ = β₁. The paper: the moment is
also an average with μₜ, and v̂ₜ has the factor β₂, which every library omits.

The product μ₁⋯μₜ is part of the state. 1 − 0.96^(tψ) and 1 − β₂ᵗ are computed from t and from ψ and
β₂ of the step. torch keeps the product in its default dtype, float32, also for float64 parameters.

Source: Dozat 2016, Algorithm 2 (`dozat2016incorporating`), with the schedule proposed there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays import doubles
from optstudy_core.arrays.namespace import Array, namespace, no_steps, scalar
from optstudy_core.parts import bias_correction
from optstudy_core.parts.bias_correction import correction
from optstudy_core.parts.momentum_schedule import share
from optstudy_core.parts.terms import decoupled_decay, objective_gradient, split_decay

BIBTEX = ("dozat2016incorporating",)

DIALECTS: dict[str, dict[str, Any]] = {
    "torch": {},
    # optax.nadam; optax.nadamw has the decoupled decay.
    "optax": {"scheduled_momentum": False},
    "keras": {"lr": 1e-3, "eps": 1e-7, "momentum_decay": 1.0, "decoupled_weight_decay": True},
    # The values of the paper: μ = 0.99, ν = 0.999, and 0.96^(t/250).
    "paper": {"b1": 0.99, "scheduled_average": True, "b2_in_root": True},
}

ELSEWHERE = {
    "torch.optim.NAdam": {"m": "exp_avg", "v": "exp_avg_sq", "t": "step", "product": "mu_product"},
    "optax.ScaleByAdamState": {"m": "mu", "v": "nu", "t": "count"},
    "keras.optimizers.Nadam": {"m": "momentum", "v": "velocity", "t": "iteration"},
}
"""Names of the state fields in other libraries."""


class NAdamState(NamedTuple):
    """The state of NAdam.

    Attributes:
        m: first moment mₜ, like the parameters; 0 at the start.
        v: second moment vₜ, like the parameters; 0 at the start.
        t: number of steps; shape () per leaf, int32; 0 at the start.
        product: μ₁⋯μₜ; shape () per leaf; 1 at the start; ``None`` without a schedule.
    """

    m: Array
    v: Array
    t: Array
    product: Array | None


def init(params: Array, *, scheduled_momentum: bool = True) -> NAdamState:
    """Return the state before the first step: the moments are zero, the product is one."""
    zeros = namespace(params).zeros_like
    return NAdamState(
        m=zeros(params),
        v=zeros(params),
        t=no_steps(params),
        product=scalar(params, 1.0) if scheduled_momentum else None,
    )


def update(
    state: NAdamState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 2e-3,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    momentum_decay: Any = 4e-3,
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
    eps_root: Any = 0.0,
    scheduled_momentum: bool = True,
    scheduled_average: bool = False,
    b2_in_root: bool = False,
    cautious_decay: bool = False,
) -> tuple[NAdamState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: parameters θₜ₋₁; only read if there is weight decay.
        lr: learning rate, ≥ 0.
        b1: decay β₁ of the first moment and limit of the momentum, in [0, 1).
        b2: decay β₂ of the second moment, in [0, 1).
        eps: ε ≥ 0, added to the root.
        weight_decay: λ ≥ 0, an L2 penalty or, if decoupled, the decay rate.
        momentum_decay: ψ ≥ 0, the speed at which the momentum approaches β₁; 0 keeps β₁/2.
        decoupled_weight_decay: subtract lr·λ·θ from the step, as AdamW does.
        maximize: climb instead of descend (the decay keeps its sign).
        eps_root: added to v̂ₜ inside the root, ≥ 0 (optax).
        scheduled_momentum: let μₜ rise from about β₁/2 to β₁; otherwise μₜ = β₁.
        scheduled_average: average the gradients with μₜ instead of β₁.
        b2_in_root: multiply v̂ₜ by β₂.
        cautious_decay: decay only elements with step·θ ≤ 0 (`chen2025cautious`).

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    Raises:
        ValueError: if there is decay and ``params`` is ``None``.

    >>> import numpy as np
    >>> state, step = update(init(np.zeros(1)), np.ones(1), lr=1.0)
    >>> step.round(4).tolist()  # μ₁ = 0.45007, μ₂ = 0.45015: 0.1·μ₂/(1 − μ₁μ₂) + 1
    [-1.0565]
    """
    penalty, decay = split_decay(weight_decay, decoupled_weight_decay)
    g = objective_gradient(grad, params, weight_decay=penalty, maximize=maximize)
    t = state.t + 1
    product = state.product
    if scheduled_momentum:
        # 1 − μ of this step and of the next, without cancellation.
        rise = share(momentum_decay)
        rest, next_rest = (
            (1 - b1) + (0.5 * b1) * (1 - doubles.one_minus_power(rise, n)) for n in (t, t + 1)
        )
        mu, next_mu = 1 - rest, 1 - next_rest
        product = product * mu
        left, next_left = 1 - product, 1 - product * next_mu
    else:
        rest, mu, next_mu = 1 - b1, b1, b1
        left, next_left = correction(b1, t), correction(b1, t + 1)
    if scheduled_average:
        m = mu * state.m + rest * g
    else:
        m = b1 * state.m + (1 - b1) * g
    v = b2 * state.v + (1 - b2) * (g * g)
    root = bias_correction.root(b2 * v if b2_in_root else v, correction(b2, t), eps_root)
    of_m = lr * next_mu / next_left
    of_g = lr * rest / left
    step = -(of_m * m + of_g * g) / (root + eps)
    step = decoupled_decay(step, params, lr=lr, weight_decay=decay, cautious=cautious_decay)
    return NAdamState(m, v, t, product), step

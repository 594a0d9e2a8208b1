"""MoMo-Adam: the direction of Adam with the step size of MoMo.

    mₜ = β₁·mₜ₋₁ + (1 − β₁)·gₜ
    vₜ = β₂·vₜ₋₁ + (1 − β₂)·gₜ²
    dₜ = mₜ / (ε + √(vₜ / (1 − β₂ᵗ)))
    f̄ₜ = β₁·f̄ₜ₋₁ + (1 − β₁)·fₜ
    γₜ = β₁·γₜ₋₁ + (1 − β₁)·⟨gₜ, θₜ₋₁⟩
    c = 1 − β₁ᵗ,  w = 1 + lr·λ
    τₜ = min(lr/c, max(w·(f̄ₜ − c·f* − γₜ) + ⟨mₜ, θₜ₋₁⟩, 0) / ⟨mₜ, dₜ⟩)
    θₜ = θₜ₋₁ − (lr·λ/w)·θₜ₋₁ − τₜ·dₜ

fₜ is the loss of the batch, ``value``, and f* a lower bound of the loss. Sums are over all leaves
(in torch: of a group). τₜ is 0 if ⟨mₜ, dₜ⟩ is at most ``sq_norm_floor``, which the paper does not
have.

With ``adapt_lower_bound`` f* is estimated. If h = w·(f̄ₜ − γₜ) + ⟨mₜ, θₜ₋₁⟩ is below w·c·f*, first
f* ← max(h/(2·w·c), lower_bound), and after the step
f* ← max((f̄ₜ + ⟨mₜ, θₜ₋₁⟩ − γₜ − ½·τₜ·⟨mₜ, dₜ⟩)/c, lower_bound).

Source: Schaipp, Ohana, Eickenberg, Defazio and Gower 2024, Algorithm 2 (`schaipp2024momo`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays.namespace import Array, namespace, no_steps
from optstudy_core.arrays.reductions import leaf_dot
from optstudy_core.parts import loss_model
from optstudy_core.parts.bias_correction import correction
from optstudy_core.parts.loss_model import LossModel
from optstudy_core.parts.terms import needed, objective_gradient, objective_value

BIBTEX = ("schaipp2024momo",)

DIALECTS: dict[str, dict[str, Any]] = {"optax": {}, "paper": {"sq_norm_floor": 0.0}}

ELSEWHERE = {
    "optax.MomoAdamState": {
        "m": "exp_avg",
        "v": "exp_avg_sq",
        "model.f_bar": "barf",
        "model.gamma": "+gamma",
        "model.f_min": "lb",
        "t": "count",
    },
}
"""Names of the state fields in other libraries."""


class MomoAdamState(NamedTuple):
    """The state of MoMo-Adam.

    Attributes:
        m: first moment mₜ, like the parameters; 0 at the start.
        v: second moment vₜ, like the parameters; 0 at the start.
        model: averages of the losses; shape () per leaf.
        t: number of steps; shape () per leaf, int32; 0 at the start.
    """

    m: Array
    v: Array
    model: LossModel
    t: Array


def init(params: Array, *, lower_bound: Any = 0.0) -> MomoAdamState:
    """Return the state before the first step."""
    zeros = namespace(params).zeros_like(params)
    return MomoAdamState(zeros, zeros, loss_model.init(params, lower_bound), no_steps(params))


def update(
    state: MomoAdamState,
    grad: Array,
    params: Array | None = None,
    *,
    value: Array,
    lr: Any = 1e-2,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    lower_bound: Any = 0.0,
    weight_decay: Any = 0.0,
    adapt_lower_bound: bool = False,
    maximize: bool = False,
    sq_norm_floor: Any = 2.220446049250313e-16,
) -> tuple[MomoAdamState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: parameters θₜ₋₁.
        value: loss fₜ at the parameters of the gradient; shape ().
        lr: largest step size, ≥ 0.
        b1: decay β₁ of the first moment and of the averages of the loss, in [0, 1).
        b2: decay β₂ of the second moment, in [0, 1).
        eps: ε ≥ 0, added outside the root.
        lower_bound: f*, or the lower limit of its estimate.
        weight_decay: λ ≥ 0, decoupled.
        adapt_lower_bound: estimate f* during the training.
        maximize: climb instead of descend (``lower_bound`` bounds the negative loss).
        sq_norm_floor: no step is taken if ⟨mₜ, dₜ⟩ is at most this value; ≥ 0.

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    Raises:
        ValueError: if ``params`` is ``None``.

    >>> import numpy as np
    >>> theta = np.array([3.0, 4.0])
    >>> state, step = update(init(theta), 2 * theta, theta, value=theta @ theta, lr=0.5)
    >>> step.round(6).tolist()  # Adam's at first: far from the bound lr is the limit
    [-0.5, -0.5]
    """
    xp = namespace(grad)
    params = needed(params, "momo_adam")
    g = objective_gradient(grad, None, maximize=maximize)
    value = objective_value(value, maximize=maximize)
    t = state.t + 1
    c1 = correction(b1, t)
    c2 = correction(b2, t)
    m = b1 * state.m + (1 - b1) * g
    v = b2 * state.v + (1 - b2) * (g * g)
    d = m / (eps + xp.sqrt(v / c2))
    model = loss_model.advance(state.model, value, leaf_dot(g, params), b1)
    model, tau = loss_model.step_size(
        model,
        m,
        d,
        params,
        c=c1,
        lr=lr,
        weight_decay=weight_decay,
        lower_bound=lower_bound,
        adapt_lower_bound=adapt_lower_bound,
        sq_norm_floor=sq_norm_floor,
    )
    step = loss_model.decayed_step(tau, d, params, lr=lr, weight_decay=weight_decay)
    return MomoAdamState(m, v, model, t), step

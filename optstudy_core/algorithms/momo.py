"""MoMo: momentum with a step size from a model of the loss over all past batches.

    mₜ = β·mₜ₋₁ + (1 − β)·gₜ
    f̄ₜ = β·f̄ₜ₋₁ + (1 − β)·fₜ
    γₜ = β·γₜ₋₁ + (1 − β)·⟨gₜ, θₜ₋₁⟩
    w = 1 + lr·λ
    τₜ = min(lr, max(w·(f̄ₜ − f* − γₜ) + ⟨mₜ, θₜ₋₁⟩, 0) / ‖mₜ‖²)
    θₜ = θₜ₋₁ − (lr·λ/w)·θₜ₋₁ − τₜ·mₜ

At the first step the averages equal the values. fₜ is the loss of the batch, ``value``, and f* a
lower bound of the loss. Sums are over all leaves (in torch: of a group). τₜ is 0 if ‖mₜ‖² is at
most ``sq_norm_floor``, which the paper does not have.

With ``adapt_lower_bound`` f* is estimated. If h = w·(f̄ₜ − γₜ) + ⟨mₜ, θₜ₋₁⟩ is below w·f*, first
f* ← max(h/(2·w), lower_bound), and after the step
f* ← max(f̄ₜ + ⟨mₜ, θₜ₋₁⟩ − γₜ − ½·τₜ·‖mₜ‖², lower_bound).

A leaf whose gradient was ``None`` at first starts its own averages of the loss later.

Source: Schaipp, Ohana, Eickenberg, Defazio and Gower 2024, Algorithm 1 (`schaipp2024momo`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays import doubles
from optstudy_core.arrays.namespace import Array, namespace, no_steps
from optstudy_core.arrays.reductions import leaf_dot
from optstudy_core.parts import loss_model
from optstudy_core.parts.loss_model import LossModel
from optstudy_core.parts.states import chosen
from optstudy_core.parts.terms import needed, objective_gradient, objective_value

BIBTEX = ("schaipp2024momo",)

DIALECTS: dict[str, dict[str, Any]] = {"optax": {}, "paper": {"sq_norm_floor": 0.0}}

ELSEWHERE = {
    "optax.MomoState": {
        "m": "exp_avg",
        "model.f_bar": "barf",
        "model.gamma": "+gamma",
        "model.f_min": "lb",
        "t": "count",
    },
}
"""Names of the state fields in other libraries."""


class MomoState(NamedTuple):
    """The state of MoMo.

    Attributes:
        m: averaged gradient mₜ, like the parameters; 0 at the start.
        model: averages of the losses; shape () per leaf.
        t: number of steps; shape () per leaf, int32; 0 at the start.
    """

    m: Array
    model: LossModel
    t: Array


def init(params: Array, *, lower_bound: Any = 0.0) -> MomoState:
    """Return the state before the first step."""
    zeros = namespace(params).zeros_like(params)
    return MomoState(zeros, loss_model.init(params, lower_bound), no_steps(params))


def update(
    state: MomoState,
    grad: Array,
    params: Array | None = None,
    *,
    value: Array,
    lr: Any = 1.0,
    beta: Any = 0.9,
    lower_bound: Any = 0.0,
    weight_decay: Any = 0.0,
    adapt_lower_bound: bool = False,
    maximize: bool = False,
    sq_norm_floor: Any = 2.220446049250313e-16,
) -> tuple[MomoState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: parameters θₜ₋₁.
        value: loss fₜ at the parameters of the gradient; shape ().
        lr: largest step size, ≥ 0.
        beta: decay β of the averages, ≥ 0.
        lower_bound: f*, or the lower limit of its estimate.
        weight_decay: λ ≥ 0, decoupled.
        adapt_lower_bound: estimate f* during the training.
        maximize: climb instead of descend (``lower_bound`` bounds the negative loss).
        sq_norm_floor: no step is taken if ‖mₜ‖² is at most this value; ≥ 0.

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    Raises:
        ValueError: if ``params`` is ``None``.

    >>> import numpy as np
    >>> theta = np.array([3.0, 4.0])
    >>> state, step = update(init(theta), 2 * theta, theta, value=theta @ theta, lr=10.0)
    >>> step.tolist()  # Polyak's step at first
    [-1.5, -2.0]
    """
    params = needed(params, "momo")
    g = objective_gradient(grad, None, maximize=maximize)
    begins = doubles.of(state.t) == 0
    value = objective_value(value, maximize=maximize)
    inner = leaf_dot(g, params)
    m = doubles.where(begins, g, loss_model.average(beta, state.m, g))
    first = LossModel(value, inner, state.model.f_min)
    model = chosen(begins, first, loss_model.advance(state.model, value, inner, beta))
    model, tau = loss_model.step_size(
        model,
        m,
        m,
        params,
        c=1.0,
        lr=lr,
        weight_decay=weight_decay,
        lower_bound=lower_bound,
        adapt_lower_bound=adapt_lower_bound,
        sq_norm_floor=sq_norm_floor,
    )
    step = loss_model.decayed_step(tau, m, params, lr=lr, weight_decay=weight_decay)
    return MomoState(m, model, state.t + 1), step

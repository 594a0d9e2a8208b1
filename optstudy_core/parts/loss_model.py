"""The step size of MoMo, from a linear model of the loss with a lower bound.

Past batches i, with weights ρᵢ that sum to c, give the model

    f(θ) ≈ max(f̄ + ⟨m, θ⟩ − γ, c·f*),    f̄ = Σ ρᵢ·fᵢ,  γ = Σ ρᵢ·⟨gᵢ, θᵢ⟩,  m = Σ ρᵢ·gᵢ

The step −τ·d, with d = D⁻¹·m for a scaling D, goes to the minimum of the model, with τ ≤ lr/c:

    w = 1 + lr·λ
    τ = min(lr/c, max(w·(f̄ − c·f* − γ) + ⟨m, θ⟩, 0) / ⟨m, d⟩),    0 where ⟨m, d⟩ ≤ floor

Sums are over all leaves. Used by :mod:`~optstudy_core.momo` and :mod:`~optstudy_core.momo_adam`.

Source: Schaipp, Ohana, Eickenberg, Defazio and Gower 2024 (`schaipp2024momo`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays.namespace import Array, absent, namespace, scalar
from optstudy_core.arrays.reductions import global_dot, global_sum


class LossModel(NamedTuple):
    """Averages of the losses of past batches.

    Attributes:
        f_bar: average of the losses f̄; shape () per leaf; 0 at the start.
        gamma: contribution of the leaf to γ; shape () per leaf; 0 at the start.
        f_min: lower bound f* of the loss; shape () per leaf.
    """

    f_bar: Array
    gamma: Array
    f_min: Array


def init(params: Array, lower_bound: Any) -> LossModel:
    """Return the model before the first step."""
    zero = scalar(params, 0.0)
    return LossModel(f_bar=zero, gamma=zero, f_min=zero + lower_bound)


def average(decay: Any, old: Array, new: Array) -> Array:
    """Return decay·old + (1 − decay)·new."""
    return decay * old + (1 - decay) * new


def advance(model: LossModel, value: Array, inner: Array, decay: Any) -> LossModel:
    """Return the model with one more batch.

    Args:
        model: the model of the previous batches.
        value: loss of the batch, shape ().
        inner: contribution of the leaf to ⟨g, θ⟩ of the batch, shape () per leaf.
        decay: β of the averages.
    """
    f_bar = average(decay, model.f_bar, value)
    return LossModel(f_bar, average(decay, model.gamma, inner), model.f_min)


def step_size(
    model: LossModel,
    m: Array,
    d: Array,
    params: Array,
    *,
    c: Any,
    lr: Any,
    weight_decay: Any,
    lower_bound: Any,
    adapt_lower_bound: bool,
    sq_norm_floor: Any,
) -> tuple[LossModel, Array]:
    """Return the model, with an adapted lower bound if requested, and τ, of shape ().

    Args:
        model: the model with the batch of this step.
        m: averaged gradient.
        d: negative direction of the step.
        params: parameters before the step.
        c: sum of the weights of the averages.
        lr: largest τ, times c.
        weight_decay: λ.
        lower_bound: lower limit of f*.
        adapt_lower_bound: estimate f* during the training.
        sq_norm_floor: no step is taken if ⟨m, d⟩ is at most this value.
    """
    xp = namespace(m)
    f_bar, gamma, f_min = model.f_bar, global_sum(model.gamma), model.f_min
    inner = global_dot(m, params)
    length = global_dot(m, d)
    w = 1.0 if absent(weight_decay) else 1 + lr * weight_decay
    if adapt_lower_bound:
        height = w * (f_bar - gamma) + inner
        lower = xp.maximum(height / ((2 * w) * c), lower_bound)
        f_min = xp.where(height < (w * c) * f_min, lower, f_min)
    gap = w * ((f_bar - c * f_min) - gamma) + inner
    tau = xp.maximum(gap, 0.0) / length
    tau = xp.where(length <= sq_norm_floor, 0.0, tau)
    tau = xp.minimum(tau, lr / c)
    if adapt_lower_bound:
        reached = (((f_bar + inner) - gamma) - 0.5 * tau * length) / c
        f_min = xp.maximum(reached, lower_bound)
    return LossModel(model.f_bar, model.gamma, f_min), tau


def decayed_step(tau: Array, d: Array, params: Array, *, lr: Any, weight_decay: Any) -> Array:
    """Return the step −τ·d with decay of the parameters: −(lr·λ/(1 + lr·λ))·θ − τ·d."""
    if absent(weight_decay):
        return -tau * d
    rate = lr * weight_decay
    return -(rate / (1 + rate)) * params - tau * d

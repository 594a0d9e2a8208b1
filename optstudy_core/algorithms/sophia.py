"""Sophia: momentum divided by an estimate of the diagonal of the Hessian, then clipped.

    mₜ = β₁·mₜ₋₁ + (1 − β₁)·gₜ
    uₜ = clip(mₜ/(1 − β₁ᵗ) / max(γ·hₜ₋₁, ε), −ρ, ρ)
    θₜ = θₜ₋₁ − lr·(uₜ + λ·θₜ₋₁)
    hₜ = β₂·hₜ₋₁ + (1 − β₂)·ĥₜ    if t − 1 is a multiple of k, else hₜ₋₁

ĥₜ, ``hessian``, is an estimate of the diagonal of the Hessian at θₜ₋₁: by Hutchinson
(``optstudy_torch.hutchinson``, ``optstudy_jax.hutchinson``) or by Gauss, Newton and Bartlett. It is
read only every k = ``update_interval`` steps; in other steps it may be anything, or ``None``. A
step with ``hessian=None`` does not change h.

The paper already uses the new hₜ for the step (``hessian_first``), and does not correct the bias of
mₜ (``debias``). optax computes the estimate itself, from ``obj_fn``.

Source: Liu, Li, Hall, Liang and Ma 2024, Algorithm 3 (`liu2024sophia`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays import doubles
from optstudy_core.arrays.namespace import Array, namespace, no_steps
from optstudy_core.parts.bias_correction import correction
from optstudy_core.parts.terms import decoupled_decay, objective_gradient

BIBTEX = ("liu2024sophia",)

DIALECTS: dict[str, dict[str, Any]] = {
    "optax": {},
    "paper": {"eps": 1e-12, "weight_decay": 0.2, "debias": False, "hessian_first": True},
}

ELSEWHERE = {
    "optax.SophiaState": {"m": "mu", "h": "nu", "t": "count"},
}
"""Names of the state fields in other libraries."""


class SophiaState(NamedTuple):
    """The state of Sophia.

    Attributes:
        m: averaged gradient mₜ, like the parameters; 0 at the start.
        h: averaged diagonal of the Hessian hₜ, like the parameters; 0 at the start.
        t: number of steps; shape () per leaf, int32; 0 at the start.
    """

    m: Array
    h: Array
    t: Array


def init(params: Array) -> SophiaState:
    """Return the state before the first step."""
    zeros = namespace(params).zeros_like(params)
    return SophiaState(zeros, zeros, no_steps(params))


def update(
    state: SophiaState,
    grad: Array,
    params: Array | None = None,
    *,
    hessian: Array | None = None,
    lr: Any = 1e-3,
    b1: Any = 0.965,
    b2: Any = 0.99,
    eps: Any = 1e-8,
    weight_decay: Any = 1e-4,
    gamma: Any = 0.01,
    clip_threshold: Any = 1.0,
    update_interval: Any = 10.0,
    maximize: bool = False,
    debias: bool = True,
    hessian_first: bool = False,
    cautious_decay: bool = False,
) -> tuple[SophiaState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: parameters θₜ₋₁; read if there is weight decay.
        hessian: estimate ĥₜ of the diagonal of the Hessian, like the parameters; or ``None``.
        lr: learning rate, ≥ 0.
        b1: decay β₁ of the averaged gradient, in [0, 1).
        b2: decay β₂ of the averaged estimates, in [0, 1).
        eps: ε ≥ 0, the smallest divisor of the averaged gradient.
        weight_decay: λ ≥ 0, decoupled.
        gamma: factor γ ≥ 0 of the Hessian.
        clip_threshold: ρ ≥ 0; an element of the step is at most lr·ρ, without decay.
        update_interval: number k ≥ 1 of steps between two estimates.
        maximize: climb instead of descend (pass the Hessian of the objective too).
        debias: divide mₜ by 1 − β₁ᵗ.
        hessian_first: update h before the step.
        cautious_decay: decay only elements with step·θ ≤ 0 (`chen2025cautious`).

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    Raises:
        ValueError: if there is weight decay and ``params`` is ``None``.

    >>> import numpy as np
    >>> theta, curvature = np.array([1.0, 1.0]), np.array([1.0, 100.0])
    >>> given = {"hessian": curvature, "hessian_first": True, "b2": 0.0, "gamma": 1.0, "lr": 0.5}
    >>> _, step = update(init(theta), curvature * theta, theta, weight_decay=0.0, **given)
    >>> step.tolist()  # Newton's, half as long
    [-0.5, -0.5]
    """
    xp = namespace(grad)
    g = objective_gradient(grad, None, maximize=maximize)
    m = b1 * state.m + (1 - b1) * g
    t = state.t + 1
    h = state.h
    if hessian is not None:
        estimate = objective_gradient(hessian, None, maximize=maximize)
        due = doubles.remainder(doubles.of(state.t), update_interval) < 1
        h = doubles.where(due, b2 * h + (1 - b2) * estimate, h)
    scale = xp.maximum(gamma * (h if hessian_first else state.h), eps)
    u = (m / correction(b1, t) if debias else m) / scale
    u = xp.minimum(xp.maximum(u, -clip_threshold), clip_threshold)
    step = decoupled_decay(
        -lr * u, params, lr=lr, weight_decay=weight_decay, cautious=cautious_decay
    )
    return SophiaState(m, h, t), step

"""MADGRAD: momentumized, adaptive, dual averaged gradients.

    λₖ = (lr + ε)·√(k + 1),    k = 0, 1, …              (lr·√(k + 1) without ``eps_in_rate``)
    sₖ₊₁ = sₖ + λₖ·gₖ
    νₖ₊₁ = νₖ + λₖ·gₖ²
    zₖ₊₁ = x₀ − sₖ₊₁ / (∛νₖ₊₁ + ε)
    xₖ₊₁ = (1 − c)·xₖ + c·zₖ₊₁,    c = 1 − momentum

x₀ are the parameters before the first step. In optax and the authors' code ε is also part of the
rate; in the paper it is not.

Source: Defazio and Jelassi 2022, Algorithm 1 (`defazio2022momentumized`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays import doubles
from optstudy_core.arrays.namespace import Array, absent, namespace, no_steps
from optstudy_core.parts.power import cbrt
from optstudy_core.parts.terms import needed, objective_gradient

BIBTEX = ("defazio2022momentumized",)

DIALECTS: dict[str, dict[str, Any]] = {
    "optax": {},
    "paper": {"eps_in_rate": False},
}

ELSEWHERE = {
    "optax.MadgradState": {"s": "s", "v": "grad_sum_sq", "x0": "x0", "t": "count"},
}
"""Names of the state fields in other libraries."""


class MADGRADState(NamedTuple):
    """The state of MADGRAD.

    Attributes:
        s: sum of weighted gradients sₖ, like the parameters; 0 at the start.
        v: sum of weighted squares νₖ, like the parameters; 0 at the start.
        x0: initial parameters x₀.
        t: number of steps; shape () per leaf, int32; 0 at the start.
    """

    s: Array
    v: Array
    x0: Array
    t: Array


def init(params: Array) -> MADGRADState:
    """Return the state before the first step: the sums are zero, x₀ is ``params``."""
    zeros = namespace(params).zeros_like
    return MADGRADState(s=zeros(params), v=zeros(params), x0=params, t=no_steps(params))


def update(
    state: MADGRADState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 1e-2,
    momentum: Any = 0.9,
    weight_decay: Any = 0.0,
    eps: Any = 1e-6,
    maximize: bool = False,
    eps_in_rate: bool = True,
) -> tuple[MADGRADState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₖ, like the parameters.
        params: parameters xₖ.
        lr: learning rate, ≥ 0.
        momentum: 1 − c, ≥ 0.
        weight_decay: L2 penalty ≥ 0, added to the gradient.
        eps: ε ≥ 0, added to the cube root; if 0, a parameter without a gradient so far becomes NaN.
        maximize: climb instead of descend (the penalty keeps its sign).
        eps_in_rate: add ε to the learning rate as well.

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    Raises:
        ValueError: if ``params`` is ``None``.

    >>> import numpy as np
    >>> theta = np.array([1.0])
    >>> state, step = update(init(theta), np.array([8.0]), theta, lr=1.0, momentum=0.0)
    >>> step.round(5).tolist()  # −8 / ∛64
    [-2.0]
    """
    g = objective_gradient(grad, params, weight_decay=weight_decay, maximize=maximize)
    t = state.t + 1
    rate = (lr + eps if eps_in_rate else lr) * doubles.sqrt(doubles.of(t))
    s = state.s + rate * g
    v = state.v + rate * (g * g)
    z = state.x0 - s / (cbrt(v) + eps)
    step = z - needed(params, "madgrad")
    if not absent(momentum):
        step = (1 - momentum) * step
    return MADGRADState(s, v, state.x0, t), step

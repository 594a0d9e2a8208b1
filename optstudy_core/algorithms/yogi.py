"""Yogi: Adam with a second moment that changes by at most (1 − β₂)·g² in a step.

    mₜ = β₁·mₜ₋₁ + (1 − β₁)·gₜ
    vₜ = vₜ₋₁ − (1 − β₂)·sign(vₜ₋₁ − gₜ²)·gₜ²
    θₜ = θₜ₋₁ − lr·mₜ / (√vₜ + ε)

``correct_bias`` (optax) replaces mₜ and vₜ by mₜ / (1 − β₁ᵗ) and vₜ / (1 − β₂ᵗ). optax starts both
moments at 1e-6, so there a parameter moves even without a gradient. In the paper m₀ = 0, and v₀ is
0 or the square of a first gradient.

Source: Zaheer, Reddi, Sachan, Kale and Kumar 2018, Algorithm 2 (`zaheer2018adaptive`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays.namespace import Array, namespace, no_steps
from optstudy_core.parts import bias_correction
from optstudy_core.parts.bias_correction import correction
from optstudy_core.parts.terms import objective_gradient

BIBTEX = ("zaheer2018adaptive",)

DIALECTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "optax": {
        "correct_bias": True,
        "initial_accumulator_value": 1e-6,
        "initial_first_moment": 1e-6,
    },
}

ELSEWHERE = {
    "optax.ScaleByAdamState": {"m": "mu", "v": "nu", "t": "count"},
}
"""Names of the state fields in other libraries."""


class YogiState(NamedTuple):
    """The state of Yogi.

    Attributes:
        m: first moment mₜ, like the parameters; m₀ at the start.
        v: second moment vₜ, like the parameters; v₀ at the start.
        t: number of steps; shape () per leaf, int32; 0 at the start.
    """

    m: Array
    v: Array
    t: Array


def init(
    params: Array, *, initial_first_moment: Any = 0.0, initial_accumulator_value: Any = 0.0
) -> YogiState:
    """Return the state before the first step."""
    zeros = namespace(params).zeros_like(params)
    return YogiState(
        m=zeros + initial_first_moment,
        v=zeros + initial_accumulator_value,
        t=no_steps(params),
    )


def update(
    state: YogiState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 1e-2,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-3,
    maximize: bool = False,
    correct_bias: bool = False,
    initial_accumulator_value: Any = 0.0,
    initial_first_moment: Any = 0.0,
) -> tuple[YogiState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: not read.
        lr: learning rate, ≥ 0.
        b1: decay β₁ of the first moment, in [0, 1).
        b2: decay β₂ of the second moment, in [0, 1).
        eps: ε ≥ 0, added to the root.
        maximize: climb instead of descend.
        correct_bias: divide the moments by 1 − βᵗ.
        initial_accumulator_value: v₀ ≥ 0 (read by :func:`init`).
        initial_first_moment: m₀ (read by :func:`init`).

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    >>> import numpy as np
    >>> state = init(np.zeros(1), initial_accumulator_value=4.0)
    >>> state, step = update(state, np.ones(1))
    >>> state.v.tolist()  # it falls by (1 − β₂)·g²
    [3.999]
    """
    xp = namespace(grad)
    g = objective_gradient(grad, None, maximize=maximize)
    square = g * g
    t = state.t + 1
    c1 = correction(b1, t)
    c2 = correction(b2, t)
    m = b1 * state.m + (1 - b1) * g
    v = state.v - (1 - b2) * (xp.sign(state.v - square) * square)
    if correct_bias:
        step = -(lr / c1) * m / (bias_correction.root(v, c2) + eps)
    else:
        step = -lr * m / (xp.sqrt(v) + eps)
    return YogiState(m, v, t), step

"""Adan: adaptive Nesterov momentum from differences of gradients.

    dₜ = gₜ − gₜ₋₁                                      (g₀ = g₁)
    mₜ = β₁·mₜ₋₁ + (1 − β₁)·gₜ
    vₜ = β₂·vₜ₋₁ + (1 − β₂)·dₜ
    nₜ = β₃·nₜ₋₁ + (1 − β₃)·(gₜ + κ·dₜ)²
    uₜ = (mₜ / (1 − β₁ᵗ) + κ·vₜ / (1 − β₂ᵗ)) / (√(nₜ / (1 − β₃ᵗ)) + ε)
    θₜ = (θₜ₋₁ − lr·uₜ) / (1 + lr·λ)  =  θₜ₋₁ − lr·(uₜ + λ·θₜ₋₁) / (1 + lr·λ)

with κ = β₂. Here βᵢ is 1 − βᵢ of the paper. optax has βᵢ as here, but the weight κ = 1 − β₂ of the
paper: 0.08 instead of 0.92. The dialect "optax" does the same (``complement_weight``), and decays
by θₜ = θₜ₋₁ − lr·uₜ − lr·λ·θₜ₋₁ (no ``proximal_decay``).

Algorithm 1 of the paper starts the averages at the first gradients and corrects no bias. The
authors' code corrects the bias, as above.

Source: Xie, Zhou, Li, Lin and Yan 2024, Algorithm 1 (`xie2024adan`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays import doubles
from optstudy_core.arrays.namespace import Array, namespace, no_steps
from optstudy_core.parts import bias_correction, terms
from optstudy_core.parts.bias_correction import correction

BIBTEX = ("xie2024adan",)

DIALECTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "optax": {"eps_root": 1e-8, "proximal_decay": False, "complement_weight": True},
}

ELSEWHERE = {
    "optax.ScaleByAdanState": {"m": "m", "v": "v", "n": "n", "previous": "g", "t": "t"},
}
"""Names of the state fields in other libraries."""


class AdanState(NamedTuple):
    """The state of Adan.

    Attributes:
        m: average of the gradients mₜ, like the parameters; 0 at the start.
        v: average of the differences vₜ, like the parameters; 0 at the start.
        n: average of squares nₜ, like the parameters; 0 at the start.
        previous: gradient of the last step, like the parameters; 0 at the start.
        t: number of steps; shape () per leaf, int32; 0 at the start.
    """

    m: Array
    v: Array
    n: Array
    previous: Array
    t: Array


def init(params: Array) -> AdanState:
    """Return the state before the first step: every field is zero."""
    zeros = namespace(params).zeros_like
    return AdanState(
        m=zeros(params),
        v=zeros(params),
        n=zeros(params),
        previous=zeros(params),
        t=no_steps(params),
    )


def update(
    state: AdanState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 1e-3,
    b1: Any = 0.98,
    b2: Any = 0.92,
    b3: Any = 0.99,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    maximize: bool = False,
    eps_root: Any = 0.0,
    proximal_decay: bool = True,
    complement_weight: bool = False,
    cautious_decay: bool = False,
) -> tuple[AdanState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: parameters θₜ₋₁; only read if there is weight decay.
        lr: learning rate, ≥ 0.
        b1: decay β₁ of the average of gradients, in [0, 1).
        b2: decay β₂ of the average of differences, in [0, 1).
        b3: decay β₃ of the average of squares, in [0, 1).
        eps: ε ≥ 0, added to the root.
        weight_decay: decoupled decay rate λ ≥ 0.
        maximize: climb instead of descend (the decay keeps its sign).
        eps_root: added inside the root, ≥ 0 (optax).
        proximal_decay: divide by 1 + lr·λ instead of subtracting lr·λ·θ.
        complement_weight: weight the difference by κ = 1 − β₂ (optax) instead of β₂.
        cautious_decay: decay only elements with step·θ ≤ 0 (`chen2025cautious`).

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    Raises:
        ValueError: if there is decay and ``params`` is ``None``.

    >>> import numpy as np
    >>> state, step = update(init(np.zeros(2)), np.array([1e-3, -5.0]), lr=0.1)
    >>> step.round(6).tolist()
    [-0.099999, 0.1]
    """
    g = terms.objective_gradient(grad, None, maximize=maximize)
    d = g - doubles.where(doubles.of(state.t) > 0, state.previous, g)
    weight = 1 - b2 if complement_weight else b2
    ahead = g + weight * d
    m = b1 * state.m + (1 - b1) * g
    v = b2 * state.v + (1 - b2) * d
    n = b3 * state.n + (1 - b3) * (ahead * ahead)
    t = state.t + 1
    c1 = correction(b1, t)
    c2 = correction(b2, t)
    c3 = correction(b3, t)
    direction = (lr / c1) * m + ((lr * weight) / c2) * v
    step = -direction / (bias_correction.root(n, c3, eps_root) + eps)
    decay = terms.proximal_decay if proximal_decay else terms.decoupled_decay
    step = decay(step, params, lr=lr, weight_decay=weight_decay, cautious=cautious_decay)
    return AdanState(m, v, n, g, t), step

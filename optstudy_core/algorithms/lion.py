"""Lion: evolved sign momentum.

    cₜ = β₁·mₜ₋₁ + (1 − β₁)·gₜ
    mₜ = β₂·mₜ₋₁ + (1 − β₂)·gₜ
    θₜ = θₜ₋₁ − lr·sign(cₜ) − lr·λ·θₜ₋₁

The paper gives no values of λ and of the learning rate, which should be three to ten times smaller
than for AdamW. lr = 1e-4 is from the authors' code, λ = 1e-3 from optax. Keras has lr = 1e-3 and no
decay.

Source: Chen et al. 2023, Algorithm 2 (`chen2023symbolic`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays.namespace import Array, namespace
from optstudy_core.parts.terms import decoupled_decay, objective_gradient

BIBTEX = ("chen2023symbolic",)

DIALECTS: dict[str, dict[str, Any]] = {
    "optax": {},
    "keras": {"lr": 1e-3, "weight_decay": 0.0},
    "paper": {"weight_decay": 0.0},
}

ELSEWHERE = {
    "optax.ScaleByLionState": {"m": "mu"},
    "keras.optimizers.Lion": {"m": "momentum"},
}
"""Names of the state fields in other libraries."""


class LionState(NamedTuple):
    """The state of Lion.

    Attributes:
        m: momentum mₜ, like the parameters; 0 at the start.
    """

    m: Array


def init(params: Array) -> LionState:
    """Return the state before the first step: every field is zero."""
    return LionState(m=namespace(params).zeros_like(params))


def update(
    state: LionState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 1e-4,
    b1: Any = 0.9,
    b2: Any = 0.99,
    weight_decay: Any = 1e-3,
    maximize: bool = False,
    cautious_decay: bool = False,
) -> tuple[LionState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: parameters θₜ₋₁; only read if there is weight decay.
        lr: learning rate, ≥ 0: the magnitude of every element of the step.
        b1: weight β₁ of the momentum in the direction, in [0, 1).
        b2: decay β₂ of the momentum, in [0, 1).
        weight_decay: decoupled decay rate λ ≥ 0.
        maximize: climb instead of descend (the decay keeps its sign).
        cautious_decay: decay only elements with step·θ ≤ 0 (`chen2025cautious`).

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    Raises:
        ValueError: if there is decay and ``params`` is ``None``.

    >>> import numpy as np
    >>> state, step = update(init(np.zeros(2)), np.array([1e-3, -5.0]), weight_decay=0)
    >>> step.tolist()
    [-0.0001, 0.0001]
    """
    xp = namespace(grad)
    g = objective_gradient(grad, None, maximize=maximize)
    c = b1 * state.m + (1 - b1) * g
    m = b2 * state.m + (1 - b2) * g
    step = decoupled_decay(
        -lr * xp.sign(c), params, lr=lr, weight_decay=weight_decay, cautious=cautious_decay
    )
    return LionState(m), step

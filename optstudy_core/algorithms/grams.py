"""Grams: the magnitude of the step of Adam with the sign of the gradient.

    m̂ₜ, v̂ₜ as in Adam
    uₜ = m̂ₜ / (√v̂ₜ + ε)
    θₜ = θₜ₋₁ − lr·sign(gₜ)·|uₜ| − lr·λ·θₜ₋₁

element by element. The defaults are those of the authors' code.

Source: Cao, Li and Song 2024 (`cao2024grams`).
"""

from __future__ import annotations

from typing import Any

from optstudy_core.arrays.namespace import Array, namespace
from optstudy_core.parts.terms import decoupled_decay, objective_gradient

from . import adam

BIBTEX = ("cao2024grams",)

DIALECTS: dict[str, dict[str, Any]] = {"paper": {}}


class GramsState(adam.AdamState):
    """The state of Grams: the moments and bias corrections of Adam."""

    __slots__ = ()


def init(params: Array) -> GramsState:
    """Return the state before the first step: every field is zero."""
    return GramsState(*adam.init(params))


def update(
    state: GramsState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 1e-3,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-6,
    weight_decay: Any = 0.0,
    maximize: bool = False,
    eps_root: Any = 0.0,
    cautious_decay: bool = False,
) -> tuple[GramsState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: parameters θₜ₋₁; only read if there is weight decay.
        lr: learning rate, ≥ 0.
        b1: decay β₁ of the first moment, in [0, 1).
        b2: decay β₂ of the second moment, in [0, 1).
        eps: ε ≥ 0, added to the root.
        weight_decay: decoupled decay rate λ ≥ 0.
        maximize: climb instead of descend (the decay keeps its sign).
        eps_root: added to v̂ₜ inside the root, ≥ 0.
        cautious_decay: decay only elements with step·θ ≤ 0 (`chen2025cautious`).

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    Raises:
        ValueError: if there is decay and ``params`` is ``None``.

    >>> import numpy as np
    >>> state, step = update(init(np.zeros(1)), np.array([8.0]), lr=0.5)
    >>> state, step = update(state, np.array([-1.0]), lr=0.5)
    >>> bool(step > 0), bool(state.m > 0)  # against the gradient, though the momentum points up
    (True, True)
    """
    xp = namespace(grad)
    g = objective_gradient(grad, None, maximize=maximize)
    moments, adams = adam.update(state, g, lr=lr, b1=b1, b2=b2, eps=eps, eps_root=eps_root)
    step = -xp.sign(g) * abs(adams)
    step = decoupled_decay(step, params, lr=lr, weight_decay=weight_decay, cautious=cautious_decay)
    return GramsState(*moments), step

"""MARS: AdamW on gradients with reduced variance (MARS-AdamW, approximate).

    cₜ = gₜ + (γ·β₁ / (1 − β₁))·(gₜ − gₜ₋₁)              (c₁ = g₁)
    θₜ by AdamW with the gradient cₜ

The exact form computes gₜ₋₁ again on the new batch; this approximate form keeps gₜ₋₁. With
``clipping`` cₜ of a leaf is scaled to norm 1 if its norm is above 1. The authors' code takes g₀ = 0
instead of c₁ = g₁ (``plain_first_step=False``), and uses AdamW for leaves that are not matrices:
use a parameter group or ``optax.multi_transform``. The defaults are those of the authors' code.

Source: Yuan, Liu, Wu, Zhou and Gu 2025, Algorithm 2 (`yuan2025mars`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays import doubles
from optstudy_core.arrays.namespace import Array, namespace
from optstudy_core.arrays.reductions import leaf_norm
from optstudy_core.parts.terms import objective_gradient

from . import adamw
from .adamw import AdamWState

BIBTEX = ("yuan2025mars",)

DIALECTS: dict[str, dict[str, Any]] = {"paper": {}}


class MARSState(NamedTuple):
    """The state of MARS.

    Attributes:
        adamw: the moments and bias corrections of AdamW.
        previous: gradient of the last step gₜ₋₁, like the parameters; 0 at the start.
    """

    adamw: AdamWState
    previous: Array


def init(params: Array) -> MARSState:
    """Return the state before the first step: every field is zero."""
    return MARSState(
        adamw=adamw.init(params),
        previous=namespace(params).zeros_like(params),
    )


def update(
    state: MARSState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 3e-3,
    b1: Any = 0.95,
    b2: Any = 0.99,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    gamma: Any = 0.025,
    maximize: bool = False,
    eps_root: Any = 0.0,
    plain_first_step: bool = True,
    clipping: bool = True,
    cautious_decay: bool = False,
) -> tuple[MARSState, Array]:
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
        gamma: strength γ ≥ 0 of the correction; 0 gives AdamW.
        maximize: climb instead of descend (the decay keeps its sign).
        eps_root: added to v̂ₜ inside the root, ≥ 0.
        plain_first_step: take g₀ = g₁ instead of 0.
        clipping: divide cₜ of a leaf by the norm of cₜ if the norm is above 1.
        cautious_decay: decay only elements with step·θ ≤ 0 (`chen2025cautious`).

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    Raises:
        ValueError: if there is decay and ``params`` is ``None``.

    >>> import numpy as np
    >>> state, step = update(init(np.zeros(1)), np.array([5.0]), lr=0.1)
    >>> step.round(6).tolist()
    [-0.1]
    """
    xp = namespace(grad)
    g = objective_gradient(grad, None, maximize=maximize)
    last = state.previous
    if plain_first_step:
        last = doubles.where(doubles.of(state.adamw.t) > 0, state.previous, g)
    c = g + (gamma * b1 / (1 - b1)) * (g - last)
    if clipping:
        c = c / xp.maximum(leaf_norm(c), 1.0)
    moments, step = adamw.update(
        state.adamw,
        c,
        params,
        lr=lr,
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
        weight_decay=weight_decay,
        cautious_decay=cautious_decay,
    )
    return MARSState(moments, g), step

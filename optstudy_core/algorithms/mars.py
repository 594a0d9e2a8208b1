"""MARS: AdamW on gradients with reduced variance (the form MARS-AdamW, approximate).

    cₜ = gₜ + (γ·β₁ / (1 − β₁))·(gₜ − gₜ₋₁)              (c₁ = g₁)
    θₜ by AdamW with the gradient cₜ

The exact form takes the last gradient again at the new batch; the approximate one, here, keeps it.
Where the norm of cₜ is above one, leaf by leaf, cₜ is scaled to norm one (``clipping``). The
authors' code takes g₀ = 0 in place of c₁ = g₁ (``plain_first_step=False``), and AdamW itself for
leaves that are no matrices: use a parameter group or ``optax.multi_transform``. The defaults are
those of that code.

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
    """What MARS carries.

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
        state: of :func:`init` or of the last update.
        grad: gradient gₜ, like the parameters.
        params: parameters θₜ₋₁; only read if there is weight decay.
        lr: learning rate, ≥ 0.
        b1: decay β₁ of the first moment, in [0, 1).
        b2: decay β₂ of the second moment, in [0, 1).
        eps: ε ≥ 0, added to the root.
        weight_decay: decoupled decay rate λ ≥ 0.
        gamma: strength γ ≥ 0 of the correction; with 0 it is AdamW.
        maximize: climb instead of descend (the decay keeps its sign).
        eps_root: added to v̂ₜ inside the root, ≥ 0.
        plain_first_step: take g₀ = g₁ instead of 0.
        clipping: divide cₜ by its norm, of each leaf, where that is above one.
        cautious_decay: decay only what the step brings towards 0, or leaves (`chen2025cautious`).

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

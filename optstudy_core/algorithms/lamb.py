"""LAMB: Adam with steps scaled to the norm of the parameters, layer by layer.

    uₜ = m̂ₜ / (√v̂ₜ + ε) + λ·θₜ₋₁
    θₜ = θₜ₋₁ − lr·rₜ·uₜ,    rₜ = ‖θₜ₋₁‖ / ‖uₜ‖

with m̂ₜ and v̂ₜ of Adam (`optstudy_core/algorithms/adam.py`), and the norms of each leaf. rₜ is 1
if one of the norms is 0 (`optstudy_core/parts/trust_ratio.py`). φ of the paper is the identity
here, as in optax. The paper gives no value of λ. In Keras the parameters decay first, and rₜ is
computed from the decayed parameters (``decoupled_weight_decay``).

Source: You et al. 2020, Algorithm 2 (`you2020large`).
"""

from __future__ import annotations

from typing import Any

from optstudy_core.arrays.namespace import Array
from optstudy_core.arrays.reductions import leaf_norm
from optstudy_core.parts.terms import decoupled_decay, needed, split_decay
from optstudy_core.parts.trust_ratio import trust_ratio

from . import adam

BIBTEX = ("you2020large",)

DIALECTS: dict[str, dict[str, Any]] = {
    "optax": {},
    "keras": {"eps": 1e-7, "decoupled_weight_decay": True},
    "paper": {},
}

ELSEWHERE = {
    "optax.ScaleByAdamState": {"m": "mu", "v": "nu", "t": "count"},
    "keras.optimizers.Lamb": {"m": "momentum", "v": "velocity", "t": "iteration"},
}
"""Names of the state fields in other libraries."""


class LAMBState(adam.AdamState):
    """The state of LAMB: the moments and bias corrections of Adam."""

    __slots__ = ()


def init(params: Array) -> LAMBState:
    """Return the state before the first step: every field is zero."""
    return LAMBState(*adam.init(params))


def update(
    state: LAMBState,
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
    decoupled_weight_decay: bool = False,
) -> tuple[LAMBState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: parameters θₜ₋₁.
        lr: learning rate, ≥ 0.
        b1: decay β₁ of the first moment, in [0, 1).
        b2: decay β₂ of the second moment, in [0, 1).
        eps: ε ≥ 0, added to the root.
        weight_decay: decay rate λ ≥ 0, inside uₜ.
        maximize: climb instead of descend (the decay keeps its sign).
        eps_root: added to v̂ₜ inside the root, ≥ 0.
        decoupled_weight_decay: decay by lr·λ·θ before the step instead (Keras).

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    Raises:
        ValueError: if ``params`` is ``None``.

    >>> import numpy as np
    >>> theta = np.array([3.0, 4.0])
    >>> state, step = update(init(theta), np.array([1.0, -1.0]), theta, lr=0.1)
    >>> step.round(6).tolist()  # as long as 0.1·θ
    [-0.353553, 0.353553]
    """
    params = needed(params, "lamb")
    inside, outside = split_decay(weight_decay, decoupled_weight_decay)
    moments, u = adam.update(
        state, grad, lr=1.0, b1=b1, b2=b2, eps=eps, eps_root=eps_root, maximize=maximize
    )
    u = decoupled_decay(u, params, lr=1.0, weight_decay=inside)
    left = decoupled_decay(params, params, lr=lr, weight_decay=outside)
    step = (lr * trust_ratio(leaf_norm(left), leaf_norm(u))) * u
    step = decoupled_decay(step, params, lr=lr, weight_decay=outside)
    return LAMBState(*moments), step

"""AdamaxW: Adamax with decoupled weight decay.

    θₜ = θₜ₋₁ − (lr / (1 − β₁ᵗ))·mₜ / uₜ − lr·λ·θₜ₋₁

with mₜ and uₜ of Adamax (`optstudy_core/algorithms/adamax.py`).

Source: Adamax of Kingma and Ba 2015 (`kingma2015adam`) with the decay of Loshchilov and Hutter 2019
(`loshchilov2019decoupled`), combined in optax.
"""

from __future__ import annotations

from typing import Any

from optstudy_core.arrays.namespace import Array
from optstudy_core.parts.terms import decoupled_decay

from . import adamax

BIBTEX = ("kingma2015adam", "loshchilov2019decoupled")

DIALECTS: dict[str, dict[str, Any]] = {
    "optax": {},
    # keras.optimizers.Adamax(weight_decay=…), which has no decay by default.
    "keras": {"lr": 1e-3, "eps": 1e-7, "eps_in_maximum": False, "weight_decay": 0.0},
}

ELSEWHERE = {
    "optax.ScaleByAdamState": {"m": "mu", "u": "nu", "t": "count"},
    "keras.optimizers.Adamax": {"m": "momentum", "u": "norm", "t": "iteration"},
}
"""Names of the state fields in other libraries."""


class AdamaxWState(adamax.AdamaxState):
    """The state of AdamaxW: the moment, norm and bias correction of Adamax."""

    __slots__ = ()


def init(params: Array) -> AdamaxWState:
    """Return the state before the first step: every field is zero."""
    return AdamaxWState(*adamax.init(params))


def update(
    state: AdamaxWState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 2e-3,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    weight_decay: Any = 1e-4,
    maximize: bool = False,
    eps_in_maximum: bool = True,
    cautious_decay: bool = False,
) -> tuple[AdamaxWState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: parameters θₜ₋₁, for the weight decay.
        lr: learning rate, ≥ 0 (optax has no default).
        b1: decay β₁ of the first moment, in [0, 1).
        b2: decay β₂ of the norm, in [0, 1).
        eps: ε ≥ 0.
        weight_decay: decay rate λ ≥ 0.
        maximize: climb instead of descend (the decay keeps its sign).
        eps_in_maximum: add ε to ``|gₜ|`` inside the maximum instead of to the divisor.
        cautious_decay: decay only elements with step·θ ≤ 0 (`chen2025cautious`).

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    Raises:
        ValueError: if there is decay and ``params`` is ``None``.

    >>> import numpy as np
    >>> start = np.array([2.0])
    >>> state, step = update(init(start), np.zeros(1), start, lr=0.5, weight_decay=0.25)
    >>> step.tolist()
    [-0.25]
    """
    moments, step = adamax.update(
        state,
        grad,
        lr=lr,
        b1=b1,
        b2=b2,
        eps=eps,
        maximize=maximize,
        eps_in_maximum=eps_in_maximum,
    )
    step = decoupled_decay(step, params, lr=lr, weight_decay=weight_decay, cautious=cautious_decay)
    return AdamaxWState(*moments), step

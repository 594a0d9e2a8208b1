"""NAdamW: Adam with Nesterov momentum and decoupled weight decay, as in optax.

    m̂ₜ = β₁·mₜ / (1 − β₁ᵗ⁺¹) + (1 − β₁)·gₜ / (1 − β₁ᵗ)
    θₜ = θₜ₋₁ − lr·m̂ₜ / (√v̂ₜ + ε) − lr·λ·θₜ₋₁

with mₜ and v̂ₜ of NAdam (`optstudy_core/algorithms/nadam.py`) without its schedule. For the decay
of torch and Keras, with the schedule, use `nadam` with ``decoupled_weight_decay``.

Source: NAdam of Dozat 2016 (`dozat2016incorporating`) with the decay of Loshchilov and Hutter 2019
(`loshchilov2019decoupled`), combined in optax.
"""

from __future__ import annotations

from typing import Any

from optstudy_core.arrays.namespace import Array

from . import nadam

BIBTEX = ("dozat2016incorporating", "loshchilov2019decoupled")

DIALECTS: dict[str, dict[str, Any]] = {
    "optax": {},
}

ELSEWHERE = {
    "optax.ScaleByAdamState": {"m": "mu", "v": "nu", "t": "count"},
}
"""Names of the state fields in other libraries."""


class NAdamWState(nadam.NAdamState):
    """The state of NAdamW: the moments and corrections of NAdam, without a schedule."""

    __slots__ = ()


def init(params: Array) -> NAdamWState:
    """Return the state before the first step: every field is zero."""
    return NAdamWState(*nadam.init(params, scheduled_momentum=False))


def update(
    state: NAdamWState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 2e-3,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    weight_decay: Any = 1e-4,
    maximize: bool = False,
    eps_root: Any = 0.0,
    cautious_decay: bool = False,
) -> tuple[NAdamWState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: parameters θₜ₋₁, for the weight decay.
        lr: learning rate, ≥ 0 (optax has no default).
        b1: decay β₁ of the first moment, in [0, 1).
        b2: decay β₂ of the second moment, in [0, 1).
        eps: ε ≥ 0, added to the root.
        weight_decay: decay rate λ ≥ 0.
        maximize: climb instead of descend (the decay keeps its sign).
        eps_root: added to v̂ₜ inside the root, ≥ 0.
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
    moments, step = nadam.update(
        state,
        grad,
        params,
        lr=lr,
        b1=b1,
        b2=b2,
        eps=eps,
        weight_decay=weight_decay,
        cautious_decay=cautious_decay,
        decoupled_weight_decay=True,
        maximize=maximize,
        eps_root=eps_root,
        scheduled_momentum=False,
    )
    return NAdamWState(*moments), step

"""AdamW: Adam with decoupled weight decay.

    θₜ = θₜ₋₁ − lr·m̂ₜ / (√v̂ₜ + ε) − lr·λ·θₜ₋₁

with m̂ₜ and v̂ₜ of Adam (`optstudy_core/algorithms/adam.py`). The decay does not enter the moments.

Source: Loshchilov and Hutter 2019, Algorithm 2 (`loshchilov2019decoupled`). In the paper the decay
is multiplied by the schedule only. torch and optax multiply it by the learning rate.
"""

from __future__ import annotations

from typing import Any

from optstudy_core.arrays.namespace import Array
from optstudy_core.parts.terms import decoupled_decay

from . import adam

BIBTEX = ("loshchilov2019decoupled",)

DIALECTS: dict[str, dict[str, Any]] = {
    "torch": {},
    "optax": {"weight_decay": 1e-4},
    "keras": {"weight_decay": 4e-3, "eps": 1e-7, "eps_hat": True},
    # The paper gives no value of λ, so the default is no decay.
    "paper": {"weight_decay": 0.0, "lr_in_decay": False},
}

ELSEWHERE = {
    "torch.optim.AdamW": {"m": "exp_avg", "v": "exp_avg_sq", "t": "step"},
    "optax.ScaleByAdamState": {"m": "mu", "v": "nu", "t": "count"},
    "keras.optimizers.AdamW": {"m": "momentum", "v": "velocity", "t": "iteration"},
}
"""Names of the state fields in other libraries."""


class AdamWState(adam.AdamState):
    """The state of AdamW: the moments and bias corrections of Adam."""

    __slots__ = ()


def init(params: Array) -> AdamWState:
    """Return the state before the first step: every field is zero."""
    return AdamWState(*adam.init(params))


def update(
    state: AdamWState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 1e-3,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    weight_decay: Any = 1e-2,
    maximize: bool = False,
    lr_in_decay: bool = True,
    eps_root: Any = 0.0,
    eps_hat: bool = False,
    cautious_decay: bool = False,
) -> tuple[AdamWState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: parameters θₜ₋₁, for the weight decay.
        lr: learning rate, ≥ 0.
        b1: decay β₁ of the first moment, in [0, 1).
        b2: decay β₂ of the second moment, in [0, 1).
        eps: ε ≥ 0, added to the root.
        eps_root: added to v̂ₜ inside the root, ≥ 0.
        eps_hat: add ε before the bias correction of the root (Keras).
        weight_decay: decay rate λ ≥ 0. The default 1e-2 of torch is a hundred times that of optax.
        lr_in_decay: decay by lr·λ (torch, optax) or by λ alone (the paper; multiply λ by the
            schedule yourself).
        maximize: climb instead of descend (the decay keeps its sign).
        cautious_decay: decay only elements with step·θ ≤ 0 (`chen2025cautious`).

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    Raises:
        ValueError: if there is decay and ``params`` is ``None``.

    >>> import numpy as np
    >>> state, step = update(init(np.zeros(1)), np.zeros(1), np.array([2.0]), lr=0.1)
    >>> step.tolist()
    [-0.002]
    """
    moments, step = adam.update(
        state,
        grad,
        lr=lr,
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
        eps_hat=eps_hat,
        maximize=maximize,
    )
    rate = lr if lr_in_decay else 1.0
    step = decoupled_decay(
        step, params, lr=rate, weight_decay=weight_decay, cautious=cautious_decay
    )
    return AdamWState(*moments), step

"""Adagrad: steps divided by the root of the sum of all squared gradients.

    Sₜ = Sₜ₋₁ + gₜ²
    θₜ = θₜ₋₁ − (lr / (1 + (t − 1)·η))·gₜ / (√(τ + Sₜ) + ε)
                                            (√(τ + Sₜ + ε) with ``eps_in_root``)

torch has τ = 0; optax and Keras have τ = 0.1 and ε inside the root. If τ + Sₜ = 0, optax takes no
step; here, as in torch, the step is gₜ / ε, which is NaN for ε = 0.

Source: Duchi, Hazan and Singer 2011, Figure 1 with diagonal matrices (`duchi2011adaptive`). The
paper has no decay η of the learning rate.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays import doubles
from optstudy_core.arrays.namespace import Array, absent, namespace, no_steps
from optstudy_core.parts.terms import decoupled_decay, objective_gradient, split_decay

BIBTEX = ("duchi2011adaptive",)

DIALECTS: dict[str, dict[str, Any]] = {
    "torch": {},
    # optax.adagrad; weight_decay, lr_decay and maximize do not exist there.
    "optax": {"initial_accumulator_value": 0.1, "eps": 1e-7, "eps_in_root": True},
    "keras": {
        "lr": 1e-3,
        "initial_accumulator_value": 0.1,
        "eps": 1e-7,
        "eps_in_root": True,
        "decoupled_weight_decay": True,
    },
    "paper": {},
}

ELSEWHERE = {
    "torch.optim.Adagrad": {"s": "sum", "t": "step"},
    "optax.ScaleByRssState": {"s": "sum_of_squares"},
    "keras.optimizers.Adagrad": {"s": "accumulator", "t": "iteration"},
}
"""Names of the state fields in other libraries."""


class AdagradState(NamedTuple):
    """The state of Adagrad.

    Attributes:
        s: sum of the squares Sₜ, like the parameters; τ at the start.
        t: number of steps; shape () per leaf, int32; 0 at the start.
    """

    s: Array
    t: Array


def init(params: Array, *, initial_accumulator_value: Any = 0.0) -> AdagradState:
    """Return the state before the first step."""
    zeros = namespace(params).zeros_like(params)
    return AdagradState(s=zeros + initial_accumulator_value, t=no_steps(params))


def update(
    state: AdagradState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 1e-2,
    lr_decay: Any = 0.0,
    weight_decay: Any = 0.0,
    initial_accumulator_value: Any = 0.0,
    eps: Any = 1e-10,
    maximize: bool = False,
    eps_in_root: bool = False,
    decoupled_weight_decay: bool = False,
    cautious_decay: bool = False,
) -> tuple[AdagradState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: parameters θₜ₋₁; only read if there is weight decay.
        lr: learning rate, ≥ 0.
        lr_decay: decay η ≥ 0 of the learning rate.
        weight_decay: λ ≥ 0, an L2 penalty or, if decoupled, the decay rate.
        initial_accumulator_value: initial sum τ ≥ 0 (read by :func:`init`).
        eps: ε ≥ 0.
        maximize: climb instead of descend (the decay keeps its sign).
        eps_in_root: add ε inside the root instead of to it.
        decoupled_weight_decay: subtract lr·λ·θ from the step instead of adding λ·θ to gₜ (Keras).
        cautious_decay: decay only elements with step·θ ≤ 0 (`chen2025cautious`).

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    Raises:
        ValueError: if there is decay and ``params`` is ``None``.

    >>> import numpy as np
    >>> state, step = update(init(np.zeros(2)), np.array([3.0, -4.0]), lr=0.5)
    >>> step.round(6).tolist()
    [-0.5, 0.5]
    """
    xp = namespace(grad)
    penalty, decay = split_decay(weight_decay, decoupled_weight_decay)
    g = objective_gradient(grad, params, weight_decay=penalty, maximize=maximize)
    s = state.s + g * g
    rate = lr if absent(lr_decay) else lr / (1 + doubles.of(state.t) * lr_decay)
    divisor = xp.sqrt(s + eps) if eps_in_root else xp.sqrt(s) + eps
    step = decoupled_decay(
        -rate * g / divisor, params, lr=lr, weight_decay=decay, cautious=cautious_decay
    )
    return AdagradState(s, state.t + 1), step

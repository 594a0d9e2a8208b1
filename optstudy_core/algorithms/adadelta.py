"""Adadelta: steps with the units of the parameters.

    vₜ = ρ·vₜ₋₁ + (1 − ρ)·gₜ²
    dₜ = √(uₜ₋₁ + ε) / √(vₜ + ε)·gₜ
    uₜ = ρ·uₜ₋₁ + (1 − ρ)·dₜ²
    θₜ = θₜ₋₁ − lr·dₜ

The paper has no learning rate: lr = 1. The default of Keras is lr = 0.001. ``optax.adadelta()``
without a learning rate also leaves out the minus sign, and so maximizes: use ``maximize`` here. The
``weight_decay`` of optax is an L2 penalty, as in torch.

Source: Zeiler 2012, Algorithm 1 (`zeiler2012adadelta`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays.namespace import Array, namespace, no_steps
from optstudy_core.parts.terms import decoupled_decay, objective_gradient, split_decay

BIBTEX = ("zeiler2012adadelta",)

DIALECTS: dict[str, dict[str, Any]] = {
    "torch": {},
    "optax": {},
    "keras": {"lr": 1e-3, "rho": 0.95, "eps": 1e-7, "decoupled_weight_decay": True},
    "paper": {"rho": 0.95},
}

ELSEWHERE = {
    "torch.optim.Adadelta": {"v": "square_avg", "u": "acc_delta", "t": "step"},
    "optax.ScaleByAdaDeltaState": {"v": "e_g", "u": "e_x"},
    "keras.optimizers.Adadelta": {
        "v": "accumulated_grad",
        "u": "accumulated_delta_var",
        "t": "iteration",
    },
}
"""Names of the state fields in other libraries."""


class AdadeltaState(NamedTuple):
    """The state of Adadelta.

    Attributes:
        v: average of squared gradients vₜ, like the parameters; 0 at the start.
        u: average of squared steps uₜ, like the parameters; 0 at the start.
        t: number of steps; shape () per leaf, int32; 0 at the start.
    """

    v: Array
    u: Array
    t: Array


def init(params: Array) -> AdadeltaState:
    """Return the state before the first step: every field is zero."""
    zeros = namespace(params).zeros_like
    return AdadeltaState(v=zeros(params), u=zeros(params), t=no_steps(params))


def update(
    state: AdadeltaState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 1.0,
    rho: Any = 0.9,
    eps: Any = 1e-6,
    weight_decay: Any = 0.0,
    maximize: bool = False,
    decoupled_weight_decay: bool = False,
    cautious_decay: bool = False,
) -> tuple[AdadeltaState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: parameters θₜ₋₁; only read if there is weight decay.
        lr: learning rate, ≥ 0.
        rho: decay ρ of both averages, from 0 to 1.
        eps: ε ≥ 0, added inside both roots. The first steps have the size √ε.
        weight_decay: λ ≥ 0, an L2 penalty or, if decoupled, the decay rate.
        maximize: climb instead of descend (the decay keeps its sign).
        decoupled_weight_decay: subtract lr·λ·θ from the step instead of adding λ·θ to gₜ (Keras).
        cautious_decay: decay only elements with step·θ ≤ 0 (`chen2025cautious`).

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    Raises:
        ValueError: if there is decay and ``params`` is ``None``.

    >>> import numpy as np
    >>> state, step = update(init(np.zeros(2)), np.array([3.0, -4.0]))
    >>> step.round(6).tolist()
    [-0.003162, 0.003162]
    """
    xp = namespace(grad)
    penalty, decay = split_decay(weight_decay, decoupled_weight_decay)
    g = objective_gradient(grad, params, weight_decay=penalty, maximize=maximize)
    v = rho * state.v + (1 - rho) * (g * g)
    d = xp.sqrt(state.u + eps) / xp.sqrt(v + eps) * g
    u = rho * state.u + (1 - rho) * (d * d)
    step = decoupled_decay(-lr * d, params, lr=lr, weight_decay=decay, cautious=cautious_decay)
    return AdadeltaState(v, u, state.t + 1), step

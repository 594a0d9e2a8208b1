"""Gradient descent with momentum.

    uₜ = gₜ                                 (lr·gₜ with ``lr_in_momentum``)
    bₜ = μ·bₜ₋₁ + (1 − τ)·uₜ                (no dampening τ at the first step)
    dₜ = bₜ                                 (uₜ + μ·bₜ with ``nesterov``)
    θₜ = θₜ₋₁ − lr·dₜ                       (θₜ₋₁ − dₜ with ``lr_in_momentum``)

Source: Robbins and Monro 1951 (`robbins1951stochastic`); momentum: Polyak 1964 (`polyak1964some`);
both forms of momentum: Sutskever et al. 2013 (`sutskever2013importance`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays import doubles
from optstudy_core.arrays.namespace import Array, absent, namespace, no_steps
from optstudy_core.arrays.numbers import is_number
from optstudy_core.parts.terms import decoupled_decay, objective_gradient, split_decay

BIBTEX = ("robbins1951stochastic", "polyak1964some", "sutskever2013importance")

DIALECTS: dict[str, dict[str, Any]] = {
    "torch": {},
    # optax.sgd(lr, momentum, nesterov); dampening, weight_decay and maximize do not exist there.
    "optax": {},
    # The velocity of Keras is −b; the weight_decay of Keras is decoupled.
    "keras": {"lr": 1e-2, "lr_in_momentum": True, "decoupled_weight_decay": True},
    # Sutskever et al., equations 1 and 2: the learning rate is inside the velocity.
    "paper": {"lr_in_momentum": True},
}

ELSEWHERE = {
    "torch.optim.SGD": {"b": "momentum_buffer"},
    "optax.TraceState": {"b": "trace"},
    "keras.optimizers.SGD": {"b": "momentum", "t": "iteration"},
}
"""Names of the state fields in other libraries."""


class SGDState(NamedTuple):
    """The state of SGD.

    Attributes:
        b: momentum buffer bₜ, like the parameters; 0 at the start; ``None`` without momentum.
        t: number of steps with momentum; shape () per leaf, int32; 0 at the start.
    """

    b: Array | None
    t: Array


def init(params: Array, *, momentum: Any = 0.0) -> SGDState:
    """Return the state before the first step; no buffer if ``momentum`` is the number 0."""
    b = None if absent(momentum) else namespace(params).zeros_like(params)
    return SGDState(b=b, t=no_steps(params))


def check(hyperparameters: dict[str, Any], dialect: str | None = None) -> None:
    """Refuse Nesterov momentum without momentum, or with dampening, as torch does."""
    if dialect in {"optax", "keras"}:
        return
    dampening = hyperparameters["dampening"]
    if hyperparameters["nesterov"] and (
        absent(hyperparameters["momentum"]) or (is_number(dampening) and dampening != 0)
    ):
        raise ValueError(
            f"nesterov = True with momentum = {hyperparameters['momentum']!r} and dampening = "
            f"{dampening!r}: allowed with a momentum and with dampening 0"
        )


def update(
    state: SGDState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 1e-3,
    momentum: Any = 0.0,
    dampening: Any = 0.0,
    weight_decay: Any = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
    lr_in_momentum: bool = False,
    decoupled_weight_decay: bool = False,
    cautious_decay: bool = False,
) -> tuple[SGDState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: parameters θₜ₋₁; only read if there is weight decay.
        lr: learning rate, ≥ 0.
        momentum: μ ≥ 0.
        dampening: τ, from 0 to 1.
        weight_decay: λ ≥ 0, an L2 penalty, added to the gradient before the momentum, or, if
            decoupled, the decay rate.
        nesterov: use Nesterov momentum.
        maximize: climb instead of descend (the decay keeps its sign).
        lr_in_momentum: multiply by the learning rate inside the buffer; the same for a constant
            rate.
        decoupled_weight_decay: subtract lr·λ·θ from the step instead (Keras).
        cautious_decay: decay only elements with step·θ ≤ 0 (`chen2025cautious`).

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    >>> import numpy as np
    >>> state, step = update(init(np.zeros(1)), np.ones(1), lr=0.5)
    >>> step.tolist()
    [-0.5]
    """
    xp = namespace(grad)
    penalty, decay = split_decay(weight_decay, decoupled_weight_decay)
    g = objective_gradient(grad, params, weight_decay=penalty, maximize=maximize)
    u = lr * g if lr_in_momentum else g
    t = state.t
    if absent(momentum):
        b, d = state.b, u
    else:
        previous = xp.zeros_like(u) if state.b is None else state.b
        if absent(dampening):
            b = momentum * previous + u
        else:
            weight = doubles.where(doubles.of(state.t) > 0, 1 - dampening, 1.0)
            b = momentum * previous + weight * u
        d = u + momentum * b if nesterov else b
        t = t + 1
    step = -d if lr_in_momentum else -lr * d
    step = decoupled_decay(step, params, lr=lr, weight_decay=decay, cautious=cautious_decay)
    return SGDState(b=b, t=t), step

"""RMSprop: steps scaled by the root of the mean square of the gradients.

    vₜ = α·vₜ₋₁ + (1 − α)·gₜ²
    mₜ = α·mₜ₋₁ + (1 − α)·gₜ                    (only ``centered``)
    wₜ = vₜ + τ·αᵗ                              (vₜ + τ·αᵗ − mₜ² if ``centered``)
    uₜ = gₜ / (√wₜ + ε)                         (gₜ / √(wₜ + ε) with ``eps_in_root``)
    bₜ = μ·bₜ₋₁ + uₜ                            (lr·uₜ with ``lr_in_momentum``)
    θₜ = θₜ₋₁ − lr·bₜ                           (θₜ₋₁ − bₜ with ``lr_in_momentum``)

With ``correct_bias`` (optax) vₜ + τ·αᵗ and mₜ are divided by 1 − αᵗ. torch has α = 0.99 and adds ε
to the root. optax and Keras have α = 0.9, add ε inside the root, and multiply by the learning rate
inside the momentum. The two forms are the same only while the rate is constant.

Source: Tieleman and Hinton 2012 (`tieleman2012lecture`), without ε; the centred form with ε inside
the root is Graves 2013, equations 38 to 45 (`graves2013generating`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays.namespace import Array, absent, namespace, no_steps
from optstudy_core.parts.bias_correction import correction
from optstudy_core.parts.terms import decoupled_decay, objective_gradient, split_decay

BIBTEX = ("tieleman2012lecture", "graves2013generating")

DIALECTS: dict[str, dict[str, Any]] = {
    "torch": {},
    # optax.rmsprop; weight_decay and maximize do not exist there.
    "optax": {"alpha": 0.9, "eps_in_root": True, "lr_in_momentum": True},
    "keras": {
        "lr": 1e-3,
        "alpha": 0.9,
        "eps": 1e-7,
        "eps_in_root": True,
        "lr_in_momentum": True,
        "decoupled_weight_decay": True,
    },
    "paper": {"alpha": 0.9, "eps": 0.0},
}

ELSEWHERE = {
    "torch.optim.RMSprop": {
        "v": "square_avg",
        "m": "grad_avg",
        "b": "momentum_buffer",
        "t": "step",
    },
    "optax.ScaleByRmsState": {"v": "nu"},
    "optax.ScaleByRStdDevState": {"v": "nu", "m": "mu"},
    "optax.ScaleByRmsWithCountState": {"v": "nu", "t": "count"},
    "optax.ScaleByRStdDevWithCountState": {"v": "nu", "m": "mu", "t": "count"},
    "optax.TraceState": {"b": "-trace"},
    "keras.optimizers.RMSprop": {
        "v": "velocity",
        "m": "average_gradient",
        "b": "momentum",
        "t": "iteration",
    },
}
"""Names of the state fields in other libraries; a minus means the opposite sign."""


class RMSpropState(NamedTuple):
    """The state of RMSprop.

    Attributes:
        v: mean square vₜ, like the parameters; τ at the start.
        m: mean gradient mₜ, like the parameters; 0 at the start; ``None`` if not centred.
        b: momentum buffer bₜ, like the parameters; 0 at the start; ``None`` without momentum.
        t: number of steps; shape () per leaf, int32; 0 at the start.
    """

    v: Array
    m: Any  # Array or None
    b: Array | None
    t: Array


def init(
    params: Array, *, momentum: Any = 0.0, centered: bool = False, initial_scale: Any = 0.0
) -> RMSpropState:
    """Return the state before the first step."""
    zeros = namespace(params).zeros_like
    return RMSpropState(
        v=zeros(params) + initial_scale,
        m=zeros(params) if centered else None,
        b=None if absent(momentum) else zeros(params),
        t=no_steps(params),
    )


def update(
    state: RMSpropState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 1e-2,
    alpha: Any = 0.99,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    momentum: Any = 0.0,
    centered: bool = False,
    maximize: bool = False,
    initial_scale: Any = 0.0,
    eps_in_root: bool = False,
    nesterov: bool = False,
    correct_bias: bool = False,
    lr_in_momentum: bool = False,
    decoupled_weight_decay: bool = False,
    cautious_decay: bool = False,
) -> tuple[RMSpropState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: parameters θₜ₋₁; only read if there is weight decay.
        lr: learning rate, ≥ 0.
        alpha: decay α of the averages, in [0, 1) (optax: ``decay``; Keras: ``rho``).
        eps: ε ≥ 0.
        weight_decay: λ ≥ 0, an L2 penalty or, if decoupled, the decay rate.
        momentum: μ ≥ 0.
        centered: divide by the standard deviation instead of the root mean square.
        maximize: climb instead of descend (the decay keeps its sign).
        initial_scale: initial mean square τ ≥ 0 (optax; read by
            :func:`init`).
        eps_in_root: add ε inside the root instead of to it.
        nesterov: use Nesterov momentum (optax).
        correct_bias: divide the averages by 1 − αᵗ (optax: ``bias_correction``).
        lr_in_momentum: multiply by the learning rate inside the buffer.
        decoupled_weight_decay: subtract lr·λ·θ from the step instead of adding λ·θ to gₜ (Keras).
        cautious_decay: decay only elements with step·θ ≤ 0 (`chen2025cautious`).

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    Raises:
        ValueError: if there is decay and ``params`` is ``None``.

    >>> import numpy as np
    >>> state, step = update(init(np.zeros(2)), np.array([3.0, -4.0]), lr=0.1)
    >>> step.round(6).tolist()
    [-1.0, 1.0]
    """
    xp = namespace(grad)
    penalty, decay = split_decay(weight_decay, decoupled_weight_decay)
    g = objective_gradient(grad, params, weight_decay=penalty, maximize=maximize)
    v = alpha * state.v + (1 - alpha) * (g * g)
    m = alpha * state.m + (1 - alpha) * g if centered else state.m
    t = state.t + 1
    c = correction(alpha, t) if correct_bias else 1.0
    w = v / c if correct_bias else v
    if centered:
        mean = m / c if correct_bias else m
        w = w - mean * mean
    divisor = xp.sqrt(w + eps) if eps_in_root else xp.sqrt(w) + eps
    u = (lr * g if lr_in_momentum else g) / divisor
    if absent(momentum):
        b, d = state.b, u
    else:
        b = u if state.b is None else momentum * state.b + u
        d = u + momentum * b if nesterov else b
    step = -d if lr_in_momentum else -lr * d
    step = decoupled_decay(step, params, lr=lr, weight_decay=decay, cautious=cautious_decay)
    return RMSpropState(v, m, b, t), step

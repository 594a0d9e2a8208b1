"""Rprop: steps that depend only on the sign of the gradient.

    s = sign(gₜ)·σₜ₋₁
    Δₜ = min(max(Δₜ₋₁·η, Δmin), Δmax),  η = η⁺ if s > 0, η⁻ if s < 0, else 1;   Δ₀ = lr
    σₜ = sign(gₜ), or 0 if s < 0
    θₜ = θₜ₋₁ − σₜ·Δₜ

torch takes no step after a change of sign. The paper then undoes the last step (``backtrack``), and
has Δ₀ = 0.1. optax (0.2.8) takes each step one update late, and none at a change of sign: a defect,
which ``one_step_late`` reproduces. optax clips Δ only where s is not 0, so an lr outside the bounds
is not clipped at first. torch multiplies the gradients instead of their signs, so s is 0 there if
the product underflows.

Source: Riedmiller and Braun 1993 (`riedmiller1993direct`); the form without ``backtrack`` is
iRprop⁻ of Igel and Hüsken 2003 (`igel2003empirical`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays.namespace import Array, namespace, no_steps
from optstudy_core.parts.terms import objective_gradient

BIBTEX = ("riedmiller1993direct", "igel2003empirical")

DIALECTS: dict[str, dict[str, Any]] = {
    "torch": {},
    "optax": {"one_step_late": True},
    "paper": {"lr": 0.1, "backtrack": True},
}

ELSEWHERE = {
    "torch.optim.Rprop": {"size": "step_size", "sign": "prev", "t": "step"},
    "optax.ScaleByRpropState": {"size": "step_sizes", "last": "-prev_updates"},
}
"""Names of the state fields in other libraries."""


class RpropState(NamedTuple):
    """The state of Rprop.

    Attributes:
        size: step size Δₜ, like the parameters; 0 at the start, which means lr.
        sign: σₜ, like the parameters; 0 at the start.
        last: last step, like the parameters; 0 at the start; ``None`` unless
            ``backtrack`` or ``one_step_late``.
        t: number of steps; shape () per leaf, int32; 0 at the start.
    """

    size: Array
    sign: Array
    last: Array | None
    t: Array


def init(params: Array, *, backtrack: bool = False, one_step_late: bool = False) -> RpropState:
    """Return the state before the first step: every field in use is zero."""
    zeros = namespace(params).zeros_like
    return RpropState(
        size=zeros(params),
        sign=zeros(params),
        last=zeros(params) if backtrack or one_step_late else None,
        t=no_steps(params),
    )


def update(
    state: RpropState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 1e-2,
    etaminus: Any = 0.5,
    etaplus: Any = 1.2,
    step_size_min: Any = 1e-6,
    step_size_max: Any = 50.0,
    maximize: bool = False,
    backtrack: bool = False,
    one_step_late: bool = False,
) -> tuple[RpropState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: not read.
        lr: first step size Δ₀ ≥ 0; read at the first step (and where a size is 0).
        etaminus: factor η⁻ after a change of sign, in (0, 1).
        etaplus: factor η⁺ after the same sign, > 1.
        step_size_min: smallest step size Δmin ≥ 0.
        step_size_max: largest step size Δmax > 0; it overrides a larger Δmin.
        maximize: climb instead of descend.
        backtrack: undo the last step after a change of sign (the paper).
        one_step_late: take the step of the previous update, none at a change of sign (optax 0.2.8).

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    >>> import numpy as np
    >>> state = init(np.zeros(1))
    >>> for g in (1.0, 2.0, -1.0, -1.0):
    ...     state, step = update(state, np.array([g]))
    ...     print(step.round(6).tolist())
    [-0.01]
    [-0.012]
    [-0.0]
    [0.006]
    """
    xp = namespace(grad)
    g = objective_gradient(grad, None, maximize=maximize)
    agreement = g * state.sign
    turned = agreement < 0
    size = xp.where(agreement > 0, etaplus * state.size, state.size)
    size = xp.where(turned, etaminus * state.size, size)
    size = xp.where(state.size > 0, size, lr)
    size = xp.minimum(xp.maximum(size, step_size_min), step_size_max)
    sign = xp.where(turned, 0.0, xp.sign(g))
    own = -(sign * size)
    if state.last is None:
        last, step = None, own
    else:
        last = xp.where(turned, -state.last, own) if backtrack else own
        step = xp.where(turned, 0.0, state.last) if one_step_late else last
    return RpropState(size, sign, last, state.t + 1), step

"""LARS: momentum with gradients scaled to the norm of the parameters, layer by layer.

    uₜ = gₜ + λ·θₜ₋₁
    bₜ = μ·bₜ₋₁ + lr·rₜ·uₜ,    rₜ = η·‖θₜ₋₁‖ / (‖uₜ‖ + ε)
    θₜ = θₜ₋₁ − bₜ                       (θₜ₋₁ − lr·rₜ·uₜ − μ·bₜ with ``nesterov``)

with the norms of each leaf. rₜ is 1 if one of the norms is 0
(`optstudy_core/parts/trust_ratio.py`). In the paper the divisor is ‖gₜ‖ + λ·‖θₜ₋₁‖
(``separate_norms``), which is larger than ‖uₜ‖ unless gₜ and θₜ₋₁ have the same direction. Neither
the paper nor optax gives a default learning rate.

Source: You, Gitman and Ginsburg 2017, Algorithm 1 and equation 6 (`you2017large`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays.namespace import Array, absent, namespace
from optstudy_core.arrays.reductions import leaf_norm
from optstudy_core.parts.terms import needed, objective_gradient
from optstudy_core.parts.trust_ratio import trust_ratio

BIBTEX = ("you2017large",)

DIALECTS: dict[str, dict[str, Any]] = {"optax": {}, "paper": {"separate_norms": True}}

ELSEWHERE = {
    "optax.TraceState": {"b": "-trace"},
}
"""Names of the state fields in other libraries."""


class LARSState(NamedTuple):
    """The state of LARS.

    Attributes:
        b: momentum buffer bₜ, like the parameters; 0 at the start.
    """

    b: Array


def init(params: Array) -> LARSState:
    """Return the state before the first step: the buffer is zero."""
    return LARSState(b=namespace(params).zeros_like(params))


def update(
    state: LARSState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 1.0,
    momentum: Any = 0.9,
    weight_decay: Any = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
    trust_coefficient: Any = 1e-3,
    eps: Any = 0.0,
    separate_norms: bool = False,
) -> tuple[LARSState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: parameters θₜ₋₁.
        lr: learning rate, ≥ 0; multiplied inside the buffer.
        momentum: μ ≥ 0.
        weight_decay: λ ≥ 0, an L2 penalty, added to the gradient.
        nesterov: use Nesterov momentum.
        maximize: climb instead of descend (the penalty keeps its sign).
        trust_coefficient: η ≥ 0, the step of a layer relative to the norm of the layer.
        eps: ε ≥ 0, added to the divisor.
        separate_norms: divide by ‖g‖ + λ·‖θ‖ instead of ‖g + λ·θ‖.

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    Raises:
        ValueError: if ``params`` is ``None``.

    >>> import numpy as np
    >>> theta = np.array([3.0, 4.0])
    >>> state, step = update(init(theta), np.array([0.0, 100.0]), theta)
    >>> step.tolist()  # as long as 0.001·θ
    [-0.0, -0.005]
    """
    length = leaf_norm(needed(params, "lars"))
    u = objective_gradient(grad, params, weight_decay=weight_decay, maximize=maximize)
    if separate_norms:
        divisor = objective_gradient(leaf_norm(grad), length, weight_decay=weight_decay)
    else:
        divisor = leaf_norm(u)
    u = (lr * trust_ratio(length, divisor, trust_coefficient, eps)) * u
    if absent(momentum):
        return LARSState(u), -u
    b = momentum * state.b + u
    return LARSState(b), -(u + momentum * b if nesterov else b)

"""DoWG: a step size without tuning, the distance over the norm of the weighted gradients.

    r̄ₜ² = max(r̄ₜ₋₁², r_ε², ‖xₜ − x₀‖²)
    vₜ = vₜ₋₁ + r̄ₜ²·‖gₜ‖²
    ηₜ = r̄ₜ² / (√vₜ + ε)
    xₜ₊₁ = xₜ − lr·ηₜ·gₜ

The norms are over all leaves together (in torch: of a group). The paper adds no ε. In optax r_ε² is
ε unless ``init_estim_sq_dist`` is given. Here set both, or use the defaults.

Every leaf keeps its own contribution to vₜ. A leaf whose gradient was ``None`` at first joins the
sum later, with the step size of the other leaves.

Source: Khaled, Mishchenko and Jin 2023, Algorithm 1 (`khaled2023dowg`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays.namespace import Array, namespace, scalar
from optstudy_core.arrays.reductions import global_dot, global_sum, leaf_dot
from optstudy_core.parts.terms import needed, objective_gradient

BIBTEX = ("khaled2023dowg",)

DIALECTS: dict[str, dict[str, Any]] = {"optax": {}, "paper": {"eps": 0.0}}


ELSEWHERE = {
    "optax.DoWGState": {
        "x0": "init_params",
        "r2": "estim_sq_dist",
        "v": "+weighted_sq_norm_grads",
    },
}
"""Names of the state fields in other libraries."""


class DoWGState(NamedTuple):
    """The state of DoWG.

    Attributes:
        x0: initial parameters x₀.
        r2: square of the largest distance r̄ₜ²; shape () per leaf, the same for all; 0 at the
            start.
        v: contribution of the leaf to the weighted sum of squares vₜ; shape () per leaf; 0 at the
            start.
    """

    x0: Array
    r2: Array
    v: Array


def init(params: Array) -> DoWGState:
    """Return the state before the first step, at x₀ = ``params``."""
    return DoWGState(x0=params, r2=scalar(params, 0.0), v=scalar(params, 0.0))


def update(
    state: DoWGState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 1.0,
    init_estim_sq_dist: Any = 1e-4,
    eps: Any = 1e-4,
    weight_decay: Any = 0.0,
    maximize: bool = False,
) -> tuple[DoWGState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: parameters xₜ.
        lr: factor of the step size, ≥ 0; 1 unless scheduled.
        init_estim_sq_dist: square r_ε² > 0 of the first distance.
        eps: ε ≥ 0, added to the root; if 0, a step before any gradient is NaN.
        weight_decay: L2 penalty ≥ 0, added to the gradient.
        maximize: climb instead of descend (the penalty keeps its sign).

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    Raises:
        ValueError: if ``params`` is ``None``.

    >>> import numpy as np
    >>> theta = np.array([3.0, 4.0])
    >>> given = {"init_estim_sq_dist": 0.25, "eps": 0.0}
    >>> state, step = update(init(theta), np.array([0.0, 10.0]), theta, **given)
    >>> step.tolist()  # of length r_ε
    [-0.0, -0.5]
    """
    xp = namespace(grad)
    g = objective_gradient(grad, params, weight_decay=weight_decay, maximize=maximize)
    moved = needed(params, "dowg") - state.x0
    r2 = xp.maximum(xp.maximum(state.r2, init_estim_sq_dist), global_dot(moved, moved))
    v = state.v + r2 * leaf_dot(g, g)
    eta = r2 / (xp.sqrt(global_sum(v)) + eps)
    return DoWGState(state.x0, r2, v), -(lr * eta) * g

"""DoG: a step size without tuning, the distance over the norm of the gradients.

    r̄ₜ = max(r̄ₜ₋₁, r_ε, ‖xₜ − x₀‖),    r_ε = reps + reps_rel·(1 + ‖x₀‖)
    Gₜ = Gₜ₋₁ + ‖gₜ‖²
    ηₜ = r̄ₜ / √(Gₜ + ε)
    xₜ₊₁ = xₜ − lr·ηₜ·gₜ

The norms are over all leaves together (in torch: of a group), with ``layerwise`` over each leaf
(L-DoG in the paper). In ``optax.contrib.dog`` these arguments are called ``init_step``:
``("heuristic", a)`` is ``reps_rel=a``, ``("distance", a)`` is ``reps=a, reps_rel=0``, and
``("learning_rate", a)`` is ``init_eta=a, reps_rel=0``. The paper adds no ε. The authors advise an
average of the iterates.

Parameters in bfloat16 or float16 may never change, also in optax: the first steps, of 1e-6 of the
distance, are below half a unit in the last place. Use float32 parameters.

Every leaf keeps its own contribution to Gₜ. A leaf whose gradient was ``None`` at first joins the
sum later, with the step size of the other leaves.

Source: Ivgi, Hinder and Carmon 2023, equation 1 (`ivgi2023dog`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays.namespace import Array, absent, namespace, scalar
from optstudy_core.arrays.numbers import is_number
from optstudy_core.arrays.reductions import global_norm, global_sum, leaf_dot, leaf_norm, leaf_sum
from optstudy_core.parts.terms import needed, objective_gradient

BIBTEX = ("ivgi2023dog",)

DIALECTS: dict[str, dict[str, Any]] = {"optax": {}, "paper": {"eps": 0.0}}

ELSEWHERE = {
    "optax.DoGState": {
        "x0": "init_params",
        "r": "max_dist",
        "G": "+sum_sq_norm_grads",
    },
}
"""Names of the state fields in other libraries."""


class DoGState(NamedTuple):
    """The state of DoG.

    Attributes:
        x0: initial parameters x₀.
        norm0: ‖x₀‖ of the leaf; shape () per leaf.
        r: largest distance r̄ₜ; shape () per leaf, the same for all; 0 at the start.
        G: contribution of the leaf to the sum of squares Gₜ; shape () per leaf; 0 at the start.
    """

    x0: Array
    norm0: Array
    r: Array
    G: Array


def init(params: Array) -> DoGState:
    """Return the state before the first step, at x₀ = ``params``."""
    return DoGState(
        x0=params, norm0=leaf_norm(params), r=scalar(params, 0.0), G=scalar(params, 0.0)
    )


def check(hyperparameters: dict[str, Any], dialect: str | None = None) -> None:
    """Refuse a first step of size zero, after which all steps are zero."""
    starts = {name: hyperparameters[name] for name in ("reps_rel", "reps", "init_eta")}
    if all(is_number(x) and x == 0 for x in starts.values()):
        raise ValueError(f"{', '.join(starts)} = 0: one of them must be above 0")


def update(
    state: DoGState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 1.0,
    reps_rel: Any = 1e-6,
    weight_decay: Any = 0.0,
    eps: Any = 1e-8,
    maximize: bool = False,
    reps: Any = 0.0,
    init_eta: Any = 0.0,
    layerwise: bool = False,
) -> tuple[DoGState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: parameters xₜ.
        lr: factor of the step size, ≥ 0; 1 unless scheduled.
        reps_rel: first distance relative to 1 + ‖x₀‖, ≥ 0; 1e-4 for networks with batch
            normalization.
        weight_decay: L2 penalty ≥ 0, added to the gradient.
        eps: ε ≥ 0, added inside the root; if 0, a step before any gradient is NaN.
        maximize: climb instead of descend (the penalty keeps its sign).
        reps: first distance, ≥ 0, added to the relative one.
        init_eta: if > 0, the step size at the first gradients that are not all zero.
        layerwise: take the norms of each leaf separately.

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    Raises:
        ValueError: if ``params`` is ``None``.

    >>> import numpy as np
    >>> theta = np.array([3.0, 4.0])
    >>> state, step = update(init(theta), np.array([0.0, 10.0]), theta, reps_rel=0.5)
    >>> step.round(6).tolist()  # of length 0.5·(1 + 5)
    [-0.0, -3.0]
    """
    xp = namespace(grad)
    norm, total = (leaf_norm, leaf_sum) if layerwise else (global_norm, global_sum)
    g = objective_gradient(grad, params, weight_decay=weight_decay, maximize=maximize)
    distance = norm(needed(params, "dog") - state.x0)
    r = xp.maximum(xp.maximum(state.r, reps + reps_rel * (1 + norm(state.norm0))), distance)
    G = state.G + leaf_dot(g, g)  # noqa: N806
    eta = r / xp.sqrt(total(G) + eps)
    if not absent(init_eta):
        eta = xp.where(total(state.G) == 0, init_eta, eta)
    return DoGState(state.x0, state.norm0, r, G), -(lr * eta) * g

"""Fromage: steps relative to the norm of the layer, then a shrink that keeps the norm.

    θₜ = (θₜ₋₁ − lr·rₜ·gₜ) / √(1 + lr²),    rₜ = max(‖θₜ₋₁‖, n) / max(‖gₜ‖, n)

with the norms of each leaf and the smallest norm n. If n = 0, rₜ is 1 where one of the norms is 0
(`optstudy_core/parts/trust_ratio.py`), as in the authors' code. If all gradients are zero, the
parameters still shrink.

Source: Bernstein, Vahdat, Yue and Liu 2020, Algorithm 1 (`bernstein2020distance`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays import doubles
from optstudy_core.arrays.namespace import Array, namespace
from optstudy_core.arrays.reductions import leaf_norm
from optstudy_core.parts.terms import needed, objective_gradient
from optstudy_core.parts.trust_ratio import trust_ratio

BIBTEX = ("bernstein2020distance",)

DIALECTS: dict[str, dict[str, Any]] = {"optax": {}, "paper": {"min_norm": 0.0}}


class FromageState(NamedTuple):
    """The state of Fromage, which is empty."""


def init(params: Array) -> FromageState:
    """Return the state, which is empty."""
    return FromageState()


def update(
    state: FromageState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 1e-2,
    min_norm: Any = 1e-6,
    maximize: bool = False,
) -> tuple[FromageState, Array]:
    """Return the state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: parameters θₜ₋₁.
        lr: learning rate, ≥ 0: the norm of the step relative to the norm of the parameters.
        min_norm: norms below n ≥ 0 count as n.
        maximize: climb instead of descend (the parameters still shrink).

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    Raises:
        ValueError: if ``params`` is ``None``.

    >>> import numpy as np
    >>> theta = np.array([3.0, 4.0])
    >>> _, step = update(init(theta), np.array([-8.0, 6.0]), theta, lr=0.75)
    >>> (theta + step).round(6).tolist()  # at right angles: its length stays
    [4.8, 1.4]
    """
    xp = namespace(grad)
    params = needed(params, "fromage")
    g = objective_gradient(grad, None, maximize=maximize)
    ratio = trust_ratio(xp.maximum(leaf_norm(params), min_norm), xp.maximum(leaf_norm(g), min_norm))
    root = doubles.sqrt(1 + lr * lr)
    shrinking = lr * lr / (root * (1 + root))  # 1 − 1/√(1 + lr²) without cancellation
    return state, -(lr / root * ratio) * g - shrinking * params

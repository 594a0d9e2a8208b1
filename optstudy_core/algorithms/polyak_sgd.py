"""Polyak SGD: gradient descent with a step size from the loss and a lower bound of the loss.

    ηₜ = min((fₜ − f*) / (‖gₜ‖² + ε), ηmax),    0 where ‖gₜ‖² + ε ≤ 2⁻⁵²
    θₜ = θₜ₋₁ − lr·ηₜ·gₜ

fₜ is the loss of the batch, ``value``, and f* a lower bound of the loss (0 for a model that can fit
every batch). The norm is over all leaves together (in torch: of a group).

With ``positive_gap`` no step is taken if the loss is below f*: fₜ − f* becomes max(fₜ − f*, 0)
(variant ``sps+`` of optax). The paper divides by c·‖gₜ‖² and has no lower limit of the norm.

optax applies ``scaling`` before it computes the norm (``scale_first``): ηₜ = min((fₜ − f*) /
(lr²·‖gₜ‖² + ε), ηmax). So a larger scaling gives smaller steps. The documentation of optax has the
equation above.

If the loss cannot reach f*, steps near the minimum stay long and the path is chaotic: in the study
of linear regression a difference of one rounding grows twentyfold in an epoch.

Source: Loizou, Vaswani, Laradji and Lacoste-Julien 2021, equation 3 (`loizou2021stochastic`), after
Polyak 1987 (`polyak1987introduction`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays.namespace import Array, namespace
from optstudy_core.arrays.reductions import global_dot
from optstudy_core.parts.terms import objective_gradient, objective_value

BIBTEX = ("loizou2021stochastic", "polyak1987introduction")

DIALECTS: dict[str, dict[str, Any]] = {"paper": {}, "optax": {"scale_first": True}}


class PolyakSGDState(NamedTuple):
    """The state of Polyak SGD, which is empty."""


def init(params: Array) -> PolyakSGDState:
    """Return the state, which is empty."""
    return PolyakSGDState()


def update(
    state: PolyakSGDState,
    grad: Array,
    params: Array | None = None,
    *,
    value: Array,
    lr: Any = 1.0,
    max_lr: Any = 1.0,
    f_min: Any = 0.0,
    eps: Any = 0.0,
    maximize: bool = False,
    c: Any = 1.0,
    scale_first: bool = False,
    positive_gap: bool = False,
    sq_norm_floor: Any = 2.220446049250313e-16,
) -> tuple[PolyakSGDState, Array]:
    """Return the state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: not read.
        value: loss fₜ at the parameters of the gradient; shape ().
        lr: factor of the step size, ≥ 0; 1 unless scheduled.
        max_lr: largest step size ηmax, ≥ 0.
        f_min: lower bound f* of the loss (with ``maximize``: of its negative).
        eps: ε ≥ 0, added to the squared norm.
        maximize: climb instead of descend.
        c: factor of the squared norm, > 0; ½ in the paper's analysis of the convex case.
        scale_first: measure lr·gₜ instead of gₜ.
        positive_gap: take no step if the loss is below f*.
        sq_norm_floor: no step is taken if ‖gₜ‖² + ε is at most this value; ≥ 0.

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    >>> import numpy as np
    >>> theta = np.array([1.0, 2.0])
    >>> state, step = update(init(theta), 2 * theta, value=theta @ theta)
    >>> (theta + step).tolist()  # half of the way to the minimum
    [0.5, 1.0]
    """
    xp = namespace(grad)
    g = objective_gradient(grad, None, maximize=maximize)
    gap = objective_value(value, maximize=maximize) - f_min
    if positive_gap:
        gap = xp.maximum(gap, 0.0)
    scaled = lr * g
    measured = scaled if scale_first else g
    sq_norm = global_dot(measured, measured) + eps
    eta = xp.minimum(gap / (c * sq_norm), max_lr)
    eta = xp.where(sq_norm <= sq_norm_floor, 0.0, eta)
    return state, -eta * scaled

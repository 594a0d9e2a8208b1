"""SM3: Adagrad with one sum of squares for each row, column, … instead of each element.

    νₜ(i) = gₜ(i)² + min over the axes r of μₜ₋₁,ᵣ(iᵣ)
    μₜ,ᵣ(j) = max of νₜ(i) over all i with iᵣ = j
    mₜ = β·mₜ₋₁ + (1 − β)·gₜ / √(νₜ + ε)              (0 where νₜ = 0)
    θₜ = θₜ₋₁ − lr·mₜ

iᵣ is the index of element i along axis r. A vector or scalar has one νₜ for each element, as in
Adagrad. The pseudocode of the paper has no ε and no momentum. Neither the paper nor optax gives a
default learning rate.

The state of a leaf of shape n₁ × n₂ × … has n₁ + n₂ + … elements besides the momentum.

Source: Anil et al. 2019, Algorithm SM3-II (`anil2019memory`).
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from optstudy_core.arrays.axes import concatenated, rest_max, slices
from optstudy_core.arrays.leafwise import shapewise
from optstudy_core.arrays.namespace import Array, absent, namespace
from optstudy_core.parts.terms import objective_gradient

BIBTEX = ("anil2019memory",)

DIALECTS: dict[str, dict[str, Any]] = {"optax": {}, "paper": {"momentum": 0.0, "eps": 0.0}}

ELSEWHERE = {
    "optax.ScaleBySM3State": {"m": "nu", "mu": "mu[]"},
}
"""Names of the state fields in other libraries."""


class SM3State(NamedTuple):
    """The state of SM3.

    Attributes:
        m: momentum mₜ, like the parameters; 0 at the start; ``None`` without momentum.
        mu: maxima μₜ of all axes, concatenated, shape (n₁ + n₂ + …,); for a scalar νₜ, shape (); 0
            at the start.
    """

    m: Array | None
    mu: Array


@shapewise
def init(params: Array, *, momentum: Any = 0.9) -> SM3State:
    """Return the state before the first step; no momentum if it is the number 0."""
    xp = namespace(params)
    m = None if absent(momentum) else xp.zeros_like(params)
    if not params.shape:
        return SM3State(m=m, mu=xp.zeros_like(params))
    zeros = [rest_max(xp.zeros_like(params), axis) for axis in range(len(params.shape))]
    return SM3State(m=m, mu=concatenated(zeros))


@shapewise
def update(
    state: SM3State,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 0.1,
    momentum: Any = 0.9,
    eps: Any = 1e-8,
    maximize: bool = False,
) -> tuple[SM3State, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: not read.
        lr: learning rate, ≥ 0.
        momentum: β, ≥ 0.
        eps: ε ≥ 0, added inside the root.
        maximize: climb instead of descend.

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    >>> import numpy as np
    >>> g = np.array([[3.0, 1.0], [4.0, 2.0]])
    >>> state, step = update(init(g), g, lr=1.0, momentum=0.0, eps=0.0)
    >>> state.mu.tolist(), step.tolist()  # of the rows, then of the columns
    ([9.0, 16.0, 16.0, 4.0], [[-1.0, -1.0], [-1.0, -1.0]])
    """
    xp = namespace(grad)
    g = objective_gradient(grad, None, maximize=maximize)
    if not grad.shape:
        mu = v = state.mu + g * g
    else:
        v = functools.reduce(xp.minimum, slices(state.mu, grad.shape)) + g * g
        mu = concatenated([rest_max(v, axis) for axis in range(len(grad.shape))])
    zero = xp.zeros_like(g)
    u = xp.where(v == 0, zero, g / xp.sqrt(v + eps))
    if absent(momentum):
        return SM3State(state.m, mu), -lr * u
    m = momentum * (zero if state.m is None else state.m) + (1 - momentum) * u
    return SM3State(m, mu), -lr * m

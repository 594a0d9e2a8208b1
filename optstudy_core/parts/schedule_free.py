"""Schedule-free averaging, which replaces momentum and a decreasing learning rate.

The parameters are yₜ, and gradients are taken there. A base step uₜ moves zₜ, and xₜ is an average:

    yₜ = (1 − β)·zₜ + β·xₜ
    zₜ₊₁ = zₜ + uₜ
    xₜ₊₁ = (1 − cₜ)·xₜ + cₜ·zₜ₊₁,    cₜ = wₜ / Σwᵢ,    wₜ = (max of the rates to t)²

With ``equal_weights`` wₜ = 1. In optax ``weight_lr_power`` is the exponent in wₜ. Here it can be 2,
the default of optax, or 0.

xₜ is not stored: yₜ₊₁ − yₜ = cₜ·(zₜ − yₜ) + (1 − β·(1 − cₜ))·uₜ is the same without xₜ, and needs
no division by β. :func:`schedule_free_eval_params` returns xₜ, the parameters to evaluate and to
save.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays import doubles
from optstudy_core.arrays.namespace import Array, absent, namespace, no_steps, scalar


class Average(NamedTuple):
    """The state of the averaging.

    Attributes:
        z: zₜ, like the parameters; the parameters at the start.
        weights: sum of the weights Σwᵢ; shape () per leaf; 0 at the start.
        max_lr: the largest rate; shape () per leaf; 0 at the start.
        t: number of steps; shape () per leaf, int32; 0 at the start.
    """

    z: Array
    weights: Array
    max_lr: Array
    t: Array


def init(params: Array) -> Average:
    """Return the state before the first step."""
    zero = scalar(params, 0.0)
    return Average(z=params, weights=zero, max_lr=zero, t=no_steps(params))


def warmed_up(lr: Any, t: Any, warmup_steps: Any) -> Any:
    """Return the rate at step t of a linear warm-up: lr·min(t/T, 1).

    >>> [warmed_up(2.0, t, 4) for t in (0.0, 1.0, 4.0, 9.0)]
    [0.0, 0.5, 2.0, 2.0]
    """
    if absent(warmup_steps):
        return lr
    return lr * doubles.minimum(t / warmup_steps, 1.0)


def advance(
    state: Average, u: Array, params: Array, *, rate: Any, b1: Any, equal_weights: bool
) -> tuple[Average, Array]:
    """Return the new state and the step yₜ₊₁ − yₜ for a base step ``u``.

    >>> import numpy as np
    >>> theta = np.array([1.0])
    >>> given = {"rate": 0.1, "b1": 0.9, "equal_weights": False}
    >>> state, step = advance(init(theta), np.array([-0.5]), theta, **given)
    >>> theta = theta + step
    >>> state, step = advance(state, np.array([-0.5]), theta, **given)
    >>> schedule_free_eval_params(state, theta + step, 0.9).round(6).tolist()  # of 0.5 and 0
    [0.25]
    """
    xp = namespace(params)
    max_lr = xp.maximum(state.max_lr, rate)
    weight = xp.ones_like(max_lr) if equal_weights else max_lr * max_lr
    weights = state.weights + weight
    c = xp.where(weights == 0, 0.0, weight / weights)
    step = c * (state.z - params) + (1 - b1 * (1 - c)) * u
    return Average(state.z + u, weights, max_lr, state.t + 1), step


def schedule_free_eval_params(state: Any, params: Array, b1: Any) -> Array:
    """Return the average xₜ = (yₜ − (1 − β)·zₜ) / β, for evaluation.

    Args:
        state: the state of a schedule-free algorithm, its :class:`Average` or zₜ alone (in torch
            ``optimizer.state[p]["average.z"]``, in JAX a leaf of ``state.inner.average.z``).
        params: the parameters yₜ.
        b1: β of the updates, in (0, 1).

    Returns:
        An array (or leaves) like the parameters.

    Raises:
        ValueError: if β is the number 0: then yₜ is zₜ and does not depend on xₜ.
    """
    if absent(b1):
        raise ValueError(f"b1 = {b1!r}: allowed are numbers in (0, 1), to find the average")
    average = getattr(state, "average", state)
    z = getattr(average, "z", average)
    return (params - (1 - b1) * z) / b1

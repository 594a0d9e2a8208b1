"""Schedule-Free AdamW: averaging replaces momentum and a schedule of the learning rate.

    vₜ = β₂·vₜ₋₁ + (1 − β₂)·gₜ²
    uₜ = −γₜ·(gₜ / (√v̂ₜ + ε) + λ·yₜ),    v̂ₜ = vₜ / (1 − β₂ᵗ),    γₜ = lr·min(t/T, 1)

uₜ is the step of the averaging in `optstudy_core/parts/schedule_free.py`, and T is
``warmup_steps``. Gradients are taken at the parameters yₜ. Evaluate the model at the averaged
parameters, from :func:`~optstudy_core.schedule_free.schedule_free_eval_params`. With
``bias_in_lr`` (paper), vₜ replaces v̂ₜ, and γₜ·√(1 − β₂ᵗ) replaces γₜ, also in the weights of the
average. With ``late_warmup`` (optax), the step uses γₜ₋₁ during warm-up; its weight in the average
still uses γₜ.

Source: Defazio et al. 2024, Algorithm 1 (`defazio2024road`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays import doubles
from optstudy_core.arrays.namespace import Array, namespace
from optstudy_core.parts import schedule_free
from optstudy_core.parts.bias_correction import correction
from optstudy_core.parts.schedule_free import Average, warmed_up
from optstudy_core.parts.terms import decoupled_decay, needed, objective_gradient

BIBTEX = ("defazio2024road",)

DIALECTS: dict[str, dict[str, Any]] = {
    "optax": {"late_warmup": True},
    "paper": {"bias_in_lr": True},
}

ELSEWHERE = {
    "optax.ScheduleFreeState": {
        "average.z": "z",
        "average.weights": "weight_sum",
        "average.max_lr": "max_lr",
        "average.t": "step_count-1",
    },
    "optax.ScaleByRmsWithCountState": {"v": "nu"},
}
"""Names of the state fields in other libraries."""


class ScheduleFreeAdamWState(NamedTuple):
    """The state of Schedule-Free AdamW.

    Attributes:
        v: second moment vₜ, like the parameters; 0 at the start.
        average: the state of the averaging.
    """

    v: Array
    average: Average


def init(params: Array) -> ScheduleFreeAdamWState:
    """Return the state before the first step: z is ``params``, other fields are zero."""
    return ScheduleFreeAdamWState(
        v=namespace(params).zeros_like(params),
        average=schedule_free.init(params),
    )


def update(
    state: ScheduleFreeAdamWState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 2.5e-3,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    warmup_steps: Any = 0.0,
    maximize: bool = False,
    equal_weights: bool = False,
    late_warmup: bool = False,
    bias_in_lr: bool = False,
    cautious_decay: bool = False,
) -> tuple[ScheduleFreeAdamWState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ at yₜ, like the parameters.
        params: parameters yₜ.
        lr: learning rate, ≥ 0.
        b1: weight β of the average in yₜ, in [0, 1).
        b2: decay β₂ of the second moment, in [0, 1).
        eps: ε ≥ 0, added to the root.
        weight_decay: decoupled decay rate λ ≥ 0 of yₜ.
        warmup_steps: number T ≥ 0 of warm-up steps; 0 for none.
        maximize: climb instead of descend (the decay keeps its sign).
        equal_weights: weight all steps equally instead of by the square of the largest rate so far.
        late_warmup: use the rate of the previous step during warm-up, so that the first step has
            the rate 0 (optax).
        bias_in_lr: multiply the rate by √(1 − β₂ᵗ) instead of correcting vₜ, also for the decay
            and the weights of the average (paper).
        cautious_decay: decay only elements with step·θ ≤ 0 (`chen2025cautious`).

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    Raises:
        ValueError: if ``params`` is ``None``.

    >>> import numpy as np
    >>> theta = np.array([1.0])
    >>> state, step = update(init(theta), np.array([-7.0]), theta, lr=0.25)
    >>> step.round(6).tolist()
    [0.25]
    """
    xp = namespace(grad)
    params = needed(params, "schedule_free_adamw")
    g = objective_gradient(grad, None, maximize=maximize)
    v = b2 * state.v + (1 - b2) * (g * g)
    before = doubles.of(state.average.t)
    c2 = correction(b2, state.average.t + 1)
    rate = warmed_up(lr, before + 1, warmup_steps)
    base = warmed_up(lr, before, warmup_steps) if late_warmup else rate
    root = xp.sqrt(v)
    if bias_in_lr:
        rate, base = doubles.sqrt(c2) * rate, doubles.sqrt(c2) * base
    else:
        root = root / doubles.sqrt(c2)
    u = -base * g / (root + eps)
    u = decoupled_decay(u, params, lr=base, weight_decay=weight_decay, cautious=cautious_decay)
    average, step = schedule_free.advance(
        state.average, u, params, rate=rate, b1=b1, equal_weights=equal_weights
    )
    return ScheduleFreeAdamWState(v, average), step

"""Schedule-Free SGD: averaging replaces a schedule of the learning rate.

    uₜ = −γₜ·(gₜ + λ·yₜ),    γₜ = lr·min(t/T, 1)

uₜ is the step of the averaging in `optstudy_core/parts/schedule_free.py`, and T is
``warmup_steps``. Gradients are taken at the parameters yₜ. Evaluate the model at the averaged
parameters, from :func:`~optstudy_core.schedule_free.schedule_free_eval_params`. With
``late_warmup`` (optax), the step uses γₜ₋₁ during warm-up; its weight in the average still uses γₜ.

Source: Defazio et al. 2024, equations 2 to 4 (`defazio2024road`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays import doubles
from optstudy_core.arrays.namespace import Array
from optstudy_core.parts import schedule_free
from optstudy_core.parts.schedule_free import Average, warmed_up
from optstudy_core.parts.terms import needed, objective_gradient

BIBTEX = ("defazio2024road",)

DIALECTS: dict[str, dict[str, Any]] = {
    "optax": {"late_warmup": True},
    "paper": {},
}

ELSEWHERE = {
    "optax.ScheduleFreeState": {
        "average.z": "z",
        "average.weights": "weight_sum",
        "average.max_lr": "max_lr",
        "average.t": "step_count-1",
    },
}
"""Names of the state fields in other libraries."""


class ScheduleFreeSGDState(NamedTuple):
    """The state of Schedule-Free SGD.

    Attributes:
        average: the state of the averaging.
    """

    average: Average


def init(params: Array) -> ScheduleFreeSGDState:
    """Return the state before the first step: z is ``params``, other fields are zero."""
    return ScheduleFreeSGDState(average=schedule_free.init(params))


def update(
    state: ScheduleFreeSGDState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 1.0,
    b1: Any = 0.9,
    weight_decay: Any = 0.0,
    warmup_steps: Any = 0.0,
    maximize: bool = False,
    equal_weights: bool = False,
    late_warmup: bool = False,
) -> tuple[ScheduleFreeSGDState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ at yₜ, like the parameters.
        params: parameters yₜ.
        lr: learning rate, ≥ 0.
        b1: weight β of the average in yₜ, in [0, 1).
        weight_decay: decay rate λ ≥ 0 of yₜ.
        warmup_steps: number T ≥ 0 of warm-up steps; 0 for none.
        maximize: climb instead of descend (the decay keeps its sign).
        equal_weights: weight all steps equally instead of by the square of the largest rate so far.
        late_warmup: use the rate of the previous step during warm-up, so that the first step has
            the rate 0 (optax).

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    Raises:
        ValueError: if ``params`` is ``None``.

    >>> import numpy as np
    >>> theta = np.array([1.0])
    >>> state, step = update(init(theta), 2 * theta, theta, lr=0.25)
    >>> step.tolist()
    [-0.5]
    """
    params = needed(params, "schedule_free_sgd")
    g = objective_gradient(grad, params, weight_decay=weight_decay, maximize=maximize)
    before = doubles.of(state.average.t)
    rate = warmed_up(lr, before + 1, warmup_steps)
    u = -(warmed_up(lr, before, warmup_steps) if late_warmup else rate) * g
    average, step = schedule_free.advance(
        state.average, u, params, rate=rate, b1=b1, equal_weights=equal_weights
    )
    return ScheduleFreeSGDState(average), step

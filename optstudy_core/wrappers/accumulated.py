"""Accumulation: one step for the mean of the gradients of several mini-batches.

    ḡ ← ḡ + (g − ḡ)/n    of the mini-batches n = 1 … k
    θₜ = θₜ₋₁ + u(ḡ),    ḡ ← 0    after n = k

where u is the step of an algorithm. The parameters change only at the last mini-batch. The mean has
the bits of ``MultiSteps`` in optax, and is float32 also for bfloat16 and float16 gradients. A
schedule outside of the algorithm counts mini-batches.

Source: Ott, Edunov, Grangier and Auli 2018, section 3.3 (`ott2018scaling`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from optstudy_core.arrays import doubles
from optstudy_core.arrays.namespace import Array, namespace, no_steps
from optstudy_core.parts.evaluation import takes_inner_steps
from optstudy_core.parts.states import chosen

from ._around import Rule, around


@takes_inner_steps
class AccumulatedState(NamedTuple):
    """The state of an algorithm with accumulation.

    Attributes:
        inner: the state of the algorithm.
        mean: ḡ, like the parameters; 0 at the start.
        t: the number of mini-batches since the last step of the algorithm; shape () per leaf,
            int32; 0 at the start.
    """

    inner: Any
    mean: Array
    t: Array


def accumulated(algorithm: Rule) -> Rule:
    """Return an algorithm that takes one step for several mini-batches.

    It has one further hyperparameter: ``accumulation_steps``, the number k ≥ 1 of mini-batches (4).

    Args:
        algorithm: the algorithm that takes the steps.

    >>> import numpy as np
    >>> from optstudy_core import ALGORITHMS
    >>> rule = accumulated(ALGORITHMS["sgd"])
    >>> state = rule.init(np.zeros(1))
    >>> for g in (1.0, 3.0):
    ...     state, step = rule.update(state, np.array([g]), lr=0.5, accumulation_steps=2)
    ...     print(step)
    [0.]
    [-1.]
    """

    def init(inner: Any, params: Array) -> AccumulatedState:
        return AccumulatedState(inner, namespace(params).zeros_like(params), no_steps(params))

    def update(
        advance: Callable[..., Any],
        state: AccumulatedState,
        g: Array,
        params: Array,
        *,
        accumulation_steps: Any,
    ) -> tuple[AccumulatedState, Array]:
        t = doubles.of(state.t) + 1
        last = t >= accumulation_steps
        mean = state.mean + (g - state.mean) / t
        inner, u = advance(state.inner, gradient=mean)
        step = doubles.where(last, u, 0.0)
        mean = doubles.where(last, 0.0, mean)
        t = doubles.count(doubles.where(last, 0.0, t), state.t)
        return AccumulatedState(chosen(last, inner, state.inner), mean, t), step

    own = {"accumulation_steps": 4.0}
    return around(algorithm, "accumulated", init, update, own, ("ott2018scaling",))

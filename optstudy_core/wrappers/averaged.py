"""Averages of the weights of an algorithm over its steps, for evaluation.

    aₜ = aₜ₋₁ + wₜ·(θₜ − aₜ₋₁),    wₜ = (1 − β) / (1 − βᵗ)

is the exponential average with corrected bias (optax.ema with ``debias``). In the long run it
agrees with torch.optim.swa_utils, where the average starts at the first weights. With wₜ = 1/t it
is the plain mean of Polyak and Ruppert. The steps of the algorithm do not change; the state holds
the average.

Source: Polyak and Juditsky 1992 (`polyak1992acceleration`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from optstudy_core.arrays import doubles
from optstudy_core.arrays.namespace import Array, no_steps
from optstudy_core.parts.bias_correction import correction
from optstudy_core.parts.terms import needed

from ._around import Rule, around


class AveragedState(NamedTuple):
    """The state of an averaged algorithm.

    Attributes:
        inner: the state of the algorithm.
        average: aₜ, like the parameters; the parameters at the start.
        t: the number of steps; shape () per leaf, int32; 0 at the start.
    """

    inner: Any
    average: Array
    t: Array


def averaged(algorithm: Rule) -> Rule:
    """Return an algorithm that keeps an average of its weights.

    It has two further hyperparameters: ``average_decay``, β in [0, 1) (0.999), and ``plain_mean``,
    which gives all steps the same weight instead (``False``).

    Args:
        algorithm: the algorithm that takes the steps.

    >>> import numpy as np
    >>> from optstudy_core import ALGORITHMS
    >>> rule = averaged(ALGORITHMS["sgd"])
    >>> theta = np.array([1.0])
    >>> state = rule.init(theta)
    >>> for _ in range(3):
    ...     state, step = rule.update(state, np.ones(1), theta, lr=0.25, plain_mean=True)
    ...     theta = theta + step
    >>> theta.tolist(), state.average.tolist()  # the mean of 0.75, 0.5 and 0.25
    ([0.25], [0.5])
    """

    def init(inner: Any, params: Array) -> AveragedState:
        return AveragedState(inner, params, no_steps(params))

    def update(
        advance: Callable[..., Any],
        state: AveragedState,
        g: Array,
        params: Array,
        *,
        average_decay: Any,
        plain_mean: bool,
    ) -> tuple[AveragedState, Array]:
        params = needed(params, "averaged")
        inner, u = advance(state.inner)
        t = state.t + 1
        if plain_mean:
            part = 1 / doubles.of(t)
        else:
            part = (1 - average_decay) / correction(average_decay, t)
        average = state.average + part * ((params + u) - state.average)
        return AveragedState(inner, average, t), u

    own = {"average_decay": 0.999, "plain_mean": False}
    return around(algorithm, "averaged", init, update, own, ("polyak1992acceleration",))

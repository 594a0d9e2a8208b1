"""Lookahead: k fast steps forward, one step back towards slow weights.

    θₜ = θₜ₋₁ + uₜ,    and if t is a multiple of k:
    φ ← φ + α·(θₜ − φ),    θₜ ← φ

where uₜ is the step of an algorithm. The parameters are the fast weights θ (optax keeps both in a
``LookaheadParams``). After each synchronization the parameters equal the slow weights φ.

Source: Zhang, Lucas, Hinton and Ba 2019, Algorithm 1 (`zhang2019lookahead`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from optstudy_core.arrays import doubles
from optstudy_core.arrays.namespace import Array, no_steps
from optstudy_core.parts.terms import needed

from ._around import Rule, around


class LookaheadState(NamedTuple):
    """The state of Lookahead.

    Attributes:
        inner: the state of the algorithm.
        slow: the slow weights φ, like the parameters; the parameters at the start.
        t: the number of steps since the last synchronization; shape () per leaf, int32; 0 at the
            start.
    """

    inner: Any
    slow: Array
    t: Array


def lookahead(algorithm: Rule) -> Rule:
    """Return an algorithm with slow weights.

    It has two further hyperparameters: ``sync_period``, the number k ≥ 1 of fast steps (5), and
    ``slow_step_size``, α in [0, 1], the fraction of the way from φ to θ (0.5).

    Args:
        algorithm: the algorithm that takes the steps.

    >>> import numpy as np
    >>> from optstudy_core import ALGORITHMS
    >>> rule = lookahead(ALGORITHMS["sgd"])
    >>> theta = np.array([1.0])
    >>> state = rule.init(theta)
    >>> for _ in range(2):
    ...     state, step = rule.update(state, np.ones(1), theta, lr=0.25, sync_period=2)
    ...     theta = theta + step
    ...     print(theta)
    [0.75]
    [0.75]
    """

    def init(inner: Any, params: Array) -> LookaheadState:
        return LookaheadState(inner, params, no_steps(params))

    def update(
        advance: Callable[..., Any],
        state: LookaheadState,
        g: Array,
        params: Array,
        *,
        sync_period: Any,
        slow_step_size: Any,
    ) -> tuple[LookaheadState, Array]:
        params = needed(params, "lookahead")
        inner, u = advance(state.inner)
        t = doubles.of(state.t) + 1
        now = t >= sync_period
        slow = state.slow + slow_step_size * ((params - state.slow) + u)
        step = doubles.where(now, slow - params, u)
        kept = doubles.where(now, slow, state.slow)
        t = doubles.count(doubles.where(now, 0.0, t), state.t)
        return LookaheadState(inner, kept, t), step

    own = {"sync_period": 5.0, "slow_step_size": 0.5}
    return around(algorithm, "lookahead", init, update, own, ("zhang2019lookahead",))

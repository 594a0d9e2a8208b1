"""SAM, sharpness-aware minimization: the gradient is taken where the loss nearby is largest.

In the first n − 1 of n steps the parameters climb, by ρ along the gradient. In the last step the
algorithm takes its step from the starting point, with the gradient at the top:

    θ ← θ + ρ·g/(‖g‖ + ε)          n − 1 times, from φ = θ
    θ ← φ + u(g)                   once

where u is the step of an algorithm. The norm covers all leaves together (in torch: a group). A
training loop must make all steps: with n = 2 call the step twice for a batch, each time with the
gradient at the current parameters. (optax calls this the transparent mode, with
``optax.chain(normalize(), sgd(ρ))`` as adversary. It has no ε, and with n = 1 it steps from the
parameters of the step before.) Between the steps the parameters are at the top, so evaluate and
save after every n-th step.

Source: Foret, Kleiner, Mobahi and Neyshabur 2021, Algorithm 1 (`foret2021sharpness`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from optstudy_core.arrays import doubles
from optstudy_core.arrays.namespace import Array, no_steps
from optstudy_core.arrays.reductions import global_norm
from optstudy_core.parts.states import chosen
from optstudy_core.parts.terms import needed

from ._around import Rule, around


class SAMState(NamedTuple):
    """The state of an algorithm with SAM.

    Attributes:
        inner: the state of the algorithm.
        anchor: φ, like the parameters; the parameters at the start.
        t: the number of steps since the last step of the algorithm; shape () per leaf, int32; 0 at
            the start.
    """

    inner: Any
    anchor: Array
    t: Array


def sam(algorithm: Rule) -> Rule:
    """Return an algorithm that uses the gradient at the top of a climb.

    It has three further hyperparameters: ``ascent_radius``, ρ ≥ 0 (0.05), ``ascent_period``, n ≥ 1
    (2), and ``ascent_eps``, ε ≥ 0 (1e-12).

    Args:
        algorithm: the algorithm that takes the steps.

    >>> import numpy as np
    >>> from optstudy_core import ALGORITHMS
    >>> rule = sam(ALGORITHMS["sgd"])
    >>> theta = np.array([3.0, 4.0])
    >>> state = rule.init(theta)
    >>> for _ in range(2):
    ...     state, step = rule.update(state, theta, theta, lr=0.1, ascent_radius=0.5)
    ...     theta = theta + step
    ...     print(theta.round(3))
    [3.3 4.4]
    [2.67 3.56]
    """

    def init(inner: Any, params: Array) -> SAMState:
        return SAMState(inner, params, no_steps(params))

    def update(
        advance: Callable[..., Any],
        state: SAMState,
        g: Array,
        params: Array,
        *,
        ascent_radius: Any,
        ascent_period: Any,
        ascent_eps: Any,
    ) -> tuple[SAMState, Array]:
        params = needed(params, "sam")
        t = doubles.of(state.t)
        anchor = doubles.where(t == 0, params, state.anchor)
        t = t + 1
        last = t >= ascent_period
        inner, u = advance(state.inner, anchor)
        climb = (ascent_radius / (global_norm(g) + ascent_eps)) * g
        step = doubles.where(last, (anchor - params) + u, climb)
        t = doubles.count(doubles.where(last, 0.0, t), state.t)
        return SAMState(chosen(last, inner, state.inner), anchor, t), step

    own = {"ascent_radius": 0.05, "ascent_period": 2.0, "ascent_eps": 1e-12}
    return around(algorithm, "sam", init, update, own, ("foret2021sharpness",))

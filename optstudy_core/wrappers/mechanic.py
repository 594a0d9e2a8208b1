"""Mechanic: the learning rate of an algorithm, learned during the training.

The steps uₜ of an algorithm add up to a displacement Δₜ. The parameters are the initial parameters
plus the displacement times a scale. The scale is a sum of bets with n decay rates βᵢ = 1 − 10⁻ⁱ:

    S = Σᵢ sᵢ,  Δₜ₋₁ = (θₜ₋₁ − θ₀)/(S + ε)
    hₜ = −⟨gₜ + λ·S·(‖gₜ‖/(‖θₜ₋₁‖ + ε))·θₜ₋₁, Δₜ₋₁⟩
    rᵢ ← βᵢ·rᵢ + clip(hₜ, −mᵢ, mᵢ)·sᵢ
    mᵢ ← max(βᵢ·mᵢ, |hₜ| + ε)
    vᵢ ← βᵢ²·vᵢ + hₜ²
    sᵢ ← ((s₀/n)·mᵢ + max(rᵢ, 0)) / (√vᵢ + ε)
    θₜ = θ₀ + (Σᵢ sᵢ)·(Δₜ₋₁ + uₜ)

The formulas, also the clipping, are those of ``mechanize`` in optax. The sums are over all leaves
(in torch: of a group). Give the algorithm a learning rate of 1, or a schedule with the highest
value 1.

Source: Cutkosky, Defazio and Mehta 2023, Algorithm 1 (`cutkosky2023mechanic`).
"""

from __future__ import annotations

import functools
import operator
from collections import namedtuple
from collections.abc import Callable
from typing import Any, NamedTuple

from optstudy_core.arrays.namespace import Array, absent, namespace, scalar
from optstudy_core.arrays.reductions import global_dot, global_norm
from optstudy_core.parts.terms import needed

from ._around import Rule, around


class Bet(NamedTuple):
    """The state for one decay rate; shapes () per leaf, the same for all leaves.

    Attributes:
        r: the reward; 0 at the start.
        m: the largest magnitude of h, with decay; 0 at the start.
        v: the sum of squares of h, with decay; 0 at the start.
        s: the part of the scale; s₀ at the start.
    """

    r: Array
    m: Array
    v: Array
    s: Array


class MechanicState(NamedTuple):
    """The state of an algorithm with Mechanic.

    Attributes:
        inner: the state of the algorithm.
        x0: the initial parameters θ₀.
        bets: a :class:`Bet` for each decay rate, ``b1``, ``b2``, ….
    """

    inner: Any
    x0: Array
    bets: Any


def mechanic(algorithm: Rule, *, num_betas: int = 6) -> Rule:
    """Return an algorithm that learns its learning rate.

    It has three further hyperparameters: ``initial_scale_factor``, s₀ > 0 (1e-6),
    ``mechanic_decay``, λ ≥ 0 (0.01), and ``mechanic_eps``, ε > 0 (1e-8).

    Args:
        algorithm: the algorithm that takes the steps.
        num_betas: the number n of decay rates.

    Raises:
        ValueError: if ``num_betas`` is no integer ≥ 1.

    >>> import numpy as np
    >>> from optstudy_core import ALGORITHMS
    >>> rule = mechanic(ALGORITHMS["sgd"])
    >>> theta = np.array([3.0, 4.0])
    >>> state = rule.init(theta)
    >>> for _ in range(60):
    ...     state, step = rule.update(state, theta, theta, lr=1.0)
    ...     theta = theta + step
    >>> bool(np.linalg.norm(theta) < 0.5)  # from 5, without a learning rate
    True
    """
    bets_of, betas = _speeds(num_betas)

    def init(inner: Any, params: Array, *, initial_scale_factor: Any) -> MechanicState:
        zero = scalar(params, 0.0)
        bet = Bet(zero, zero, zero, zero + initial_scale_factor)
        return MechanicState(inner, params, bets_of(*[bet] * num_betas))

    def update(
        advance: Callable[..., Any],
        state: MechanicState,
        g: Array,
        params: Array,
        *,
        initial_scale_factor: Any,
        mechanic_decay: Any,
        mechanic_eps: Any,
    ) -> tuple[MechanicState, Array]:
        xp = namespace(g)
        params = needed(params, "mechanic")
        inner, u = advance(state.inner)
        scale = functools.reduce(operator.add, [bet.s for bet in state.bets])
        moved = (params - state.x0) / (scale + mechanic_eps)
        if not absent(mechanic_decay):
            ratio = global_norm(g) / (global_norm(params) + mechanic_eps)
            g = g + ((mechanic_decay * scale) * ratio) * params
        h = -global_dot(g, moved)
        bets = []
        for beta, bet in zip(betas, state.bets, strict=True):
            clipped = xp.minimum(xp.maximum(h, -bet.m), bet.m)
            r = beta * bet.r + clipped * bet.s
            m = xp.maximum(beta * bet.m, abs(h) + mechanic_eps)
            v = (beta * beta) * bet.v + h * h
            wealth = (initial_scale_factor / num_betas) * m + xp.maximum(r, 0.0)
            bets.append(Bet(r, m, v, wealth / (xp.sqrt(v) + mechanic_eps)))
        new_scale = functools.reduce(operator.add, [bet.s for bet in bets])
        step = (state.x0 + new_scale * (moved + u)) - params
        return MechanicState(inner, state.x0, bets_of(*bets)), step

    own = {"initial_scale_factor": 1e-6, "mechanic_decay": 1e-2, "mechanic_eps": 1e-8}
    return around(algorithm, "mechanic", init, update, own, ("cutkosky2023mechanic",))


def _speeds(number: int) -> tuple[Any, list[float]]:
    """Return the type with a bet for each decay rate, and the decay rates."""
    if not isinstance(number, int) or number < 1:
        raise ValueError(f"num_betas = {number!r}: allowed are whole numbers from 1")
    return _bets(number), [1.0 - 0.1**i for i in range(1, number + 1)]


@functools.cache
def _bets(number: int) -> Any:
    names = " ".join(f"b{i}" for i in range(1, number + 1))
    return namedtuple(f"Bets{number}", names)


def __getattr__(name: str) -> Any:
    """Return the type ``Bets6`` or similar, which pickle needs."""
    number = name.removeprefix("Bets")
    if number == name or not number.isdecimal():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _bets(int(number))

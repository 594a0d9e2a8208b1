"""Epoch momentum: an average of the steps of past epochs moves the parameters after each epoch.

    θ ← θ + lr·M,    then M ← β·M + (1 − β)·Δₖ

Δₖ includes the move by lr·M. lr = 1, β = 0.9, and M = 0 at the start.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from optstudy_core.arrays.namespace import Array, namespace

from ._numbers import check as check_number


class MomentumState(NamedTuple):
    """The state of the method.

    Attributes:
        m: the average step M, like the parameters; 0 at the start.
    """

    m: Array


def init(params: Array) -> MomentumState:
    """Return the state before the first epoch.

    Args:
        params: the parameters, one array (or ``Leaves``) in the working dtype.
    """
    return MomentumState(namespace(params).zeros_like(params))


def check(*, lr: Any = 1.0, beta: Any = 0.9) -> None:
    """Refuse values that are not allowed."""
    check_number("lr", lr)
    check_number("beta", beta)


@np.errstate(all="ignore")
def update(
    state: MomentumState, theta: Array, start: Array, *, lr: Any = 1.0, beta: Any = 0.9
) -> tuple[MomentumState, Array]:
    """Return the new state and the parameters at the end of the epoch.

    Args:
        state: the state from :func:`init` or from the last epoch.
        theta: θ after the last step of the epoch, one array (or ``Leaves``) in the working dtype.
        start: θ at the start of the epoch, like ``theta``.
        lr: the factor of the move, ≥ 0.
        beta: β in [0, 1), the decay rate of the average.

    >>> state, theta = update(init(np.zeros(1)), np.array([1.0]), np.array([0.0]), beta=0.5)
    >>> state, end = update(state, theta + 1, theta, beta=0.5)  # 1 of its own, and M = 0.5
    >>> theta.tolist(), end.tolist(), state.m.tolist()
    ([1.0], [2.5], [1.0])
    """
    moved = theta + lr * state.m
    step = moved - start
    return MomentumState(beta * state.m + (1 - beta) * step), moved

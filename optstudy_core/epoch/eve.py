"""EVE: evaluate the loss along a direction, and go to the lowest loss.

Grid: s* = argmin L(θ + s·Δ) over s ∈ {0, ½, 1, 2, 4, 8}, then θ ← θ + s*·Δ. The smallest s wins
a tie, s = 0 is always a candidate, and a loss of NaN never wins. So the loss never rises.

March: θ ← θ + h·Δ while the loss does not rise; h = 0.1, at most 100 marches.

Along the step of an optimizer: the grid is s ∈ {0, 1, 3, 10, 100}, and θ ← θ_before +
s·(θ_after − θ_before), with exactly θ_after for s = 1. A march starts at θ_after. The state of the
optimizer stays as it was at θ_after.

Losses are compared in their own dtype. s is a float32 number in every library.

Source: Bailey-Darland 2021, "EVE algorithm" in *Instrumenting and Studying Adam and Other
Optimization Algorithms in PyTorch* (DIANA fellowship).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from optstudy_core.arrays.namespace import Array, namespace
from optstudy_core.arrays.numbers import is_number

from ._numbers import check as check_number
from ._numbers import check_count, float32

GRID = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
STEP_GRID = (0.0, 1.0, 3.0, 10.0, 100.0)


class Choice(NamedTuple):
    """The result of a search.

    Attributes:
        s: the factor of Δ with the lowest loss, float32.
        loss: the loss at s.
        start: the loss at s = 0.
        evaluations: the number of evaluations of the loss.
    """

    s: Array
    loss: Array
    start: Array
    evaluations: Array


class MarchState(NamedTuple):
    """The state of a search by marches.

    Attributes:
        marches: the number of marches so far, float32; 0 at the start.
        loss: the loss after them.
    """

    marches: Array
    loss: Array


def check_grid(grid: Any) -> tuple[float, ...]:
    """Return a grid in increasing order, with 0.

    Raises:
        TypeError: if the grid is no sequence of numbers.
        ValueError: if a number in the grid is negative or not finite.

    >>> check_grid([2, 1])
    (0.0, 1.0, 2.0)
    """
    allowed = "allowed are sequences of finite numbers >= 0"
    if not isinstance(grid, Sequence | np.ndarray) or isinstance(grid, str | bytes):
        raise TypeError(f"grid = {grid!r}: {allowed}")
    for s in grid:
        if not is_number(s):
            raise TypeError(f"grid = {grid!r}: {allowed}")
        if not (0 <= s <= np.finfo(np.float32).max):
            raise ValueError(f"grid = {grid!r}: {allowed}")
    return tuple(sorted({0.0, *(float(float32(s)) for s in grid)}))


def check_march(h: Any, marches: Any) -> None:
    """Refuse lengths and numbers of marches that are not allowed.

    Raises:
        TypeError: if a value is of the wrong kind.
        ValueError: if it is out of range.
    """
    check_number("h", h)
    check_count("marches", marches)


def choose(losses: Sequence[Any], grid: Sequence[float] = GRID) -> Choice:
    """Return the s with the lowest loss.

    Args:
        losses: L(θ + s·Δ) for each s of the grid.
        grid: from :func:`check_grid`: increasing, starting at 0.

    >>> choice = choose([3.0, 2.0, 1.0, 1.0, 4.0, float("nan")])
    >>> float(choice.s), float(choice.loss)
    (1.0, 1.0)
    """
    losses = [np.asarray(loss) if is_number(loss) else loss for loss in losses]
    start = best = losses[0]
    xp = namespace(best)
    s = xp.zeros_like(best)
    for candidate, loss in zip(grid[1:], losses[1:], strict=True):
        better = (loss < best) | ((best != best) & (loss == loss))
        s = xp.where(better, candidate * xp.ones_like(best), s)
        best = xp.where(better, loss, best)
    return Choice(float32(s), best, start, len(losses))


def march_start(loss: Any) -> MarchState:
    """Return the state before the first march.

    Args:
        loss: L(θ).
    """
    loss = np.asarray(loss) if is_number(loss) else loss
    return MarchState(float32(namespace(loss).zeros_like(loss)), loss)


def march_target(state: MarchState, *, h: Any = 0.1) -> Array:
    """Return s of the next march: evaluate the loss at θ + s·Δ.

    >>> float(march_target(march_start(1.0), h=0.25))
    0.25
    """
    return (state.marches + 1) * h


def march(state: MarchState, loss: Any, *, marches: int = 100) -> tuple[MarchState, Array]:
    """Return the state after a march, and whether to march again.

    The march counts only if the loss did not rise.

    >>> state, go = march(march_start(1.0), 0.5)
    >>> float(state.marches), bool(go)
    (1.0, True)
    >>> state, go = march(state, 0.75)
    >>> float(state.marches), bool(go)
    (1.0, False)
    """
    xp = namespace(state.loss)
    made = loss <= state.loss  # not for NaN
    new = MarchState(
        marches=xp.where(made, state.marches + 1, state.marches),
        loss=xp.where(made, loss, state.loss),
    )
    return new, made & (new.marches < marches)


def on_grid(loss_at: Callable[[float], Any], grid: Sequence[float] = GRID) -> Choice:
    """Return the result of a search on the grid; the loss is a Python function.

    Args:
        loss_at: the loss at θ + s·Δ, a function of s.
        grid: from :func:`check_grid`.

    >>> choice = on_grid(lambda s: (s - 3) ** 2)
    >>> float(choice.s), float(choice.loss)  # 2 and 4 are as good
    (2.0, 1.0)
    """
    return choose([float(loss_at(s)) for s in grid], grid)


def on_march(loss_at: Callable[[float], Any], *, h: float = 0.1, marches: int = 100) -> Choice:
    """Return the result of a search by marches; the loss is a Python function.

    Args:
        loss_at: the loss at θ + s·Δ, a function of s.
        h: the length of a march in units of Δ, > 0.
        marches: the largest number of marches, ≥ 1.

    >>> choice = on_march(lambda s: (s - 0.7) ** 2, h=0.25)
    >>> float(choice.s), choice.evaluations
    (0.75, 5)
    """
    start = float(loss_at(0.0))
    state, go, evaluations = march_start(start), np.bool_(True), 1
    while go:
        loss = float(loss_at(float(march_target(state, h=h))))
        state, go = march(state, loss, marches=marches)
        evaluations += 1
    return Choice(float32(state.marches * h), state.loss, np.asarray(start), evaluations)

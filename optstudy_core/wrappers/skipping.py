"""Skipping: no step if the gradient is not finite, or if its norm or the loss jumps up.

    skip if ‖g‖ or the loss is not finite, or x > m + z·√(s/w) for x = ‖g‖ or x = loss

Otherwise the algorithm takes its step, and the running mean and deviation of each x are updated,
with a decay rate β:

    w ← β·w + 1,  d = x − m,  m ← m + d/w,  s ← β·s + d·(x − m)

Jumps count only after some steps. After some jumps in a row the next step is taken, and its numbers
enter the running mean. The norm covers all leaves together (in torch: a group). It is an exact sum,
so all processes decide the same. A skipped step changes neither the parameters nor the state of the
algorithm. The loss is used if it is passed as ``value``.

Source: Micikevicius et al. 2018, section 3.2, for gradients that are not finite
(`micikevicius2018mixed`);
Kumar, Owen, Chowdhury and Güra 2025 for jumps of the norm (`kumar2025zclip`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from optstudy_core.arrays.namespace import Array, namespace, scalar
from optstudy_core.arrays.reductions import global_norm
from optstudy_core.parts.evaluation import takes_inner_steps
from optstudy_core.parts.states import chosen

from ._around import Rule, around


class Level(NamedTuple):
    """The running mean and spread of a number; shapes () per leaf, equal for all; 0 at the start.

    Attributes:
        mean: m, the running mean.
        spread: s, the weighted sum of squares around the mean.
        weight: w, the sum of the weights.
    """

    mean: Array
    spread: Array
    weight: Array


@takes_inner_steps
class SkippingState(NamedTuple):
    """The state of an algorithm with skipping; counts are numbers of shape () per leaf.

    Attributes:
        inner: the state of the algorithm.
        norm: the :class:`Level` of ‖g‖.
        loss: the :class:`Level` of the loss.
        taken: the number of steps taken; 0 at the start.
        not_finite: the number of steps skipped because a number was not finite; 0 at the start.
        jumps: the number of steps skipped because a number jumped; 0 at the start.
        in_a_row: the number of jumps since the last step taken; 0 at the start.
    """

    inner: Any
    norm: Level
    loss: Level
    taken: Array
    not_finite: Array
    jumps: Array
    in_a_row: Array


def _above(level: Level, x: Array, threshold: Any) -> Array:
    """Return whether a number has jumped; the weight is below 1 only if it is 0."""
    xp = namespace(x)
    return x > level.mean + threshold * xp.sqrt(level.spread / xp.maximum(level.weight, 1.0))


def _moved(level: Level, x: Array, decay: Any) -> Level:
    weight = decay * level.weight + 1.0
    d = x - level.mean
    mean = level.mean + d / weight
    return Level(mean, decay * level.spread + d * (x - mean), weight)


def skipping(algorithm: Rule) -> Rule:
    """Return an algorithm that skips steps.

    It has four further hyperparameters: ``jump_threshold``, z > 0 (6; ``inf``: no jumps),
    ``level_decay``, β in [0, 1) (0.99), ``jump_warmup``, the number ≥ 1 of steps before the first
    possible jump (100), and ``most_jumps``, the largest number ≥ 1 of skipped jumps in a row (10).
    The loss ``value`` is an optional input.

    Args:
        algorithm: the algorithm that takes the steps.

    >>> import numpy as np
    >>> from optstudy_core import ALGORITHMS
    >>> rule = skipping(ALGORITHMS["sgd"])
    >>> state = rule.init(np.zeros(1))
    >>> for g in (1.0, 2.0, 50.0, 1.5):
    ...     state, step = rule.update(state, np.array([g]), lr=1.0, jump_warmup=2)
    ...     print(step)
    [-1.]
    [-2.]
    [0.]
    [-1.5]
    >>> float(state.taken), float(state.not_finite), float(state.jumps)
    (3.0, 0.0, 1.0)
    """

    def init(inner: Any, params: Array) -> SkippingState:
        zero = scalar(params, 0.0)
        level = Level(zero, zero, zero)
        return SkippingState(inner, level, level, zero, zero, zero, zero)

    def update(
        advance: Callable[..., Any],
        state: SkippingState,
        g: Array,
        params: Array,
        *,
        value: Array | None,
        jump_threshold: Any,
        level_decay: Any,
        jump_warmup: Any,
        most_jumps: Any,
    ) -> tuple[SkippingState, Array]:
        xp = namespace(g)
        norm = global_norm(g)
        finite, jumped = xp.isfinite(norm), _above(state.norm, norm, jump_threshold)
        levels, loss = _moved(state.norm, norm, level_decay), state.loss
        if value is not None:
            finite = finite & xp.isfinite(value)
            jumped = jumped | _above(state.loss, value, jump_threshold)
            loss = _moved(state.loss, value, level_decay)
        jumped = jumped & (state.taken >= jump_warmup) & (state.in_a_row < most_jumps)
        jumped = jumped & finite
        ok = xp.logical_and(finite, xp.logical_not(jumped))
        inner, u = advance(state.inner)
        in_a_row = xp.where(finite, state.in_a_row + 1.0, state.in_a_row)
        new = SkippingState(
            chosen(ok, inner, state.inner),
            chosen(ok, levels, state.norm),
            chosen(ok, loss, state.loss),
            xp.where(ok, state.taken + 1.0, state.taken),
            xp.where(finite, state.not_finite, state.not_finite + 1.0),
            xp.where(jumped, state.jumps + 1.0, state.jumps),
            xp.where(ok, 0.0, in_a_row),
        )
        return new, xp.where(ok, u, 0.0)

    own = {"jump_threshold": 6.0, "level_decay": 0.99, "jump_warmup": 100.0, "most_jumps": 10.0}
    return around(
        algorithm,
        "skipping",
        init,
        update,
        own,
        ("micikevicius2018mixed", "kumar2025zclip"),
        looks_at=("value",),
    )

"""Clipping by value: each element of the gradient is bounded.

    ĝ = min(max(g, −c), c)

torch: ``clip_grad_value_``; optax: ``clip``.

Source: Mikolov 2012 (`mikolov2012statistical`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from optstudy_core.arrays.namespace import Array, namespace, scalar
from optstudy_core.arrays.reductions import global_norm
from optstudy_core.parts.evaluation import takes_inner_steps

from ._around import Rule, around


@takes_inner_steps
class ClippedByValueState(NamedTuple):
    """The state of an algorithm with clipping by value.

    Attributes:
        inner: the state of the algorithm.
        norm: ‖g‖ of the last step, over all leaves (in torch: of a group); shape () per leaf, the
            same for all; 0 at the start.
        clipped_norm: ‖ĝ‖, like ``norm``.
    """

    inner: Any
    norm: Array
    clipped_norm: Array


def clipped_by_value(algorithm: Rule) -> Rule:
    """Return an algorithm with a bound on the elements of the gradient.

    It has one further hyperparameter: ``max_value``, c > 0 (1).

    Args:
        algorithm: the algorithm that takes the steps.

    >>> import numpy as np
    >>> from optstudy_core import ALGORITHMS
    >>> rule = clipped_by_value(ALGORITHMS["sgd"])
    >>> rule.update(rule.init(np.zeros(2)), np.array([0.5, -4.0]), lr=1.0)[1].tolist()
    [-0.5, 1.0]
    """

    def init(inner: Any, params: Array) -> ClippedByValueState:
        zero = scalar(params, 0.0)
        return ClippedByValueState(inner, zero, zero)

    def update(
        advance: Callable[..., Any],
        state: ClippedByValueState,
        g: Array,
        params: Array,
        *,
        max_value: Any,
    ) -> tuple[ClippedByValueState, Array]:
        xp = namespace(g)
        cut = xp.minimum(xp.maximum(g, -max_value), max_value)
        inner, u = advance(state.inner, gradient=cut)
        return ClippedByValueState(inner, global_norm(g), global_norm(cut)), u

    own = {"max_value": 1.0}
    return around(algorithm, "clipped_by_value", init, update, own, ("mikolov2012statistical",))

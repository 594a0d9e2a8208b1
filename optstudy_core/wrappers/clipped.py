"""Clipping: gradients with a norm that is too large are scaled down before the algorithm.

    ĝ = min(c / (‖g‖ + ε), 1)·g

The norm covers all leaves together (in torch: a group). It is an exact sum, so it is the same on
any mesh and in both frameworks. torch adds ε = 1e-6, optax and Keras add nothing.

Source: Pascanu, Mikolov and Bengio 2013 (`pascanu2013difficulty`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from optstudy_core.arrays.namespace import Array, namespace, scalar
from optstudy_core.arrays.reductions import global_norm
from optstudy_core.parts.evaluation import takes_inner_steps

from ._around import Rule, around


@takes_inner_steps
class ClippedState(NamedTuple):
    """The state of an algorithm with clipping.

    Attributes:
        inner: the state of the algorithm.
        norm: ‖g‖ of the last step; shape () per leaf, the same for all; 0 at the start.
        clipped_norm: ‖ĝ‖, computed from ‖g‖ and the factor; shape () per leaf.
    """

    inner: Any
    norm: Array
    clipped_norm: Array


def clipped(algorithm: Rule) -> Rule:
    """Return an algorithm with a bound on the norm of the gradient.

    It has two further hyperparameters: ``max_norm``, c > 0 (1), and ``clip_eps``, ε ≥ 0 (0; 1e-6 in
    the dialect of torch).

    Args:
        algorithm: the algorithm that takes the steps.

    >>> import numpy as np
    >>> from optstudy_core import ALGORITHMS
    >>> rule = clipped(ALGORITHMS["sgd"])
    >>> state, step = rule.update(rule.init(np.zeros(2)), np.array([3.0, 4.0]), lr=1.0)
    >>> step.round(3).tolist(), float(state.norm), float(state.clipped_norm)
    ([-0.6, -0.8], 5.0, 1.0)
    """

    def init(inner: Any, params: Array) -> ClippedState:
        zero = scalar(params, 0.0)
        return ClippedState(inner, zero, zero)

    def update(
        advance: Callable[..., Any],
        state: ClippedState,
        g: Array,
        params: Array,
        *,
        max_norm: Any,
        clip_eps: Any,
    ) -> tuple[ClippedState, Array]:
        norm = global_norm(g)
        scale = namespace(g).minimum(max_norm / (norm + clip_eps), 1.0)
        inner, u = advance(state.inner, gradient=scale * g)
        return ClippedState(inner, norm, scale * norm), u

    own = {"max_norm": 1.0, "clip_eps": 0.0}
    dialects = {"torch": {"clip_eps": 1e-6}}
    return around(
        algorithm, "clipped", init, update, own, ("pascanu2013difficulty",), dialects=dialects
    )

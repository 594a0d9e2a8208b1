"""Adaptive clipping: the norm of the weights of a unit bounds the gradient of the unit.

    b = λ·max(‖θ‖, ε),    ĝ = g where ‖g‖ < b,    else g·b / max(‖g‖, 10⁻⁶)

A unit has the weights that lead to one output; a vector or a scalar is one unit. In PyTorch the
outputs are the first axis. In optax, for Flax, they are the last axis, or the last two of three
axes (``units_last``).

Source: Brock, De, Smith and Simonyan 2021, section 4 (`brock2021high`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from optstudy_core.arrays.axes import axis_sum, reshaped
from optstudy_core.arrays.leafwise import shapewise
from optstudy_core.arrays.namespace import Array, namespace, scalar
from optstudy_core.arrays.reductions import global_norm, leaf_norm
from optstudy_core.parts.evaluation import takes_inner_steps
from optstudy_core.parts.terms import needed

from ._around import Rule, around


@takes_inner_steps
class ClippedByUnitState(NamedTuple):
    """The state of an algorithm with adaptive clipping.

    Attributes:
        inner: the state of the algorithm.
        norm: ‖g‖ of the last step, over all leaves (in torch: of a group); shape () per leaf, the
            same for all; 0 at the start.
        clipped_norm: ‖ĝ‖, like ``norm``.
    """

    inner: Any
    norm: Array
    clipped_norm: Array


def _norms(x: Array, units_last: bool) -> Array:
    """Return the norm of each unit, in a shape that broadcasts to the array."""
    shape = tuple(x.shape)
    axes = len([n for n in shape if n != 1]) if units_last else len(shape)
    if axes < 2:
        return leaf_norm(x)
    if not units_last:
        rows, one = (shape[0], math.prod(shape[1:])), (shape[0],) + (1,) * (len(shape) - 1)
        return reshaped(namespace(x).sqrt(axis_sum(reshaped(x * x, rows), 1)), one)
    kept = 2 if len(shape) == 3 else 1
    rest = shape[-kept:]
    rows = (math.prod(shape[:-kept]), math.prod(rest))
    return reshaped(namespace(x).sqrt(axis_sum(reshaped(x * x, rows), 0)), rest)


@shapewise
def _clipped(g: Array, theta: Array, clip_factor: Any, unit_eps: Any, units_last: bool) -> Array:
    xp = namespace(g)
    norm = _norms(g, units_last)
    bound = clip_factor * xp.maximum(_norms(theta, units_last), unit_eps)
    return xp.where(norm < bound, g, g * (bound / xp.maximum(norm, 1e-6)))


def clipped_by_unit(algorithm: Rule) -> Rule:
    """Return an algorithm with gradients that are bounded by the weights, unit by unit.

    It has three further hyperparameters: ``clip_factor``, λ > 0 (0.01), ``unit_eps``, ε ≥ 0
    (0.001), and ``units_last``, whether the outputs are the last axis (``False``; ``True`` in the
    dialect of optax).

    Args:
        algorithm: the algorithm that takes the steps.

    >>> import numpy as np
    >>> from optstudy_core import ALGORITHMS
    >>> rule = clipped_by_unit(ALGORITHMS["sgd"])
    >>> theta = np.array([[3.0, 4.0], [0.0, 10.0]])
    >>> g = np.array([[0.6, 0.8], [0.5, 0.0]])  # with norms 1 and 0.5
    >>> rule.update(rule.init(theta), g, theta, lr=1.0, clip_factor=0.1)[1].tolist()
    [[-0.3, -0.4], [-0.5, -0.0]]
    """

    def init(inner: Any, params: Array) -> ClippedByUnitState:
        zero = scalar(params, 0.0)
        return ClippedByUnitState(inner, zero, zero)

    def update(
        advance: Callable[..., Any],
        state: ClippedByUnitState,
        g: Array,
        params: Array,
        *,
        clip_factor: Any,
        unit_eps: Any,
        units_last: bool,
    ) -> tuple[ClippedByUnitState, Array]:
        theta = needed(params, "clipped_by_unit")
        cut = _clipped(g, theta, clip_factor, unit_eps, units_last)
        inner, u = advance(state.inner, gradient=cut)
        return ClippedByUnitState(inner, global_norm(g), global_norm(cut)), u

    own = {"clip_factor": 0.01, "unit_eps": 0.001, "units_last": False}
    return around(
        algorithm,
        "clipped_by_unit",
        init,
        update,
        own,
        ("brock2021high",),
        dialects={"optax": {"units_last": True}},
        leafwise=True,
    )

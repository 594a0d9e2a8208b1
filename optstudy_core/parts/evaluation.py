"""The parameters for evaluation, for algorithms that keep an average of the parameters."""

from __future__ import annotations

from typing import Any, TypeVar

from optstudy_core.arrays.namespace import Array

from .schedule_free import schedule_free_eval_params

_TAKE_INNER_STEPS: set[type] = set()
_Type = TypeVar("_Type", bound=type)


def takes_inner_steps(state_type: _Type) -> _Type:
    """Mark the state of a wrapper that takes the steps of its algorithm unchanged or not at all."""
    _TAKE_INNER_STEPS.add(state_type)
    return state_type


def average_of(state: Any) -> Any:
    """Return the outermost average in a state, or ``None``.

    The average is an array (or leaves), or the ``Average`` of a schedule-free algorithm. An average
    inside a wrapper that changes the step is not used, because it belongs to other parameters.
    """
    while not hasattr(state, "average"):
        if type(state) not in _TAKE_INNER_STEPS:
            return None
        state = state.inner
    return state.average


def eval_params(state: Any, params: Array, *, b1: Any = None) -> Array | None:
    """Return the average in a state: of ``averaged``, or of a schedule-free algorithm.

    Args:
        state: the state of an algorithm, wrapped or not, with arrays of any shape. If there are
            several averages, the outermost one is used.
        params: the trained parameters, an array of any shape.
        b1: β of a schedule-free algorithm, a number in (0, 1); other algorithms ignore it.

    Returns:
        An array (or leaves) in the dtype of the state; ``None`` if there is no average.

    Raises:
        ValueError: if a schedule-free algorithm needs β and ``b1`` is missing.

    >>> import numpy as np
    >>> from optstudy_core import ALGORITHMS, averaged
    >>> rule, theta = averaged(ALGORITHMS["sgd"]), np.array([1.0])
    >>> state, step = rule.update(rule.init(theta), np.ones(1), theta, lr=0.25)
    >>> eval_params(state, theta + step), eval_params(state.inner, theta + step)
    (array([0.75]), None)
    """
    average = average_of(state)
    if not hasattr(average, "z"):
        return average
    if b1 is None:
        raise ValueError("b1 = None: allowed is that of the updates of the schedule-free algorithm")
    return schedule_free_eval_params(average, params, b1)

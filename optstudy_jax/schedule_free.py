"""The parameters to evaluate a schedule-free training with."""

from __future__ import annotations

from typing import Any

from optstudy_core.parts import schedule_free as core

from ._fields import nodes
from ._nnx import trained
from .epoch._trees import map_trees
from .states import TransformState


def schedule_free_eval_params(state: Any, params: Any, b1: float = 0.9) -> Any:
    """Return the averages xₜ of a schedule-free algorithm, to evaluate with and to keep.

    It takes the place of ``optax.contrib.schedule_free_eval_params``, which looks for β in the
    state: ours does not hold hyperparameters.

    Args:
        state: of ``schedule_free_sgd`` or ``schedule_free_adamw``, also within ``optax.chain`` and
            the like; an ``nnx.Optimizer``.
        params: the parameters yₜ, a tree of arrays; a module of nnx.
        b1: β of the updates, in (0, 1).

    Returns:
        a tree like the parameters.

    Raises:
        ValueError: if there is not one such state.

    >>> import jax.numpy as jnp, optax
    >>> from optstudy_jax import from_core
    >>> tx = from_core("schedule_free_sgd")(0.5)
    >>> params = jnp.array([1.0])
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> schedule_free_eval_params(state, optax.apply_updates(params, updates)).tolist()
    [0.5]
    """
    inner = [x.inner for x in nodes(trained(state)) if isinstance(x, TransformState)]
    found = [x.average.z for x in inner if isinstance(getattr(x, "average", None), core.Average)]
    if len(found) != 1:
        raise ValueError(f"state with {len(found)} schedule-free averages: expected is 1")
    return map_trees(
        lambda y, z: core.schedule_free_eval_params(z, y, b1), trained(params), found[0]
    )

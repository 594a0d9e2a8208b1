"""Moves at the end of an epoch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from optstudy_core import epoch as core
from optstudy_jax import geometry
from optstudy_jax._backend import working_dtype
from optstudy_jax._nnx import in_place
from optstudy_jax._rounding import leaving, rounded

from ._trees import map_trees, number, to_float32, where


@in_place("params", "")
def extrapolate(params: Any, start: Any, previous: Any, *, lr: float = 0.1) -> tuple[Any, Any]:
    """Move the parameters by lr·cos φₖ·Δₖ (see ``optstudy_core.epoch.extrapolation``).

    Args:
        params: θ after the last step of the epoch, a tree of arrays.
        start: θ at the start of the epoch, a tree like it.
        previous: Δₖ₋₁, a tree like it; zeros in the first epoch.
        lr: the factor of the move, ≥ 0.

    Returns:
        the parameters after the move, at which the next epoch starts, and Δₖ.
    """
    core.extrapolation.check(lr=lr)
    step = map_trees(lambda end, begin: end - begin, params, start)
    cosine = number(to_float32(geometry.cosine(step, previous)))
    c = leaving(core.extrapolation.coefficient(cosine, lr=lr).values[0])
    return map_trees(core.extrapolation.moved, params, step, scalars=(c,)), step


@in_place("")
def epoch_momentum_init(params: Any) -> core.momentum.MomentumState:
    """Return the state of :func:`epoch_momentum` before the first epoch, in the working dtype.

    Args:
        params: tree of arrays.
    """
    return core.momentum.MomentumState(
        jax.tree.map(lambda p: jnp.zeros(jnp.shape(p), working_dtype(jnp.result_type(p))), params)
    )


@in_place("", "params")
def epoch_momentum(
    state: core.momentum.MomentumState,
    params: Any,
    start: Any,
    *,
    lr: float = 1.0,
    beta: float = 0.9,
) -> tuple[core.momentum.MomentumState, Any]:
    """Move the parameters by an average of past epochs (see ``optstudy_core.epoch.momentum``).

    Args:
        state: the state from :func:`epoch_momentum_init` or from the last epoch.
        params: θ after the last step of the epoch, a tree of arrays.
        start: θ at the start of the epoch, a tree like it.
        lr: the factor of the move, ≥ 0.
        beta: β in [0, 1), the decay rate of the average.

    Returns:
        the new state, and the parameters with which the next epoch starts.
    """
    core.momentum.check(lr=lr, beta=beta)

    def part(field: int) -> Any:
        def function(m: Any, theta: Any, begin: Any) -> Any:
            new, end = core.momentum.update(
                core.momentum.MomentumState(m), theta, begin, lr=lr, beta=beta
            )
            return (new.m, end)[field]

        return function

    m = map_trees(part(0), state.m, params, start)
    moved = map_trees(part(1), state.m, params, start)
    moved = jax.tree.map(lambda x, p: rounded(x, jnp.result_type(p)), moved, params)
    return core.momentum.MomentumState(m), moved


@in_place("", "tree")
def backstep(
    state: core.backstep.BackstepState, tree: Any, undo: Any
) -> tuple[core.backstep.BackstepState, Any]:
    """Undo an epoch or not (see ``optstudy_core.epoch.backstep``), for any tree of JAX.

    Args:
        state: the state from ``optstudy_core.epoch.backstep.init`` or from the last epoch.
        tree: the values at the end of the epoch, a tree like the one in ``state``.
        undo: True or False, or a boolean array of shape ().

    Returns:
        the new state, and the tree with which the next epoch starts.

    >>> state = core.backstep.init(jnp.array([1.0]))
    >>> state, params = backstep(state, jnp.array([7.0]), undo=jnp.array(True))
    >>> params.tolist()
    [1.0]
    """
    chosen = where(jnp.asarray(undo), state.kept, tree)
    return core.backstep.BackstepState(chosen), chosen

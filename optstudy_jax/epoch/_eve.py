"""EVE: a search for the lowest loss along a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optstudy_core import epoch as core
from optstudy_core.epoch.eve import GRID, STEP_GRID, Choice
from optstudy_jax._nnx import in_place
from optstudy_jax._rounding import leaving

from ._trees import arrays, further, loss_scalar, map_trees, number, times


class EveState(NamedTuple):
    """State of :func:`scale_by_eve`.

    Attributes:
        s: the multiplier of the last updates, float32; 1 at the start.
        loss: the loss after these updates, float32; NaN at the start.
    """

    s: Any
    loss: Any


@in_place("params", "")
def eve(
    params: Any, start: Any, value_fn: Callable[[Any], Any], *, grid: Sequence[float] = GRID
) -> tuple[Any, Choice]:
    """Search on a grid along the step of an epoch (see ``optstudy_core.epoch.eve``).

    Args:
        params: θ at the end of the epoch, a tree of arrays.
        start: θ at the start of the epoch, a tree like it; Δ is the difference.
        value_fn: the loss as a function of the parameters, a scalar; called once for each s.
        grid: values of s ≥ 0; the grid always includes 0.

    Returns:
        the parameters with the lowest loss, at which the next epoch starts, and the result of the
        search.

    >>> params, choice = eve(jnp.array(1.0), jnp.array(0.0), lambda x: (x - 3.2) ** 2)
    >>> float(params), float(choice.s)
    (3.0, 2.0)
    """
    grid = core.eve.check_grid(grid)
    step = map_trees(lambda end, begin: end - begin, params, start)
    choice = _choose([value_fn(further(params, step, s)) for s in grid], grid)
    return further(params, step, choice.s), choice


@in_place("params", "")
def eve_march(
    params: Any,
    start: Any,
    value_fn: Callable[[Any], Any],
    *,
    h: float = 0.1,
    marches: int = 100,
) -> tuple[Any, Choice]:
    """March along the step of an epoch while the loss does not rise.

    Args:
        params: θ at the end of the epoch, or after a step of an optimizer; a tree of arrays.
        start: θ before the epoch or the step, a tree like it.
        value_fn: the loss as a function of the parameters, a scalar; JAX traces the function
            (``lax.while_loop``).
        h: the length of a march in units of Δ, > 0.
        marches: the largest number of marches, ≥ 1.

    Returns:
        the parameters after the last march, and the result of the search.

    >>> params, choice = eve_march(jnp.array(1.0), jnp.array(0.0), lambda x: (x - 1.7) ** 2, h=0.25)
    >>> float(params), int(choice.evaluations)
    (1.75, 5)
    """
    core.eve.check_march(h, marches)
    step = map_trees(lambda end, begin: end - begin, params, start)

    def state_of(made: Any, loss: Any) -> core.eve.MarchState:
        return core.eve.MarchState(number(made), loss_scalar(loss))

    def target(made: Any) -> Any:
        s = core.eve.march_target(state_of(made, first), h=h)
        return leaving(s.values[0])

    def go_on(carry: Any) -> Any:
        return carry[2]

    def march(carry: Any) -> Any:
        made, loss, _, evaluations = carry
        there = loss_scalar(value_fn(further(params, step, target(made))))
        new, go = core.eve.march(state_of(made, loss), there, marches=marches)
        return (*arrays(new), leaving(go.values[0]), evaluations + 1)

    first = leaving(loss_scalar(value_fn(params)).values[0])
    one = jnp.ones((), jnp.int32)
    carry = (jnp.zeros((), jnp.float32), first, jnp.ones((), bool), one)
    made, loss, _, evaluations = jax.lax.while_loop(go_on, march, carry)
    s = leaving((number(made) * h).values[0])
    return further(params, step, s), Choice(s, loss, first, evaluations)


def eve_step(
    updates: Any, params: Any, value_fn: Callable[[Any], Any], *, grid: Sequence[float] = STEP_GRID
) -> tuple[Any, Choice]:
    """Search on a grid along the step of an optimizer.

    Args:
        updates: the updates of the optimizer, a tree of arrays.
        params: θ before the updates, a tree like them.
        value_fn: the loss as a function of the parameters, a scalar.
        grid: values of s ≥ 0; the grid always includes 0.

    Returns:
        the updates that lead to the lowest loss, s·(θ_after − θ_before) (the given updates for
        s = 1), and the result of the search.
    """
    grid = core.eve.check_grid(grid)
    after = map_trees(lambda p, u: p + u, params, updates)
    step = map_trees(lambda end, begin: end - begin, after, params)

    def point(s: float) -> Any:
        return after if s == 1 else further(params, step, s)

    choice = _choose([value_fn(point(s)) for s in grid], grid)
    s = choice.s

    def chosen(update: Any, scaled: Any) -> Any:
        other = jnp.where(s == 0, jnp.zeros_like(scaled), scaled)
        return jnp.where(s == 1, update, other.astype(jnp.result_type(update)))

    return jax.tree.map(chosen, updates, times(step, s)), choice


def scale_by_eve(grid: Sequence[float] = STEP_GRID) -> optax.GradientTransformationExtraArgs:
    """Return a transformation that multiplies the updates by the s of :func:`eve_step`.

    Put it after the optimizer in a chain; the state of the optimizer does not change. ``update``
    takes ``value_fn``.

    Args:
        grid: values of s ≥ 0; the grid always includes 0.
    """
    grid = core.eve.check_grid(grid)

    def init(params: Any) -> EveState:
        del params
        return EveState(jnp.ones((), jnp.float32), jnp.full((), jnp.nan, jnp.float32))

    def update(
        updates: Any, state: EveState, params: Any = None, *, value_fn: Any = None, **extra: Any
    ) -> tuple[Any, EveState]:
        del state, extra
        if params is None or not callable(value_fn):
            raise ValueError(
                f"value_fn = {value_fn!r}, params of type {type(params).__name__}: pass a function "
                "of the parameters that returns the loss, and the parameters, to update"
            )
        updates, choice = eve_step(updates, params, value_fn, grid=grid)
        return updates, EveState(choice.s, choice.loss.astype(jnp.float32))

    return optax.GradientTransformationExtraArgs(init, update)


def _choose(losses: Sequence[Any], grid: Sequence[float]) -> Choice:
    choice = core.eve.choose([loss_scalar(loss) for loss in losses], grid)
    s, loss, start = (leaving(x.values[0]) for x in choice[:3])
    return Choice(s.astype(jnp.float32), loss, start, choice.evaluations)

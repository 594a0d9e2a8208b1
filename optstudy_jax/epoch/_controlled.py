"""Optimizers with a method that is a factor of the learning rate, as optax transformations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optstudy_core import epoch as core
from optstudy_core.catalogue.hyperparameters import check_value
from optstudy_jax._backend import working_dtype
from optstudy_jax._nnx import in_place
from optstudy_jax._rounding import leaving
from optstudy_jax.schedules import at

from ._control import Control, ControlState, Kept
from ._trees import arrays, copies, number, times, where


class ControlledState(NamedTuple):
    """State of :func:`scale_by` and :func:`with_control`.

    Attributes:
        learning_rate: the rate of the last step with the factor, float32; a recorder reads it.
            ``None`` in :func:`scale_by`, which does not know the rate.
        control: the state of the method; ``control.metrics`` belongs to the last epoch.
        count: the number of steps taken, int32; the argument of a schedule.
        steps: the number of steps in this epoch, int32.
        mean: the running mean of the losses of this epoch.
        lr: the learning rate of the last step without the factor, float32.
        inner: the state of the optimizer (``None`` in :func:`scale_by`).
    """

    learning_rate: Any
    control: ControlState
    count: Any
    steps: Any
    mean: core.mean.MeanState
    lr: Any
    inner: Any


def scale_by(control: Control, steps_per_epoch: int) -> optax.GradientTransformationExtraArgs:
    """Return a transformation that multiplies the updates by the factor of a method.

    Put it after the optimizer in a chain. An epoch ends at the first update after its last step;
    the ``params`` of that update are those at the end of the epoch. ``value``, the loss of each
    step, is averaged over the epoch. ``min_lr`` and ``max_lr`` bound the factor, because the
    learning rate is not known.

    Args:
        control: the result of :func:`direction`, :func:`careful` or :func:`direction_careful`.
        steps_per_epoch: the number of updates in an epoch.

    Raises:
        TypeError, ValueError: for a value that is not allowed. ``rollback`` is not allowed, because
            adding updates cannot restore parameters to the bit.
    """
    _check_steps(control, steps_per_epoch)

    def init(params: Any) -> ControlledState:
        return _start(control, params, None, 1.0)._replace(learning_rate=None)

    def update(
        updates: Any, state: ControlledState, params: Any = None, *, value: Any = None, **extra: Any
    ) -> tuple[Any, ControlledState]:
        del extra  # of other transformations in the chain
        state = _count(control, state, params, value, steps_per_epoch, 1.0)
        factor = control.rate(1.0, state.control)
        return times(updates, factor), state

    return optax.GradientTransformationExtraArgs(init, update)


def with_control(
    make: Callable[[Any], optax.GradientTransformation],
    control: Control,
    learning_rate: float | jax.Array | optax.Schedule,
    steps_per_epoch: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Return an optimizer with a learning rate that a method multiplies.

    The rate lr·factor is computed in float64. An optimizer of ``optstudy_jax`` gets it in float64,
    so that the same gradients and losses give the bits of ``optstudy_torch.lr_scheduler``. Other
    optimizers (of optax, or a chain) get the rate in the working dtype.

    Args:
        make: a function that makes the optimizer from a learning rate (an array): a function of
            ``optstudy_jax`` or of optax, or a function of your own.
        control: the result of :func:`direction`, :func:`careful` or :func:`direction_careful`.
        learning_rate: a number, or a schedule: a function of the step count.
        steps_per_epoch: the number of updates in an epoch, see :func:`scale_by`; ``None``: epochs
            end with calls of :func:`end_epoch`, as ``rollback`` requires.

    Raises:
        TypeError, ValueError: for a value that is not allowed.
    """
    if not callable(learning_rate):
        check_value("lr", learning_rate, 0.0)
    if steps_per_epoch is not None:
        _check_steps(control, steps_per_epoch)

    def base(count: Any) -> Any:
        return at(learning_rate, count) if callable(learning_rate) else learning_rate

    def optimizer(rate: Any) -> optax.GradientTransformationExtraArgs:
        return optax.with_extra_args_support(make(rate))

    def init(params: Any) -> ControlledState:
        lr = base(jnp.zeros((), jnp.int32))
        return _start(control, params, optimizer(jnp.asarray(lr)).init(params), lr)

    def update(
        updates: Any, state: ControlledState, params: Any = None, *, value: Any = None, **extra: Any
    ) -> tuple[Any, ControlledState]:
        lr = base(state.count)
        state = _count(control, state, params, value, steps_per_epoch, lr)
        if value is not None:
            extra["value"] = value
        like = jax.tree.leaves(updates if params is None else params)
        dtypes = {working_dtype(jnp.result_type(x)) for x in like}
        dtype = jnp.float64 if jnp.float64 in dtypes else jnp.float32
        tx = optimizer(control.rate(lr, state.control, dtype))
        if hasattr(tx.update, "takes_double"):
            tx = optimizer(control.rate(lr, state.control, jnp.float64))
        updates, inner = tx.update(updates, state.inner, params, **extra)
        used = control.rate(lr, state.control)
        return updates, state._replace(learning_rate=used, inner=inner)

    return optax.GradientTransformationExtraArgs(init, update)


@in_place("params", "state")
def end_epoch(
    control: Control,
    params: Any,
    state: ControlledState,
    *,
    value: Any = None,
) -> tuple[Any, ControlledState]:
    """End an epoch of an optimizer of :func:`with_control`; pure, for ``jit`` and ``scan``.

    Args:
        control: the control given to :func:`with_control`.
        params: the parameters at the end of the epoch, a tree.
        state: the state of the optimizer.
        value: the mean loss of the epoch, a scalar; ``None``: the mean of the ``value`` of the
            updates.

    Returns:
        ``(params, state)``: the given values, or after a rollback the parameters and the state of
        the optimizer before the undone epochs. The step count (for schedules) continues.

    Raises:
        TypeError: if the state has another type.
        ValueError: if the method needs a loss and there is none.
    """
    if not isinstance(state, ControlledState):
        raise TypeError(f"state of type {type(state).__name__}: allowed is ControlledState")
    if value is None and control.method is not core.direction:
        value = _mean(state.mean)
    new, params, inner = control.end_epoch(
        state.control, params, state.inner, value=value, learning_rate=state.lr
    )
    zero = jnp.zeros((), jnp.int32)
    state = state._replace(control=new, inner=inner, steps=zero, mean=_no_mean())
    return params, state


@in_place("state")
def begin_epoch(control: Control, params: Any, state: ControlledState) -> ControlledState:
    """Begin the epoch now: moves of the parameters since the last epoch do not count.

    Call this function if something other than the optimizer has moved the parameters (EVE). An
    undone epoch also returns to this point, except during a series of jumps (``patience``).

    Args:
        control: the control given to :func:`with_control` or :func:`scale_by`.
        params: tree of the current parameters.
        state: the state of the optimizer.

    Returns:
        the state of the optimizer, with an epoch that starts at ``params``.
    """
    now = state.control
    kept = now.kept
    if control.rollback and control._waits:
        fresh = Kept(copies(params), now.previous, copies(state.inner))
        kept = where(now.decided.jumps > 0, kept, fresh)
    start = None if now.start is None else copies(params)
    return state._replace(control=now._replace(start=start, kept=kept))


def _start(control: Control, params: Any, inner: Any, lr: Any) -> ControlledState:
    return ControlledState(
        learning_rate=jnp.asarray(lr).astype(jnp.float32),
        control=control.init(params, inner),
        count=jnp.zeros((), jnp.int32),
        steps=jnp.zeros((), jnp.int32),
        mean=_no_mean(),
        lr=jnp.asarray(lr).astype(jnp.float32),
        inner=inner,
    )


def _count(
    control: Control,
    state: ControlledState,
    params: Any,
    value: Any,
    steps_per_epoch: int | None,
    lr: Any,
) -> ControlledState:
    """Return the state with one more step; first end the epoch if it had all of its steps."""
    if not isinstance(state, ControlledState):
        raise TypeError(f"state of type {type(state).__name__}: allowed is ControlledState")
    lr = jnp.asarray(lr).astype(jnp.float32)
    if steps_per_epoch is not None:
        if params is None:
            raise ValueError("params = None: pass the parameters to update")
        if value is None and control.method is not core.direction:
            raise ValueError("value = None: pass the loss of each step to update")

        def end(state: ControlledState) -> ControlledState:
            new, *_ = control.end_epoch(
                state.control, params, value=_mean(state.mean), learning_rate=lr
            )
            zero = jnp.zeros((), jnp.int32)
            return state._replace(control=new, steps=zero, mean=_no_mean())

        full = state.steps >= steps_per_epoch
        # The state of the optimizer stays outside of cond, because it may have any type.
        ended = jax.lax.cond(full, end, lambda s: s, state._replace(inner=None))
        state = ended._replace(inner=state.inner)
    if value is not None:
        mean = core.mean.MeanState(*map(number, state.mean))
        state = state._replace(mean=arrays(core.mean.add(mean, number(value))))
    return state._replace(
        count=optax.safe_increment(state.count), steps=optax.safe_increment(state.steps), lr=lr
    )


def _check_steps(control: Control, steps_per_epoch: int) -> None:
    allowed = "allowed are whole numbers >= 1"
    if not isinstance(steps_per_epoch, int) or isinstance(steps_per_epoch, bool):
        raise TypeError(f"steps_per_epoch = {steps_per_epoch!r}: {allowed}")
    if steps_per_epoch < 1:
        raise ValueError(f"steps_per_epoch = {steps_per_epoch!r}: {allowed}")
    if control.rollback:
        raise ValueError(
            "rollback = True with steps_per_epoch: use end_epoch for a rollback, because adding "
            "updates cannot restore the parameters to the bit"
        )


def _no_mean() -> Any:
    return jax.tree.map(jnp.asarray, core.mean.init())


def _mean(mean: Any) -> Any:
    return leaving(core.mean.value(type(mean)(*map(number, mean))).values[0])

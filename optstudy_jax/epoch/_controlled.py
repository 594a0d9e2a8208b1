"""Optimizers under a method that is a factor on the learning rate, as optax transformations."""

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
        learning_rate: of the last step, with the factor, float32: what a recorder finds (``None``
            in :func:`scale_by`, which does not know it).
        control: the method's state; ``control.metrics`` is of the last epoch.
        count: steps taken, int32; what a schedule is called with.
        steps: of them in this epoch, int32.
        mean: the epoch's mean loss under way.
        lr: learning rate of the last step, without the factor, float32.
        inner: the optimizer's state (``None`` in :func:`scale_by`).
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

    To be chained after the optimizer. An epoch ends at the first update after its last step, where
    ``params`` are those at its end. ``value``, the loss of each step, is averaged over the epoch.
    ``min_lr`` and ``max_lr`` bound the factor itself here, as the learning rate is not known.

    Args:
        control: of :func:`direction`, :func:`careful` or :func:`direction_careful`.
        steps_per_epoch: number of updates in an epoch.

    Raises:
        TypeError, ValueError: for a value that is not allowed; ``rollback`` is not, because what
            a transformation adds to parameters cannot restore them to the bit.
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
    """Return an optimizer whose learning rate a method multiplies.

    The rate lr·factor is formed in float64. An optimizer of ``optstudy_jax`` gets it so: the same
    gradients and losses give the bits of ``optstudy_torch.lr_scheduler``. Others (optax's, a
    chain) get it in the working dtype.

    Args:
        make: makes the optimizer from a learning rate, which is an array; any of
            ``optstudy_jax`` or of optax, or a function of your own.
        control: of :func:`direction`, :func:`careful` or :func:`direction_careful`.
        learning_rate: a number, or a schedule: a function of the number of steps.
        steps_per_epoch: number of updates in an epoch, see :func:`scale_by`; ``None``: epochs end
            where :func:`end_epoch` is called, as is necessary for ``rollback``.

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
        control: what :func:`with_control` was given.
        params: parameters at the end of the epoch.
        state: the optimizer's state.
        value: the epoch's mean loss; ``None``: the mean of the values that the updates were given.

    Returns:
        ``(params, state)``: as given, or, of an undone epoch (``rollback``), as they were
        before it, the optimizer's state too. The count of steps (for schedules) goes on.

    Raises:
        TypeError: for a state of another kind.
        ValueError: if there is no loss, but one is read.
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
    """Begin the epoch here: what has moved the parameters since the last one ended is no part.

    To be called after something else than the optimizer has moved them (EVE). Here is also where an
    undone epoch returns to, unless jumps are being waited for (``patience``).

    Args:
        control: what :func:`with_control` or :func:`scale_by` was given.
        params: tree of the parameters now.
        state: the optimizer's state.

    Returns:
        the optimizer's state, in which the epoch starts from ``params``.
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
    """Return the state with one more step, after the end of the epoch if it was full."""
    if not isinstance(state, ControlledState):
        raise TypeError(f"state of type {type(state).__name__}: allowed is ControlledState")
    lr = jnp.asarray(lr).astype(jnp.float32)
    if steps_per_epoch is not None:
        if params is None:
            raise ValueError("params = None: pass them to update, which measures the epoch's step")
        if value is None and control.method is not core.direction:
            raise ValueError("value = None: pass the loss of each step to update")

        def end(state: ControlledState) -> ControlledState:
            new, *_ = control.end_epoch(
                state.control, params, value=_mean(state.mean), learning_rate=lr
            )
            zero = jnp.zeros((), jnp.int32)
            return state._replace(control=new, steps=zero, mean=_no_mean())

        full = state.steps >= steps_per_epoch
        # What is not worked with stays outside: the optimizer's state may be of any kind.
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
            "rollback = True with steps_per_epoch: allowed with end_epoch, which restores the "
            "parameters to the bit, as updates that are added cannot"
        )


def _no_mean() -> Any:
    return jax.tree.map(jnp.asarray, core.mean.init())


def _mean(mean: Any) -> Any:
    return leaving(core.mean.value(type(mean)(*map(number, mean))).values[0])

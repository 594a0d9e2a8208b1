"""Methods that look at each epoch's step and loss, in optax's conventions.

:func:`direction`, :func:`careful` and :func:`direction_careful` make a :class:`Control`: pure
functions that end an epoch. It is used in one of two ways.

As a multiplier on the updates, after any optimizer in an ``optax.chain``. The epoch is so many
steps long, ``value`` is the loss of each:

>>> import jax, jax.numpy as jnp, optax
>>> tx = optax.chain(optax.adam(1e-3), scale_by(careful(), steps_per_epoch=100))
>>> params = jnp.zeros(2)
>>> state = tx.init(params)
>>> updates, state = tx.update(jnp.ones(2), state, params, value=1.5)

As a factor on the learning rate of an optimizer that takes one, which gives the bits that
``optstudy_torch.lr_scheduler`` gives. The epoch ends where :func:`end_epoch` is called (or after
``steps_per_epoch``), and can be undone:

>>> control = careful(rollback=True)
>>> tx = with_control(optax.adam, control, 1e-3)
>>> state = tx.init(params)
>>> for loss in [1.0, 2.0]:
...     updates, state = tx.update(jnp.ones(2), state, params)
...     params, state = end_epoch(
...         control, optax.apply_updates(params, updates), state, value=loss
...     )
>>> round(float(state.control.decided.factor), 6), bool(state.control.metrics.jump)
(0.8, True)

:func:`eve`, :func:`eve_march` and :func:`eve_step` search for the lowest loss, with ``value_fn``;
:func:`extrapolate` and :func:`epoch_momentum` move the parameters at the end of an epoch. All work
in ``jit`` and ``scan``. The formulas are those of ``optstudy_core.epoch``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optstudy_core import epoch as core
from optstudy_core.epoch.eve import GRID, STEP_GRID, Choice
from optstudy_core.hyperparameters import check_value
from optstudy_core.leaves import Leaves, map_leaves

from . import geometry
from ._array import isolate, leaving, outside, rounded
from .transform import BACKEND, working_dtype

__all__ = [
    "Choice",
    "Control",
    "ControlState",
    "ControlledState",
    "EpochMetrics",
    "EveState",
    "backstep",
    "begin_epoch",
    "careful",
    "direction",
    "direction_careful",
    "end_epoch",
    "epoch_momentum",
    "epoch_momentum_init",
    "eve",
    "eve_march",
    "eve_step",
    "extrapolate",
    "scale_by",
    "scale_by_eve",
    "with_control",
]


class EpochMetrics(NamedTuple):
    """What was measured and decided at the end of the last epoch; float32 scalars.

    Attributes:
        loss: its mean loss; NaN before there is one.
        size: of its step ‖Δₖ‖₂; NaN where the direction is not looked at.
        cosine: of the angle to the step of the last epoch that was kept; NaN if there is none.
        multiplier: what the factor was multiplied by.
        jump: the loss jumped up; a truth value.
        rejected: the epoch is (to be) undone; a truth value.
    """

    loss: Any
    size: Any
    cosine: Any
    multiplier: Any
    jump: Any
    rejected: Any


class Kept(NamedTuple):
    """What a rejected epoch returns to; ``params`` is ``None`` where they are ``start``."""

    params: Any
    previous: Any
    carried: Any


class ControlState(NamedTuple):
    """State of a :class:`Control`.

    Attributes:
        epoch: epochs ended, int32.
        decided: the core's state; ``decided.factor`` is the factor on the learning rate.
        start: parameters at the start of the epoch, or ``None``.
        previous: the last step that was kept, or ``None``; zeros at the start.
        kept: what a rejected epoch returns to, or ``None``.
        metrics: of the last epoch.
    """

    epoch: Any
    decided: Any
    start: Any
    previous: Any
    kept: Any
    metrics: EpochMetrics


@dataclass(frozen=True)
class Control:
    """A learning-rate method, of :func:`direction`, :func:`careful` or :func:`direction_careful`.

    Attributes:
        method: the module of the core.
        values: its hyperparameters.
        rollback: rejected epochs are undone.
        min_lr: lower bound of the learning rate.
        max_lr: upper bound of the learning rate.
    """

    method: Any
    values: dict[str, Any]
    rollback: bool = False
    min_lr: float = 0.0
    max_lr: float = core.rate.LARGEST

    def __post_init__(self) -> None:
        self.method.check(**self.values)
        core.rate.check_limits(self.min_lr, self.max_lr)
        if not isinstance(self.rollback, bool):
            raise TypeError(f"rollback = {self.rollback!r}: allowed are True and False")

    @property
    def _looks_at_steps(self) -> bool:
        return self.method is not core.careful

    @property
    def _waits(self) -> bool:
        return bool(self.values.get("patience", 1) > 1)

    def init(self, params: Any, carried: Any = None) -> ControlState:
        """Return the state before the first epoch.

        Args:
            params: tree of parameters.
            carried: tree of what else returns with them when an epoch is undone (the optimizer's
                state, batch statistics, random keys).
        """
        start = previous = kept = None
        if self._looks_at_steps:
            previous = jax.tree.map(jnp.zeros_like, params)
        if self._looks_at_steps or self.rollback:
            start = _copies(params)
        if self.rollback:
            kept = self._keep(params, previous, carried)
        nothing = jnp.full((), jnp.nan, jnp.float32)
        no = jnp.zeros((), bool)
        return ControlState(
            epoch=jnp.zeros((), jnp.int32),
            decided=jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), self.method.init()),
            start=start,
            previous=previous,
            kept=kept,
            metrics=EpochMetrics(nothing, nothing, nothing, jnp.ones((), jnp.float32), no, no),
        )

    def _keep(self, params: Any, previous: Any, carried: Any) -> Kept:
        if self._waits:
            return Kept(_copies(params), _copies(previous), _copies(carried))
        return Kept(None, None, _copies(carried))

    def end_epoch(
        self,
        state: ControlState,
        params: Any,
        carried: Any = None,
        *,
        value: Any = None,
        learning_rate: Any = None,
    ) -> tuple[ControlState, Any, Any]:
        """End an epoch.

        Args:
            state: of :meth:`init` or of the last epoch.
            params: parameters at its end.
            carried: like that of :meth:`init`.
            value: its mean loss, a scalar; :func:`direction` does not read it.
            learning_rate: without the factor; only ``min_lr`` and ``max_lr`` need it.

        Returns:
            ``(state, params, carried)``: as given, or as they were before a rejected epoch.
        """
        if value is None:
            if self.method is not core.direction:
                raise ValueError("value = None: allowed is the epoch's mean loss")
            value = math.nan
        metrics = state.metrics._replace(loss=jnp.asarray(value).astype(jnp.float32))
        step, previous = None, state.previous
        if self._looks_at_steps:
            step = _map(lambda end, start: end - start, params, state.start)
            metrics = metrics._replace(
                size=_float32(geometry.norm(step)),
                cosine=_float32(geometry.cosine(step, state.previous)),
            )
        decided, decision = _decide(self, state.decided, metrics, learning_rate)
        metrics = metrics._replace(**decision._asdict())
        kept = state.kept
        if self.rollback:
            past = kept if self._waits else Kept(state.start, state.previous, kept.carried)
            now = Kept(params, step, carried)
            chosen = _where(decision.rejected, past, now)
            params, previous, carried = chosen
            if self._waits:  # what is kept stays while jumps are waited for
                kept = _where(decided.jumps > 0, past, chosen)
            else:
                kept = self._keep(params, previous, carried)
        elif step is not None:
            previous = step
        new = ControlState(
            epoch=optax.safe_increment(state.epoch),
            decided=decided,
            start=None if state.start is None else _copies(params),
            previous=_copies(previous),
            kept=kept,
            metrics=metrics,
        )
        return new, params, carried

    def rate(self, learning_rate: Any, state: ControlState, dtype: Any = jnp.float32) -> jax.Array:
        """Return ``learning_rate`` times the factor, within the bounds.

        Args:
            learning_rate: a number or scalar array.
            state: of this control.
            dtype: of the result, to which the product of two float64 is rounded.
        """
        with jax.enable_x64(True):
            factor = Leaves([outside(state.decided.factor, jnp.float64)], BACKEND)
            lr = learning_rate
            if hasattr(lr, "dtype"):
                lr = Leaves([outside(lr, jnp.float64)], BACKEND)
            scaled = core.rate.scaled(lr, factor, min_lr=self.min_lr, max_lr=self.max_lr)
            result: jax.Array = leaving(scaled.values[0])
            return isolate(result.astype(dtype))


def direction(
    r: float = 0.05,
    *,
    centred: bool = False,
    min_lr: float = 0.0,
    max_lr: float = core.rate.LARGEST,
) -> Control:
    """Direction-adaptive learning rate (see ``optstudy_core.epoch.direction``).

    Args:
        r: how strongly the direction counts, in [0, 1].
        centred: take 60° as neutral instead of 90°; r in [0, ⅓].
        min_lr: the rate never falls below it.
        max_lr: the rate never grows above it.

    Raises:
        TypeError, ValueError: for a value that is not allowed.
    """
    values = {"r": r, "centred": centred}
    return Control(core.direction, values, min_lr=min_lr, max_lr=max_lr)


def careful(
    tau: float = 0.02,
    gamma: float = 0.8,
    *,
    growth: float = 1.0,
    patience: int = 1,
    reference: str = "last",
    rollback: bool = False,
    min_lr: float = 0.0,
    max_lr: float = core.rate.LARGEST,
) -> Control:
    """Careful learning rate (see ``optstudy_core.epoch.careful``).

    Args:
        tau: τ ≥ 0, by how much of ``|L|`` the loss may rise.
        gamma: γ in [0, 1], what a jump multiplies the rate by.
        growth: what any other epoch multiplies it by, ≥ 1; bold: 1.05.
        patience: how many jumps in a row it takes, ≥ 1.
        reference: L is the loss of the ``"last"`` epoch, or of the last ``"accepted"`` one.
        rollback: undo the epoch as well.
        min_lr: the rate never falls below it.
        max_lr: the rate never grows above it.

    Raises:
        TypeError, ValueError: for a value that is not allowed.
    """
    values = {
        "tau": tau,
        "gamma": gamma,
        "growth": growth,
        "patience": patience,
        "reference": reference,
    }
    return Control(core.careful, values, rollback, min_lr, max_lr)


def direction_careful(
    r: float = 0.05,
    tau: float = 0.02,
    gamma: float = 0.8,
    *,
    centred: bool = False,
    growth: float = 1.0,
    patience: int = 1,
    reference: str = "last",
    rollback: bool = False,
    min_lr: float = 0.0,
    max_lr: float = core.rate.LARGEST,
) -> Control:
    """Both at once (see ``optstudy_core.epoch.direction_careful``); arguments are theirs."""
    values = {
        "r": r,
        "centred": centred,
        "tau": tau,
        "gamma": gamma,
        "growth": growth,
        "patience": patience,
        "reference": reference,
        "rollback": rollback,
    }
    return Control(core.direction_careful, values, rollback, min_lr, max_lr)


# Transformations.


class ControlledState(NamedTuple):
    """State of :func:`scale_by` and :func:`with_control`.

    Attributes:
        control: the method's state; ``control.metrics`` is of the last epoch.
        count: steps taken, int32; what a schedule is called with.
        steps: of them in this epoch, int32.
        mean: the epoch's mean loss under way.
        lr: learning rate of the last step, without the factor, float32.
        inner: the optimizer's state (``None`` in :func:`scale_by`).
    """

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
        return _start(control, params, None, 1.0)

    def update(
        updates: Any, state: ControlledState, params: Any = None, *, value: Any = None, **extra: Any
    ) -> tuple[Any, ControlledState]:
        del extra  # of other transformations in the chain
        state = _count(control, state, params, value, steps_per_epoch, 1.0)
        factor = control.rate(1.0, state.control)
        return _times(updates, factor), state

    return optax.GradientTransformationExtraArgs(init, update)


def with_control(
    make: Callable[[Any], optax.GradientTransformation],
    control: Control,
    learning_rate: float | jax.Array | optax.Schedule,
    steps_per_epoch: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Return an optimizer whose learning rate a method multiplies.

    The rate lr·factor is formed in float64 and rounded to the working dtype, as in
    ``optstudy_torch.lr_scheduler``: the same gradients and losses give the same bits.

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
        return learning_rate(count) if callable(learning_rate) else learning_rate

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
        rate = control.rate(lr, state.control, dtype)
        updates, inner = optimizer(rate).update(updates, state.inner, params, **extra)
        return updates, state._replace(inner=inner)

    return optax.GradientTransformationExtraArgs(init, update)


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
        ``(params, state)``: as given, or, of a rejected epoch with ``rollback``, as they were
        before it, the optimizer's state too. The count of steps (for schedules) goes on.
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


def begin_epoch(control: Control, params: Any, state: ControlledState) -> ControlledState:
    """Begin the epoch here: what has moved the parameters since the last one ended is no part.

    To be called after something else than the optimizer has moved them (EVE). Here is also where a
    rejected epoch returns to, unless jumps are being waited for (``patience``).

    Args:
        control: what :func:`with_control` or :func:`scale_by` was given.
        params: parameters now.
        state: the optimizer's state.
    """
    now = state.control
    kept = now.kept
    if control.rollback and control._waits:
        fresh = Kept(_copies(params), now.previous, _copies(state.inner))
        kept = _where(now.decided.jumps > 0, kept, fresh)
    start = None if now.start is None else _copies(params)
    return state._replace(control=now._replace(start=start, kept=kept))


def _start(control: Control, params: Any, inner: Any, lr: Any) -> ControlledState:
    return ControlledState(
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
        mean = core.mean.MeanState(*map(_number, state.mean))
        state = state._replace(mean=_arrays(core.mean.add(mean, _number(value))))
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


# EVE.


class EveState(NamedTuple):
    """State of :func:`scale_by_eve`.

    Attributes:
        s: by what the last updates were multiplied, float32; 1 at the start.
        loss: the loss to which they lead, float32; NaN at the start.
    """

    s: Any
    loss: Any


def eve(
    params: Any, start: Any, value_fn: Callable[[Any], Any], *, grid: Sequence[float] = GRID
) -> tuple[Any, Choice]:
    """Search on a grid along the epoch's step (see ``optstudy_core.epoch.eve``).

    Args:
        params: θ at the end of the epoch.
        start: θ at its start; Δ is their difference.
        value_fn: the loss at some parameters, a scalar; called once for each s of the grid.
        grid: values of s ≥ 0; 0 is always one.

    Returns:
        the parameters where the loss is lowest, from which the next Δ is to be measured, and how
        they were found.

    >>> params, choice = eve(jnp.array(1.0), jnp.array(0.0), lambda x: (x - 3.2) ** 2)
    >>> float(params), float(choice.s)
    (3.0, 2.0)
    """
    grid = core.eve.check_grid(grid)
    step = _map(lambda end, begin: end - begin, params, start)
    choice = _choose([value_fn(_further(params, step, s)) for s in grid], grid)
    return _further(params, step, choice.s), choice


def eve_march(
    params: Any,
    start: Any,
    value_fn: Callable[[Any], Any],
    *,
    h: float = 0.1,
    marches: int = 100,
) -> tuple[Any, Choice]:
    """Go on along the epoch's step while the loss does not rise.

    Args:
        params: θ at the end of the epoch; along an optimizer's own step, after it.
        start: θ at its start; before it.
        value_fn: the loss at some parameters, a scalar; it is traced (``lax.while_loop``).
        h: length of a march, > 0.
        marches: at most so many, ≥ 1.

    Returns:
        the parameters there, and how they were found.

    >>> params, choice = eve_march(jnp.array(1.0), jnp.array(0.0), lambda x: (x - 1.7) ** 2, h=0.25)
    >>> float(params), int(choice.evaluations)
    (1.75, 5)
    """
    core.eve.check_march(h, marches)
    step = _map(lambda end, begin: end - begin, params, start)

    def state_of(made: Any, loss: Any) -> core.eve.MarchState:
        return core.eve.MarchState(_number(made), _loss(loss))

    def target(made: Any) -> Any:
        s = core.eve.march_target(state_of(made, first), h=h)
        return leaving(s.values[0])

    def go_on(carry: Any) -> Any:
        return carry[2]

    def march(carry: Any) -> Any:
        made, loss, _, evaluations = carry
        there = _loss(value_fn(_further(params, step, target(made))))
        new, go = core.eve.march(state_of(made, loss), there, marches=marches)
        return (*_arrays(new), leaving(go.values[0]), evaluations + 1)

    first = leaving(_loss(value_fn(params)).values[0])
    one = jnp.ones((), jnp.int32)
    carry = (jnp.zeros((), jnp.float32), first, jnp.ones((), bool), one)
    made, loss, _, evaluations = jax.lax.while_loop(go_on, march, carry)
    s = leaving((_number(made) * h).values[0])
    return _further(params, step, s), Choice(s, loss, first, evaluations)


def eve_step(
    updates: Any, params: Any, value_fn: Callable[[Any], Any], *, grid: Sequence[float] = STEP_GRID
) -> tuple[Any, Choice]:
    """Search on a grid along an optimizer's own step.

    Args:
        updates: of the optimizer.
        params: θ before they are added.
        value_fn: the loss at some parameters, a scalar.
        grid: values of s ≥ 0; 0 is always one.

    Returns:
        the updates that lead to the lowest loss, and how they were found. They are s·(θ_after −
        θ_before), the given ones for s = 1.
    """
    grid = core.eve.check_grid(grid)
    after = _map(lambda p, u: p + u, params, updates)
    step = _map(lambda end, begin: end - begin, after, params)

    def point(s: float) -> Any:
        return after if s == 1 else _further(params, step, s)

    choice = _choose([value_fn(point(s)) for s in grid], grid)
    s = choice.s

    def chosen(update: Any, scaled: Any) -> Any:
        other = jnp.where(s == 0, jnp.zeros_like(scaled), scaled)
        return jnp.where(s == 1, update, other.astype(jnp.result_type(update)))

    return jax.tree.map(chosen, updates, _times(step, s)), choice


def scale_by_eve(grid: Sequence[float] = STEP_GRID) -> optax.GradientTransformationExtraArgs:
    """Return a transformation that multiplies the updates by what :func:`eve_step` finds.

    To be chained after the optimizer, whose state stays as it is. ``update`` takes ``value_fn``.

    Args:
        grid: values of s ≥ 0; 0 is always one.
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


# Moves at the end of an epoch.


def extrapolate(params: Any, start: Any, previous: Any, *, lr: float = 0.1) -> tuple[Any, Any]:
    """Move on by lr·cos φₖ·Δₖ (see ``optstudy_core.epoch.extrapolation``).

    Args:
        params: θ at the end of the epoch.
        start: θ at its start.
        previous: Δₖ₋₁, zeros in the first epoch.
        lr: ≥ 0.

    Returns:
        the parameters there, from which the next Δ is to be measured, and Δₖ.
    """
    core.extrapolation.check(lr=lr)
    step = _map(lambda end, begin: end - begin, params, start)
    cosine = _number(_float32(geometry.cosine(step, previous)))
    c = leaving(core.extrapolation.coefficient(cosine, lr=lr).values[0])
    return _map(core.extrapolation.moved, params, step, scalars=(c,)), step


def epoch_momentum_init(params: Any) -> core.momentum.MomentumState:
    """Return the state of :func:`epoch_momentum` before the first epoch, in the working dtype."""
    return core.momentum.MomentumState(
        jax.tree.map(lambda p: jnp.zeros(jnp.shape(p), working_dtype(jnp.result_type(p))), params)
    )


def epoch_momentum(
    state: core.momentum.MomentumState,
    params: Any,
    start: Any,
    *,
    lr: float = 1.0,
    beta: float = 0.9,
) -> tuple[core.momentum.MomentumState, Any]:
    """Move on by the average of past epochs (see ``optstudy_core.epoch.momentum``).

    Args:
        state: of :func:`epoch_momentum_init` or of the last epoch.
        params: θ where training left it.
        start: θ at the start of the epoch.
        lr: ≥ 0.
        beta: β in [0, 1).

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

    m = _map(part(0), state.m, params, start)
    moved = _map(part(1), state.m, params, start)
    moved = jax.tree.map(lambda x, p: rounded(x, jnp.result_type(p)), moved, params)
    return core.momentum.MomentumState(m), moved


def backstep(
    state: core.backstep.BackstepState, tree: Any, undo: Any
) -> tuple[core.backstep.BackstepState, Any]:
    """Undo an epoch or not (see ``optstudy_core.epoch.backstep``), for any tree of JAX.

    >>> state = core.backstep.init(jnp.array([1.0]))
    >>> state, params = backstep(state, jnp.array([7.0]), undo=jnp.array(True))
    >>> params.tolist()
    [1.0]
    """
    chosen = _where(jnp.asarray(undo), state.kept, tree)
    return core.backstep.BackstepState(chosen), chosen


# Between the caller's arrays and the core's.


def _number(x: Any) -> Leaves:
    """Take a scalar in, in float32."""
    return Leaves([outside(x, jnp.float32)], BACKEND)


def _loss(x: Any) -> Leaves:
    """Take a loss in, in its own working dtype."""
    if jnp.shape(x) != ():
        raise ValueError(f"loss of shape {jnp.shape(x)}: allowed are scalars")
    return Leaves([outside(x, working_dtype(jnp.result_type(x)))], BACKEND)


def _arrays(state: Any) -> Any:
    """Hand a state of numbers out."""
    return map_leaves(lambda leaf: leaving(leaf.values[0]), state)


def _float32(x: Any) -> Any:
    with jax.enable_x64(True):
        return isolate(x.astype(jnp.float32))


def _copies(tree: Any) -> Any:
    """Return arrays of their own, so that both trees can be donated."""
    return jax.tree.map(jnp.copy, tree)


def _where(condition: Any, ours: Any, theirs: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), ours, theirs)


def _no_mean() -> Any:
    return jax.tree.map(jnp.asarray, core.mean.init())


def _mean(mean: Any) -> Any:
    return leaving(core.mean.value(type(mean)(*map(_number, mean))).values[0])


def _decide(
    control: Control, decided: Any, metrics: EpochMetrics, learning_rate: Any
) -> tuple[Any, core.Decision]:
    bounds: dict[str, Any] = {}
    if learning_rate is not None:
        low, high = core.rate.limits(
            _number(learning_rate), min_lr=control.min_lr, max_lr=control.max_lr
        )
        bounds = {"low": low, "high": high}
    new, decision = control.method.update(
        type(decided)(*map(_number, decided)),
        core.Measured(cosine=_number(metrics.cosine), loss=_number(metrics.loss)),
        **control.values,
        **bounds,
    )
    return _arrays(new), _arrays(decision)


def _map(function: Callable[..., Leaves], *trees: Any, scalars: Sequence[Any] = ()) -> Any:
    """Compute with whole trees in the working dtype; the result has the first one's dtypes."""
    first, structure = jax.tree.flatten(trees[0])
    treedef: Any = structure
    dtypes = [jnp.result_type(x) for x in first]
    work = [working_dtype(dtype) for dtype in dtypes]
    columns = [first] + [treedef.flatten_up_to(tree) for tree in trees[1:]]
    columns += [[x] * len(first) for x in scalars]
    if not first:
        return trees[0]
    for leaves in zip(*columns[: len(trees)], strict=True):
        if len({jnp.shape(x) for x in leaves}) > 1:
            shapes = " and ".join(str(jnp.shape(x)) for x in leaves)
            raise ValueError(f"shapes differ: {shapes}")
    operands = [
        Leaves([outside(x, dtype) for x, dtype in zip(column, work, strict=True)], BACKEND)
        for column in columns
    ]
    result = function(*operands).values
    return treedef.unflatten(
        [rounded(isolate(node.value), dtype) for node, dtype in zip(result, dtypes, strict=True)]
    )


def _times(tree: Any, s: Any) -> Any:
    """Return s·tree."""
    return _map(lambda x, scale: scale * x, tree, scalars=(s,))


def _further(params: Any, step: Any, s: Any) -> Any:
    """Return θ + s·Δ, and θ itself for s = 0 (also where Δ is not finite)."""
    there = _map(lambda p, d: p + d, params, _times(step, s))
    return _where(jnp.asarray(s) == 0, params, there)


def _choose(losses: Sequence[Any], grid: Sequence[float]) -> Choice:
    choice = core.eve.choose([_loss(loss) for loss in losses], grid)
    s, loss, start = (leaving(x.values[0]) for x in choice[:3])
    return Choice(s.astype(jnp.float32), loss, start, choice.evaluations)

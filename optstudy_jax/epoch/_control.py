"""Methods that are a factor of the learning rate, and the end of an epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optstudy_core import epoch as core
from optstudy_core.arrays.leaves import Leaves
from optstudy_jax import geometry
from optstudy_jax._backend import BACKEND
from optstudy_jax._rounding import isolate, leaving, outside

from ._trees import arrays, copies, map_trees, number, to_float32, where


class EpochMetrics(NamedTuple):
    """The measurements and the decision at the end of the last epoch; float32 scalars.

    Attributes:
        loss: the mean loss; NaN before the first epoch.
        size: ‖Δₖ‖₂; NaN if the method does not use the direction.
        cosine: the cosine of the angle between Δₖ and the step of the last epoch that was kept; NaN
            if there is none.
        multiplier: the multiplier of the factor.
        jump: whether the loss jumped up, a boolean.
        cut: whether the loss jumped up ``patience`` times in a row, a boolean. Then the rate is
            cut, and with ``rollback`` the epochs of the jumps are undone.
    """

    loss: Any
    size: Any
    cosine: Any
    multiplier: Any
    jump: Any
    cut: Any


class Kept(NamedTuple):
    """The values that a rollback restores; ``params`` is ``None`` if they equal ``start``."""

    params: Any
    previous: Any
    carried: Any


class ControlState(NamedTuple):
    """State of a :class:`Control`.

    Attributes:
        epoch: the number of finished epochs, int32.
        decided: the state of the method; ``decided.factor`` is the factor of the learning rate.
        start: the parameters at the start of the epoch, or ``None``.
        previous: the last step that was kept, or ``None``; zeros at the start.
        kept: the values that a rollback restores, or ``None``.
        metrics: the measurements of the last epoch.
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
        method: the module of the core, for example ``optstudy_core.epoch.direction``.
        values: the hyperparameters of the method.
        rollback: whether epochs with a cut are undone.
        min_lr: lower bound of the learning rate.
        max_lr: upper bound of the learning rate.

    Raises:
        TypeError, ValueError: for a value that is not allowed.
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
            carried: tree of other values that a rollback restores (the state of the optimizer,
                batch statistics, random keys).
        """
        start = previous = kept = None
        if self._looks_at_steps:
            previous = jax.tree.map(jnp.zeros_like, params)
        if self._looks_at_steps or self.rollback:
            start = copies(params)
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
            return Kept(copies(params), copies(previous), copies(carried))
        return Kept(None, None, copies(carried))

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
            state: the state from :meth:`init` or from the last epoch.
            params: the parameters at the end of the epoch, a tree.
            carried: a tree like that of :meth:`init`.
            value: the mean loss of the epoch, a scalar; :func:`direction` ignores it.
            learning_rate: the rate without the factor, a scalar; only ``min_lr`` and ``max_lr``
                need it.

        Returns:
            ``(state, params, carried)``: the given values, or the restored values after a rollback.

        Raises:
            ValueError: if the method needs a loss and there is none.
        """
        if value is None:
            if self.method is not core.direction:
                raise ValueError("value = None: pass the mean loss of the epoch")
            value = math.nan
        metrics = state.metrics._replace(loss=jnp.asarray(value).astype(jnp.float32))
        step, previous = None, state.previous
        if self._looks_at_steps:
            step = map_trees(lambda end, start: end - start, params, state.start)
            metrics = metrics._replace(
                size=to_float32(geometry.norm(step)),
                cosine=to_float32(geometry.cosine(step, state.previous)),
            )
        decided, decision = _decide(self, state.decided, metrics, learning_rate)
        metrics = metrics._replace(**decision._asdict())
        kept = state.kept
        if self.rollback:
            past = kept if self._waits else Kept(state.start, state.previous, kept.carried)
            now = Kept(params, step, carried)
            chosen = where(decision.cut, past, now)
            params, previous, carried = chosen
            if self._waits:  # the kept values do not change during a series of jumps
                kept = where(decided.jumps > 0, past, chosen)
            else:
                kept = self._keep(params, previous, carried)
        elif step is not None:
            previous = step
        new = ControlState(
            epoch=optax.safe_increment(state.epoch),
            decided=decided,
            start=None if state.start is None else copies(params),
            previous=copies(previous),
            kept=kept,
            metrics=metrics,
        )
        return new, params, carried

    def rate(self, learning_rate: Any, state: ControlState, dtype: Any = jnp.float32) -> jax.Array:
        """Return ``learning_rate`` times the factor, within the bounds.

        Args:
            learning_rate: a number or scalar array.
            state: the state of this control.
            dtype: the dtype of the result, an array of shape (). The product is computed in float64
                and rounded to this dtype.
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
    """Return the direction-adaptive learning rate (see ``optstudy_core.epoch.direction``).

    Args:
        r: the weight of the direction, in [0, 1].
        centred: at 60°, instead of at 90°, the rate stays; requires r in [0, ⅓].
        min_lr: lower bound of the rate.
        max_lr: upper bound of the rate.

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
    """Return the careful learning rate (see ``optstudy_core.epoch.careful``).

    Args:
        tau: τ ≥ 0. A loss above ``L + τ·|L|`` is a jump.
        gamma: γ in [0, 1], the factor of the rate at a cut.
        growth: the factor of the rate after an epoch without a jump, ≥ 1; 1.05 in the bold variant.
        patience: the number of jumps in a row that lead to a cut, ≥ 1.
        reference: ``"last"`` or ``"accepted"``: L is the loss of the last epoch, or of the last
            epoch without a jump.
        rollback: at a cut, also undo the epochs of the jumps.
        min_lr: lower bound of the rate.
        max_lr: upper bound of the rate.

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
    """Return the combination of both methods (see ``optstudy_core.epoch.direction_careful``).

    Args and errors as for :func:`direction` and :func:`careful`.
    """
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


def _decide(
    control: Control, decided: Any, metrics: EpochMetrics, learning_rate: Any
) -> tuple[Any, core.Decision]:
    bounds: dict[str, Any] = {}
    if learning_rate is not None:
        low, high = core.rate.limits(
            number(learning_rate), min_lr=control.min_lr, max_lr=control.max_lr
        )
        bounds = {"low": low, "high": high}
    new, decision = control.method.update(
        type(decided)(*map(number, decided)),
        core.Measured(cosine=number(metrics.cosine), loss=number(metrics.loss)),
        **control.values,
        **bounds,
    )
    return arrays(new), arrays(decision)

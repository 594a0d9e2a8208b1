"""Methods that are a factor on the learning rate: what they are, and how they end an epoch."""

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
    """What was measured and decided at the end of the last epoch; float32 scalars.

    Attributes:
        loss: its mean loss; NaN before there is one.
        size: of its step ‖Δₖ‖₂; NaN where the direction is not looked at.
        cosine: of the angle to the step of the last epoch that was kept; NaN if there is none.
        multiplier: what the factor was multiplied by.
        jump: the loss jumped up; a truth value.
        cut: it did so ``patience`` times in a row: the rate is cut, and with ``rollback`` the epoch
            is undone; a truth value.
    """

    loss: Any
    size: Any
    cosine: Any
    multiplier: Any
    jump: Any
    cut: Any


class Kept(NamedTuple):
    """What an undone epoch returns to; ``params`` is ``None`` where they are ``start``."""

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
        kept: what an undone epoch returns to, or ``None``.
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
        method: the module of the core, ``optstudy_core.epoch.direction`` for example.
        values: its hyperparameters.
        rollback: epochs with a cut are undone.
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
            carried: tree of what else returns with them when an epoch is undone (the optimizer's
                state, batch statistics, random keys).
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
            state: of :meth:`init` or of the last epoch.
            params: parameters at its end.
            carried: like that of :meth:`init`.
            value: its mean loss, a scalar; :func:`direction` does not read it.
            learning_rate: without the factor; only ``min_lr`` and ``max_lr`` need it.

        Returns:
            ``(state, params, carried)``: as given, or as they were before an undone epoch.

        Raises:
            ValueError: if there is no loss, but one is read.
        """
        if value is None:
            if self.method is not core.direction:
                raise ValueError("value = None: allowed is the epoch's mean loss")
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
            if self._waits:  # what is kept stays while jumps are waited for
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
            state: of this control.
            dtype: of the result, an array of shape () to which the product in float64 is rounded.
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
    """Return the careful learning rate (see ``optstudy_core.epoch.careful``).

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
    """Return both at once (see ``optstudy_core.epoch.direction_careful``).

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

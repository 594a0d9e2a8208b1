"""Combined schedules: one after the other, multiplied, repeated, or counted in epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from optstudy_core.arrays import doubles
from optstudy_core.arrays.doubles import DIGITS
from optstudy_core.arrays.numbers import NON_NEGATIVE, Range, is_number, nearest

from .curves import Constant, Cosine, Linear
from .powers import quotient, whole_power
from .schedule import POSITIVE, Schedule

DIALECTS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "Cosine": {"torch": {"rises_again": True}, "optax": {"rises_again": False}},
    "one_cycle": {"torch": {"dialect": "torch"}, "optax": {"dialect": "optax"}},
    "one_cycle_momentum": {"torch": {"dialect": "torch"}, "optax": {"dialect": "optax"}},
}
"""The curves that torch and optax define differently, with the arguments for each definition."""

WHOLE = Range(at_least=1.0)


def _check_schedules(schedules: Sequence[Any]) -> None:
    if not schedules or not all(isinstance(x, Schedule) for x in schedules):
        raise TypeError(f"schedules = {schedules!r}: allowed are one or more schedules")


@dataclass(frozen=True)
class Joined(Schedule):
    """One schedule after the other; each counts steps from its own beginning.

    torch: ``SequentialLR``; optax: ``join_schedules``.

    Args:
        schedules: one or more schedules.
        boundaries: the step counts at which the second and later schedules begin, ascending.

    Raises:
        TypeError: if an element of ``schedules`` is no schedule, or there is none.
        ValueError: if the boundaries are not ascending, or their number does not fit.
    """

    schedules: tuple[Schedule, ...]
    boundaries: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_schedules(self.schedules)
        if len(self.boundaries) != len(self.schedules) - 1:
            raise ValueError(
                f"boundaries = {self.boundaries!r}: {len(self.schedules)} schedules need "
                f"{len(self.schedules) - 1} boundaries, one for each schedule after the first"
            )
        ascending = (0.0, *self.boundaries)
        if not all(is_number(b) and a <= b for a, b in pairwise(ascending)):
            raise ValueError(f"boundaries = {self.boundaries!r}: allowed are ascending numbers")

    def at(self, t: Any) -> Any:
        value = self.schedules[0].at(t)
        for begin, schedule in zip(self.boundaries, self.schedules[1:], strict=True):
            value = doubles.where(t >= begin, schedule.at(doubles.maximum(t - begin, 0.0)), value)
        return value


def joined(*schedules: Schedule, at: Sequence[float]) -> Joined:
    """Return one schedule after the other, as :class:`Joined`.

    Args:
        *schedules: one or more schedules.
        at: the step counts at which the second and later schedules begin.

    >>> joined(Constant(1.0), Constant(0.5), at=[10])(10)
    0.5
    """
    return Joined(tuple(schedules), tuple(map(float, at)))


@dataclass(frozen=True)
class Chained(Schedule):
    """The product of schedules, multiplied from left to right.

    The first schedule can be a learning rate, and the others factors around 1. torch:
    ``ChainedScheduler``.

    Args:
        schedules: one or more schedules.

    Raises:
        TypeError: if an element of ``schedules`` is no schedule, or there is none.
    """

    schedules: tuple[Schedule, ...]

    def __post_init__(self) -> None:
        _check_schedules(self.schedules)

    def at(self, t: Any) -> Any:
        first, *rest = (schedule.at(t) for schedule in self.schedules)
        for value in rest:
            first = first * value
        return first


@dataclass(frozen=True)
class PerEpoch(Schedule):
    """A schedule that counts epochs: the value stays the same for ``steps`` steps.

    Args:
        schedule: the schedule, as a function of the epoch.
        steps: the number of steps of an epoch, > 0.
    """

    schedule: Schedule
    steps: float

    def at(self, t: Any) -> Any:
        return self.schedule.at(quotient(t, self.steps)[0])


@dataclass(frozen=True)
class Restarts(Schedule):
    """A schedule that repeats, with each round ``growth`` times as long as the round before.

    torch: ``CosineAnnealingWarmRestarts(T_0=steps, T_mult=growth, eta_min=end)`` is this class with
    ``Cosine(lr, end, steps)``. For ``sgdr_schedule`` of optax see :func:`joined`.

    Args:
        schedule: the first round, of ``steps`` steps; later rounds stretch it.
        steps: the number of steps of the first round, > 0.
        growth: the ratio of the lengths of two rounds, an integer ≥ 1.
        factor: each round multiplies the values of the round before by this factor, ≥ 0.

    Raises:
        ValueError: if a number is out of its range.
    """

    schedule: Schedule
    steps: float
    growth: float = 1.0
    factor: float = 1.0

    ranges: ClassVar = {"steps": POSITIVE, "growth": WHOLE, "factor": NON_NEGATIVE}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.growth.is_integer():
            raise ValueError(f"growth = {self.growth!r}: allowed are whole numbers >= 1")

    def at(self, t: Any) -> Any:
        number, done = quotient(t, self.steps)[0], doubles.remainder(t, self.steps)
        if self.growth > 1:
            number, done, stretch, begin = 0.0, t, self.growth, self.steps
            for n in range(1, DIGITS):
                there = t >= begin
                number = doubles.where(there, float(n), number)
                done = doubles.where(there, (t - begin) / stretch, done)
                begin, stretch = begin + self.steps * stretch, stretch * self.growth
        value = self.schedule.at(done)
        return value if self.factor == 1 else whole_power(self.factor, number) * value


def warmup_stable_decay(
    peak: float,
    *,
    warmup: float = 0,
    stable: float = 0,
    decay: float = 0,
    start: float = 0.0,
    end: float = 0.0,
    warmup_shape: type[Linear] | type[Cosine] = Linear,
    decay_shape: type[Linear] | type[Cosine] = Linear,
) -> Schedule:
    """Return a warm-up to ``peak``, a constant phase and a decay; phases of 0 steps are left out.

    With ``stable=0`` and cosines this is ``warmup_cosine_decay_schedule(start, peak, warmup,
    warmup + decay, end)`` of optax.

    Args:
        peak: the highest value.
        warmup: number of steps from ``start`` to ``peak``.
        stable: number of steps at ``peak``.
        decay: number of steps from ``peak`` to ``end``.
        start: the value at step count 0, if there is a warm-up.
        end: the value after the decay, if there is a decay.
        warmup_shape: :class:`Linear` or :class:`Cosine`.
        decay_shape: :class:`Linear` or :class:`Cosine`.

    Raises:
        ValueError: if a number of steps is negative.

    >>> rate = warmup_stable_decay(1.0, warmup=10, stable=80, decay=10)
    >>> [rate(t) for t in (0, 5, 50, 95, 100)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    for name, steps in {"warmup": warmup, "stable": stable, "decay": decay}.items():
        if not is_number(steps) or not NON_NEGATIVE.holds(float(steps)):
            raise ValueError(f"{name} = {steps!r}: allowed are {NON_NEGATIVE}")
    parts: list[tuple[float, Schedule]] = []
    if warmup:
        parts.append((0.0, warmup_shape(start, peak, warmup)))
    if stable or not decay:
        parts.append((warmup, Constant(peak)))
    if decay:
        parts.append((warmup + stable, decay_shape(peak, end, decay)))
    return joined(*(part for _, part in parts), at=[begin for begin, _ in parts[1:]])


def one_cycle(
    peak: float,
    steps: float,
    *,
    dialect: str = "torch",
    pct_start: float = 0.3,
    pct_final: float | None = None,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    shape: type[Linear] | type[Cosine] = Cosine,
) -> Schedule:
    """Return one cycle: up to ``peak``, and down to almost 0 (Smith and Topin 2017).

    torch: ``OneCycleLR(max_lr=peak, total_steps=steps)``, with the peak and the end one step
    earlier; ``three_phase=True`` is ``pct_final=2 * pct_start``. optax:
    ``cosine_onecycle_schedule``, and ``linear_onecycle_schedule``, which has ``pct_final=0.85``.

    Args:
        peak: the highest value.
        steps: the number of steps of the whole cycle.
        dialect: ``"torch"`` or ``"optax"``.
        pct_start: the fraction of the steps until the peak, in (0, 1).
        pct_final: the fraction of the steps until the value has returned to the first value; a
            last phase leads from there to the end. ``None``: one phase from the peak to the end.
        div_factor: the first value is ``peak / div_factor``.
        final_div_factor: the last value is ``peak / (div_factor · final_div_factor)``.
        shape: :class:`Linear` or :class:`Cosine`.

    Raises:
        ValueError: if a phase has no steps, or if the dialect is unknown.
    """
    begin = peak / div_factor
    end = begin / final_div_factor
    values = [begin, peak, end] if pct_final is None else [begin, peak, begin, end]
    return _cycle(values, steps, dialect, pct_start, pct_final, shape)


def one_cycle_momentum(
    low: float,
    high: float,
    steps: float,
    *,
    dialect: str = "torch",
    pct_start: float = 0.3,
    pct_final: float | None = None,
    shape: type[Linear] | type[Cosine] = Cosine,
) -> Schedule:
    """Return the momentum of one cycle: down to ``low`` while the rate rises, and up to ``high``.

    torch: ``OneCycleLR(base_momentum=low, max_momentum=high)``.

    Args:
        low: the momentum at the peak of the rate.
        high: the momentum at both ends.
        steps: the number of steps of the whole cycle.
        dialect: as for :func:`one_cycle`.
        pct_start: as for :func:`one_cycle`.
        pct_final: as for :func:`one_cycle`.
        shape: as for :func:`one_cycle`.

    Raises:
        ValueError: if a phase has no steps, or the dialect is unknown.
    """
    values = [high, low, high] if pct_final is None else [high, low, high, high]
    return _cycle(values, steps, dialect, pct_start, pct_final, shape)


def _cycle(
    values: Sequence[float],
    steps: float,
    dialect: str,
    pct_start: float,
    pct_final: float | None,
    shape: type[Linear] | type[Cosine],
) -> Schedule:
    """Return curves from value to value, with the phases of a dialect."""
    if dialect not in DIALECTS["one_cycle"]:
        raise ValueError(f"dialect = {dialect!r}: {nearest(dialect, DIALECTS['one_cycle'])}")
    parts = [0.0, pct_start, *([] if pct_final is None else [pct_final]), 1.0]
    if dialect == "torch":  # phases end one step earlier; the second of three ends two earlier
        ends = [part * steps - n for n, part in enumerate(parts)]
        ends[-1] = steps - 1.0
    else:
        ends = [float(int(part * steps)) for part in parts]
    lengths = [end - begin for begin, end in pairwise(ends)]
    if min(lengths) <= 0:
        raise ValueError(f"pct_start = {pct_start!r} of {steps!r} steps: a phase has no steps")
    curves = [shape(*own, n) for own, n in zip(pairwise(values), lengths, strict=True)]
    return joined(*curves, at=ends[1:-1])

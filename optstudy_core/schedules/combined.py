"""Schedules of schedules: one after the other, multiplied, again and again, counted in epochs."""

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
"""Where torch and optax define a curve differently: the arguments that make it that of each."""

WHOLE = Range(at_least=1.0)


def _check_schedules(schedules: Sequence[Any]) -> None:
    if not schedules or not all(isinstance(x, Schedule) for x in schedules):
        raise TypeError(f"schedules = {schedules!r}: allowed are schedules, one at least")


@dataclass(frozen=True)
class Joined(Schedule):
    """One schedule after the other; each counts from where it begins.

    torch: ``SequentialLR``; optax: ``join_schedules``.

    Args:
        schedules: one or more.
        boundaries: the counts at which the second and those after it begin, ascending.

    Raises:
        TypeError: for what are no schedules.
        ValueError: for boundaries that do not fit.
    """

    schedules: tuple[Schedule, ...]
    boundaries: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_schedules(self.schedules)
        if len(self.boundaries) != len(self.schedules) - 1:
            raise ValueError(
                f"boundaries = {self.boundaries!r}: allowed are {len(self.schedules) - 1}, where "
                "the schedules after the first begin"
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
        *schedules: one or more.
        at: the counts at which the second and those after it begin.

    >>> joined(Constant(1.0), Constant(0.5), at=[10])(10)
    0.5
    """
    return Joined(tuple(schedules), tuple(map(float, at)))


@dataclass(frozen=True)
class Chained(Schedule):
    """The product of schedules, from left to right; factors are schedules around 1.

    torch: ``ChainedScheduler``.

    Args:
        schedules: one or more.

    Raises:
        TypeError: for what are no schedules.
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
    """A schedule of epochs: the value stays the same for ``steps`` steps.

    Args:
        schedule: counts epochs.
        steps: of an epoch, above 0.
    """

    schedule: Schedule
    steps: float

    def at(self, t: Any) -> Any:
        return self.schedule.at(quotient(t, self.steps)[0])


@dataclass(frozen=True)
class Restarts(Schedule):
    """A schedule of ``steps`` steps, again and again, each time ``growth`` times as long.

    torch: ``CosineAnnealingWarmRestarts(T_0=steps, T_mult=growth, eta_min=end)`` around
    ``Cosine(lr, end, steps)``; optax: ``sgdr_schedule``, for which see :func:`joined`.

    Args:
        schedule: of ``steps`` steps; in a longer round it is stretched.
        steps: of the first round, above 0.
        growth: a whole number from 1 on.
        factor: ≥ 0; what the values of each round are multiplied by, compared to the last one.

    Raises:
        ValueError: for a number that is not allowed.
    """

    schedule: Schedule
    steps: float
    growth: float = 1.0
    factor: float = 1.0

    ranges: ClassVar = {"steps": POSITIVE, "growth": WHOLE, "factor": NON_NEGATIVE}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.growth.is_integer():
            raise ValueError(f"growth = {self.growth!r}: allowed are whole numbers from 1 on")

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
    """Return a warm-up to ``peak``, a time at ``peak`` and a decay; what has no steps is left out.

    With ``stable=0`` it is a warm-up and a decay. optax:
    ``warmup_cosine_decay_schedule(start, peak, warmup, warmup + decay, end)``.

    Args:
        peak: the highest value.
        warmup: number of steps from ``start`` to ``peak``.
        stable: number of steps at ``peak``.
        decay: number of steps from ``peak`` to ``end``.
        start: the value at count 0, if there is a warm-up.
        end: the value after the decay, if there is one.
        warmup_shape: :class:`Linear` or :class:`Cosine`.
        decay_shape: :class:`Linear` or :class:`Cosine`.

    Raises:
        ValueError: for a number of steps below 0.

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
    """Return one cycle: up to ``peak``, down, and down to almost nothing (Smith and Topin 2017).

    torch: ``OneCycleLR(max_lr=peak, total_steps=steps)``, whose peak and end are a step earlier
    (``three_phase=True`` is ``pct_final=2 * pct_start``); optax: ``cosine_onecycle_schedule`` and
    ``linear_onecycle_schedule``, which has ``pct_final=0.85``.

    Args:
        peak: the highest value.
        steps: of the whole cycle.
        dialect: ``"torch"`` or ``"optax"``.
        pct_start: the part of the steps in which it rises, in (0, 1).
        pct_final: the part of the steps after which it is where it began, from where it goes on to
            the end; ``None``: it goes to the end at once.
        div_factor: it begins at ``peak / div_factor``.
        final_div_factor: it ends at ``peak / (div_factor · final_div_factor)``.
        shape: :class:`Linear` or :class:`Cosine`.

    Raises:
        ValueError: if a phase has no steps, or the dialect is unknown.
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
        steps: of the whole cycle.
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
    if dialect == "torch":  # a step earlier, two after the second phase of three
        ends = [part * steps - n for n, part in enumerate(parts)]
        ends[-1] = steps - 1.0
    else:
        ends = [float(int(part * steps)) for part in parts]
    lengths = [end - begin for begin, end in pairwise(ends)]
    if min(lengths) <= 0:
        raise ValueError(f"pct_start = {pct_start!r} of {steps!r} steps: a phase has no steps")
    curves = [shape(*own, n) for own, n in zip(pairwise(values), lengths, strict=True)]
    return joined(*curves, at=ends[1:-1])

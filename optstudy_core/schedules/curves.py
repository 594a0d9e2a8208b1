"""Curves: schedules with one formula.

``t`` is the step count, and x = min(t / steps, 1) the fraction of the steps that are done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from optstudy_core.arrays import doubles
from optstudy_core.arrays.numbers import NON_NEGATIVE, is_number
from optstudy_core.parts.cosine import cos_pi

from .powers import floor, part_power, quotient, whole_power
from .schedule import POSITIVE, Schedule


def between(start: float, end: float, share: Any) -> Any:
    """Return start·(1 − share) + end·share, which is exact at both ends.

    Args:
        start: the value for ``share`` = 0.
        end: the value for ``share`` = 1.
        share: a number in [0, 1], of shape ().
    """
    return start * (1 - share) + end * share


@dataclass(frozen=True)
class Constant(Schedule):
    """The same value at every step count.

    Args:
        value: any finite number.
    """

    value: float

    def at(self, t: Any) -> Any:
        del t
        return self.value


@dataclass(frozen=True)
class Linear(Schedule):
    """A straight line: start·(1 − x) + end·x.

    torch: ``LinearLR(start / lr, end / lr, steps)``; optax: ``linear_schedule(start, end, steps)``.

    Args:
        start: the value at step count 0.
        end: the value from step count ``steps`` on.
        steps: the number of steps from ``start`` to ``end``, > 0.
    """

    start: float
    end: float
    steps: float

    def at(self, t: Any) -> Any:
        return between(self.start, self.end, doubles.minimum(t / self.steps, 1.0))


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a turn of a cosine: start·(1 − s) + end·s with s = (1 − cos πx)/2.

    torch: ``CosineAnnealingLR(T_max=steps, eta_min=end)``, which rises again after ``steps``
    (``rises_again=True``); optax: ``cosine_decay_schedule(start, steps, alpha=end / start)``.

    Args:
        start: the value at step count 0.
        end: the value at step count ``steps``.
        steps: the number of steps from ``start`` to ``end``, > 0.
        rises_again: return to ``start`` in the next ``steps`` steps, and so on, instead of staying
            at ``end``.
    """

    start: float
    end: float
    steps: float
    rises_again: bool = False

    def at(self, t: Any) -> Any:
        if self.rises_again:
            x = doubles.remainder(t, 2 * self.steps) / self.steps
            x = doubles.minimum(x, 2 - x)
        else:
            x = doubles.minimum(t / self.steps, 1.0)
        return between(self.start, self.end, (1 - cos_pi(x)) / 2)


@dataclass(frozen=True)
class Polynomial(Schedule):
    """A power of the remaining fraction of the steps: end + (start − end)·(1 − x)ᵖ.

    torch: ``PolynomialLR(steps, power)``; optax: ``polynomial_schedule(start, end, power, steps)``.

    Args:
        start: the value at step count 0.
        end: the value from step count ``steps`` on.
        steps: the number of steps from ``start`` to ``end``, > 0.
        power: p > 0.
    """

    start: float
    end: float
    steps: float
    power: float = 1.0

    ranges: ClassVar = {"steps": POSITIVE, "power": POSITIVE}

    def at(self, t: Any) -> Any:
        left = 1 - doubles.minimum(t / self.steps, 1.0)
        whole = floor(self.power)
        left = whole_power(left, whole) * part_power(left, self.power - whole)
        return between(self.end, self.start, left)


@dataclass(frozen=True)
class Exponential(Schedule):
    """A constant factor for every ``steps`` steps: start·factor^(t / steps).

    torch: ``ExponentialLR(factor)`` with ``steps=1``; optax: ``exponential_decay(start, steps,
    factor)``.

    Args:
        start: the value at step count 0.
        factor: the factor for every ``steps`` steps, in (0, 1].
        steps: the number of steps for one factor, > 0.
    """

    start: float
    factor: float
    steps: float = 1.0

    ranges: ClassVar = {"steps": POSITIVE, "factor": POSITIVE._replace(at_most=1.0)}

    def at(self, t: Any) -> Any:
        whole, part = quotient(t, self.steps)
        return self.start * (whole_power(self.factor, whole) * part_power(self.factor, part))


@dataclass(frozen=True)
class Steps(Schedule):
    """A factor at every multiple of ``steps``: start·factor^⌊t / steps⌋.

    torch: ``StepLR(steps, factor)``; optax: ``exponential_decay(…, staircase=True)``.

    Args:
        start: the value at step count 0.
        factor: the factor at every multiple of ``steps``, ≥ 0.
        steps: the number of steps between two factors, > 0.
    """

    start: float
    factor: float
    steps: float

    ranges: ClassVar = {"steps": POSITIVE, "factor": NON_NEGATIVE}

    def at(self, t: Any) -> Any:
        return self.start * whole_power(self.factor, quotient(t, self.steps)[0])


@dataclass(frozen=True)
class Milestones(Schedule):
    """A factor at each of the given step counts, from that count on.

    torch: ``MultiStepLR``; optax: ``piecewise_constant_schedule(start, {count: factor})``.

    Args:
        start: the value at step count 0.
        factors: pairs of a step count and a factor, or a dictionary from step counts to factors.

    Raises:
        ValueError: if ``factors`` has anything else than pairs of numbers > 0.
    """

    start: float
    factors: Mapping[float, float] | tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        given: Any = self.factors
        pairs = tuple(given.items() if isinstance(given, Mapping) else given)
        if not all(is_number(x) and POSITIVE.holds(m) for m, f in pairs for x in (m, f)):
            raise ValueError(
                f"factors = {self.factors!r}: allowed are pairs of numbers (a step count > 0, a "
                "factor)"
            )
        object.__setattr__(self, "factors", tuple((float(m), float(f)) for m, f in sorted(pairs)))

    def at(self, t: Any) -> Any:
        value: Any = self.start
        pairs: Any = self.factors
        for milestone, factor in pairs:
            value = doubles.where(t >= milestone, factor * value, value)
        return value


@dataclass(frozen=True)
class InverseRoot(Schedule):
    """The inverse square root of the step count: start / √(1 + t / steps).

    After a warm-up of ``steps`` steps to ``start``, the value is start·√(steps / t), where t counts
    all steps, including the warm-up.

    Args:
        start: the value at step count 0.
        steps: the time scale, > 0: after 3 · ``steps`` steps the value is half of ``start``.
    """

    start: float
    steps: float

    def at(self, t: Any) -> Any:
        return self.start / doubles.sqrt(1 + t / self.steps)

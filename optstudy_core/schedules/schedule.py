"""The base class of schedules: functions of the step count, with constants as attributes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar

from optstudy_core.arrays.numbers import ANY, Range, is_number

POSITIVE = Range(above=0.0)


class Schedule:
    """A number for each step count.

    A schedule is a frozen dataclass with its formula as the method :meth:`at`. The formula takes
    and returns a number in double precision, and uses operators and :mod:`optstudy_core.doubles`
    only.

    Raises:
        ValueError: if a number is out of its range.
        TypeError: if an argument must be a schedule and is not.
    """

    ranges: ClassVar[Mapping[str, Range]] = {"steps": POSITIVE}
    """The ranges of constants, by name; all others may be any finite number."""

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]  # curves are dataclasses
            value = getattr(self, field.name)
            if field.type == "float":
                allowed = self.ranges.get(field.name, ANY)
                if not is_number(value) or not allowed.holds(float(value)):
                    raise ValueError(f"{field.name} = {value!r}: allowed are {allowed}")
                object.__setattr__(self, field.name, float(value))
            elif field.type == "Schedule" and not isinstance(value, Schedule):
                raise TypeError(f"{field.name} = {value!r}: allowed are schedules")

    def at(self, t: Any) -> Any:
        """Return the value after ``t`` steps.

        Args:
            t: a number in double precision, of shape (), ≥ 0.
        """
        raise NotImplementedError

    def __call__(self, count: Any) -> float:
        """Return the value after ``count`` steps.

        Args:
            count: a number, or a 0-d array with a known value.

        Raises:
            TypeError: if the value is not known, as under ``jit``.
        """
        try:
            t = float(count)
        except TypeError as error:
            raise TypeError(
                f"count of type {type(count).__name__}: allowed are numbers. Under jit, call "
                "optstudy_jax.schedule(schedule)(count) instead."
            ) from error
        return float(self.at(t))

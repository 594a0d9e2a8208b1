"""Measurements of an epoch: loss, step size and angle.

The epoch step is Δₖ = θ(end of k) − θ(start of k), with all parameters as one vector. The step size
is ‖Δₖ‖₂, and the angle φₖ is between Δₖ and Δₖ₋₁. Both come from exact sums, so they do not depend
on the library, or on the order and the split of the parameters.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np

from optstudy_core import instruments
from studies.study import Parameters

_MEASURED: Final = instruments.Chosen.of("epoch", ("loss", "step_size", "angle"))


class EpochMeter:
    """Measures the epochs of a run, one after the other.

    Args:
        start: the parameters before the first epoch.

    >>> meter = EpochMeter({"w": np.float32([0.0, 0.0])})
    >>> meter.close([2.0, 1.0], {"w": np.float32([3.0, 4.0])})["step_size"]
    5.0
    >>> meter.close([1.0, 0.5], {"w": np.float32([3.0, 5.0])})["angle"].__round__(4)
    36.8699
    """

    def __init__(self, start: Parameters) -> None:
        self._epoch = 0
        self._start = start
        self._previous: Parameters | None = None
        self._before: Parameters | None = None

    def moved(self, start: Parameters, *, undone: bool) -> None:
        """Begin the next epoch at parameters that a method has changed.

        Args:
            start: the current parameters.
            undone: whether the last epoch was undone, so that its direction does not count.
        """
        self._start = start
        if undone:
            self._previous = self._before

    def close(self, losses: Sequence[float], end: Parameters) -> dict[str, Any]:
        """Return the row of an epoch that just ended.

        Args:
            losses: the losses of the mini-batches of the epoch.
            end: the current parameters.

        Returns:
            ``epoch`` (from 1), ``steps``, ``loss`` (the mean), ``step_size``, ``angle`` in degrees
            (NaN for the first epoch, and where a step is zero or not finite), and ``layers``:
            ``step_size`` and ``angle`` for each array of parameters.
        """
        self._epoch += 1
        step = difference(end, self._start)
        before = self._previous or dict.fromkeys(step)
        self._start, self._previous, self._before = end, step, self._previous
        return instruments.exact_row(
            {"epoch": self._epoch, "steps": len(losses)},
            _MEASURED,
            {"step": list(step.values()), "previous": [before[name] for name in step]},
            {"loss": mean(losses)},
            {name: {} for name in step},
        )


class Stopwatch:
    """Measures the time of training in seconds, without the time of recording.

    On a CPU this is the processor time of all threads, which hardly depends on other programs and
    on the number of trainings at a time. On another device it is the time of the clock.

    Args:
        device: the device of the training.
    """

    def __init__(self, device: str) -> None:
        self._now = time.process_time if device == "cpu" else time.perf_counter
        self.restart()

    def restart(self) -> None:
        """Start again from 0."""
        self._past, self._since = 0.0, self._now()

    def seconds(self) -> float:
        """Return the time since the last restart, without the time while stopped."""
        return self._past + self._now() - self._since

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop the time inside the context."""
        self._past = self.seconds()
        yield
        self._since = self._now()


def mean(losses: Sequence[float]) -> float:
    """Return the mean, without an error if a run diverges."""
    with np.errstate(all="ignore"):
        return float(np.mean(losses))


def difference(end: Parameters, start: Parameters) -> Parameters:
    """Return end − start in float64, almost exact for two float32 arrays."""
    with np.errstate(all="ignore"):
        return {n: end[n].astype(np.float64) - start[n].astype(np.float64) for n in end}

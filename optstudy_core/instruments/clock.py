"""Time, samples and memory of the process."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Any, Final

from optstudy_core.arrays.numbers import is_number


class Clock:
    """Counts the time and the samples since the last row."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Restart the counts now."""
        self._since, self._samples = time.perf_counter(), math.nan

    def add(self, samples: float) -> None:
        """Count samples; the count is NaN before the first call."""
        self._samples = samples if math.isnan(self._samples) else self._samples + samples

    def seconds(self) -> float:
        """Return the time since the last restart."""
        return time.perf_counter() - self._since

    def samples(self) -> float:
        """Return the number of samples since the last restart."""
        return self._samples


def check_samples(samples: Any) -> float:
    """Return a number of samples.

    Raises:
        ValueError: if the argument is no number > 0.
    """
    if not is_number(samples) or not samples > 0:
        raise ValueError(f"samples = {samples!r}: allowed are numbers > 0")
    return float(samples)


def process_peak() -> float:
    """Return the peak memory of this process in MiB; it never falls.

    Linux counts pages in portions, so that a later number may be a little smaller.
    """
    _PEAKS[0] = max(_peak_now(), _PEAKS[0])
    return _PEAKS[0]


_PEAKS: Final = [0.0]


def _peak_now() -> float:
    status = Path("/proc/self/status")
    if status.exists():  # getrusage knows the peak of the parent, where that is higher
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    try:
        import resource
    except ModuleNotFoundError:  # on Windows
        return math.nan
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit

"""What the engine cannot do, and what that costs."""

from __future__ import annotations

import functools
import warnings


class NoKernelsError(RuntimeError):
    """Kernels cannot be made here; the message says why."""


@functools.cache
def warn_of_slow_steps(device: str, reason: str) -> None:
    """Say once in a process why steps are slow; their bits are the same.

    Args:
        device: the type of the device.
        reason: why there are no kernels.
    """
    instead = "NumPy, which takes 2 to 4 times as long" if device == "cpu" else "torch's operations"
    warnings.warn(
        f"steps on {device} run without kernels, by {instead}: {reason.splitlines()[0]}. With "
        "compile=False there is no such warning",
        RuntimeWarning,
        stacklevel=2,
    )

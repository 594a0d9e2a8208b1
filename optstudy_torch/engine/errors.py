"""Errors and warnings of the engine about missing kernels."""

from __future__ import annotations

import functools
import warnings


class NoKernelsError(RuntimeError):
    """Kernels are not possible here; the message has the reason."""


@functools.cache
def warn_of_slow_steps(device: str, reason: str) -> None:
    """Warn once in a process about slow steps, whose bits are the same.

    Args:
        device: the type of the device.
        reason: the reason for missing kernels.
    """
    instead = "NumPy, which takes 2 to 4 times as long" if device == "cpu" else "torch's operations"
    warnings.warn(
        f"steps on {device} run without kernels, by {instead}: {reason.splitlines()[0]}. With "
        "compile=False there is no such warning",
        RuntimeWarning,
        stacklevel=2,
    )

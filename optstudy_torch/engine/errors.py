"""What the engine cannot do, as errors that its callers catch."""

from __future__ import annotations


class NoKernelsError(RuntimeError):
    """Kernels cannot be made here; the message says why."""

"""The epoch methods on every backend: the same decisions, measurements and parameters.

The gradients of every step and the mean loss of every epoch are drawn; the optimizer and the method
do the rest. If a method evaluates a loss (EVE), the loss is the distance of one element to a
target, |θ − θ*|, which is the same in every library.
"""

from __future__ import annotations

from parity import backends

from .cases import EpochCase
from .jax import run_in_jax
from .methods import METHODS, EpochMethod
from .numpy import NumPyRun
from .torch import TorchRun

__all__ = ["METHODS", "EpochCase", "EpochMethod", "run"]


def run(method: EpochMethod, backend: backends.Backend, case: EpochCase) -> backends.Run:
    """Train a case on a backend."""
    if isinstance(backend, backends.TorchBackend):
        return TorchRun(method, case, backend).run()
    if isinstance(backend, backends.JAXBackend):
        return run_in_jax(method, case, backend)
    return NumPyRun(method, case).run()

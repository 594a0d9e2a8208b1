"""The backends: each trains a case and measures it, with arrays of one library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from .backend import Backend, Run
from .jax import JAXBackend
from .numpy import NumPyBackend
from .torch import TorchBackend, from_torch

__all__ = [
    "NAMES",
    "Backend",
    "JAXBackend",
    "NotRunError",
    "NumPyBackend",
    "Run",
    "TorchBackend",
    "compiler",
    "from_torch",
    "make",
    "missing",
    "whole_range",
]

NAMES = ("numpy", "torch", "torch-compiled", "jax", "jax-jit")
"""Every backend; ``numpy`` is the definition."""


def make(name: str, device: str = "cpu") -> Backend:
    """Return the backend with a name.

    Raises:
        NotRunError: if the backend cannot run here; the message has the reason.
    """
    reason = missing(name, device)
    if reason:
        raise NotRunError(reason)
    match name:
        case "numpy":
            return NumPyBackend()
        case "torch" | "torch-compiled":
            return TorchBackend(name == "torch-compiled", device)
    return JAXBackend(name == "jax-jit", device)


class NotRunError(RuntimeError):
    """A backend cannot run here; the message has the reason."""


def missing(name: str, device: str) -> str | None:
    """Return the reason why a backend cannot run here, or ``None``."""
    if name.startswith("torch"):
        if find_spec("torch") is None:
            return "torch is not installed"
        import torch

        if device == "cuda" and not torch.cuda.is_available():
            return "no CUDA device for torch"
        if name == "torch-compiled" and device == "cpu" and compiler() is None:
            return "no compiler"
    if name.startswith("jax"):
        if find_spec("jax") is None or find_spec("optax") is None:
            return "jax and optax are not installed"
        if device == "cuda":
            import jax

            try:
                jax.devices("gpu")
            except RuntimeError:
                return "no CUDA device for jax"
    return None


def compiler() -> str | None:
    """Return the command of the C compiler for kernels of torch, or ``None``."""
    from optstudy_torch.engine.c_compiler import compiler as found

    return found()


@contextmanager
def whole_range(device: str = "cpu") -> Iterator[None]:
    """Compute as XLA does on the CPU, so that bits agree down to the smallest numbers.

    Subnormal numbers are flushed in this thread (a setting of torch that also affects NumPy), and
    torch uses this thread only. Both settings are restored. On a GPU every library keeps subnormal
    numbers, and then NumPy keeps them too.
    """
    if device != "cpu" or find_spec("torch") is None:
        yield
        return
    import torch

    threads = torch.get_num_threads()
    was_flushing = bool(torch.tensor([1e-310], dtype=torch.float64).mul(1.0).item() == 0.0)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(was_flushing)
        torch.set_num_threads(threads)

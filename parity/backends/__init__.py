"""The backends: each trains a case and measures it, in its own library's arrays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

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
    "RefusedError",
    "Run",
    "TorchBackend",
    "compiler",
    "from_torch",
    "make",
    "missing",
    "whole_range",
]

NAMES = ("numpy", "torch", "torch-compiled", "jax", "jax-jit")
"""Every backend; ``numpy`` is the definition that the others are held to."""


def make(name: str, device: str = "cpu", subject: Any = None) -> Backend:
    """Return the backend of that name, to run ``subject``.

    Raises:
        NotRunError: with the reason, where it cannot run here.
        RefusedError: where it is refused on every machine.
    """
    if name == "torch-compiled" and device != "cpu" and getattr(subject, "leafwise", False):
        raise RefusedError("compile=True off the CPU for rules that depend on a parameter's shape")
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
    """A backend cannot run here; the message says why."""


class RefusedError(NotRunError):
    """A backend does not take the subject on this kind of device; the message says what."""


def missing(name: str, device: str) -> str | None:
    """Return why a backend cannot run here, or ``None``."""
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
    """Return the command of the C compiler that makes torch's kernels, if there is one."""
    from optstudy_torch.engine.c_compiler import compiler as found

    return found()


@contextmanager
def whole_range(device: str = "cpu") -> Iterator[None]:
    """Compute as XLA's CPU code does, so that bits agree down to the smallest numbers.

    Subnormal numbers are flushed in this thread (torch's switch; NumPy obeys it too), and torch
    uses this thread only. Both are restored. On a GPU every library keeps subnormal numbers, and
    so does NumPy, which it is compared with.
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

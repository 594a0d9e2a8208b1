"""JAX compiles in half the time where it may leave code as it is."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import jax
import pytest
from jax._src import compiler

OPTIONS = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
"""Of XLA. LLVM then contracts no product and sum: nothing for tests of what compilers round."""


@functools.cache
def options() -> dict[str, Any]:
    """Return those of :data:`OPTIONS` that the installed XLA has."""
    found = {}
    for name, value in OPTIONS.items():
        with contextlib.suppress(RuntimeError):
            jax.jit(lambda x: x, compiler_options={name: value})(0)
            found[name] = value
    return found


def flags() -> str:
    """Return the same for ``$XLA_FLAGS`` of a process."""
    return " ".join(f"--{name}={str(value).lower()}" for name, value in options().items())


@contextlib.contextmanager
def compiling_quickly() -> Iterator[None]:
    """Let JAX compile with :func:`options`, here and in processes that begin meanwhile."""
    ordinary, own = compiler.get_compile_options, options()

    def chosen(*args: Any, env_options_overrides: Any = None, **given: Any) -> Any:
        return ordinary(
            *args, env_options_overrides=own | dict(env_options_overrides or {}), **given
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "get_compile_options", chosen)
        # XLA has read the flags of this process: they stay as they are.
        patch.setenv("XLA_FLAGS", flags())
        yield


_begun = contextlib.ExitStack()


def switch(*, on: bool) -> None:
    """Begin :func:`compiling_quickly` or end it, and forget what was compiled before."""
    _begun.close()
    if on:
        _begun.enter_context(compiling_quickly())
    jax.clear_caches()

"""JAX compiles in half the time where it may leave code as it is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from jax._src import compiler

OPTIONS = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
"""Of XLA. LLVM then contracts no product and sum: nothing for tests of what compilers round."""

FLAGS = " ".join(f"--{name}={str(value).lower()}" for name, value in OPTIONS.items())
"""The same for a process."""


@contextlib.contextmanager
def compiling_quickly() -> Iterator[None]:
    """Let JAX compile with :data:`OPTIONS`, here and in processes that begin meanwhile."""
    original = compiler.get_compile_options
    original(1, 1)  # XLA reads the flags once: those of this process stay as they are

    def options(*args: Any, env_options_overrides: Any = None, **given: Any) -> Any:
        chosen = OPTIONS | dict(env_options_overrides or {})
        return original(*args, env_options_overrides=chosen, **given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "get_compile_options", options)
        patch.setenv("XLA_FLAGS", FLAGS)
        yield

"""Errors for missing packages, which name the extra to install."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Return a context for imports of packages of an extra of ``pyproject.toml``.

    Raises:
        ModuleNotFoundError: if a package is missing; the message has the command to install it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        raise ModuleNotFoundError(
            f"{package} is not installed. Install it with: pip install 'optstudy[{name}]' "
            f"(in a clone: pip install '.[{name}]')",
            name=error.name,
        ) from None

"""A missing package is answered with the extra that installs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Import, inside of this, what an extra of ``pyproject.toml`` installs.

    Raises:
        ModuleNotFoundError: naming the package that is missing and the command that installs it.
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

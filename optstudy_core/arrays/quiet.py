"""Values that are not finite, without warnings of NumPy."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar, Token
from typing import Any

import numpy as np

_IS_QUIET = ContextVar("quiet", default=False)


class Quiet:
    """A context without warnings of NumPy, for many calls of :func:`quietly`.

    Like ``np.errstate``, the context is one of a thread.

    >>> with Quiet():
    ...     print(np.float32(1) / np.float32(0))
    inf
    """

    _token: Token[bool]

    def __enter__(self) -> None:
        self._state = np.errstate(all="ignore")
        self._state.__enter__()
        self._token = _IS_QUIET.set(True)

    def __exit__(self, *exception: Any) -> None:
        _IS_QUIET.reset(self._token)
        self._state.__exit__(*exception)


def quietly(function: Callable[..., Any], *args: Any) -> Any:
    """Return the result of a function, without warnings of NumPy.

    ``np.errstate`` takes four times as long as an operation on a few elements, so a context around
    the call is used if there is one.

    >>> float(quietly(np.divide, np.float32(1), np.float32(0)))
    inf
    """
    if _IS_QUIET.get():
        return function(*args)
    with Quiet():
        return function(*args)

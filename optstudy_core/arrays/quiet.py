"""Values that are not finite, without warnings of NumPy."""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import Any

import numpy as np

_IS_QUIET = ContextVar("quiet", default=False)


class Quiet:
    """A context without warnings of NumPy, also for each operation in it.

    ``np.errstate`` takes four times as long as an operation on a few elements, so an operation asks
    first whether it is in such a context. Like ``np.errstate``, the context is one of a thread.

    >>> with Quiet():
    ...     print(np.float32(1) / np.float32(0), is_quiet())
    inf True
    >>> is_quiet()
    False
    """

    _token: Token[bool]

    def __enter__(self) -> None:
        self._state = np.errstate(all="ignore")
        self._state.__enter__()
        self._token = _IS_QUIET.set(True)

    def __exit__(self, *exception: Any) -> None:
        _IS_QUIET.reset(self._token)
        self._state.__exit__(*exception)


is_quiet = _IS_QUIET.get

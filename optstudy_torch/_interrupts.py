"""Ctrl-C that waits until what is half written is whole."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

# Of the module behind ``signal``, whose own functions make members of an enumeration: 13 µs a step.
_module: Any = getattr(signal, "_signal", signal)
_set, _get = _module.signal, _module.getsignal
_SIGINT = int(signal.SIGINT)


class Uninterrupted:
    """Within it SIGINT waits, where it would run a function of Python: in the main thread.

    The second one does not wait, so that what hangs can be ended.
    """

    __slots__ = ("_former", "_waits")

    def __enter__(self) -> None:
        self._former: Any = None
        self._waits = False
        if threading.current_thread() is threading.main_thread():
            former = _get(_SIGINT)
            if callable(former):
                self._former = former
                _set(_SIGINT, self._wait)

    def _wait(self, number: int, frame: FrameType | None) -> None:
        second, self._waits = self._waits, not self._waits
        if second:
            self._former(number, frame)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._former is not None:
            _set(_SIGINT, self._former)
            if self._waits:
                signal.raise_signal(signal.SIGINT)

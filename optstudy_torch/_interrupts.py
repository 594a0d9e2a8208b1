"""Ctrl-C that waits until what is half written is whole."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

# Those of the module turn handlers into members of an enumeration and back, which takes 6 µs.
_of_signal: Any = getattr(signal.signal, "__wrapped__", signal.signal)
_handler_of: Any = getattr(signal.getsignal, "__wrapped__", signal.getsignal)


class Uninterrupted:
    """Within it SIGINT waits, where it would run a function of Python: in the main thread.

    The second one does not wait, so that what hangs can be ended.
    """

    __slots__ = ("_former", "_waits")

    def __enter__(self) -> None:
        self._former: Any = None
        self._waits = False
        if threading.current_thread() is threading.main_thread():
            former = _handler_of(signal.SIGINT)
            if callable(former):
                self._former = former
                _of_signal(signal.SIGINT, self._wait)

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
            _of_signal(signal.SIGINT, self._former)
            if self._waits:
                signal.raise_signal(signal.SIGINT)

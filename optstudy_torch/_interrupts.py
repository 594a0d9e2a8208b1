"""Signals that are delayed until a write is complete."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

# From ``_signal``, because functions of ``signal`` make members of an enumeration: 13 µs a step.
_module: Any = getattr(signal, "_signal", signal)
_set, _get = _module.signal, _module.getsignal
_SIGINT = int(signal.SIGINT)

_NAMES = "SIGINT", "SIGTERM", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGBREAK"
_SIGNALS = [int(getattr(signal, name)) for name in _NAMES if hasattr(signal, name)]
"""Signals for which programs have handlers that raise exceptions."""


class Uninterrupted:
    """A context in which signals with Python handlers wait, in the main thread.

    A second SIGINT does not wait, so that the user can end a hanging program.
    """

    __slots__ = ("_former", "_waiting")

    def __enter__(self) -> None:
        self._former: list[tuple[int, Any]] = []
        self._waiting: dict[int, None] = {}
        if threading.current_thread() is threading.main_thread():
            try:
                for number in _SIGNALS:
                    former = _get(number)
                    if callable(former):
                        self._former.append((number, former))
                        _set(number, self._wait)
            except BaseException:  # from a handler that is not replaced yet
                self._end()
                raise

    def _wait(self, number: int, frame: FrameType | None) -> None:
        if number != _SIGINT or number not in self._waiting:
            self._waiting[number] = None
            return
        del self._waiting[number]
        dict(self._former)[number](number, frame)

    def _end(self) -> None:
        """Restore the handlers and deliver delayed signals, also after errors."""
        try:
            while self._former:
                _set(*self._former[-1])
                self._former.pop()
            while self._waiting:
                signal.raise_signal(self._waiting.popitem()[0])
        finally:
            if self._former or self._waiting:
                self._end()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

"""Processes that work side by side, and end with the one that asked for them."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

CONTEXT: Final = multiprocessing.get_context("spawn")
"""Threads of torch and XLA do not survive a fork."""


class TerminatedError(KeyboardInterrupt):
    """The process was told to end, by SIGTERM; handled like Ctrl-C."""


@contextmanager
def pool(jobs: int, begin: Callable[..., None], *arguments: Any) -> Iterator[ProcessPoolExecutor]:
    """Yield processes; where the block is left by an error or a signal, they are ended at once.

    Args:
        jobs: how many.
        begin: is called in each of them first.
        *arguments: of ``begin``.
    """
    executor = ProcessPoolExecutor(jobs, CONTEXT, initializer=_begin, initargs=(begin, arguments))
    try:
        yield executor
    except BaseException:
        for process in (executor._processes or {}).values():
            process.terminate()
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _begin(begin: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    # Ctrl-C goes to every process of a terminal; the one that asked ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    begin(*arguments)


@contextmanager
def terminable() -> Iterator[None]:
    """Within the block SIGTERM raises :class:`TerminatedError`, so that what is open is closed."""
    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield
        return
    before = signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _raise(number: int, frame: FrameType | None) -> None:
    del number, frame
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once: ending takes a moment
    raise TerminatedError

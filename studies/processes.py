"""Processes that work side by side, and end with the process that started them."""

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
"""Processes are spawned, because threads of torch and XLA do not survive a fork."""


class TerminatedError(KeyboardInterrupt):
    """SIGTERM told the process to end; handled like Ctrl-C."""


@contextmanager
def pool(
    jobs: int, begin: Callable[..., None] | None = None, *arguments: Any
) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of processes; an error or a signal in the block ends them at once.

    Args:
        jobs: the number of processes.
        begin: a function to call first in each process, or ``None``.
        *arguments: the arguments of ``begin``.
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


def _begin(begin: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    # Ctrl-C reaches every process of a terminal; the main process ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if begin is not None:
        begin(*arguments)


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM raise :class:`TerminatedError` in the block, so that files are closed."""
    if threading.current_thread() is not threading.main_thread():  # only it gets signals
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

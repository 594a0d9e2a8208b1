"""Work in the same number of threads as torch."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import numpy as np
import torch

Item = TypeVar("Item")

HOST = "cpu"
"""The type of devices that share memory with NumPy."""

BLOCK = 1 << 17
"""Elements in a block: measured on CPUs with 1 MiB of second-level cache for each core."""


def in_threads(
    function: Callable[[Sequence[Item]], None], items: Sequence[Item], threads: int
) -> None:
    """Call ``function`` with parts of the items, each in a thread; nested calls use one thread.

    A part without a thread runs in the current thread. The call returns after all parts have ended,
    also with an error.

    Args:
        function: a function that computes with NumPy or torch, which let other threads run.
        items: items with about the same work each.
        threads: the largest useful number of threads; the number of torch is the limit.
    """
    parts = parts_of(items, threads)
    if len(parts) <= 1:
        for part in parts:
            function(part)
        return
    flushed = _flushes()

    def own(part: Sequence[Item]) -> None:
        _this.is_part = True
        try:
            function(part)
        finally:
            _this.is_part = False

    def other(part: Sequence[Item]) -> None:
        torch.set_flush_denormal(flushed)  # a setting of the thread
        with torch.no_grad():
            own(part)

    waiting, rest = [], [parts[0]]
    for part in parts[1:]:
        try:
            waiting.append(_pool(os.getpid(), len(parts)).submit(other, part))
        except RuntimeError:  # the system starts no more threads, or the interpreter ends
            rest.append(part)
    try:
        for part in rest:
            own(part)
    finally:
        wait(waiting)
    for future in waiting:
        future.result()


def parts_of(items: Sequence[Item], threads: int) -> list[Sequence[Item]]:
    """Return the items in one part for each thread.

    Args:
        items: items with about the same work each.
        threads: as for :func:`in_threads`.
    """
    threads = min(threads, torch.get_num_threads(), len(items))
    # A thread of the pool must not wait for the pool.
    if threads <= 1 or getattr(_this, "is_part", False):
        return [items] if items else []
    size = -(-len(items) // threads)
    return [items[i : i + size] for i in range(0, len(items), size)]


_this = threading.local()


def _flushes() -> bool:
    """Return whether this thread treats subnormal numbers as zero."""
    with np.errstate(all="ignore"):
        return bool(np.float32(1e-40) * np.float32(1.0) == 0)


@functools.cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    del process  # a forked process has no threads of its parent
    return ThreadPoolExecutor(threads - 1, "optstudy")

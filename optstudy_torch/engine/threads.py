"""Work in as many threads as torch has."""

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
"""The type of the devices whose memory NumPy shares."""

BLOCK = 1 << 17
"""Numbers in a block: measured on CPUs with 1 MiB of second-level cache a core."""


def in_threads(
    function: Callable[[Sequence[Item]], None], items: Sequence[Item], threads: int
) -> None:
    """Call ``function`` with parts of the items, each in a thread; within such a call, in this one.

    A part for which there is no thread is computed in this one. All parts are done, or have ended
    with an error, before it is over.

    Args:
        function: computes with NumPy or torch, which let other threads run.
        items: of about the same work.
        threads: how many pay at most; torch's own number is the limit.
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
        torch.set_flush_denormal(flushed)  # the switch is the thread's
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
    """Return the items in as many parts as there will be threads.

    Args:
        items: of about the same work.
        threads: of :func:`in_threads`.
    """
    threads = min(threads, torch.get_num_threads(), len(items))
    # A thread of the pool that waited for the pool would wait for itself.
    if threads <= 1 or getattr(_this, "is_part", False):
        return [items] if items else []
    size = -(-len(items) // threads)
    return [items[i : i + size] for i in range(0, len(items), size)]


_this = threading.local()


def _flushes() -> bool:
    """Return whether this thread takes subnormal numbers for zero."""
    with np.errstate(all="ignore"):
        return bool(np.float32(1e-40) * np.float32(1.0) == 0)


@functools.cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    del process  # threads do not live on in a forked process
    return ThreadPoolExecutor(threads - 1, "optstudy")

"""Work in as many threads as torch has."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
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

    Args:
        function: computes with NumPy or torch, which let other threads run.
        items: of about the same work.
        threads: how many pay at most; torch's own number is the limit.
    """
    threads = min(threads, torch.get_num_threads(), len(items))
    # A thread of the pool that waited for the pool would wait for itself.
    if threads <= 1 or getattr(_this, "is_part", False):
        if items:
            function(items)
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

    size = -(-len(items) // threads)
    parts = [items[i : i + size] for i in range(0, len(items), size)]
    waiting = [_pool(os.getpid(), threads).submit(other, part) for part in parts[1:]]
    own(parts[0])
    for future in waiting:
        future.result()


_this = threading.local()


def _flushes() -> bool:
    """Tell whether this thread takes subnormal numbers for zero."""
    with np.errstate(all="ignore"):
        return bool(np.float32(1e-40) * np.float32(1.0) == 0)


@functools.cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    del process  # threads do not live on in a forked process
    return ThreadPoolExecutor(threads - 1, "optstudy")

"""Arguments of kernels for all leaves, which stay on the device while they are the same."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from .kernels import Places
from .memory import Memory
from .units import Unit, on_device


class Arguments:
    """Arguments of kernels, kept until their values change.

    Args:
        device: the device of the kernels.
        count: the number of leaves.
    """

    def __init__(self, device: torch.device, count: int) -> None:
        self._device, self._count = device, count
        self._values: dict[Any, tuple[Any, Any]] = {}

    def put(self, key: Any, values: Any, made: Callable[[], Any]) -> Any:
        """Return the result of ``made``, which is called again only if the values change."""
        kept = self._values.get(key)
        if kept is None or kept[0] != values:
            kept = self._values[key] = (values, made())
        return kept[1]

    def numbers(self, key: Any, values: Sequence[float]) -> torch.Tensor:
        """Return numbers as a tensor in double precision, which kernels round."""

        def made() -> torch.Tensor:
            return on_device(self._device, np.array(values, np.float64))

        return self.put(("numbers", key), values, made)

    def distances(self, table: list[list[int]], units: Sequence[int]) -> torch.Tensor:
        """Return the distances of addresses from the first of their row, in the unit of the row."""
        rows = np.array(table, np.int64)
        return on_device(self._device, (rows - rows[:, :1]) // np.array(units)[:, None])

    def room(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """Return memory for a scalar of each leaf, the same at every step."""
        made = functools.partial(torch.empty, self._count, dtype=dtype, device=self._device)
        return self.put(("room", name), dtype, made)

    def places(self, units: Sequence[Unit], length: int) -> Places:
        """Return the elements of these units for each instance of a length."""
        firsts = [unit.first for unit in units]
        return self.put(("places", len(units), firsts[0]), firsts, lambda: self._cut(units, length))

    def _cut(self, units: Sequence[Unit], length: int) -> Places:
        sizes = np.array([unit.size for unit in units], np.int64)
        counts = -(-sizes // length)
        begins = np.cumsum(counts) - counts
        leaf = np.repeat(np.arange(len(units), dtype=np.int32), counts)
        part = (np.arange(len(leaf)) - begins[leaf]).astype(np.int32)
        columns = np.array([unit.first for unit in units], np.int32)
        return Places(
            len(leaf), *(on_device(self._device, x) for x in (leaf, part, columns, sizes))
        )


class OfOneStep:
    """The same for one step: arguments are made at each call, and kept until the next of a key.

    Args:
        memory: the memory of the values.
        count: the number of leaves.
    """

    def __init__(self, memory: Memory, count: int) -> None:
        self._memory, self._count = memory, count
        self._kept: dict[Any, Any] = {}

    def put(self, key: Any, values: Any, made: Callable[[], Any]) -> Any:
        """Return the result of ``made``."""
        del values
        found = self._kept[key] = made()
        return found

    def numbers(self, key: Any, values: Sequence[float]) -> torch.Tensor:
        """Return numbers as a tensor in double precision."""
        del key
        return self._memory.numbers(values)

    def room(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """Return memory for a scalar of each leaf."""
        return torch.empty(self._count, dtype=dtype, device=self._memory.device)

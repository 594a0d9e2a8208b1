"""Arrays of one shape and dtype, one for each leaf, with their addresses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .rounding import NUMPY

TORCH = {np.dtype(kind): dtype for dtype, kind in NUMPY.items()}
"""dtypes of torch, by dtypes of NumPy."""


class Alike(Sequence[Any]):
    """Arrays of one shape and dtype, of NumPy or of torch.

    Args:
        shape: the shape of each array.
        dtype: the dtype of each array.
        arrays: a sequence of arrays, or one array with the arrays as rows.
        addresses: the addresses of the arrays, without gaps, uintp, if known.
    """

    __slots__ = ("_addresses", "arrays", "dtype", "shape")

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: Any,
        arrays: Any,
        addresses: np.ndarray | None = None,
    ) -> None:
        self.shape, self.dtype = shape, dtype
        self.arrays, self._addresses = arrays, addresses

    @classmethod
    def of_rows(cls, block: Any) -> Alike:
        """Return the rows of an array without gaps."""
        count, *shape = block.shape
        distance = max(math.prod(shape) * block.itemsize, 1)
        first = address(block)
        addresses = np.uintp(first) + np.arange(count, dtype=np.uintp) * np.uintp(distance)
        return cls(tuple(shape), block.dtype, block, addresses)

    @property
    def addresses(self) -> np.ndarray:
        """The addresses of the arrays; arrays with gaps are copied first."""
        if self._addresses is None:
            self.arrays = [
                x.contiguous() if isinstance(x, torch.Tensor) else np.ascontiguousarray(x)
                for x in self.arrays
            ]
            self._addresses = np.array([address(x) for x in self.arrays], np.uintp)
        return self._addresses

    @property
    def each(self) -> int:
        """The number of elements of each array."""
        return math.prod(self.shape)

    def of(self, numbers: Any) -> Alike:
        """Return some of the arrays."""
        known = None if self._addresses is None else self._addresses[numbers]
        return Alike(self.shape, self.dtype, [self.arrays[i] for i in numbers], known)

    def copied(self) -> Alike:
        """Return copies."""
        own = [x.clone() if isinstance(x, torch.Tensor) else np.array(x) for x in self.arrays]
        return Alike(self.shape, self.dtype, own)

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, i: Any) -> Any:
        return self.arrays[i]


def address(array: Any) -> int:
    """Return the address of an array."""
    if isinstance(array, torch.Tensor):
        return array.data_ptr()
    found: int = array.__array_interface__["data"][0]  # a third of the time of .ctypes.data
    return found

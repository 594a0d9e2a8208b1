"""Memory for values of a program of one shape: NumPy on the CPU, torch on other devices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from . import integer_products
from .alike import Alike
from .rounding import NUMPY
from .trace import DOUBLE, TRUTH, WORKING, Symbol
from .units import on_device


class Memory(Protocol):
    """Operations of an execution on values, besides kernels.

    Attributes:
        device: the device of the values.
    """

    device: torch.device

    def numbers(self, values: Sequence[float]) -> torch.Tensor:
        """Return numbers as a tensor in double precision."""

    def empty(self, count: int, symbol: Symbol, shape: tuple[int, ...]) -> Alike:
        """Return new arrays for the value of a symbol."""

    def given(self, tensors: Sequence[torch.Tensor], shape: tuple[int, ...]) -> Alike:
        """Return tensors as arrays of the working dtype, without a copy if possible."""

    def alike(self, symbol: Symbol, arrays: Iterable[Any]) -> Alike:
        """Return arrays as the value of a symbol."""

    def vector(self, symbol: Symbol, scalars: Any) -> Any:
        """Return scalars as a vector, each rounded once."""

    def spread(self, symbol: Symbol, value: Any, count: int) -> Any:
        """Return a number, or a number for each leaf, as a vector, rounded once."""

    def column(self, vector: Any) -> Sequence[Any]:
        """Return the elements of a vector as arrays."""

    def true(self, vector: Any) -> np.ndarray:
        """Return the indices of the leaves with a true value; this waits for the device."""

    def product(self, x: Any, y: Any, rough: bool) -> Any:
        """Return the product of two float64 matrices with exact sums; ``rough``: of 20 bits."""

    def write(self, to: Any, x: Any, add: bool) -> None:
        """Write an array to another array, or add it."""


class OnHost:
    """Arrays of NumPy.

    Args:
        dtype: the working dtype.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtypes = {
            WORKING: np.dtype(NUMPY[dtype]),
            DOUBLE: np.dtype(np.float64),
            TRUTH: np.dtype(bool),
        }
        self._dtype, self.device = dtype, torch.device("cpu")

    def numbers(self, values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64)

    def empty(self, count: int, symbol: Symbol, shape: tuple[int, ...]) -> Alike:
        return Alike.of_rows(np.empty((count, *shape), self._dtypes[symbol.kind]))

    def given(self, tensors: Sequence[torch.Tensor], shape: tuple[int, ...]) -> Alike:
        own = [x.numpy() for x in plain(tensors, self._dtype)]
        return Alike(shape, self._dtypes[WORKING], own)

    def alike(self, symbol: Symbol, arrays: Iterable[Any]) -> Alike:
        with np.errstate(all="ignore"):
            return Alike(symbol.shape or (), self._dtypes[symbol.kind], list(arrays))

    def vector(self, symbol: Symbol, scalars: Any) -> Any:
        with np.errstate(all="ignore"):
            own = scalars if isinstance(scalars, np.ndarray) else list(scalars)
            return np.ascontiguousarray(own, self._dtypes[symbol.kind])

    def spread(self, symbol: Symbol, value: Any, count: int) -> Any:
        with np.errstate(all="ignore"):
            return np.full(count, value, self._dtypes[symbol.kind])

    def column(self, vector: Any) -> Sequence[Any]:
        return list(vector)

    def true(self, vector: Any) -> np.ndarray:
        return np.flatnonzero(vector)

    def product(self, x: Any, y: Any, rough: bool) -> Any:
        del rough
        return np.matmul(x, y)

    def write(self, to: Any, x: Any, add: bool) -> None:
        with np.errstate(all="ignore"):
            np.add(to, x, out=to) if add else np.copyto(to, x)


class OnDevice:
    """Tensors of torch.

    Args:
        dtype: the working dtype.
        device: the device of the tensors.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._dtypes = {WORKING: dtype, DOUBLE: torch.float64, TRUTH: torch.bool}
        self.device = device

    def numbers(self, values: Sequence[float]) -> torch.Tensor:
        return on_device(self.device, np.array(values, np.float64))

    def empty(self, count: int, symbol: Symbol, shape: tuple[int, ...]) -> Alike:
        kind = self._dtypes[symbol.kind]
        return Alike.of_rows(torch.empty((count, *shape), dtype=kind, device=self.device))

    def given(self, tensors: Sequence[torch.Tensor], shape: tuple[int, ...]) -> Alike:
        return Alike(shape, self._dtypes[WORKING], plain(tensors, self._dtypes[WORKING]))

    def alike(self, symbol: Symbol, arrays: Iterable[Any]) -> Alike:
        return Alike(symbol.shape or (), self._dtypes[symbol.kind], list(arrays))

    def vector(self, symbol: Symbol, scalars: Any) -> Any:
        own = scalars if isinstance(scalars, torch.Tensor) else torch.stack(list(scalars))
        return own.to(self._dtypes[symbol.kind]).contiguous()

    def spread(self, symbol: Symbol, value: Any, count: int) -> Any:
        kind = self._dtypes[symbol.kind]
        if isinstance(value, torch.Tensor):
            return value.to(self.device, kind).expand(count).contiguous()
        with np.errstate(all="ignore"):
            own = np.full(count, value, bool if kind == torch.bool else NUMPY[kind])
        return on_device(self.device, own)

    def column(self, vector: Any) -> Sequence[Any]:
        found: Sequence[Any] = vector.unbind()
        return found

    def true(self, vector: Any) -> np.ndarray:
        return np.flatnonzero(vector.cpu().numpy())

    def product(self, x: Any, y: Any, rough: bool) -> Any:
        if rough and integer_products.are_faster(x, y):
            return integer_products.product(x, y)
        return x @ y

    def write(self, to: Any, x: Any, add: bool) -> None:
        to.add_(x) if add else to.copy_(x)


def plain(tensors: Sequence[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
    """Return tensors of a dtype without derivatives and pending signs."""
    return [x.detach().resolve_neg().to(dtype) for x in tensors]

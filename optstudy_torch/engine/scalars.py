"""Scalars of the leaves of a stage: vectors with a number for each leaf, by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from . import rounding
from .host_numbers import HostNumber
from .rounding import NUMPY
from .trace import Line, Symbol
from .units import Unit, on_device


class Scalars(dict[str, Any]):
    """Vectors by name.

    Args:
        count: the number of leaves.
        dtype: the working dtype.
        device: the device of the leaves.
        on_host: whether vectors are of NumPy.
    """

    def __init__(self, count: int, dtype: torch.dtype, device: torch.device, on_host: bool) -> None:
        super().__init__()
        self._count, self._dtype, self._device = count, dtype, device
        self._on_host = on_host

    def truths(self, value: Any) -> Any:
        """Return a boolean, or one for each leaf, as a vector."""
        vector = np.full(self._count, value, bool)
        return vector if self._on_host else on_device(self._device, vector)

    def spread(self, value: Any) -> Any:
        """Return a number, a 0-d tensor, or a number for each leaf as a vector, rounded once."""
        if self._on_host:
            value = value.detach().numpy() if isinstance(value, torch.Tensor) else value
            with np.errstate(all="ignore"):
                return np.full(self._count, value, NUMPY[self._dtype])
        if isinstance(value, torch.Tensor):
            return value.to(self._device, self._dtype).expand(self._count)
        if isinstance(value, np.ndarray):
            with np.errstate(all="ignore"):
                return on_device(self._device, value.astype(NUMPY[self._dtype]))
        return rounding.filled((self._count,), value, self._dtype, self._device)

    def rounded(self, values: Sequence[Any]) -> Any:
        """Return float64 scalars of the leaves as one vector, rounded once."""
        if self._on_host:
            with np.errstate(all="ignore"):
                return np.array([float(x) for x in values]).astype(NUMPY[self._dtype])
        values = [
            x if isinstance(x, torch.Tensor) else torch.full((), float(x), dtype=torch.float64)
            for x in values
        ]
        return torch.stack([x.to(self._device) for x in values]).to(self._dtype)

    def compute(self, lines: Iterable[Line], hyperparameters: dict[str, Any]) -> None:
        """Run lines of scalars."""
        for line in lines:
            args = [self._value(a, hyperparameters) for a in line.args]
            if line.operation == "full":
                result = self.spread(args[0])
            elif self._on_host:
                with np.errstate(all="ignore"):
                    result = getattr(np, line.operation)(*args)
            else:
                result = rounding.apply(line.operation, *args)
            self[line.result.name] = result

    def _value(self, argument: Any, hyperparameters: dict[str, Any]) -> Any:
        if isinstance(argument, Symbol):
            return self[argument.name]
        return argument.value(hyperparameters) if isinstance(argument, HostNumber) else argument

    def of(self, unit: Unit, names: Iterable[str]) -> list[Any]:
        """Return scalars for the elements of a unit: numbers, or vectors if leaves differ."""
        return [self._of(unit, self[name]) for name in names]

    def _of(self, unit: Unit, vector: Any) -> Any:
        if unit.is_one:
            return vector[unit.first]
        own = vector[unit.leaves]
        if not self._on_host:  # reading the values would wait for the device
            sizes = torch.tensor(unit.sizes, device=self._device)
            return torch.repeat_interleave(own, sizes, output_size=unit.size)
        return own[0] if (own == own[0]).all() else np.repeat(own, unit.sizes)

    def row(self, unit: Unit, names: Iterable[str], numbers: Sequence[float]) -> torch.Tensor:
        """Return scalars for a unit and numbers as one tensor, rounded once; booleans are 1 and 0.

        The rows are vectors if the leaves of the unit differ.
        """
        own = [x.to(self._dtype) for x in self.of(unit, names)]
        own += [rounding.filled((), x, self._dtype, self._device) for x in numbers]
        if not own:
            return torch.empty(0, dtype=self._dtype, device=self._device)
        return torch.stack(torch.broadcast_tensors(*own)).data


def number_of(counts: np.ndarray) -> Any:
    """Return step counts in double precision, as one number if all are equal."""
    same = (counts == counts[0]).all()
    return float(counts[0]) if same else counts.astype(np.float64)

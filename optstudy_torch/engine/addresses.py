"""Whether tensors are still where they were."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch

_KIND = operator.attrgetter("dtype", "shape")


class Addresses:
    """The addresses and layouts of parameters and states, at the time when this object is made.

    Args:
        params: the parameters.
        states: their states.
        owners: other tensors whose memory is used, such as vectors of which states are views.
    """

    def __init__(
        self,
        params: Sequence[torch.Tensor],
        states: Sequence[dict[str, torch.Tensor]],
        owners: Sequence[torch.Tensor],
    ) -> None:
        self._params, self._states = params, states
        self._owners = [*params, *owners]
        self._tensors = self._found()
        self._places = self._where()

    def hold(self) -> bool:
        """Return whether all tensors are the same, at the same addresses."""
        found = self._found()
        return (
            len(found) == len(self._tensors)
            and all(map(operator.is_, found, self._tensors))
            and self._where() == self._places
        )

    def _found(self) -> list[torch.Tensor]:
        return list(chain.from_iterable(map(dict.values, self._states)))

    def _where(self) -> list[Any]:
        kinds, strides = map(_KIND, self._params), map(torch.Tensor.stride, self._params)
        negative = map(torch.Tensor.is_neg, self._params)
        return [*map(torch.Tensor.data_ptr, self._owners), *kinds, *strides, *negative]

"""Operations of torch with tensors for all numbers, for recorded or differentiated steps.

Elsewhere the host computes with hyperparameters and step counts. Here they are float64 tensors on
the device of the parameters. The host reads no value, so a CUDA graph can record a step, and
derivatives with respect to a rate exist. The bits are the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from optstudy_core.arrays.doubles import DIGITS, Doubles, digit
from optstudy_core.arrays.leaves import Leaves, Reduction

from . import rounding
from .eager import Eager
from .exact_sums import sum_of

_DOUBLE = torch.float64


class OnTensors(Eager):
    """Operations of torch, with numbers in double precision as tensors.

    Args:
        device: the device of the numbers.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def apply(self, operation: str, *args: Any) -> torch.Tensor:
        if operation == "sqrt":
            return root(args[0])
        if operation == "remainder":
            return torch.remainder(*args)
        return super().apply(operation, *args)

    def scalar_of(self, function: Reduction, vectors: Sequence[Sequence[torch.Tensor]]) -> Any:
        return sum_of(function, vectors, compiled=False)

    def number(self, x: Any) -> Doubles:
        """Return a number, or a tensor with one element, in double precision."""
        return Doubles(self._double(x), self)

    def _double(self, x: Any) -> torch.Tensor:
        if isinstance(x, Doubles):
            own: torch.Tensor = x.value
            return own
        if isinstance(x, torch.Tensor):
            return x.reshape(()).to(self._device, _DOUBLE)
        return torch.full((), x, dtype=_DOUBLE, device=self._device)

    def of_numbers(self, operation: str, *args: Any) -> Doubles:
        return Doubles(self.apply(operation, *map(self._double, args)), self)

    def counted(self, counts: Leaves) -> Doubles:
        return Doubles(_vector(counts).to(_DOUBLE), self)

    def counts(self, number: Any, like: Leaves) -> Leaves:
        value = self._double(number).to(torch.int32).expand(like.count)
        return Leaves(value.unbind(), self)

    def no_steps(self, tree: Leaves) -> Leaves:
        return self.counts(0.0, tree)

    def one_minus_power(self, a: Any, t: Leaves) -> Doubles:
        steps = _vector(t)
        part = self._double(a).expand(steps.shape)
        taken = torch.zeros_like(part)
        for _ in range(DIGITS):
            part, taken, steps = digit(torch.where, part, taken, steps)
        return Doubles(taken, self)

    def spread(self, number: Doubles, tree: Leaves) -> Leaves:
        own = number.value.expand(tree.count).unbind()
        if number.value.dtype == torch.bool:
            return Leaves(own, self)
        return self.fulls(own, tree)

    def truths(self, values: Any, tree: Leaves) -> Leaves:
        return Leaves(values, self)


@functools.cache
def on(device: torch.device) -> OnTensors:
    """Return the backend of a device."""
    return OnTensors(device)


def _vector(counts: Leaves) -> torch.Tensor:
    return torch.stack(list(counts.values))


class _Root(torch.autograd.Function):
    """A square root, rounded once, with its derivative."""

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        return rounding.apply("sqrt", x.detach())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return grad / (2 * root(x))


root: Callable[[torch.Tensor], torch.Tensor] = _Root.apply

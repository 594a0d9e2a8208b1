"""Operations of torch, rounded once: the one place that knows how torch rounds.

torch differs from IEEE 754 in these points, which are fixed here:

- ``torch.sqrt`` on the CPU is off by one unit in the last place for 17 % of float32 numbers. The
  root of NumPy is exact, and NumPy reads the memory of a CPU tensor.
- torch computes a number divided by a tensor as ``reciprocal * number``, and on CUDA a tensor
  divided by a number as ``tensor * (1/number)``. Here the number is made a tensor first.
- ``torch.sign(nan)`` is 0.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

_FUNCTIONS: dict[str, Any] = {
    "add": torch.add,
    "subtract": torch.sub,
    "multiply": torch.mul,
    "negative": torch.neg,
    "abs": torch.abs,
    "where": torch.where,
    "isfinite": torch.isfinite,
    "less": torch.lt,
    "less_equal": torch.le,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "equal": torch.eq,
    "not_equal": torch.ne,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_not": torch.logical_not,
    "zeros_like": torch.zeros_like,
    "ones_like": torch.ones_like,
}
NUMPY: dict[torch.dtype, Any] = {torch.float32: np.float32, torch.float64: np.float64}
_NEED_TENSORS = frozenset({"divide", "maximum", "minimum"})


def number_like(value: float, args: Any) -> torch.Tensor:
    """Return ``value`` as a 0-d tensor in the dtype and on the device of the tensor in args."""
    like = next(a for a in args if isinstance(a, torch.Tensor))
    return filled((), value, like.dtype, like.device)


def filled(
    shape: tuple[int, ...], value: float, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Return a tensor filled with a number, rounded once.

    The number is rounded here, because torch refuses numbers that overflow. Nothing is copied to
    the device.
    """
    with np.errstate(all="ignore"):
        return torch.full(shape, float(NUMPY[dtype](value)), dtype=dtype, device=device)


def apply(operation: str, *args: Any) -> torch.Tensor:
    """Return ``operation`` of tensors and numbers, from torch or fixed (see the module)."""
    if operation in _NEED_TENSORS:
        args = tuple(a if isinstance(a, torch.Tensor) else number_like(a, args) for a in args)
    match operation, args:
        case "divide", (x, y):
            return torch.div(x, y)
        case "maximum", (x, y):
            return torch.maximum(x, y)
        case "minimum", (x, y):
            return torch.minimum(x, y)
        case "sign", (x,):
            return torch.where(x == x, torch.sign(x), x)
        case "sqrt", (x,):
            if x.device.type == "cpu":
                with np.errstate(all="ignore"):
                    return torch.from_numpy(
                        np.sqrt(x.numpy(), out=np.empty(x.shape, NUMPY[x.dtype]))
                    )
            return torch.sqrt(x)
        case ("subtract", (float() | int() as number, x)):
            return torch.rsub(x, number)
    if isinstance(args[0], torch.Tensor) or operation == "where":
        return _FUNCTIONS[operation](*args)
    number, x = args  # for a commutative operation or a comparison
    return _FUNCTIONS[_REFLECTED.get(operation, operation)](x, number)


_REFLECTED = {
    "less": "greater",
    "less_equal": "greater_equal",
    "greater": "less",
    "greater_equal": "less_equal",
}

_OF_SUMS = ("sqrt", "where", "isfinite", "maximum", "minimum", "ones_like")
NAMESPACE = SimpleNamespace(int64=torch.int64, **{n: partial(apply, n) for n in _OF_SUMS})
"""The operations of torch that the exact sums of the core need."""

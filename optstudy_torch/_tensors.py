"""Checks of tensors; messages name the refused tensor."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch

from ._states import WORKING_DTYPE

_GRADIENT = operator.attrgetter("grad")
_KIND = operator.attrgetter("layout", "dtype", "shape")


ALLOWED = "allowed are tensors with their elements in memory, and DTensors of such tensors"


def is_memory(kind: type) -> bool:
    """Return whether the memory of tensors of a type has their elements."""
    return getattr(kind, "__torch_dispatch__", None) is torch.Tensor.__torch_dispatch__


def is_shared(x: Any) -> bool:
    """Return whether a tensor is a ``DTensor``, without importing the class."""
    return hasattr(type(x), "placements")


def check_once(params: Sequence[torch.Tensor]) -> None:
    """Refuse a parameter that a group has twice; in torch this will be an error."""
    first: dict[Any, int] = {}
    for i, p in enumerate(params):
        if first.setdefault(p, i) != i:
            raise ValueError(f"parameters {first[p]} and {i} of the group are one: allowed is once")


def check_dtypes(params: Sequence[torch.Tensor]) -> None:
    """Refuse parameters with unsupported dtypes or devices."""
    for p in params:
        if p.device.type == "mps":
            raise TypeError(
                "parameter on mps: allowed are devices with float64, such as cpu and cuda, because "
                "sums and products are computed in it"
            )
        if p.dtype not in WORKING_DTYPE:
            allowed = ", ".join(map(str, WORKING_DTYPE))
            raise TypeError(f"parameter of dtype {p.dtype}: allowed are {allowed}")


def check_memory(params: Sequence[torch.Tensor], group: dict[str, Any]) -> None:
    """Refuse parameters and gradients of special types; messages have the name or the number."""
    if all(map(is_memory, {*map(type, params), *map(type, map(_GRADIENT, params))})):
        return
    names = group.get("param_names") or range(len(group["params"]))
    for name, p in zip(names, group["params"], strict=True):
        for what, x in (("parameter", p), ("gradient of parameter", p.grad)):
            if p.grad is not None:
                check_kind(f"{what} {name!r}", x, p)


def check_kind(what: str, x: Any, p: Any) -> None:
    """Refuse a parameter, or a tensor like a parameter, of a special type or sharding."""
    if is_shared(x) and is_shared(p):
        if x is p and any(place.is_partial() for place in p.placements):
            raise TypeError(f"{what} is Partial: allowed are Shard and Replicate")
        local: Any = type(x.to_local())
        if not is_memory(local) and not hasattr(local, "wait"):  # an asynchronous collective tensor
            raise TypeError(f"{what} of {local.__name__}: {ALLOWED}")
    elif is_shared(x) or is_shared(p):
        raise TypeError(f"{what} of type {type(x).__name__}: allowed is {type(p).__name__} here")
    elif not is_memory(type(x)):
        raise TypeError(f"{what} of type {type(x).__name__}: {ALLOWED}")


def check_gradients(params: Sequence[torch.Tensor]) -> None:
    if list(map(_KIND, map(_GRADIENT, params))) != list(map(_KIND, params)):
        for p in params:
            check_gradient(p, p.grad)


def check_gradient(p: torch.Tensor, grad: Any, name: str = "gradient") -> None:
    """Refuse a gradient, or another input, that does not fit its parameter."""
    if not isinstance(grad, torch.Tensor):
        raise TypeError(f"{name} of type {type(grad).__name__}: allowed are tensors")
    if grad.layout != torch.strided:
        raise TypeError(f"{name} of layout {grad.layout}: allowed are dense gradients")
    if grad.device != p.device:
        raise ValueError(f"{name} on {grad.device}: allowed is {p.device}")
    if grad.shape != p.shape:
        raise ValueError(f"{name} of shape {tuple(grad.shape)}: allowed is {tuple(p.shape)}")
    dtype = WORKING_DTYPE[p.dtype]
    if not grad.is_floating_point() or torch.promote_types(grad.dtype, dtype) != dtype:
        raise TypeError(
            f"{name} of dtype {grad.dtype} for a parameter of dtype {p.dtype}: allowed are real "
            f"dtypes that {dtype} holds"
        )
